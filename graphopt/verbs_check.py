"""What ``graphopt check`` does: flags into a request, gates into a table and an exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from graphopt.profiles.run import Gate, Run

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
    return [gate.name, *sides, _found(gate), _allowed(gate), gate.status]


def _amount(value: float | None, unit: str) -> str:
    from graphopt.publish.words import amount

    return "-" if value is None else amount(value, unit)


def _found(gate: Gate) -> str:
    """Return what was found, with its interval."""
    if gate.name == "outputs":
        return "alike" if gate.status == "pass" else "other"
    if gate.value is None:
        return gate.note if gate.note == "identical" else "-"
    signed = gate.unit == "%"
    text = f"{gate.value:{'+' if signed else ''}.2f} {gate.unit}"
    if gate.low is None and gate.high is None:
        return text
    ends = ["?" if v is None else f"{v:{'+' if signed else ''}.2f}" for v in (gate.low, gate.high)]
    return f"{text} ({ends[0]} to {ends[1]})"


def _allowed(gate: Gate) -> str:
    if gate.name == "outputs":
        return "alike"
    sign = "-" if gate.name == "max-throughput-drop" else ""
    bound = "at least " if gate.name == "min-sqnr" else ""
    return f"{bound}{sign}{gate.limit:g} {gate.unit}".rstrip()


def _line(run: Run) -> str:
    first = run.gates[0]
    told = f"{first.metric} {_found(first)}, limit {_allowed(first)}"
    if run.status == "pass":
        return f"pass: {told}"
    others = ", ".join(gate.name for gate in run.gates if gate.status == run.status)
    return f"{run.status}: {others}; {told}"


def _publish(run: Run, flags: Mapping[str, Any], ui: Console) -> None:
    """Publish, and make the run a baseline where it passed and was to be one."""
    if flags["store"] is None:
        publish(run, flags, ui)
        return
    from graphopt.profiles.history import History
    from graphopt.runs import stamped

    publish(run, {**flags, "history": None}, ui)
    run = stamped(run)
    if flags["label"]:
        run = replace(run, subject=flags["label"])
    with History.open(flags["history"]) as history:
        number = history.add(run)
        if run.status == "pass":
            history.set_baseline(flags["store"], number)
    where = one_line(flags["history"])
    if run.status == "pass":
        ui.info(f"run {number} of {where} is the baseline '{one_line(flags['store'])}' now")
    else:
        ui.info(f"added to {where} as run {number}; it did not pass, and is no baseline")


def _conclude(done: Checked) -> None:
    from graphopt.check.gates import reasons

    failed = reasons(done.run.gates, "fail")
    if failed:
        raise GateError(f"check failed: {failed}")
    unsure = reasons(done.run.gates, "inconclusive")
    if unsure:
        more = "more time (--budget SECONDS)" if done.interleaved else "the baseline's own file"
        raise InconclusiveError(
            f"check cannot tell: {unsure}",
            hint=f"give it {more}, a wider limit, or a quieter machine",
        )
