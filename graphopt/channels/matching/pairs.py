"""Two graphs of one structure: which node of one is which node of the other, names aside.

Every tensor gets a label: a number that stands for how it is computed (operators, attributes,
kernel sizes, the labels of what is read), with all that pruning may change left out: widths,
groups, sizes, selections. Equal labels are equal structures, so the first label that only one
graph has is the first difference. A walk back from the outputs then pairs the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from graphopt.channels.matching.labels import (
    BIASED,
    COMMUTATIVE,
    NUMBERS,
    Labels,
    Operand,
    operands,
    strip,
)
from graphopt.channels.trace import op_and_name
from graphopt.errors import UsageError
from graphopt.graph import Array, Graph, Node, Tensor, captured, constant, is_op

HINT = "export both from the same code, with the same exporter and the same optimizations"


@dataclass(frozen=True, slots=True)
class Read:
    """One read of a constant, which both graphs have.

    Attributes:
        node: of the first graph.
        index: which of its inputs.
        ours: the value in the first graph.
        theirs: the value in the second, as many dimensions; the bias of a Conv, ConvTranspose or
            Gemm that only the first graph has is all zeros here.
    """

    node: Node
    index: int
    ours: Array
    theirs: Array

    @property
    def name(self) -> str:
        """The constant's name in the first graph."""
        return str(self.node.inputs[self.index].name)


@dataclass(slots=True)
class Pairs:
    """What corresponds to what.

    Attributes:
        reads: the constants, in topological order of the first graph.
        biases: (node of the first graph, value) of the biases that only the second graph has.
        shapes: variables of the first graph, by name, and the shapes they have in the second.
        numbers: (node of the first graph, attribute, value in the second or None) where an epsilon
            or a scale differs.
        rescaled: nodes of the second graph that scale a mean, where the first has none for it.
    """

    reads: list[Read] = field(default_factory=list)
    biases: list[tuple[Node, Array]] = field(default_factory=list)
    shapes: list[tuple[str, list[Any]]] = field(default_factory=list)
    numbers: list[tuple[Node, str, float | None]] = field(default_factory=list)
    rescaled: list[Node] = field(default_factory=list)


def pair(original: Graph, pruned: Graph) -> Pairs:
    """Pair the nodes of two graphs that differ in widths and in names at most.

    Raises:
        UsageError: they differ in more; the message names the first difference.
    """
    ins = _interface(original.inputs, pruned.inputs, "inputs")
    outs = _interface(original.outputs, pruned.outputs, "outputs")
    table: dict[object, int] = {}
    ours = Labels(original, table, {id(a): i for i, (a, _) in enumerate(ins)})
    theirs = Labels(pruned, table, {id(b): i for i, (_, b) in enumerate(ins)})
    for a, b in outs:
        if ours.of(a) != theirs.of(b):
            raise _difference(a, ours, theirs)
    return _Walk(ours, theirs).run(outs)


def _interface(ours: list[Tensor], theirs: list[Tensor], what: str) -> list[tuple[Tensor, Tensor]]:
    """Pair graph inputs or outputs: by name where the names agree, else by position."""
    if len(ours) != len(theirs):
        raise UsageError(
            f"the pruned model has {len(theirs)} {what}, and the original {len(ours)}", hint=HINT
        )
    by_name = {t.name: t for t in theirs}
    same = all(t.name in by_name for t in ours)
    pairs = [(t, by_name[t.name] if same else theirs[i]) for i, t in enumerate(ours)]
    for a, b in pairs:
        if what == "inputs" and None not in (a.dtype, b.dtype) and a.dtype != b.dtype:
            raise UsageError(
                f"input '{b.name}' of the pruned model is {np.dtype(b.dtype)}, and of the original "
                f"{np.dtype(a.dtype)}: prune and recover before converting"
            )
    return pairs


def _difference(output: Tensor, ours: Labels, theirs: Labels) -> UsageError:
    mine = next((n for n in ours.order if ours.nodes[id(n)] not in theirs.found), None)
    other = next((n for n in theirs.order if theirs.nodes[id(n)] not in ours.found), None)
    parts = [
        f"{op_and_name(node)} of the {which} has no counterpart"
        for node, which in ((mine, "original"), (other, "pruned model"))
        if node is not None
    ]
    what = " and ".join(parts) or f"output '{output.name}' is computed in another way"
    return UsageError(f"the structures differ, beyond what pruning changes: {what}", hint=HINT)


