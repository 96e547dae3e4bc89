"""Find the plan that leads from a model to one that was pruned elsewhere.

By torch-pruning and an export, by onnxsim, by hand, by graphopt on another day: names may all be
others, weights may have been trained since. What must agree is the structure, the order in which
survivors stand, and enough of the weights to tell who survived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.channels.apply import apply_plan
from graphopt.channels.groups import ChannelAnalysis, Group, analyze
from graphopt.channels.matching.align import Mask, Solver
from graphopt.channels.matching.pairs import Pairs, Read, pair
from graphopt.channels.plan import GroupPlan, MemberPlan, PrunePlan
from graphopt.channels.trace import op_and_name
from graphopt.errors import UsageError
from graphopt.graph import (
    Array,
    Graph,
    Names,
    feeds_subgraph,
    is_constant,
    is_graph_output,
    is_op,
    subgraph_outer_names,
)
from graphopt.model import Model

# Measured on ResNet-20 and -56 and a depthwise detector, mean cosine of (all weights, the least
# group): weights shuffled, hence alike by chance, up to (0.31, 0.44); every layer solved anew by
# least squares after removing 87 % of the channels at random, from (0.61, 0.35).
LEAST_CONFIDENCE = 0.5
LEAST_SIMILARITY = 0.25
# Below this another order is looked for: a group that keeps its order and its training is above.
SIMILAR = 0.9
# Of fewer entries a cosine may be small by chance.
LARGE = 64
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Matched:
    """How a pruned model came from its original.

    Attributes:
        plan: for the original; its importance is ``matched``.
        weights: constants of ``apply_plan(original, plan)`` whose values are others in the pruned
            model, by name.
        own: the same for single reads, by (node name, input index): where the original shares one
            constant between layers that have values of their own now, and the biases it had not.
        attributes: the same for attributes, by (node name, attribute); None where it is not given.
        similarity: for each group the mean cosine between what is kept of the original's weights
            and the pruned model's; 1 where nothing was trained.
        confidence: the mean cosine over all weights, each once.
    """

    plan: PrunePlan
    weights: Mapping[str, Array] = field(repr=False)
    own: Mapping[tuple[str, int], Array] = field(repr=False, default_factory=dict)
    attributes: Mapping[tuple[str, str], float | None] = field(default_factory=dict)
    similarity: Mapping[str, float] = field(repr=False, default_factory=dict)
    confidence: float = 1.0


def match(original: Model, pruned: Model) -> Matched:
    """Find what was removed from ``original`` to make ``pruned``; both are left as they are.

    Both come simplified and with BatchNorm folded, the same way. Nodes are paired by structure
    (:mod:`graphopt.channels.matching.pairs`), widths follow from the shapes of constants, and who
    survived from their values (:mod:`graphopt.channels.matching.align`). The plan is then carried
    out, and every constant must have the pruned model's shape. Where the channels of attention
    form a grid, its columns are tried and whole heads, and what fits better is taken.

    Not compared is what :func:`student` takes from the original: how selections choose (bounds of
    a Slice, indices of a Gather) and options (bounds of Clip, scales of Resize). That the student
    computes what ``pruned`` computes is for the caller to see on data.

    Raises:
        UsageError: ``pruned`` is no pruned form of ``original``: the structures differ, a width
            grew or is one that graphopt cannot prune to, survivors are in another order, or the
            weights resemble the original's too little to tell the survivors (trained from
            scratch, layers exchanged, another model).
    """
    pairs = pair(original.graph, pruned.graph)
    analysis = analyze(original)
    if not analysis.alternatives:
        return _match(original, pruned, analysis, pairs)
    found: list[Matched] = []
    problems: list[UsageError] = []
    for candidate in (analysis, analyze(original, heads=True)):
        try:
            found.append(_match(original, pruned, candidate, pairs))
        except UsageError as problem:
            problems.append(problem)
    if not found:
        raise problems[0]
    return max(found, key=lambda m: m.confidence)


def _match(original: Model, pruned: Model, analysis: ChannelAnalysis, pairs: Pairs) -> Matched:
    solver = Solver(analysis, pairs)
    plan = _plan(solver)
    cut = original.clone()
    apply_plan(cut, plan)
    reads = pair(cut.graph, pruned.graph)
    for read in reads.reads:
        if read.ours.shape != read.theirs.shape:
            raise UsageError(
                f"'{read.name}' has the shape {list(read.theirs.shape)} in the pruned model; with "
                f"the channels it seems to lack it should be {list(read.ours.shape)}"
            )
    if reads.rescaled:
        raise UsageError(
            f"{op_and_name(reads.rescaled[0])} of the pruned model scales a mean by a number, and "
            "the original with the same channels removed does not"
        )
    cosines = _cosines(reads)
    confidence = float(np.mean(list(cosines.values()))) if cosines else 1.0
    similarity = _similarities(solver, cosines)
    _check_similar(solver, similarity, confidence)
    _check_layers(reads, cosines)
    weights, own = _values(cut.graph, reads)
    attributes = {(node.name, name): value for node, name, value in reads.numbers}
    return Matched(plan, weights, own, attributes, similarity, confidence)


def student(original: Model, matched: Matched) -> Model:
    """Return the pruned model in the original's structure and names, with its own weights."""
    model = original.clone()
    apply_plan(model, matched.plan)
    tensors = model.graph.tensors()
    for name, values in matched.weights.items():
        tensors[name].values = values
    names = Names(model.graph)
    nodes = {node.name: node for node in model.graph.nodes}
    for (node_name, index), values in matched.own.items():
        inputs = nodes[node_name].inputs
        base = inputs[index].name if index < len(inputs) else f"{node_name}_bias"
        while len(inputs) <= index:
            inputs.append(gs.Variable.empty())
        inputs[index] = gs.Constant(names.fresh(base or f"{node_name}_bias"), values)
    for (node_name, attribute), value in matched.attributes.items():
        if value is None:
            nodes[node_name].attrs.pop(attribute, None)
        else:
            nodes[node_name].attrs[attribute] = value
    return model


