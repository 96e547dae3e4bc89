"""The part of a changed model that has to run, given what the unchanged one computes.

A node of the *variant* is **changed** if the unchanged model has no node of that name, or one with
another operator, attributes, constants or inputs. It is **affected** if it is the same but reads,
directly or through others, what a changed node writes. What neither of them writes is known: the
unchanged model computes the same. The **frontier** are the known tensors that the two read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.graph import (
    Array,
    Graph,
    Names,
    Node,
    Tensor,
    is_constant,
    producer,
    remove_dead,
    sort,
)
from graphopt.model import Model
from graphopt.statistics.replay import reads


@dataclass(frozen=True, slots=True)
class Region:
    """What of a variant has to run.

    Attributes:
        changed: names of the changed nodes, in graph order.
        affected: names of the nodes behind them, in graph order.
        frontier: known tensors that they read, in the order they are first read.
        outputs: the model's outputs that they write; the others are known.
    """

    changed: tuple[str, ...]
    affected: tuple[str, ...]
    frontier: tuple[str, ...]
    outputs: tuple[str, ...]


def region(variant: Model, is_changed: Callable[[Node], bool]) -> Region:
    """Return what of a variant has to run.

    Args:
        variant: its nodes in topological order, none of them dead.
        is_changed: whether a node differs from that of the same name in the unchanged model.
    """
    changed, affected = [], []
    written: set[str] = set()
    frontier: dict[str, None] = {}
    for node in variant.graph.nodes:
        read = reads(node)
        if is_changed(node):
            changed.append(node.name)
        elif written.intersection(read):
            affected.append(node.name)
        else:
            continue
        frontier.update((name, None) for name in read if name not in written)
        written.update(t.name for t in node.outputs if t.name)
    outputs = tuple(t.name for t in variant.graph.outputs if t.name in written)
    return Region(tuple(changed), tuple(affected), tuple(frontier), outputs)


def read_by(variant: Model, names: Collection[str]) -> tuple[str, ...]:
    """Return the tensors that some nodes read and none of them writes, in order."""
    nodes = [node for node in variant.graph.nodes if node.name in names]
    written = {t.name for node in nodes for t in node.outputs}
    found = dict.fromkeys(name for node in nodes for name in reads(node))
    return tuple(name for name in found if name not in written)


def tidy(variant: Model) -> Model:
    """Take out dead nodes and sort the others, in place; return the same model."""
    remove_dead(variant.graph)
    sort(variant.graph)
    return variant


def changes(model: Model) -> Callable[[Node], bool]:
    """Return what tells the changed nodes of a clone of ``model``.

    In doubt a node counts as changed: that costs time, and never a figure.
    """
    known = {node.name: node for node in model.graph.nodes}

    def is_changed(node: Node) -> bool:
        before = known.get(node.name)
        return before is None or not _same_node(before, node)

    return is_changed


def _same_node(a: Node, b: Node) -> bool:
    return (
        (a.op, a.domain or "") == (b.op, b.domain or "")
        and [t.name for t in a.outputs] == [t.name for t in b.outputs]
        and len(a.inputs) == len(b.inputs)
        and all(map(_same_input, a.inputs, b.inputs))
        and list(a.attrs) == list(b.attrs)
        and all(_same_value(value, b.attrs[key]) for key, value in a.attrs.items())
    )


def _same_input(a: Tensor, b: Tensor) -> bool:
    if is_constant(a) or is_constant(b):
        return is_constant(a) and is_constant(b) and a._values is b._values
    return bool(a.name == b.name)


def _same_value(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, gs.Graph) and isinstance(b, gs.Graph):
        return _same_graph(a, b)
    if isinstance(a, gs.Tensor) or isinstance(b, gs.Tensor):
        return isinstance(a, gs.Tensor) and isinstance(b, gs.Tensor) and _same_input(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _same_graph(a: Graph, b: Graph) -> bool:
    return (
        len(a.nodes) == len(b.nodes)
        and [t.name for t in a.inputs] == [t.name for t in b.inputs]
        and len(a.outputs) == len(b.outputs)
        and all(map(_same_input, a.outputs, b.outputs))
        and all(map(_same_node, a.nodes, b.nodes))
    )


def boundary(
    variant: Model, frontier: Iterable[str], is_ready: Callable[[str], bool]
) -> tuple[str, ...]:
    """Return the tensors to feed: the frontier, or what lies before where that is not kept."""
    writers = {t.name: node for node in variant.graph.nodes for t in node.outputs}
    found: dict[str, None] = {}
    seen: set[str] = set()
    todo = list(frontier)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if is_ready(name):
            found[name] = None
        elif name in writers:
            todo += reads(writers[name])
    return tuple(sorted(found))


def kept_for(model: Model, frontier: Collection[str]) -> list[str]:
    """Return those tensors of a frontier that are worth keeping.

    What depends on constants alone, and what is no tensor, is computed again instead.
    """
    tensors = model.graph.tensors()
    found = []
    for name in frontier:
        source = producer(tensors[name])
        plain = tensors[name].type == "tensor_type" and not _holds_sequence(source)
        if plain and (source is None or reads(source)):
            found.append(name)
    return found


def _holds_sequence(node: Node | None) -> bool:
    """Whether a node writes sequences; their type is often not declared."""
    return node is not None and (
        (node.op.startswith(("Sequence", "Optional")) and node.op != "SequenceAt")
        or node.op == "SplitToSequence"
    )


def part(variant: Model, samples: Mapping[str, Array], outputs: Sequence[str]) -> Model:
    """Cut a variant down, in place: it then reads these tensors and gives those.

    Args:
        variant: nobody else needs it.
        samples: tensor to feed -> a value of it, for dtype and rank.
        outputs: names of the tensors wanted.
    """
    graph = variant.graph
    tensors, names = graph.tensors(), Names(graph)
    for name, value in samples.items():
        tensor = tensors[name]
        source = producer(tensor)
        if source is not None:
            # The tensor itself becomes the input: bodies of If and Loop may hold it too.
            index = next(i for i, t in enumerate(source.outputs) if t is tensor)
            source.outputs[index] = gs.Variable(names.fresh(name), tensor.dtype, tensor.shape)
        tensor.dtype, tensor.shape = value.dtype.type, [None] * value.ndim
    graph.inputs = [tensors[name] for name in samples]
    graph.outputs = [tensors[name] for name in outputs]
    remove_dead(graph)
    return variant