class _Walk:
    """Back from the outputs, both graphs in step."""

    def __init__(self, ours: Labels, theirs: Labels) -> None:
        self.ours, self.theirs = ours, theirs
        self.pairs = Pairs()
        self.reads: dict[tuple[int, int], Read] = {}
        self.extra: dict[int, tuple[Node, Array]] = {}
        self.todo: list[tuple[Operand, Operand]] = []
        self.seen: set[tuple[int, int]] = set()

    def run(self, outputs: Iterable[tuple[Tensor, Tensor]]) -> Pairs:
        self.todo = [((None, 0, a), (None, 0, b)) for a, b in outputs]
        while self.todo:
            self._tensor(*self.todo.pop())
        place = {id(node): i for i, node in enumerate(self.ours.order)}
        self.pairs.reads = sorted(self.reads.values(), key=lambda r: (place[id(r.node)], r.index))
        self.pairs.biases = sorted(self.extra.values(), key=lambda b: place[id(b[0])])
        return self.pairs

    def _tensor(self, a: Operand, b: Operand) -> None:
        self._shape(a[2], b[2])
        mine: list[tuple[Node, int]] = []
        others: list[tuple[Node, int]] = []
        a, b = strip(a, mine), strip(b, others)
        self._rescale(mine, others)
        value = constant(b[2])
        if value is not None:
            if a[0] is not None:
                self._read(a[0], a[1], value)
            return
        self._shape(a[2], b[2])
        if a[2].inputs and (id(a[2].inputs[0]), id(b[2].inputs[0])) not in self.seen:
            self._nodes(a[2].inputs[0], b[2].inputs[0])

    def _rescale(self, mine: list[tuple[Node, int]], others: list[tuple[Node, int]]) -> None:
        """Give our numbers the values of theirs: one by one, or the product to the first."""
        values = [float(constant(n.inputs[i]).reshape(())) for n, i in others]  # type: ignore[union-attr]
        if len(mine) != len(values):
            if not mine and prod(values) != 1:
                self.pairs.rescaled.append(others[0][0])
            values = [prod(values)] + [1.0] * (len(mine) - 1)
        for (node, index), value in zip(mine, values, strict=False):
            ours = constant(node.inputs[index])
            assert ours is not None
            self._read(node, index, np.full(ours.shape, value, ours.dtype))

    def _shape(self, a: Tensor, b: Tensor) -> None:
        if b.shape is not None and constant(a) is None:
            self.pairs.shapes.append((a.name, list(b.shape)))

    def _nodes(self, a: Node, b: Node) -> None:
        self.seen.add((id(a), id(b)))
        mine, others = operands(a), operands(b)
        if is_op(a, *COMMUTATIVE):
            others = self._reorder(mine, others)
        self.todo += zip(mine, others, strict=True)
        outer = zip(self.ours.captured(a), self.theirs.captured(b), strict=True)
        self.todo += [((None, 0, x), (None, 0, y)) for x, y in outer]
        if is_op(a, *BIASED):
            self._bias(a, b)
        for name in NUMBERS:
            if a.attrs.get(name) != b.attrs.get(name):
                self.pairs.numbers.append((a, name, b.attrs.get(name)))
        inner = [[constant(t) for t in captured(n) if constant(t) is not None] for n in (a, b)]
        if len(inner[0]) != len(inner[1]) or not all(map(np.array_equal, *inner)):
            raise UsageError(
                f"the constants in the bodies of {op_and_name(a)} differ between the original and "
                "the pruned model; graphopt leaves those alone"
            )

    def _reorder(self, mine: list[Operand], others: list[Operand]) -> list[Operand]:
        """Put the operands in our order: the same label, if possible the same name or place."""
        left = list(others)
        out = []
        for place, (_, _, tensor) in enumerate(mine):
            label = self.ours.of(tensor)
            fits = [o for o in left if self.theirs.of(o[2]) == label]
            best = min(fits, key=lambda o: (o[2].name != tensor.name, o[1] != mine[place][1]))
            left = [o for o in left if o is not best]
            out.append(best)
        return out

    def _bias(self, a: Node, b: Node) -> None:
        mine, other = (
            constant(n.inputs[2]) if len(n.inputs) > 2 and not n.inputs[2].is_empty() else None
            for n in (a, b)
        )
        if mine is not None:
            outputs = _outputs(b)
            shape = (outputs,) if mine.shape and mine.shape[-1] > 1 and outputs else mine.shape
            self._read(a, 2, np.zeros(shape, mine.dtype) if other is None else other)
        elif other is not None and other.any():
            self.extra[id(a)] = (a, other)

    def _read(self, node: Node, index: int, theirs: Array) -> None:
        ours = constant(node.inputs[index])
        assert ours is not None  # Labels are equal.
        name = node.inputs[index].name
        if ours.dtype != theirs.dtype:
            raise UsageError(
                f"'{name}' is {theirs.dtype} in the pruned model, and {ours.dtype} in the "
                "original: prune and recover before converting"
            )
        shape = theirs.shape
        while len(shape) > ours.ndim and shape[0] == 1:
            shape = shape[1:]
        shape = (1,) * (ours.ndim - len(shape)) + shape
        if len(shape) != ours.ndim:
            raise UsageError(
                f"'{name}' has {theirs.ndim} dimensions in the pruned model, and {ours.ndim} in "
                "the original",
                hint=HINT,
            )
        read = Read(node, index, ours, theirs.reshape(shape))
        before = self.reads.setdefault((id(node), index), read)
        if not np.array_equal(before.theirs, read.theirs, equal_nan=ours.dtype.kind == "f"):
            raise UsageError(
                f"{op_and_name(node)} of the original stands for two different nodes of the pruned "
                "model",
                hint=HINT,
            )


def _outputs(node: Node) -> int | None:
    """Return how many channels a Conv, ConvTranspose or Gemm makes."""
    weight = constant(node.inputs[1])
    if weight is None:
        return None
    if node.op == "ConvTranspose":
        return int(weight.shape[1] * int(node.attrs.get("group", 1)))
    swapped = node.op == "Gemm" and not int(node.attrs.get("transB", 0))
    return int(weight.shape[1 if swapped else 0])