def _plan(solver: Solver) -> PrunePlan:
    kept = solver.solve()
    groups = tuple(
        _group_plan(group, kept[g], solver.layouts.readers(g))
        for g, group in enumerate(solver.analysis.groups)
    )
    plan = PrunePlan(0.0, 1, "matched", groups)
    return replace(plan, ratio=round(plan.achieved, 6))


def _group_plan(
    group: Group, kept: Mask, readers: Mapping[tuple[str, int], tuple[int, tuple[str, ...]]]
) -> GroupPlan:
    removed = tuple(int(c) for c in np.flatnonzero(~kept))
    members = []
    for m in group.members:
        gone = tuple(sorted({k for c in removed for k in m.positions[c]}))
        if gone:
            members.append(MemberPlan(m.tensor, m.axis, gone, *readers[m.tensor, m.axis]))
    after = group.width - len(removed)
    plan = GroupPlan(group.name, group.width, after, after, removed, tuple(members))
    note = "" if removed else "the pruned model has all of its channels"
    return replace(plan, note=note, ratio=round(plan.achieved, 6), kind=group.kind)


def _cosines(reads: Pairs) -> dict[tuple[str, int], float]:
    """Return, for each read of a weight, how like the original's what is left of it is."""
    return {
        (read.node.name, read.index): _cosine(read.ours, read.theirs)
        for read in reads.reads
        if read.ours.ndim >= 2 and read.ours.size > 1 and read.ours.dtype.kind not in "iub"
    }


def _similarities(solver: Solver, cosines: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """Return the mean cosine of the weights that hold each group."""
    groups: dict[str, float] = {}
    for g, group in enumerate(solver.analysis.groups):
        mine = {(read.node.name, read.index): None for read, _ in solver.reads(g)}
        found = [cosines[key] for key in mine if key in cosines]
        groups[group.name] = float(np.mean(found)) if found else 1.0
    return groups


def _cosine(a: Array, b: Array) -> float:
    x, y = (np.nan_to_num(v.astype(np.float64)).reshape(-1) for v in (a, b))
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    if norms == 0.0:
        return 1.0 if x.any() == y.any() else 0.0
    return float(x @ y) / norms


def _check_similar(solver: Solver, similarity: Mapping[str, float], confidence: float) -> None:
    names = [group.name for group in solver.analysis.groups]
    for g, name in enumerate(names):
        if similarity[name] < SIMILAR and solver.reordered(g):
            raise UsageError(
                f"the channels of '{name}' stand in another order in the pruned model than in the "
                "original: keep the order when slicing"
            )
    if confidence < LEAST_CONFIDENCE:
        raise UsageError(
            "the pruned model's weights resemble the original's too little to tell which channels "
            f"it kept (mean cosine {confidence:.2f}, and at least {LEAST_CONFIDENCE} is needed): "
            "was it trained from scratch, or pruned from another model?"
        )
    worst = min(names, key=lambda name: similarity[name], default="")
    if worst and similarity[worst] < LEAST_SIMILARITY:
        raise UsageError(
            f"which channels of '{worst}' the pruned model kept cannot be told: its weights there "
            f"resemble the original's too little (mean cosine {similarity[worst]:.2f}, and at "
            f"least {LEAST_SIMILARITY} is needed); were layers exchanged, or trained from scratch?"
        )


def _check_layers(reads: Pairs, cosines: Mapping[tuple[str, int], float]) -> None:
    """Refuse a layer that is another one among layers that are what they were."""
    if not cosines or float(np.median(list(cosines.values()))) < SIMILAR:
        return
    for read in reads.reads:
        cosine = cosines.get((read.node.name, read.index), 1.0)
        if cosine < LEAST_SIMILARITY and read.ours.size >= LARGE and is_op(read.node, *LAYERS):
            raise UsageError(
                f"'{read.name}' resembles the original's too little (cosine {cosine:.2f}) where "
                "most weights are what they were: was the layer exchanged with another?"
            )


def _values(graph: Graph, pairs: Pairs) -> tuple[dict[str, Array], dict[tuple[str, int], Array]]:
    """Return the constants to assign by name, and those that single reads need for themselves."""
    by_name: dict[str, list[Read]] = {}
    for read in pairs.reads:
        by_name.setdefault(read.name, []).append(read)
    inner = subgraph_outer_names(graph)
    weights: dict[str, Array] = {}
    own: dict[tuple[str, int], Array] = {}
    for name, reads in by_name.items():
        changed = [r for r in reads if not _equal(r.ours, r.theirs)]
        if not changed:
            continue
        tensor = reads[0].node.inputs[reads[0].index]
        alone = (
            is_constant(tensor)
            and len(tensor.outputs) == len(reads)
            and name not in inner
            and not feeds_subgraph(graph, tensor)
            and not is_graph_output(graph, tensor)
        )
        if alone and all(_equal(r.theirs, reads[0].theirs) for r in reads):
            weights[name] = reads[0].theirs
        else:
            own.update({(r.node.name, r.index): r.theirs for r in changed})
    own.update({(node.name, 2): values for node, values in pairs.biases})
    return weights, own


def _equal(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
