"""What ``graphopt estimate`` does: a roofline of each layer, and two lists to act on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import GraphoptError, UnsupportedModelError, UsageError
from graphopt.files import dump_json, write_text
from graphopt.recipe import parse_one_profile
from graphopt.wording import counted, one_line, spell

if TYPE_CHECKING:
    from graphopt.channels.allocation.speed import Step
    from graphopt.model import Model
    from graphopt.profiles import DeviceProfile
    from graphopt.profiles.roofline import Estimate, LayerTime

Shapes = Mapping[str, tuple[int, ...]]
TOP = 10
# A layer may take this much longer in FP16 and still count as no slower.
NOTHING = 0.02
# Of the whole: pruning that saves less is not shown.
_WORTH = 1e-3


@dataclass(frozen=True, slots=True)
class InFp16:
    """What an INT8 layer would take in FP16, all else as it is."""

    layer: LayerTime
    fp16_ms: float

    @property
    def added_ms(self) -> float:
        """What it adds."""
        return self.fp16_ms - self.layer.ms

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.layer.name,
            "int8_ms": self.layer.ms,
            "fp16_ms": self.fp16_ms,
            "added_ms": self.added_ms,
            "bound": self.layer.bound,
        }


@dataclass(frozen=True, slots=True)
class Told:
    """All that the verb tells.

    Attributes:
        asked: in the precision that was asked for, or that the graph says.
        by_precision: precision -> all layers in it; those the device has peaks for.
        pruned_in: the precision that the steps are of.
        steps: what narrowing each group saves, best first.
        frozen: how many groups cannot be pruned.
        fp16: the INT8 layers, that which FP16 costs least first.
    """

    asked: Estimate
    by_precision: Mapping[str, Estimate]
    pruned_in: str
    steps: Sequence[Step]
    frozen: int
    fp16: Sequence[InFp16]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **self.asked.to_json(),
            "by_precision": {
                p: {"ms": e.ms, "low_ms": e.low_ms, "high_ms": e.high_ms}
                for p, e in self.by_precision.items()
            },
            "prune": {
                "precision": self.pruned_in,
                "steps": [step.to_json() for step in self.steps],
                "frozen": self.frozen,
            },
            "leave_in_fp16": [layer.to_json() for layer in self.fp16],
        }


def run_estimate(path: Path, flags: Mapping[str, Any], ui: Console) -> None:
    """``graphopt estimate``.

    Raises:
        UsageError: no such file or device, no figures of it, or shapes that do not fit.
    """
    from graphopt.engines.header import is_engine
    from graphopt.model import Model
    from graphopt.profiles import load_device
    from graphopt.profiles.roofline import check_figures
    from graphopt.verbs import refuse_overwrite

    if flags["output"] is not None:
        refuse_overwrite(flags["output"], flags["force"], keep=[path])
    device = load_device(flags["device"])
    check_figures(device, [flags["precision"]] if flags["precision"] else ())
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists() raises for a name too long
        raise UsageError(f"no such file: {path}")
    if is_engine(path):
        raise UsageError(
            f"{path} is an engine: graphopt profile measures it, an estimate needs ONNX"
        )
    model = Model.load(path)
    profile = parse_one_profile((), flags["opt_shapes"], ())
    given = {name: tuple(s["opt"]) for name, s in profile.items()}
    shapes = sizes_of(model, given, flags["batch"])
    told = tell(_optimized(model, ui), device, flags["precision"], shapes)
    if notes := _guessed(model, given):
        told = replace(told, asked=replace(told.asked, notes=(*notes, *told.asked.notes)))
    if flags["output"] is not None:
        write_text(flags["output"], dump_json(told.to_json()))
    if ui.json:
        ui.raw(dump_json(told.to_json()))
        return
    show(one_line(path.name), told, flags["top"] or TOP, ui)
    if flags["output"] is not None:
        ui.result(f"wrote {flags['output']}")


def tell(model: Model, device: DeviceProfile, precision: str | None, shapes: Shapes) -> Told:
    """Estimate, in the precision asked for and in each; rank what to prune and to leave in FP16.

    Args:
        model: optimized.
        device: with peaks and bandwidth.
        precision: ``int8``, ``fp16``, ``fp32``; None: as the graph says.
        shapes: input name -> shape, for those with open dimensions.
    """
    from graphopt.channels import analyze
    from graphopt.channels.allocation import CostModel
    from graphopt.channels.allocation.speed import steps
    from graphopt.profiles.roofline import estimate
    from graphopt.profiles.roofline.layers import BYTES

    asked = estimate(model, device, precision=precision, shapes=shapes)
    each = {
        p: estimate(model, device, precision=p, shapes=shapes)
        for p in BYTES
        if p in device.peaks and p in device.precisions
    }
    found = {layer.precision for layer in asked.layers if layer.macs}
    pruned_in = next((p for p in BYTES if p in found and p in device.peaks), "")
    ranked: list[Step] = []
    frozen = 0
    if pruned_in:
        analysis = analyze(model)
        costs = CostModel.of(analysis, shapes, device=device, precision=pruned_in)
        ranked = steps([group.name for group in analysis.groups], costs)
        frozen = len(analysis.frozen)
    return Told(asked, each, pruned_in, ranked, frozen, in_fp16(each))


def in_fp16(each: Mapping[str, Estimate]) -> list[InFp16]:
    """Return the layers that INT8 runs, that which FP16 costs least first."""
    if not {"int8", "fp16"} <= set(each):
        return []
    slower = {layer.name: layer.ms for layer in each["fp16"].layers}
    found = [
        InFp16(layer, slower[layer.name])
        for layer in each["int8"].layers
        if layer.macs and layer.precision == "int8" and layer.name in slower
    ]
    return sorted(found, key=lambda f: (f.added_ms, -f.layer.macs, f.layer.name))


def sizes_of(model: Model, given: Shapes, batch: int | None) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input with open dimensions; those left open are 1.

    Raises:
        UsageError: a name is no input, a size is not the model's, or the batch is fixed.
    """
    from graphopt.engines import ShapeRange
    from graphopt.engines.shapes import resolve_shapes

    shapes: dict[str, tuple[int, ...]] = dict(given)
    for name, (_, shape) in model.inputs().items():
        first = shape[0] if shape else None
        if 0 in shape:
            raise UnsupportedModelError(f"input '{name}' is {spell(shape)}, which holds nothing")
        if name in given:
            if batch is not None and given[name][0] != batch:
                raise UsageError(
                    f"--batch {batch}: --opt-shapes has {given[name][0]} in {spell(given[name])} "
                    f"of '{name}': leave one of the two out"
                )
            continue
        if batch is not None and isinstance(first, int) and first != batch:
            raise UsageError(f"--batch {batch}: input '{name}' has its batch fixed at {first}")
        if not all(isinstance(d, int) for d in shape):
            opened = [d if isinstance(d, int) else 1 for d in shape]
            if not isinstance(first, int):
                opened[0] = batch or 1
            shapes[name] = tuple(opened)
    resolve_shapes(model, {name: ShapeRange(s, s, s) for name, s in shapes.items()})
    return shapes


