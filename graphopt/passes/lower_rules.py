"""Operators rewritten for an older opset: reductions, moves, pools, sampling.

Each rule is for what changed between the ceiling and the newest opset; versions in comments are
those that changed it (ONNX, *Operator Changelog*).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.graph import Node, constant, dim, rank
from graphopt.passes.lower_quant import cast, castlike, dequantize, quantize
from graphopt.passes.lower_resize import resize
from graphopt.passes.lower_site import Plan, Rule, Site, drop, drop_inputs, input_at, text

# Where nothing is reduced, these return what they read; the others compute something of it.
_SAME_WHEN_NOOP = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceLogSumExp")
_COMPUTED = "it reduces axes that are computed at run time"


def reduce_axes(node: Node, site: Site) -> Plan | str | None:
    """18: axes became an input, and may be none at all; 20: ReduceMax and ReduceMin of bool."""
    boolean = node.op in ("ReduceMax", "ReduceMin") and node.inputs[0].dtype == np.bool_
    if site.ceiling >= 18:
        return _reduce_bool(node, site) if boolean and site.ceiling < 20 else None
    tensor = input_at(node, 1)
    values = None if tensor is None else constant(tensor)
    if tensor is not None and values is None:
        return _COMPUTED
    axes = [] if values is None else [int(axis) for axis in values.reshape(-1)]
    noop = bool(node.attrs.get("noop_with_empty_axes", 0)) and not axes
    if noop and node.op not in _SAME_WHEN_NOOP:
        return "it reduces no axis"

    def apply() -> str:
        if noop:
            node.op, node.attrs = "Identity", {}
            drop_inputs(node, 1)
            return "it reduced nothing"
        drop(node, "noop_with_empty_axes")
        drop_inputs(node, 1)
        if axes:
            node.attrs["axes"] = axes
        if boolean:
            _reduce_bool(node, site)()
        return "its axes are an attribute"

    return apply


def _reduce_bool(node: Node, site: Site) -> Plan:
    def apply() -> str:
        site.cast_input(node, 0, np.int32)
        site.cast_output(node, np.bool_, np.int32)
        return "its bool is computed as int32"

    return apply


def split(node: Node, site: Site) -> Plan | str | None:
    """18: the number of parts may be said instead of their sizes."""
    count = node.attrs.get("num_outputs")
    if count is None or site.ceiling >= 18:
        return None
    size = dim(node.inputs[0], int(node.attrs.get("axis", 0)))
    # All alike but the last, which is what is left.
    part = -(-(size or 0) // int(count))
    sizes = [max(min(part, (size or 0) - i * part), 0) for i in range(int(count))]

    def apply() -> str:
        drop(node, "num_outputs")
        drop_inputs(node, 1)
        if size is None:
            # Opset 13 makes equal parts, and stops where there are none: no wrong number comes out.
            return "of an axis that is not fixed, which has to be a multiple"
        values = np.asarray(sizes, dtype=np.int64)
        node.inputs.append(site.constant(f"{node.outputs[0].name}_split", values))
        return f"its parts are {', '.join(map(str, sizes))}"

    return apply


def pad(node: Node, site: Site) -> Plan | str | None:
    """18: pads may be of some axes only; 19: they may wrap around."""
    if site.ceiling < 19 and text(node.attrs.get("mode"), "constant") == "wrap":
        return "mode wrap is of opset 19"
    given = input_at(node, 3)
    if given is None or site.ceiling >= 18:
        return None
    axes, pads, dims = constant(given), constant(node.inputs[1]), rank(node.inputs[0])
    if axes is None or pads is None:
        return "it pads by what is computed at run time"
    if dims is None:
        return "the number of dimensions of what it pads is not known"
    full = np.zeros((2, dims), dtype=np.int64)
    full[:, axes.reshape(-1) % dims] = pads.reshape(2, -1)

    def apply() -> str:
        node.inputs[1] = site.constant(node.inputs[1].name, full.reshape(-1))
        drop_inputs(node, 3)
        return "its pads are of every axis"

    return apply


def scatter(node: Node, site: Site) -> Plan | str | None:
    """18: the greatest and the least of what falls together."""
    how = text(node.attrs.get("reduction"), "none")
    if site.ceiling < 18 and how in ("max", "min"):
        return f"reduction {how} is of opset 18"
    return None


def grid_sample(node: Node, site: Site) -> Plan | str | None:
    """20: modes got other names, and volumes."""
    if site.ceiling >= 20:
        return None
    if rank(node.inputs[0]) != 4:
        return "only images (four dimensions) are sampled before opset 20"
    names = {"linear": "bilinear", "cubic": "bicubic"}
    mode = text(node.attrs.get("mode"), "linear")

    def apply() -> str:
        node.attrs["mode"] = names.get(mode, mode)
        return f"its mode {mode} is called {node.attrs['mode']}"

    return apply


def average_pool(node: Node, site: Site) -> Plan | str | None:
    """19: holes between what is averaged, and what a last window beyond the padding counts."""
    if site.ceiling >= 19:
        return None
    if node.attrs.get("ceil_mode", 0) and node.attrs.get("count_include_pad", 0):
        return "windows that reach beyond the padding count otherwise before opset 19"
    return _no_holes(node, "dilations")


def lp_pool(node: Node, site: Site) -> Plan | str | None:
    """18: holes, and a last window that is not whole."""
    if site.ceiling >= 18:
        return None
    if node.attrs.get("ceil_mode", 0):
        return "ceil_mode is of opset 18"
    return _no_holes(node, "dilations", "ceil_mode")


def _no_holes(node: Node, *drops: str) -> Plan | str | None:
    if any(int(step) != 1 for step in node.attrs.get("dilations", ())):
        return "it has dilations, which are of a newer opset"
    if not any(name in node.attrs for name in drops):
        return None

    def apply() -> str:
        drop(node, *drops)
        return "its dilations of 1 are left out"

    return apply


def dft(node: Node, site: Site) -> Plan | str | None:
    """20: the axis became an input, with another default."""
    if site.ceiling >= 20:
        return None
    if node.attrs.get("inverse", 0) and node.attrs.get("onesided", 0):
        return "the inverse of a one-sided transform is of opset 20"
    given, dims = input_at(node, 2), rank(node.inputs[0])
    axis = np.asarray(-2) if given is None else constant(given)
    if axis is None:
        return "its axis is computed at run time"
    if dims is None:
        return "the number of dimensions of what it transforms is not known"

    def apply() -> str:
        drop_inputs(node, 2)
        node.attrs["axis"] = int(axis.reshape(-1)[0]) % dims
        return "its axis is an attribute"

    return apply


def range_(node: Node, site: Site) -> Plan | str | None:
    """27: the type that 16-bit steps are added up in."""
    if site.ceiling >= 27 or "stash_type" not in node.attrs:
        return None
    if node.outputs[0].dtype not in (np.int16, np.int32, np.int64, np.float32, np.float64):
        return "stash_type is of opset 27"

    def apply() -> str:
        drop(node, "stash_type")
        return "stash_type is left out"

    return apply


def space_to_depth(node: Node, site: Site) -> Plan | str | None:
    """28: a second order of the channels."""
    if site.ceiling >= 28 or "mode" not in node.attrs:
        return None
    if text(node.attrs["mode"], "DCR") != "DCR":
        return "mode CRD is of opset 28"

    def apply() -> str:
        drop(node, "mode")
        return "its mode is the only one"

    return apply


RULES: Mapping[str, Rule] = {
    **{
        f"Reduce{what}": reduce_axes
        for what in (
            "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare",
        )
    },
    "AveragePool": average_pool,
    "Cast": cast,
    "CastLike": castlike,
    "DFT": dft,
    "DequantizeLinear": dequantize,
    "GridSample": grid_sample,
    "LpPool": lp_pool,
    "Pad": pad,
    "QuantizeLinear": quantize,
    "Range": range_,
    "Resize": resize,
    "ScatterElements": scatter,
    "ScatterND": scatter,
    "SpaceToDepth": space_to_depth,
    "Split": split,
}  # fmt: skip
