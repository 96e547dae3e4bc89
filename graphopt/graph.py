"""What every pass asks of a GraphSurgeon graph.

GraphSurgeon's nodes and tensors are unhashable and compare by content: use names or ``id()``.
Tensors captured by the body of an If, Loop or Scan list the inner node among their ``outputs``,
so "who reads this" sees sub-graphs too.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

# GraphSurgeon ships no types; these names say what is meant.
Graph: TypeAlias = Any
Node: TypeAlias = Any
Tensor: TypeAlias = Any
Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = "tuple[int | str | None, ...]"

STANDARD_DOMAINS = frozenset({None, "", "ai.onnx"})
QUANTIZE_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def is_standard(node: Node) -> bool:
    """Whether the node is of the ONNX domain itself; anything else is a custom op."""
    return node.domain in STANDARD_DOMAINS


def is_op(node: Node, *ops: str) -> bool:
    """Whether the node is one of these standard operators."""
    return node.op in ops and is_standard(node)


def is_constant(tensor: Tensor) -> bool:
    """Whether the tensor is an initializer."""
    return isinstance(tensor, gs.Constant)


def constant(tensor: Tensor) -> Array | None:
    """Return the value of an initializer or of a Constant node's output, or None.

    Never write into the result: clones of a model share it. Assign a new array instead.
    """
    if isinstance(tensor, gs.Constant):
        # Not ``tensor.values``: that would make a sparse initializer dense for good.
        stored = tensor._values
        return np.asarray(stored.load() if isinstance(stored, LazyValues) else stored)
    if len(tensor.inputs) == 1 and is_op(tensor.inputs[0], "Constant"):
        attrs = tensor.inputs[0].attrs
        if "value" in attrs:
            return constant(attrs["value"])
        for name, dtype in (
            ("value_float", np.float32),
            ("value_floats", np.float32),
            ("value_int", np.int64),
            ("value_ints", np.int64),
        ):
            if name in attrs:
                return np.asarray(attrs[name], dtype=dtype)
    return None


def producer(tensor: Tensor) -> Node | None:
    """Return the node that writes the tensor, or None for graph inputs and initializers."""
    return tensor.inputs[0] if tensor.inputs else None


def consumers(tensor: Tensor) -> list[Node]:
    """Return the nodes that read the tensor (inner nodes of sub-graphs too), each once."""
    return list({id(node): node for node in tensor.outputs}.values())


def uses(tensor: Tensor) -> int:
    """Return how many node inputs read the tensor (a node may read it twice)."""
    return len(tensor.outputs)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two names stand for the same object (``==`` compares content)."""
    return a is b


def contains(tensors: Iterable[Tensor], tensor: Tensor) -> bool:
    """Whether this very tensor is in the list."""
    return any(t is tensor for t in tensors)


def is_graph_input(graph: Graph, tensor: Tensor) -> bool:
    """Whether the tensor is an input of the graph."""
    return contains(graph.inputs, tensor)


def is_graph_output(graph: Graph, tensor: Tensor) -> bool:
    """Whether the tensor is an output of the graph."""
    return contains(graph.outputs, tensor)


def feeds_subgraph(graph: Graph, tensor: Tensor) -> bool:
    """Whether a node inside an If, Loop or Scan body reads the tensor."""
    local = {id(node) for node in graph.nodes}
    return any(id(node) not in local for node in tensor.outputs)


def subgraph_outer_names(graph: Graph) -> set[str]:
    """Return names of tensors of ``graph`` that sub-graph bodies read or return directly."""
    names: set[str] = set()
    local = {name for name, _ in graph.tensors().items()}
    for body in graph.subgraphs(recursive=True):
        for node in body.nodes:
            names |= {t.name for t in node.inputs if t.name in local}
        names |= {t.name for t in body.outputs if t.name in local}
    return names


def replace_input(node: Node, index: int, tensor: Tensor) -> None:
    """Make one input of a node read ``tensor``.

    ``node.inputs[index] = tensor`` does the same, but finds the node among the readers of the old
    tensor by comparing contents, which takes long where a constant has thousands of readers.
    """
    readers = node.inputs[index].outputs
    list.__delitem__(readers, next(i for i, reader in enumerate(readers) if reader is node))
    list.__setitem__(node.inputs, index, tensor)
    list.append(tensor.outputs, node)


def disconnect(node: Node) -> None:
    """Make a node read and write nothing.

    ``node.inputs.clear()`` does the same to its inputs, with the comparisons that
    :func:`replace_input` spares.
    """
    for tensors, readers in ((node.inputs, "outputs"), (node.outputs, "inputs")):
        for tensor in tensors:
            found = getattr(tensor, readers)
            list.__delitem__(found, next(i for i, other in enumerate(found) if other is node))
        list.clear(tensors)