def _guessed(model: Model, given: Shapes) -> list[str]:
    """Say which sizes count as 1 for want of others; the batch is meant to."""
    return [
        f"input '{name}' is {spell(shape)}: its open sizes count as 1, which is seldom meant; "
        f"give them, --opt-shapes {name}:{'x'.join(['1', *_sizes(shape)])}"
        for name, (_, shape) in model.inputs().items()
        if name not in given and not all(isinstance(d, int) for d in shape[1:])
    ]


def _sizes(shape: Sequence[object]) -> list[str]:
    return [str(d) if isinstance(d, int) else "224" for d in shape[1:]]


def _optimized(model: Model, ui: Console) -> Model:
    """Return the model as a build would simplify it; as given where that cannot be done."""
    from graphopt.graph import QUANTIZE_OPS, is_op
    from graphopt.optimize import optimize
    from graphopt.recipe import Recipe
    from graphopt.report import Report

    quantized = any(is_op(node, *QUANTIZE_OPS) for node in model.graph.nodes)
    recipe = Recipe.from_dict({"quantize": {"int8": not quantized}})
    try:
        return optimize(model, recipe, 1, Report(), Console(verbosity=-1)).model
    except UnsupportedModelError as problem:
        ui.warn(f"cannot be simplified, estimated as it stands: {problem}")
        return model
    except GraphoptError:
        return model


