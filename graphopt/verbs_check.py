"""What ``graphopt check`` does: flags into a request, gates into a table and an exit code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.check.words import advice, allowed, found, reasons, told
from graphopt.console import Console
from graphopt.errors import GateError, InconclusiveError, UsageError
from graphopt.files import dump_json, write_text
from graphopt.publish import check_outputs, publish
from graphopt.recipe import Recipe, parse_one_profile
from graphopt.verbs import refuse_overwrite
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.check.conclude import Checked
    from graphopt.check.gates import Judged
    from graphopt.check.request import Request
    from graphopt.profiles.run import Run

_LIMITS = (
    "max_regression",
    "max_p99",
    "max_throughput_drop",
    "max_latency",
    "max_memory",
    "max_size",
    "max_drop",
    "min_sqnr",
)


def run_check(candidate: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt check``.

    Raises:
        GateError: a limit was not met.
        InconclusiveError: none was missed, and of one the measurement cannot tell.
    """
    from graphopt.check.conclude import check

    request = request_of(candidate, flags)
    if flags["store"] is not None and flags["history"] is None:
        raise UsageError("--store puts a baseline into a history: give --history FILE")
    if flags["store"] is not None:
        from graphopt.profiles.history import check_name

        check_name(flags["store"])  # now, and not once all is measured
    base = Path(flags["baseline"])
    if flags["output"] is not None:
        refuse_overwrite(flags["output"], flags["force"], keep=[candidate, base])
    check_outputs(flags, inputs=[candidate, base, flags["recipe"]])
    done = check(request, ui)
    value = done.run.to_json()
    if flags["output"] is not None:
        write_text(flags["output"], dump_json(value))
    if ui.json:
        ui.raw(dump_json(value))
    else:
        _show(done, ui)
    _publish(done.run, flags, ui)
    _conclude(done)


def request_of(candidate: Path, flags: Mapping[str, Any]) -> Request:
    """Lay the flags over the recipe file, or over the defaults."""
    from graphopt.check.request import Request

    recipe = Recipe.load(flags["recipe"]) if flags["recipe"] else Recipe()
    recipe = recipe.override(
        {
            "gate": {name: flags[name] for name in _LIMITS},
            "data": {
                "evaluation": flags["data"],
                "preprocess": flags["preprocess"],
                "samples": flags["samples"],
                "seed": flags["seed"],
            },
        }
    )
    shapes = parse_one_profile((), flags["opt_shapes"], ())
    return Request(
        candidate,
        flags["baseline"],
        recipe,
        history=flags["history"],
        label=flags["label"],
        batch=flags["batch"],
        shapes={name: tuple(shape["opt"]) for name, shape in shapes.items()},
        threads=flags["threads"],
        budget_s=flags["budget"],
        outputs=not flags["no_outputs"],
        host=flags["host"],
        trtexec=flags["trtexec"],
    )


def _show(done: Checked, ui: Console) -> None:
    rows = [_row(judged) for judged in done.judged]
    head = ["gate", "baseline", "candidate", "change", "limit", "verdict"]
    ui.table("", head, rows)
    for gate in done.run.gates:
        if gate.status != "pass" and gate.note:
            ui.result(f"  {gate.name}: {gate.note}")
    for note in (n for n in done.run.notes if n not in ui.warnings):
        ui.result(f"  {note}")
    ui.result(_line(done.run))


def _row(judged: Judged) -> list[str]:
    gate = judged.gate
    sides = [_amount(value, judged.unit) for value in (judged.base, judged.cand)]
    return [gate.name, *sides, found(gate), allowed(gate), gate.status]


def _amount(value: float | None, unit: str) -> str:
    from graphopt.publish.words import amount

    return "-" if value is None else amount(value, unit)


def _line(run: Run) -> str:
    """Return the verdict: of what passed the median, else what did not pass."""
    status = run.status
    if status == "pass":
        return f"pass: {told(run.gates[0])}"
    return f"{status}: {reasons(run.gates, status)}"


def _publish(run: Run, flags: Mapping[str, Any], ui: Console) -> None:
    """Publish, and make the run a baseline where it passed and was to be one."""
    number = publish(run, flags, ui)
    if flags["store"] is None or number is None:  # a gate's error comes, and it was not added
        return
    if run.status != "pass":
        ui.info("it did not pass, and is no baseline")
        return
    from graphopt.profiles.history import History

    with History.open(flags["history"]) as history:
        history.set_baseline(flags["store"], number)
    where = one_line(flags["history"])
    ui.info(f"run {number} of {where} is the baseline '{one_line(flags['store'])}' now")


def _conclude(done: Checked) -> None:
    gates = done.run.gates
    failed = reasons(gates, "fail")
    if failed:
        raise GateError(f"check failed: {failed}", hint=advice(gates, "fail"))
    unsure = reasons(gates, "inconclusive")
    if unsure:
        raise InconclusiveError(f"check cannot tell: {unsure}", hint=_what_next(done))


def _what_next(done: Checked) -> str:
    """Return what may decide it; time alone only where time was what ran out."""
    more = []
    timed = [gate for gate in done.run.gates if gate.status == "inconclusive" and gate.value]
    if not timed:
        return ""
    if not done.interleaved:
        more = ["give the baseline's own file: two files run by turns, which tells far more"]
    else:
        more = [f"give it more time: --budget {done.budget_s}"]
    more.append("a quieter machine or a wider limit decides sooner")
    return "\n".join([advice(done.run.gates, "inconclusive"), "; ".join(more)]).strip()
