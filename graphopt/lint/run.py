"""The linter itself: read, account, ask every rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.lint import LINTS
from graphopt.lint.context import Context
from graphopt.lint.finding import ERROR, NOTE, SEVERITIES, WARNING, Finding
from graphopt.lint.from_onnx import read_onnx
from graphopt.lint.from_parsed import read_parsed
from graphopt.lint.fusion import (
    ALONE,
    BOUNDARY,
    CANCELLED,
    FOLDED,
    FUSED,
    VERDICTS,
    Account,
    Accounting,
)
from graphopt.lint.recognize import NONE, ONNXRUNTIME, recognize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphopt.engines.network import ParsedNetwork
    from graphopt.model import Model
    from graphopt.profiles import DeviceProfile

# Of a model that is meant for another runtime nothing else is worth saying.
_FOR_ANY_DIALECT = ("dialect", "opset", "scale-value")


@dataclass(frozen=True, slots=True)
class Lint:
    """What the linter says of a model.

    Attributes:
        dialect: ``"none"`` (no Q/DQ: nothing to say), ``"tensorrt"`` or ``"onnxruntime"``.
        source: what was walked: ``"the ONNX file"`` or ``"tensorrt-rtx 1.7.1"``.
        findings: errors first, then warnings, then notes.
        accounts: one for each Q and DQ; none for another runtime's dialect.
        unread: what could not be seen.
    """

    dialect: str
    source: str
    findings: tuple[Finding, ...] = ()
    accounts: tuple[Account, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many Q and DQ there are (``"q"``, ``"dq"``) and how many of each verdict."""
        found = {op.lower(): sum(a.op == op for a in self.accounts) for op in ("Q", "DQ")}
        return found | {v: sum(a.verdict == v for a in self.accounts) for v in VERDICTS}

    @property
    def alone(self) -> tuple[Account, ...]:
        """The Q and DQ that stand alone, boundaries not counted."""
        return tuple(a for a in self.accounts if a.verdict == ALONE)

    def summary(self) -> str:
        """Return the counts in one line: ``64 Q and 120 DQ: 182 fuse, 2 at the boundary, …``."""
        if self.dialect == NONE:
            return "no Q/DQ: nothing is quantized"
        if not self.accounts:
            return "no Q/DQ that TensorRT would take"
        n = self.counts
        parts = [f"{n[FUSED]} fuse"]
        parts += [f"{n[CANCELLED]} cancel out"] if n[CANCELLED] else []
        parts += [f"{n[FOLDED]} fold into constants"] if n[FOLDED] else []
        parts += [f"{n[BOUNDARY]} at the boundary", f"{n[ALONE]} alone"]
        return f"{n['q']} Q and {n['dq']} DQ: {', '.join(parts)} (by {self.source})"

    def lines(self, *, verbose: bool = False) -> list[str]:
        """Return what a user sees: the counts, errors and warnings; all of it where ``verbose``."""
        told = (ERROR, WARNING, NOTE) if verbose else (ERROR, WARNING)
        lines = [self.summary()]
        lines += [finding.line() for finding in self.findings if finding.severity in told]
        if verbose:
            lines += [account.line() for account in self.accounts]
        lines += [f"not looked at: {text}" for text in self.unread]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, for reports."""
        return {
            "dialect": self.dialect,
            "source": self.source,
            "counts": self.counts,
            "findings": [finding.to_json() for finding in self.findings],
            "accounts": [account.to_json() for account in self.accounts],
            "unread": list(self.unread),
        }


def lint(
    model: Model,
    *,
    device: DeviceProfile | None = None,
    network: ParsedNetwork | None = None,
    rules: Sequence[str] | None = None,
) -> Lint:
    """Say what TensorRT will make of a quantized model, in time linear in its size.

    Args:
        model: any model; unquantized ones and those of other dialects are told as such.
        device: the target: its newest opset, and the channel counts that waste nothing.
        network: TensorRT's parsed network of this very model
            (:func:`graphopt.engines.network.read_network`): then the accounts are of what
            TensorRT sees, and where that differs from the file it is said.
        rules: names in ``LINTS``; all by default.

    Raises:
        UsageError: there is no such rule.
    """
    own = Accounting(read_onnx(model))
    names = [LINTS.canonical(name) for name in (LINTS.names() if rules is None else rules)]
    dialect = recognize(model, own.network)
    if dialect == NONE:
        return Lint(NONE, own.network.source, unread=own.network.unread)
    foreign = dialect == ONNXRUNTIME
    parsed = None if network is None or foreign else Accounting(read_parsed(network))
    context = Context(model, device, own, parsed)
    findings: list[Finding] = []
    for name in names:
        if not foreign or name in _FOR_ANY_DIALECT:
            findings += LINTS.load(name)(context)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    told = context.accounting
    unread = dict.fromkeys((*own.network.unread, *told.network.unread))
    return Lint(
        dialect=dialect,
        source=told.network.source,
        findings=tuple(findings),
        accounts=() if foreign else told.accounts,
        unread=tuple(unread),
    )
