"""Layers solved one after another, each on what the layers before it now give.

For each layer whose input is no longer what it was, the target is what the original gave there
plus what the shortcut beside it now lacks (He et al. 2017, section 3.2)::

    y + shortcut_original - shortcut_now

so that errors made before an Add are taken back behind it.

Cost: the original and the model each run once over the samples, whatever the number of layers,
plus what the solver does. Memory: the activations at the frontier, up to a budget, beyond it in
temporary files; one layer's matrices at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from graphopt.graph import Array, Names, Node, constant
from graphopt.model import Model
from graphopt.recovery.problem import Problem, Rows, Solution, Solver
from graphopt.recovery.targets import Kept, Target, restrict, targets
from graphopt.statistics.collect import MEMORY, MOST_ROWS, Batches
from graphopt.statistics.layers import bias_of, set_weights
from graphopt.statistics.replay import Progress, Replay
from graphopt.statistics.spill import Spill
from graphopt.statistics.unfold import HELD, Unfolder, output_rows, pieces


@dataclass(frozen=True, slots=True)
class Solved:
    """What became of one layer.

    Attributes:
        node: its name.
        before: relative squared error of its output with the old weights.
        after: the same with the new ones; ``before`` where they were left.
        note: how, or why not.
    """

    node: str
    before: float
    after: float
    note: str

    def to_json(self) -> dict[str, str | float]:
        """Return plain values."""
        # Four digits: sums differ in the last ones between machines.
        before, after = float(f"{self.before:.4g}"), float(f"{self.after:.4g}")
        return {"node": self.node, "before": before, "after": after, "note": self.note}


def recover(
    original: Model,
    model: Model,
    kept: Kept,
    batches: Batches,
    solver: Solver,
    *,
    wanted: list[Target] | None = None,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Solved]:
    """Give the layers of ``model`` new weights, in place, in graph order.

    Args:
        original: what the model was before; not changed.
        model: edited in place; tensors have the names they have in ``original``.
        kept: what is left of the original's tensors (:func:`graphopt.channels.apply.survivors`).
        batches: gives the samples, the same each time.
        solver: finds the weights of one layer.
        wanted: the layers to solve; by default those that :func:`targets` finds.
        memory: bytes of activations held in memory.
        threads: cores for ONNX Runtime.
        progress: called after each layer with 1.
    """
    work = targets(original, model, kept) if wanted is None else wanted
    if not getattr(solver, "shortcuts", True):
        work = [replace(target, shortcut=None) for target in work]
    if not work:
        return []
    shortcuts = [t.shortcut for t in work if t.shortcut is not None]
    with Spill(memory) as spill:
        old = Replay(
            original,
            batches(),
            [t.layer.output for t in work] + shortcuts,
            spill,
            tag="original",
            threads=threads,
        )
        new = Replay(
            model,
            batches(),
            [t.layer.input for t in work] + shortcuts,
            spill,
            tag="model",
            threads=threads,
        )
        run = _Run(old, new, kept, {t.layer.node for t in work})
        solved = []
        for target in work:
            solved.append(run.solve(target, solver))
            if progress is not None:
                progress(1)
    return solved


class _Held:
    """Rows that a solver may go through again: kept while they are few bytes, else made again."""

    def __init__(self, make: Callable[[], Iterator[Rows]]) -> None:
        self.make = make
        self.kept: list[Rows] | None = None

    def __call__(self) -> Iterator[Rows]:
        """Yield the rows."""
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[Rows] | None = []
        size = 0
        for rows in self.make():
            size += rows.x.nbytes + 2 * rows.wanted.nbytes
            if size > HELD:
                kept = None
            if kept is not None:
                kept.append(rows)
            yield rows
        self.kept = kept


class _Run:
    def __init__(self, old: Replay, new: Replay, kept: Kept, unsolved: set[str]) -> None:
        self.old, self.new, self.kept, self.unsolved = old, new, kept, unsolved
        self.names = Names(new.model.graph)
        self.nodes: dict[str, Node] = {n.name: n for n in new.model.graph.nodes}

    def solve(self, target: Target, solver: Solver) -> Solved:
        """Solve one layer; its tensors are let go of afterwards."""
        layer = target.layer
        shortcut = self._usable(target)
        if shortcut is None and target.shortcut is not None:
            self.old.waive(target.shortcut)
            self.new.waive(target.shortcut)
        theirs = [layer.output] if shortcut is None else [layer.output, shortcut]
        ours = [layer.input] if shortcut is None else [layer.input, shortcut]
        for replay, names in ((self.old, theirs), (self.new, ours)):
            replay.pin(*names)
            replay.compute(*names)
        if shortcut is not None and not self._fits(shortcut, layer.output):
            shortcut = None
        node = self.nodes[layer.node]
        weight = constant(node.inputs[1])
        assert weight is not None
        bias = bias_of(layer, self.nodes)
        rectified = target.rectified_alone if shortcut is None else target.rectified
        rows = _Held(lambda: self._rows(target, shortcut, node))
        found = solver(
            Problem(
                layer,
                np.concatenate([layer.matrix(weight, node), bias[:, None]], axis=1),
                layer.bias is not None,
                rectified,
                rows,
                lambda most: self._rows(target, shortcut, node, most),
            )
        )
        told = self._take(target, found)
        self.unsolved.discard(layer.node)
        self.old.unpin(*theirs)
        self.new.unpin(*ours)
        return told

    def _take(self, target: Target, found: Solution | None) -> Solved:
        layer = target.layer
        if found is None:
            return Solved(layer.node, 0.0, 0.0, "left as it is: nothing does better on unseen rows")
        if not np.isfinite(found.weights).all():
            return Solved(layer.node, found.before, found.before, "left as it is: no finite answer")
        bias = found.weights[:, -1] if layer.bias is not None else None
        set_weights(self.new.model, layer, found.weights[:, :-1], bias, self.nodes, self.names)
        return Solved(layer.node, found.before, found.after, found.note)

    def _usable(self, target: Target) -> str | None:
        """Return the shortcut if it can be known before the layer and no layer of it is open."""
        if target.shortcut is None:
            return None
        waiting = {node.name for node in self.new.pending(target.shortcut)}
        return None if waiting & self.unsolved else target.shortcut

    def _fits(self, shortcut: str, output: str) -> bool:
        """Whether the shortcut can be broadcast to the layer's output, not the other way round."""
        shapes = [self.old.get(name, 0).shape for name in (shortcut, output)]
        return len(shapes[0]) == len(shapes[1]) and all(
            a in (1, b) for a, b in zip(*shapes, strict=True)
        )

    def _rows(
        self, target: Target, shortcut: str | None, node: Node, most: int = MOST_ROWS
    ) -> Iterator[Rows]:
        layer = target.layer
        most = max(most // self.new.batches, 1)
        for batch in range(self.new.batches):
            y = self._original(layer.output, batch)
            beside: Array | None = None
            if shortcut is not None:
                y = y + self._original(shortcut, batch)
                beside = np.broadcast_to(self.new.get(shortcut, batch), y.shape)
            unfolder = Unfolder(layer, node, self.new.get(layer.input, batch))
            for rows in pieces(layer, unfolder.count, most, batch):
                yield Rows(
                    unfolder.rows(rows),
                    output_rows(layer, y, rows),
                    0.0 if beside is None else output_rows(layer, beside, rows),
                )

    def _original(self, name: str, batch: int) -> Array:
        return restrict(self.old.get(name, batch), self.kept.get(name))
