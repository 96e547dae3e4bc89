"""This machine, spoken to as another one is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.engines.remote.link import LinkLost
from graphopt.engines.remote.scripted import ScriptLink
from graphopt.engines.remote.talk import Frame
from graphopt.errors import EnvironmentProblem
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.engines.remote.link import Link


class LocalLink(ScriptLink):
    """Runs scripts with this machine's ``sh``; what overstays its time limit is ended."""

    where = "this machine"
    _after = "it was ended"

    def __enter__(self) -> LocalLink:
        """Return itself."""
        return self

    def _words(self, line: str) -> list[str]:
        return ["sh", "-c", line]

    def _absent(self, why: str) -> Exception:
        return EnvironmentProblem(f"sh cannot be started on this machine: {why}")

    def _failed(self, status: int, out: Frame, err: Frame) -> Exception:
        if out.begun:
            return LinkLost("the shell that ran a script on this machine was killed")
        said = one_line(err.outside.text()) or f"exit status {status}"
        return EnvironmentProblem(f"sh does not run on this machine: {said}")


if TYPE_CHECKING:
    _: Link = LocalLink()
