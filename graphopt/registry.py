"""Names of variants, resolved late: a table of ``name -> "module:attribute"`` plus entry points.

A new calibrator, engine or pass is one file and one line in such a table; another distribution
adds its own through the entry-point group of the same name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.wording import one_line


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


@dataclass(frozen=True, slots=True)
class Registry:
    """A lazy table of variants.

    Attributes:
        kind: what one entry is, for messages: ``"calibrator"``.
        table: name -> ``"module:attribute"``; nothing is imported until asked for.
        aliases: other spellings users know, such as ``max`` for ``minmax``.
    """

    kind: str
    table: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The entry-point group through which other distributions add variants."""
        return f"graphopt.{self.kind}{'es' if self.kind.endswith('s') else 's'}"

    def _plugins(self) -> dict[str, str]:
        return {point.name: point.value for point in entry_points(group=self.group)}

    def names(self) -> list[str]:
        """Every known name, ours first, in table order."""
        return [*self.table, *sorted(set(self._plugins()) - set(self.table))]

    def canonical(self, name: str) -> str:
        """Return the registered spelling of ``name``.

        Raises:
            UsageError: nothing is registered under it.
        """
        name = self.aliases.get(name, name)
        if name in self.table or name in self._plugins():
            return name
        known = self.names()
        raise UsageError(
            f"unknown {self.kind} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}"
        )

    def load(self, name: str) -> Any:
        """Import and return what ``name`` stands for.

        Raises:
            UsageError: nothing is registered under it.
            EnvironmentProblem: what is registered cannot be imported.
        """
        name = self.canonical(name)
        target = self.table.get(name) or self._plugins()[name]
        module, _, attribute = target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as problem:
            raise EnvironmentProblem(
                f"the {self.kind} '{name}' ({target}) cannot be imported: {one_line(problem)}"
            ) from problem
