"""What ``graphopt analyze`` does: sensitivities measured, kept in a file, printed in an order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import DataError
from graphopt.files import dump_json, write_text

if TYPE_CHECKING:
    from graphopt.data import Dataset
    from graphopt.model import Model
    from graphopt.sensitivity import Item, Loss, Sensitivity, Subject

# Above this SQNR the two differ as float32 sums in another order do.
ROUNDING_DB = 120


def run_analyze(model_path: Path, flags: Mapping[str, Any], ui: Console) -> None:
    """``graphopt analyze``: measure, and print a table for each kind, in the order to follow.

    Args:
        model_path: the ONNX file.
        flags: the options of the verb, by the names they have there.
        ui: where it goes.
    """
    from graphopt.calibrators import CALIBRATORS
    from graphopt.channels.importance import IMPORTANCES
    from graphopt.model import Model
    from graphopt.opening import check_inputs
    from graphopt.prepare_data import NO_DATA
    from graphopt.quantize_options import DEFAULT_CALIBRATOR
    from graphopt.sensitivity import KINDS, MEASURED, RATIOS, Options, analyze, parse_ratios
    from graphopt.verbs import refuse_overwrite

    ratios = RATIOS if flags["ratios"] is None else parse_ratios(flags["ratios"])
    if flags["importance"]:
        IMPORTANCES.canonical(flags["importance"])
    calibrator = CALIBRATORS.canonical(flags["calibrator"] or DEFAULT_CALIBRATOR)
    if not flags["data"]:
        raise DataError("analyze needs --data", hint=NO_DATA)
    out: Path | None = flags["output"]
    if out is not None:
        # An existing file is looked at later: it may hold figures to go on from.
        refuse_overwrite(out, True, keep=[model_path])
    dialect, why = _dialect(flags)
    options = Options(
        kinds=(flags["only"],) if flags["only"] else KINDS,
        ratios=ratios,
        importance=flags["importance"] or "",
        align=flags["align"] or 1,
        dialect=dialect,
        calibrator=calibrator,
        samples=flags["samples"] or MEASURED,
        seed=flags["seed"] or 0,
    )
    if "int8" in options.kinds:
        ui.info(f"INT8 in the {dialect} dialect: {why}")
    model = Model.load(model_path)
    check_inputs(model)
    calibration, evaluation = _data(flags, model, ui)
    file = None if out is None else _File(out, flags["force"], ui)
    try:
        found = analyze(
            model,
            calibration,
            evaluation,
            options,
            known=None if file is None else file.known,
            keep=None if file is None else file.journal,
            ui=ui,
        )
    except KeyboardInterrupt as stopped:
        if file is not None:
            stopped.args = (f"interrupted; {file.told()}",)
        raise
    finally:
        if file is not None:
            file.journal.flush()
    if file is not None:
        write_text(file.path, dump_json(found.to_json()))
    if ui.json:
        ui.raw(dump_json(found.to_json()))
        return
    show(found, ui)
    if out is not None:
        ui.result(f"wrote {out}")


class _File:
    """The file that ``-o`` names: what it holds of an earlier run, and what is added to it."""

    def __init__(self, path: Path, force: bool, ui: Console) -> None:
        from graphopt.sensitivity import Journal

        self.path, self.force, self.ui = path, force, ui
        self.journal = Journal(path)
        self.found: Sensitivity | None = None

    def known(self, subject: Subject) -> Sensitivity | None:
        """Return what an earlier run has left there, and say so."""
        from graphopt.sensitivity import known_from

        self.found = found = None if self.force else known_from(self.path, subject)
        if found is not None:
            rest = "nothing is left to measure" if found.complete else "going on from there"
            self.ui.info(f"{self.path} holds {len(found.items)} figures of this run: {rest}")
        return found

    def told(self) -> str:
        """Say what became of the file."""
        self.journal.flush()
        if self.found is None and not self.journal.wrote:
            return "nothing was written"
        return f"{self.path} holds what was measured; the same command goes on from there"


def _dialect(flags: Mapping[str, Any]) -> tuple[str, str]:
    """Return the dialect that the build for this engine and device would use, and why."""
    from graphopt.engines import ENGINES
    from graphopt.engines.select import AUTO, choose
    from graphopt.profiles import load_device

    device = load_device(flags["device"] or "host")
    name = flags["engine"] or AUTO
    if name != AUTO:
        engine, why = ENGINES.load(name)(), f"{name} was asked for"
    elif device.sm is not None:
        engine, why = ENGINES.load("tensorrt")(), f"{device.name} is an NVIDIA GPU"
    else:
        engine, why = choose(name, device, precision="int8")
    return engine.dialect, why


def _data(flags: Mapping[str, Any], model: Model, ui: Console) -> tuple[Dataset, Dataset | None]:
    """Open the samples for scores and ranges, and those for losses if they are others."""
    from graphopt.data import load_preprocess, open_data
    from graphopt.recipe import DEFAULT_SAMPLES
    from graphopt.sensitivity import MEASURED

    preprocess = load_preprocess(flags["preprocess"]) if flags["preprocess"] else None

    def read(spec: str, most: int) -> Dataset:
        return open_data(
            spec,
            model.inputs(),
            preprocess=preprocess,
            limit=flags["samples"] or most,
            seed=flags["seed"] or 0,
        )

    calibration = read(flags["data"], DEFAULT_SAMPLES)
    ui.info(f"calibration data: {calibration.summary()}")
    if not flags["eval_spec"]:
        return calibration, None
    evaluation = read(flags["eval_spec"], MEASURED)
    ui.info(f"evaluation data: {evaluation.summary()}")
    if evaluation.digest == calibration.digest:
        ui.warn("--eval is the calibration data: the losses shown are optimistic")
    return calibration, evaluation


def show(found: Sensitivity, ui: Console) -> None:
    """Print a table for each kind, the least sensitive first, and what must be known of it."""
    top = any(item.loss.agree is not None for item in found.items)
    labelled = any(item.loss.right_before is not None for item in found.items)
    head = ["SQNR dB", *(["same class"] if top else []), *(["accuracy"] if labelled else [])]
    subject = found.subject
    if found.of("prune"):
        rows = [
            [
                item.name,
                f"{item.ratio:g}",
                f"{item.width} -> {item.kept}",
                _share(item.macs, found.macs),
                *_figures(item.loss, len(head)),
                _per_percent(item),
            ]
            for item in found.order("prune")
        ]
        ui.table(
            f"channels, the least sensitive first (noise per MAC saved; {subject.importance})",
            ["group", "ratio", "channels", "MACs saved", *head, "MACs per % noise"],
            rows,
        )
    if found.of("int8"):
        rows = [
            [item.name, item.op, _share(item.macs, found.macs), *_figures(item.loss, len(head))]
            for item in found.order("int8")
        ]
        ui.table(
            f"layers to INT8, the least sensitive first ({subject.dialect} dialect)",
            ["layer", "op", "MACs in INT8", *head],
            rows,
        )
    for line in notes(found):
        ui.result(line)
    for left in found.left_out:
        ui.detail(f"not measured: {left.kind} {left.name}: {left.reason}")


def notes(found: Sensitivity) -> list[str]:
    """Return what a reader of the figures must know."""
    subject = found.subject
    whose = "of the calibration data: optimistic" if subject.on_calibration else "of --eval"
    lines = [
        f"each alone, all else as it was, nothing recovered: losses of several do not add up; "
        f"on {subject.samples} samples {whose}"
    ]
    before = next(
        (i.loss.right_before for i in found.items if i.loss.right_before is not None), None
    )
    if before is not None:
        share = 100 * before / subject.samples
        lines.append(f"accuracy of the model itself: {before}/{subject.samples} ({share:.2f} %)")
    if any(len(item.loss.outputs) > 1 for item in found.items):
        lines.append("SQNR is over all outputs together: --json and -o have that of each")
    broken = sum(item.loss.broken > 0 for item in found.items)
    if broken:
        lines.append(f"{broken} changes make values NaN or infinite, or mend them: last in order")
    frozen = len({left.name for left in found.left_out if left.kind == "prune"})
    floats = sum(left.kind == "int8" for left in found.left_out)
    if frozen or floats:
        lines.append(
            f"not measured: groups that are frozen, or too narrow for a ratio: {frozen}; layers "
            f"that stay in float: {floats}; -v and --json say why"
        )
    return lines


def _figures(loss: Loss, count: int) -> list[str]:
    cells = [_sqnr(loss)]
    if count > 1:
        cells.append("-" if loss.agree is None else f"{loss.agree}/{loss.samples}")
    if count > 2:
        change = (loss.right_after or 0) - (loss.right_before or 0)
        cells.append("-" if loss.right_after is None else f"{loss.right_after} ({change:+d})")
    return cells


def _sqnr(loss: Loss) -> str:
    if loss.broken:
        return f"{loss.broken} not finite"
    if loss.sqnr_db == math.inf:
        return "identical"
    return "no signal" if loss.sqnr_db == -math.inf else f"{loss.sqnr_db:.2f}"


def _share(macs: int, total: int) -> str:
    return f"{100 * macs / total:.2f} %" if total else "-"


def _per_percent(item: Item) -> str:
    if item.loss.sqnr_db > ROUNDING_DB and not item.loss.broken:
        return "any"
    value = item.macs_per_noise / 100
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"
