"""What trtexec measures on the device, run by run, without one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from graphopt.check.timing import RemoteTimer
from graphopt.profiles.latency import LatencyProfile


class Tool:
    """A trtexec whose every other run was held down by heat."""

    def __init__(self) -> None:
        self.runs = 0

    def time(self, _path: Path, _sizes: Mapping[str, Any], asked: Any, *, say: Any) -> Any:
        self.runs += 1
        latency = LatencyProfile(
            tuple(float(self.runs) for _ in range(asked.iterations)), environment={"gpu": "x"}
        )
        held = f"the GPU's clocks were held down for 0.{self.runs} s by heat: cool it"
        return SimpleNamespace(latency=latency, warnings=(held,) if self.runs % 2 else ())


def timer(tool: Any) -> RemoteTimer:
    return RemoteTimer(tool, Path("m.engine"), {}, lambda _: None)


def test_an_opening_is_a_run_and_more_are_made_when_they_are_used_up() -> None:
    tool = Tool()
    remote = timer(tool)
    with remote.open() as timed:
        assert list(timed.round(40)) == [1.0] * 40
        assert list(timed.round(20)) == [1.0] * 10 + [2.0] * 10
    with remote.open() as timed:
        assert list(timed.round(1)) == [3.0], "what is left of an opening is no part of the next"
    assert (tool.runs, remote.environment) == (3, {"gpu": "x"})


def test_warnings_of_states_are_told_once_with_how_often() -> None:
    remote = timer(Tool())
    for _ in range(5):
        remote.once()
    (line,) = remote.warnings()
    assert "held down for 0.1 s by heat" in line
    assert line.endswith("(m.engine: 3 of 5 runs)")
    assert timer(Tool()).warnings() == []