def replace_uses(
    graph: Graph, old: Tensor, new: Tensor, bodies: Sequence[Graph] | None = None
) -> None:
    """Make every reader of ``old`` read ``new``; a graph output ``old`` becomes ``new`` too.

    Bodies of If, Loop and Scan that read or return ``old`` are readers as well. The name of a
    graph output is part of the model's interface: callers must not let a graph output be replaced
    by a tensor of another name (see :func:`is_graph_output`). To replace many, find the ``bodies``
    (``graph.subgraphs(recursive=True)``) once: finding them takes a walk over all nodes.
    """
    for node in consumers(old):
        for i, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[i] = new
    for part in [graph, *(graph.subgraphs(recursive=True) if bodies is None else bodies)]:
        for i, tensor in enumerate(part.outputs):
            if tensor is old:
                part.outputs[i] = new


def all_names(graph: Graph) -> set[str]:
    """Return every tensor and node name in the graph and its sub-graphs."""
    names: set[str] = set()
    for part in [graph, *graph.subgraphs(recursive=True)]:
        names |= {node.name for node in part.nodes}
        for node in part.nodes:
            names |= {t.name for t in [*node.inputs, *node.outputs]}
        names |= {t.name for t in [*part.inputs, *part.outputs]}
    return names


class Names:
    """Gives out names that are free in a graph; the same calls give the same names."""

    def __init__(self, graph: Graph) -> None:
        self._taken = all_names(graph)
        self._last: dict[str, int] = {}

    def fresh(self, base: str) -> str:
        """Return ``base``, or ``base_1``, ``base_2`` … whichever is free first."""
        return _numbered(base, self._taken, self._last)


def _numbered(base: str, taken: set[str], last: dict[str, int]) -> str:
    """Take the first free name; ``last`` remembers the numbers that need not be tried again."""
    name, n = base, last.get(base, 0)
    while not name or name in taken:
        n += 1
        name = f"{base}_{n}"
    last[base] = n
    taken.add(name)
    return name


def static_shape(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the shape if every dimension is a number, else None."""
    shape = tensor.shape
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return tuple(shape)


def dim(tensor: Tensor, axis: int) -> int | None:
    """Return one dimension if it is a number, else None."""
    shape = tensor.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    value = shape[axis]
    return value if isinstance(value, int) else None


def rank(tensor: Tensor) -> int | None:
    """Return the number of dimensions, or None if the shape is unknown."""
    return None if tensor.shape is None else len(tensor.shape)


def is_float(tensor: Tensor) -> bool:
    """Whether the tensor is known to hold float32."""
    return tensor.dtype is not None and np.dtype(np.float32) == tensor.dtype


def name_nodes(graph: Graph) -> None:
    """Name the nameless by operator and output, and tell namesakes apart; reports need names."""
    taken = {node.name for node in graph.nodes}
    seen: set[str] = set()
    last: dict[str, int] = {}
    for node in graph.nodes:
        if not node.name or node.name in seen:
            output = next((t.name for t in node.outputs if t.name), "")
            node.name = _numbered(node.name or f"{node.op}_{output}", taken, last)
        seen.add(node.name)


def captured(node: Node) -> list[Tensor]:
    """Return the tensors that the bodies of the node read or hand on, local ones included."""
    tensors = []
    for body in node.subgraphs(recursive=True):
        for inner in body.nodes:
            tensors += list(inner.inputs)
        tensors += list(body.outputs)
    return tensors


def remove_dead(graph: Graph) -> list[Node]:
    """Take out the nodes that no graph output depends on, and return them, in order.

    GraphSurgeon's ``cleanup`` forgets outer tensors that a body returns without reading them.
    """
    local = {id(node) for node in graph.nodes}
    alive: set[int] = set()
    todo = list(graph.outputs)
    while todo:
        for node in todo.pop().inputs:
            if id(node) in local and id(node) not in alive:
                alive.add(id(node))
                todo += [*node.inputs, *captured(node)]
    dead = [node for node in graph.nodes if id(node) not in alive]
    graph.nodes = [node for node in graph.nodes if id(node) in alive]
    for node in dead:
        for body in node.subgraphs(recursive=True):
            for inner in body.nodes:
                inner.inputs.clear()
        disconnect(node)
    return dead


def sort(graph: Graph) -> None:
    """Put every node after those it depends on, otherwise keeping the order there is.

    Raises:
        ValueError: the graph has a cycle.
    """
    place = {id(node): i for i, node in enumerate(graph.nodes)}
    waits: list[int] = []
    readers: dict[int, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        before = {
            place[id(p)]
            for tensor in [*node.inputs, *captured(node)]
            for p in tensor.inputs
            if id(p) in place
        }
        waits.append(len(before))
        for j in before:
            readers.setdefault(j, []).append(i)
    ready = [i for i, count in enumerate(waits) if not count]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for i in readers.get(order[-1], ()):
            waits[i] -= 1
            if not waits[i]:
                heapq.heappush(ready, i)
    if len(order) < len(waits):
        raise ValueError("the graph has a cycle")
    graph.nodes = [graph.nodes[i] for i in order]


def in_graph_order(graph: Graph) -> Iterator[Tensor]:
    """Yield the tensors of the graph itself: inputs first, then node outputs in order."""
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs


def walk(graph: Graph) -> Iterator[Node]:
    """Yield the nodes of the graph, then those of its sub-graphs."""
    yield from graph.nodes
    for body in graph.subgraphs(recursive=True):
        yield from body.nodes


def walk_proto(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph still in protobuf, each followed by those of its bodies."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                yield from walk_proto(body)
