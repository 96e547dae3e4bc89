"""What one walk over the graph records: the dimensions of every tensor, and how to prune nodes.

A rule sees one node through a :class:`Site`. It reads the dimensions of the inputs, says what must
die together and what may not die, sets the dimensions of the outputs and, where the node has
attributes or constants that spell out sizes, registers how to rewrite them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from graphopt.channels.dims import Dim, Space
from graphopt.graph import Array, Graph, Node, Tensor, constant, is_constant

if TYPE_CHECKING:
    from graphopt.channels.rewrite import Rewriter

RoleKind: TypeAlias = Literal["producer", "consumer"]
Rewrite: TypeAlias = "Callable[[Rewriter], None]"


class Refused(Exception):
    """A rule met something it does not handle; the node then counts as having none."""


@dataclass(frozen=True, slots=True)
class Element:
    """One number of a tensor of sizes.

    Attributes:
        dims: the dimensions it was computed from.
        exact: whether it is the size of that one dimension, unchanged.
    """

    dims: tuple[Dim, ...] = ()
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """One read of a constant: input ``index`` of ``node``, with the dimensions it has there."""

    node: Node
    index: int
    dims: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """An axis of a weight that makes channels, or that sums over them."""

    node: Node
    tensor: str
    axis: int
    kind: RoleKind
    dim: Dim


def op_and_name(node: Node) -> str:
    """Return how messages call a node: ``Softmax 'attn/softmax'``."""
    op = node.op if node.domain in (None, "", "ai.onnx") else f"{node.domain}.{node.op}"
    name = node.name or next((f"-> {t.name}" for t in node.outputs if t.name), "")
    return f"{op} '{name}'"


@dataclass(slots=True)
class Trace:
    """Everything known about the channels of one graph.

    Attributes:
        graph: the graph, not changed by the walk.
        dims: tensor name -> its dimensions, or None where not even the rank is known.
        uses: reads of constants.
        roles: axes of weights that make channels or sum over them, in topological order.
        rewrites: what to do to nodes once it is known what is removed, in topological order.
        elements: for tensors of sizes (what Shape makes), where each number comes from.
        touching: tensor name -> names of the nodes that read or write it.
        heads: dimensions that count attention heads.
    """

    graph: Graph
    space: Space = field(default_factory=Space)
    dims: dict[str, list[Dim] | None] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)
    rewrites: list[Rewrite] = field(default_factory=list)
    elements: dict[str, tuple[Element, ...]] = field(default_factory=dict)
    touching: dict[str, list[str]] = field(default_factory=dict)
    heads: list[Dim] = field(default_factory=list)

    def of(self, tensor: Tensor) -> list[Dim]:
        """Return the dimensions of a tensor; those of a constant are made when first asked for.

        Raises:
            Refused: its rank is not known.
        """
        if tensor.name not in self.dims:
            value = tensor if is_constant(tensor) else constant(tensor)
            if value is not None:
                self.dims[tensor.name] = [self.space.fresh(int(n)) for n in value.shape]
            else:
                self.dims[tensor.name] = untracked(tensor, f"unknown tensor '{tensor.name}'")
        dims = self.dims[tensor.name]
        if dims is None:
            raise Refused(f"the rank of '{tensor.name}' is unknown")
        return dims

    def freeze_tensor(self, tensor: Tensor, why: str) -> None:
        """Forbid any removal from the tensor; one not seen before needs no atoms at all."""
        if tensor.name not in self.dims:
            self.dims[tensor.name] = untracked(tensor, why)
        for dim in self.dims[tensor.name] or ():
            self.space.freeze(dim, why)


def untracked(tensor: Tensor, why: str) -> list[Dim] | None:
    """Return dimensions from which nothing can be removed, or None if the rank is unknown."""
    if tensor.shape is None:
        return None
    return [Dim(n if isinstance(n, int) else None, (), why) for n in tensor.shape]


@dataclass(frozen=True, slots=True)
class Site:
    """One node as its rule sees it."""

    trace: Trace
    node: Node

    @property
    def space(self) -> Space:
        """The algebra of dimensions."""
        return self.trace.space

    @property
    def opset(self) -> int:
        """The version of the ONNX operator set."""
        return int(self.trace.graph.opset)

    @property
    def why(self) -> str:
        """The node, as reasons name it."""
        return op_and_name(self.node)

    def has(self, index: int) -> bool:
        """Whether the optional input is there."""
        return index < len(self.node.inputs) and not self.node.inputs[index].is_empty()

    def value(self, index: int) -> Array | None:
        """Return the value of a constant input, else None."""
        return constant(self.node.inputs[index]) if self.has(index) else None

    def ints(self, attribute: str, index: int | None = None) -> list[int] | None:
        """Return integers given by an attribute (older opsets) or a constant input, else None.

        Raises:
            Refused: the input is there and is computed.
        """
        if (given := self.node.attrs.get(attribute)) is not None:
            return [int(v) for v in np.atleast_1d(given)]
        if index is None or not self.has(index):
            return None
        if (value := self.value(index)) is None:
            raise Refused(f"its {attribute} are computed")
        return [int(v) for v in value.reshape(-1)]

    def axis(self, rank: int, default: int, attribute: str = "axis") -> int:
        """Return an axis attribute, counted from the front."""
        return self.counted(int(self.node.attrs.get(attribute, default)), rank)

    def counted(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front.

        Raises:
            Refused: there is no such axis.
        """
        if not -rank <= axis < max(rank, 1):
            raise Refused(f"axis {axis} of a tensor of rank {rank}")
        return axis % max(rank, 1)

    def dims(self, index: int) -> list[Dim]:
        """Return the dimensions of an input; a constant's are those of every node that reads it."""
        tensor = self.node.inputs[index]
        dims = self.trace.of(tensor)
        if constant(tensor) is not None:
            self.trace.uses.append(Use(self.node, index, tuple(dims)))
        return dims

    def tie(self, index: int, dims: Sequence[Dim]) -> None:
        """Say that an input has these dimensions.

        A constant takes them for this read alone: exporters share equal biases and scales between
        layers that have nothing to do with each other, and each read gets its own copy.
        """
        if not self.has(index):
            return
        tensor = self.node.inputs[index]
        if constant(tensor) is not None:
            if len(tensor.shape) != len(dims):
                raise Refused(f"input '{tensor.name}' has an unexpected rank")
            self.trace.uses.append(Use(self.node, index, tuple(dims)))
            return
        for mine, given in zip(self.dims(index), dims, strict=True):
            self.space.unify(mine, given, self.why)

    def unify(self, a: Dim, b: Dim) -> None:
        """Make two dimensions lose the same indices."""
        self.space.unify(a, b, self.why)

    def freeze(self, dims: Sequence[Dim], what: str = "") -> None:
        """Forbid any removal from these dimensions."""
        for dim in dims:
            self.space.freeze(dim, f"{self.why}: {what}" if what else self.why)

    def role(self, index: int, axis: int, kind: RoleKind) -> None:
        """Say that an axis of a weight makes channels, or sums over them."""
        tensor = self.node.inputs[index]
        dim = self.trace.of(tensor)[axis]
        self.trace.roles.append(Role(self.node, tensor.name, axis, kind, dim))

    def heads(self, dims: Sequence[Dim]) -> None:
        """Say that these dimensions count attention heads: what activations are multiplied in."""
        self.trace.heads += [dim for dim in dims if dim.slots]

    def out_sizes(self, index: int = 0) -> list[Any] | None:
        """Return the shape of an output as shape inference knows it."""
        if index >= len(self.node.outputs):
            return None
        shape = self.node.outputs[index].shape
        return None if shape is None else list(shape)

    def other(self, axis: int, index: int = 0) -> Dim:
        """Return an output dimension that nobody prunes, with its size if that is known."""
        sizes = self.out_sizes(index)
        size = sizes[axis] if sizes is not None and axis < len(sizes) else None
        return Dim(size if isinstance(size, int) else None, (), self.why)

    def out(self, dims: Sequence[Dim], index: int = 0) -> None:
        """Set the dimensions of an output.

        Raises:
            Refused: shape inference says otherwise.
        """
        if index >= len(self.node.outputs):
            return
        tensor, shape = self.node.outputs[index], self.out_sizes(index)
        if shape is not None:
            if len(shape) != len(dims):
                raise Refused(f"'{tensor.name}' has {len(shape)} dimensions, not {len(dims)}")
            for dim, size in zip(dims, shape, strict=True):
                if dim.slots and isinstance(size, int) and dim.size != size:
                    raise Refused(f"'{tensor.name}' has a dimension of {size}, not {dim.size}")
        self.trace.dims[tensor.name] = list(dims)

    def elements(self, index: int) -> tuple[Element, ...] | None:
        """Return where the numbers of an input of sizes come from, if they come from shapes."""
        return self.trace.elements.get(self.node.inputs[index].name)

    def on_apply(self, rewrite: Rewrite) -> None:
        """Register what to do to the node once it is known what is removed."""
        self.trace.rewrites.append(rewrite)
