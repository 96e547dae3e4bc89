"""Carry out a plan: slice the constants, rewrite what spells out sizes, correct the shapes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphopt.channels.groups import ChannelAnalysis, analyze
from graphopt.channels.plan import PrunePlan
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.trace import Trace
from graphopt.errors import UsageError
from graphopt.graph import (
    Names,
    Node,
    Tensor,
    constant,
    is_constant,
    subgraph_outer_names,
)
from graphopt.model import Model

Masks = tuple["npt.NDArray[np.bool_] | None", ...]


def apply_plan(model: Model, plan: PrunePlan, analysis: ChannelAnalysis | None = None) -> None:
    """Remove the planned channels from ``model``, in place.

    Args:
        model: edited in place; constants get new arrays, old ones are not written into.
        plan: what to remove, made for this model or an identical one.
        analysis: of this very model object, if at hand; made here otherwise.

    Raises:
        UsageError: the plan was made for another model.
    """
    if analysis is None or analysis.trace.graph is not model.graph:
        analysis = analyze(model)
    dead = dead_roots(analysis, plan)
    if not dead:
        return
    trace = analysis.trace
    to = Rewriter(model.graph, trace.space, dead, Names(model.graph))
    _check_not_empty(trace, to)
    shapes = _new_shapes(trace, to)
    _slice_constants(trace, to)
    for rewrite in trace.rewrites:
        rewrite(to)
    tensors = model.graph.tensors()
    for name, shape in shapes.items():
        if not is_constant(tensors[name]):
            tensors[name].shape = shape


def analysis_for(model: Model, plan: PrunePlan) -> ChannelAnalysis:
    """Return the analysis of a model that offers what a plan prunes: columns, or whole heads.

    Any analysis can carry a plan out; this one has the plan's groups among its ``groups``.
    """
    analysis = analyze(model)
    other_side = {group.name for group in analysis.alternatives if group.kind == "heads"}
    if any(item.name in other_side for item in plan.groups):
        return analyze(model, heads=True)
    return analysis


def survivors(analysis: ChannelAnalysis, plan: PrunePlan) -> dict[str, Masks]:
    """Return which indices of every variable stay when a plan is applied.

    Teacher and student have the same variable names: what the student's tensor stands for is the
    teacher's of that name with ``np.compress(mask, values, axis)`` along each axis that has a mask.

    Args:
        analysis: of the unpruned model.
        plan: made for that model.

    Returns:
        tensor name -> for each axis a boolean mask over its indices, or None where all stay.
        Variables only, those of unknown rank left out; for constants see :func:`read_survivors`.

    Raises:
        UsageError: the plan was made for another model.
    """
    trace = analysis.trace
    to = _rewriter(analysis, plan)
    tensors = trace.graph.tensors()
    found: dict[str, Masks] = {}
    for name, dims in trace.dims.items():
        tensor = tensors.get(name)
        if dims is not None and tensor is not None and constant(tensor) is None:
            found[name] = tuple(to.mask(dim) for dim in dims)
    return found


def read_survivors(analysis: ChannelAnalysis, plan: PrunePlan) -> dict[tuple[str, int], Masks]:
    """Return which indices of every constant stay, as each node reads it, when a plan is applied.

    By node and not by name: layers that share one constant may each keep other indices of it, and
    read a slice of their own in the pruned model.

    Returns:
        (node name, input index) -> for each axis a boolean mask, or None where all stay. A
        constant that a rule does not track loses nothing and is left out.

    Raises:
        UsageError: the plan was made for another model.
    """
    to = _rewriter(analysis, plan)
    found: dict[tuple[str, int], Masks] = {}
    for use in analysis.trace.uses:
        masks = tuple(to.mask(dim) for dim in use.dims)
        if any(mask is not None for mask in masks) or (use.node.name, use.index) not in found:
            found[use.node.name, use.index] = masks
    return found


def _rewriter(analysis: ChannelAnalysis, plan: PrunePlan) -> Rewriter:
    trace = analysis.trace
    graph = trace.graph
    return Rewriter(graph, trace.space, dead_roots(analysis, plan), Names(graph))


def dead_roots(analysis: ChannelAnalysis, plan: PrunePlan) -> frozenset[int]:
    """Return the classes of atoms that a plan removes.

    Raises:
        UsageError: the plan was made for another model.
    """
    groups = {group.name: group for group in (*analysis.groups, *analysis.alternatives)}
    dead: set[int] = set()
    for item in plan.groups:
        if not item.removed:
            continue
        group = groups.get(item.name)
        if group is None:
            raise UsageError(
                f"the prune plan is for another model: there is no prunable group '{item.name}'"
            )
        if group.width != item.before:
            raise UsageError(
                f"the prune plan is for another model: group '{item.name}' has {group.width} "
                f"channels, and the plan says {item.before}"
            )
        if min(item.removed) < 0 or max(item.removed) >= group.width:
            raise UsageError(
                f"the prune plan is for another model: group '{item.name}' has channels 0 to "
                f"{group.width - 1}"
            )
        here = {
            (m.tensor, m.axis, tuple(sorted({k for c in item.removed for k in m.positions[c]})))
            for m in group.members
        }
        wrong = next((m for m in item.members if (m.tensor, m.axis, m.removed) not in here), None)
        if wrong is not None:
            raise UsageError(
                f"the prune plan is for another model: axis {wrong.axis} of '{wrong.tensor}' does "
                f"not lose these indices with group '{item.name}'"
            )
        dead |= {group.atoms[c] for c in item.removed}
    return frozenset(dead)


def _check_not_empty(trace: Trace, to: Rewriter) -> None:
    for name, dims in trace.dims.items():
        for axis, dim in enumerate(dims or ()):
            mask = to.mask(dim)
            if mask is not None and not mask.any():
                raise UsageError(f"the plan removes all of axis {axis} of '{name}'")


def _new_shapes(trace: Trace, to: Rewriter) -> dict[str, list[object]]:
    """Return the shapes of variables that change, by name."""
    shapes: dict[str, list[object]] = {}
    tensors = trace.graph.tensors()
    for name, dims in trace.dims.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.shape is None or not dims or not to.changed(*dims):
            continue
        if len(tensor.shape) == len(dims):
            shapes[name] = [
                to.count(d) if to.changed(d) else s for d, s in zip(dims, tensor.shape, strict=True)
            ]
    return shapes


def _slice_constants(trace: Trace, to: Rewriter) -> None:
    """Slice every constant; one that is read in different ways is copied for each of them."""
    recorded: dict[tuple[int, int], Masks] = {}
    for use in trace.uses:
        masks = tuple(to.mask(dim) for dim in use.dims)
        if any(mask is not None for mask in masks):
            recorded[id(use.node), use.index] = masks
    # Read by bodies of If, Loop and Scan, or part of the interface: never sliced in place.
    local = {id(node) for node in trace.graph.nodes}
    pinned = subgraph_outer_names(trace.graph) | {t.name for t in trace.graph.outputs}
    reads: dict[str, list[tuple[Node, int]]] = {}
    for node in trace.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if (id(node), index) in recorded:
                reads.setdefault(tensor.name, []).append((node, index))
    for name, places in reads.items():
        readers = places[0][0].inputs[places[0][1]].outputs
        shared = name in pinned or any(id(reader) not in local for reader in readers)
        _slice_one(to, name, places, recorded, shared=shared)


def _slice_one(
    to: Rewriter,
    name: str,
    places: list[tuple[Node, int]],
    recorded: dict[tuple[int, int], Masks],
    *,
    shared: bool,
) -> None:
    node, index = places[0]
    tensor = node.inputs[index]
    variants: dict[object, list[tuple[Node, int]]] = {}
    for place in places:
        masks = recorded[id(place[0]), place[1]]
        key = tuple(None if m is None else m.tobytes() for m in masks)
        variants.setdefault(key, []).append(place)
    in_place = is_constant(tensor) and not shared and len(tensor.outputs) == len(places)
    old = constant(tensor)
    assert old is not None
    for number, group in enumerate(variants.values()):
        values = _sliced(old, recorded[id(group[0][0]), group[0][1]])
        if in_place and number == 0:
            tensor.values = values
            continue
        copy = _constant_like(tensor, to.names.fresh(f"{name}_pruned"), values)
        for reader, at in group:
            to.set_input(reader, at, copy)


def _constant_like(tensor: Tensor, name: str, values: npt.NDArray[np.generic]) -> Tensor:
    export = getattr(tensor, "export_dtype", None)
    return gs.Constant(name, values) if export is None else gs.Constant(name, values, None, export)


def _sliced(values: npt.NDArray[np.generic], masks: Masks) -> npt.NDArray[np.generic]:
    for axis, mask in enumerate(masks):
        if mask is not None:
            values = np.compress(mask, values, axis=axis)
    return np.ascontiguousarray(values)
