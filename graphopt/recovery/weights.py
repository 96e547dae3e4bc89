"""Fewer weights instead of fewer channels: what the pipeline calls.

Each returns what the pass did and what became of each layer behind it; the model that goes in is
both where it starts and what it should still give, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from graphopt.errors import UsageError
from graphopt.graph import constant, consumers
from graphopt.model import Model
from graphopt.passes.base import PassResult, Skip
from graphopt.passes.factors import Factors, factors_of
from graphopt.passes.low_rank import LowRank, Shapes, factorable, kernel_of
from graphopt.passes.sparsify import Sparsify, cut_by_magnitude, sparsified
from graphopt.passes.sparsity import Sparsity, candidates
from graphopt.recovery.least_squares import least_squares
from graphopt.recovery.problem import Solver
from graphopt.recovery.sequential import Solved, recover
from graphopt.recovery.sparse import Sparsifier, on_support
from graphopt.recovery.targets import Kept, Target, downstream, target_of
from graphopt.statistics.collect import MEMORY, Batches, Statistics
from graphopt.statistics.layers import layers
from graphopt.statistics.replay import Progress

SELECTIONS = ("obs", "magnitude")
BY_MAGNITUDE = "cut by magnitude: others share its weights, or the original has no such output"


def sparsify(
    model: Model,
    sparsity: Sparsity,
    batches: Batches | None = None,
    *,
    by: str | None = None,
    recovery: bool = True,
    original: Model | None = None,
    kept: Kept | None = None,
    keep: Sequence[str] = (),
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[PassResult, list[Solved]]:
    """Set weights to zero.

    By second order, layers are gone through in order: each is cut on the inputs it gets from those
    before it, cut already, and is asked for what the original gave there. By magnitude, all are
    cut first. Either way the weights that stay are then solved for, in every layer behind.

    Args:
        model: simplified and with BatchNorm folded, before Q/DQ.
        sparsity: how many, and in which pattern.
        batches: gives the samples, the same each time.
        by: ``obs`` (the default with samples) or ``magnitude`` (the default without).
        recovery: whether weights that stay are solved for; needs samples.
        original: what layers should still give: the model before channels were pruned, with the
            same names; by default ``model`` itself.
        kept: what is left of the original's tensors.
        keep: ``fnmatch`` patterns of nodes and weights that stay dense.
        memory: bytes of activations held in memory; the rest goes to disk.
        threads: cores for ONNX Runtime.
        progress: called after each layer with 1.

    Raises:
        UsageError: ``by`` is unknown, or needs samples and there are none.
    """
    second_order = _is_second_order(by, has_data=batches is not None)
    original = original or model
    found = candidates(model, sparsity, keep)
    student = model.clone()
    work = reached(original, student, {layer.node for layer in found.layers})
    # Weights that several layers share have as many problems, and no one answer.
    solvable = {t.layer.node for t in work} if second_order else set()
    chosen = [layer for layer in found.layers if layer.node in solvable]
    rest = [layer for layer in found.layers if layer.node not in solvable]
    changes = list(cut_by_magnitude(student, sparsity, rest))
    solved: list[Solved] = []
    if batches is not None and (chosen or recovery):
        names = {layer.node for layer in chosen}
        solver: Solver = Sparsifier(sparsity, names, recovery) if second_order else on_support
        wanted = work if recovery else [t for t in work if t.layer.node in names]
        solved = recover(original, student, kept or {}, batches, solver, wanted=wanted,
                         memory=memory, threads=threads, progress=progress)  # fmt: skip
    nodes = {node.name: node for node in student.graph.nodes}
    changes += [sparsified(x.node, np.asarray(constant(nodes[x.node].inputs[1]))) for x in chosen]
    skipped = list(found.skipped)
    if second_order:
        skipped += [Skip(layer.node, BY_MAGNITUDE) for layer in rest]
    return PassResult(student, Sparsify.name, tuple(changes), tuple(skipped)), solved


def _is_second_order(by: str | None, *, has_data: bool) -> bool:
    """Whether weights are chosen by second order, which samples make the default.

    Raises:
        UsageError: ``by`` is unknown, or needs samples and there are none.
    """
    by = by or ("obs" if has_data else "magnitude")
    if by not in SELECTIONS:
        raise UsageError(f"weights are chosen by {' or '.join(SELECTIONS)}, not '{by}'")
    if by == "obs" and not has_data:
        raise UsageError("choosing weights by second order looks at activations: give --data")
    return by == "obs"


def reached(original: Model, model: Model, edited: Collection[str]) -> list[Target]:
    """Return the layers to solve after an edit, in graph order: those edited, and all behind them.

    Layers that share their weights are left out: solving one would give it weights of its own.

    Args:
        original: what the model was before.
        model: the model now.
        edited: names of the nodes whose output may differ on the same input.
    """
    known = set(original.graph.tensors())
    changed = downstream(model, (), edited)
    nodes = {node.name: node for node in model.graph.nodes}
    return [
        target_of(model, layer, known)
        for layer in layers(model)
        if (layer.input in changed or layer.node in edited)
        and layer.output in known
        and len(consumers(nodes[layer.node].inputs[1])) == 1
    ]


def low_rank(
    model: Model,
    macs: float,
    batches: Batches | None = None,
    *,
    recovery: bool = True,
    original: Model | None = None,
    kept: Kept | None = None,
    align: int = 8,
    keep: Sequence[str] = (),
    shapes: Shapes | None = None,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[PassResult, list[Solved]]:
    """Make two smaller layers of one, until a share of the multiply-accumulates is left.

    With samples, the factors are those of the least error on what each layer reads, and then every
    second factor, and every layer behind one, is solved for what the original gave there.

    Args:
        model: simplified and with BatchNorm folded, before Q/DQ.
        macs: the share that is to be left, in (0, 1).
        batches: gives the samples, the same each time.
        recovery: whether layers are solved for afterwards; needs samples.
        original: what layers should still give; by default what ``model`` does.
        kept: what is left of the original's tensors.
        align: ranks are multiples of it.
        keep: ``fnmatch`` patterns of nodes and weights to leave alone.
        shapes: input name -> shape, for dynamic inputs.
        memory: bytes of activations held in memory; the rest goes to disk.
        threads: cores for ONNX Runtime.
        progress: called after each layer with 1.

    Raises:
        UsageError: ``macs`` is out of range, or out of reach.
    """
    factors = None
    if batches is not None:
        statistics = Statistics(model, batches, memory=memory, threads=threads, progress=progress)
        factors = _factors_on_data(statistics, [x.node for x in factorable(model, keep)[0]])
    result = LowRank(macs, align, tuple(keep), factors, shapes or {})(model)
    if batches is None or not recovery:
        return result, []
    edited = {change.where for change in result.changes}
    solved = recover(
        original or model,
        result.model,
        kept or {},
        batches,
        least_squares,
        wanted=reached(original or model, result.model, edited),
        memory=memory,
        threads=threads,
        progress=progress,
    )
    return result, solved


def _factors_on_data(statistics: Statistics, nodes: Sequence[str]) -> dict[str, list[Factors]]:
    """Return the factors of the least error on what each of these layers reads."""
    named = {node.name: node for node in statistics.model.graph.nodes}
    found = {}
    for layer, gram in statistics.grams(nodes):
        node = named[layer.node]
        matrix = layer.matrix(np.asarray(constant(node.inputs[1])), node)[0]
        found[layer.node] = list(factors_of(layer, matrix, kernel_of(node), gram))
    return found
