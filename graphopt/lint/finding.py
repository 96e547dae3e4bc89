"""What the linter finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ERROR = "error"
"""TensorRT refuses the model, or cannot do what it says."""
WARNING = "warning"
"""It is slower, or less accurate, than it need be."""
NOTE = "note"
"""Worth knowing; nothing need be done."""
SEVERITIES = (ERROR, WARNING, NOTE)
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found, in one place or many.

    Attributes:
        rule: the name of the rule in :data:`graphopt.lint.LINTS`.
        severity: ``"error"``, ``"warning"`` or ``"note"``.
        where: the nodes or tensors, in graph order.
        what: what is wrong, for all of them.
        advice: what to do, or "".
    """

    rule: str
    severity: str
    where: tuple[str, ...]
    what: str
    advice: str = ""

    def line(self) -> str:
        """Return one line for a person; where there are many places, the first ones."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.severity}: {self.what}{self._places()}{advice} [{self.rule}]"

    def _places(self) -> str:
        if not self.where:
            return ""
        shown = ", ".join(f"'{name}'" for name in self.where[:_MOST_NAMES])
        more = len(self.where) - _MOST_NAMES
        return f" ({shown} and {more} more)" if more > 0 else f" ({shown})"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, every place named."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "where": list(self.where),
            "what": self.what,
            "advice": self.advice,
        }