def show(name: str, told: Told, top: int, ui: Console) -> None:
    """Print the tables; every one is labelled."""
    asked = told.asked
    wanted = asked.precision or "as the graph says"
    rows = [_total(wanted, asked)]
    rows += [_total(p, e) for p, e in told.by_precision.items() if p != asked.precision]
    ui.table(
        f"{name} on {asked.device}, batch {asked.batch}: an ESTIMATE, nothing was measured",
        ["precision", "ms", "error band", "items/s", "kernels", "at the floor"],
        rows,
    )
    for note in asked.notes:
        ui.result(f"  note: {note}")
    ranked = sorted(asked.layers, key=lambda layer: -layer.ms)
    if ranked:
        most = f"{min(top, len(ranked))} of {counted(len(ranked), 'kernel')}"
        ui.table(
            f"estimate: what costs most, {most}",
            ["layer", "op", "precision", "MACs", "bytes", "ms", "share", "bound by"],
            [_layer(layer, asked.ms) for layer in ranked[:top]],
        )
    _show_steps(told, top, ui)
    _show_fp16(told, top, ui)
    for line in _fitted(asked.device):
        ui.result(line)


def _total(precision: str, found: Estimate) -> list[str]:
    floor = sum(layer.ms for layer in found.layers if layer.bound == "floor")
    return [
        precision,
        f"{found.ms:.3f}",
        f"{found.low_ms:.3f} to {found.high_ms:.3f}",
        f"{found.throughput:.0f}" if found.ms else "-",
        str(len(found.layers)),
        f"{100 * floor / found.ms:.0f} %" if found.ms else "-",
    ]


def _layer(layer: LayerTime, total: float) -> list[str]:
    from graphopt.report import human

    padded = f" (x{layer.padded / layer.macs:.1f} padded)" if layer.padded > layer.macs else ""
    return [
        one_line(layer.name, 60),
        one_line(layer.op, 40),
        layer.precision,
        f"{human(layer.macs, '')}{padded}" if layer.macs else "-",
        human(layer.bytes, "bytes"),
        f"{layer.ms:.4f}",
        f"{100 * layer.ms / total:.1f} %" if total else "-",
        layer.bound,
    ]


def _show_steps(told: Told, top: int, ui: Console) -> None:
    useful = [s for s in told.steps if s.to and s.saved_ms > _WORTH * told.asked.ms]
    if useful:
        ui.table(
            f"estimate: what to prune for speed in {told.pruned_in}, most saved by a channel first",
            ["group", "width", "keep", "remove", "saves ms", "of all", "µs a channel"],
            [
                [
                    one_line(step.group, 60),
                    str(step.width),
                    str(step.to),
                    str(step.removed),
                    f"{step.saved_ms:.4f}",
                    f"{100 * step.saved_ms / told.asked.ms:.2f} %",
                    f"{1e3 * step.per_channel_ms:.3f}",
                ]
                for step in useful[:top]
            ],
        )
    idle = len(told.steps) - len(useful)
    if idle:
        groups = counted(idle, "group")
        ui.result(f"  pruning gives no speed worth naming in {groups}: narrow as they are")
    if told.frozen:
        ui.result(f"  {counted(told.frozen, 'group')} cannot be pruned: graphopt inspect says why")


def _show_fp16(told: Told, top: int, ui: Console) -> None:
    if not told.fp16:
        return
    free = [f for f in told.fp16 if f.added_ms <= NOTHING * f.layer.ms]
    bound = sum(f.layer.bound != "compute" for f in told.fp16)
    ui.table(
        "estimate: INT8 layers that cost least to leave in FP16",
        ["layer", "INT8 ms", "FP16 ms", "adds ms", "bound by"],
        [
            [
                one_line(f.layer.name, 60),
                f"{f.layer.ms:.4f}",
                f"{f.fp16_ms:.4f}",
                _added(f.added_ms),
                f.layer.bound,
            ]
            for f in told.fp16[:top]
        ],
    )
    ui.result(
        f"  of {counted(len(told.fp16), 'layer')}, {bound} are not bound by computing in INT8; "
        f"{len(free)} take at most {100 * NOTHING:.0f} % longer in FP16 "
        f"({_added(sum(f.added_ms for f in free))} ms together); changes of format between the two "
        "are not counted"
    )


def _added(ms: float) -> str:
    return f"{round(ms, 4) + 0.0:+.4f}"  # never -0


def _fitted(device: str) -> list[str]:
    from graphopt.profiles.roofline.anchors import fit

    known = fit()
    mine = {name: error for name, error in known.errors.items() if name.split()[0] == device}
    shown = mine or known.left_out
    told = ", ".join(f"{name} {100 * error:+.0f} %" for name, error in shown.items())
    what = "error at its reference points" if mine else "error at devices left out of the fit"
    return [
        f"an estimate: 3 constants fitted to {len(known.errors)} MLPerf results, all INT8; {what}: "
        f"{told}. It ranks; graphopt profile measures"
    ]
