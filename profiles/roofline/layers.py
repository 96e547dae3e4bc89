"""The kernels that TensorRT would launch for a graph, and what each computes and moves.

One kernel takes in what TensorRT's documentation lists as fused ("Layer Fusion" in the developer
guide): Conv with BatchNormalization, an activation and a residual Add; chains of pointwise
operations; Q and DQ in the layers they stand at. Views (Reshape, Flatten ...) and what follows from
constants and static shapes alone cost nothing. All else is a kernel that moves its tensors.

Sizes are asked for through two functions, so that the same rules serve the sizes of one model and
the pruner's, which are functions of the widths that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.graph import (
    Node,
    Tensor,
    consumers,
    is_constant,
    is_op,
    is_standard,
    producer,
)
from graphopt.model import Model

BYTES = {"int8": 1, "fp16": 2, "fp32": 4}
MACS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SAME = ("Identity", "Dropout")
VIEWS = (*SAME, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
QDQ = ("QuantizeLinear", "DequantizeLinear")
# One value in, one out: TensorRT's activation, unary, scale and elementwise layers.
POINTWISE = frozenset({
    "Abs", "Add", "And", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div",
    "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min",
    "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round",
    "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish",
    "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
})  # fmt: skip
# What runs in INT8 beside layers with weights; the rest of an INT8 model stays in FP16.
INT8_OPS = frozenset({
    "Add", "AveragePool", "Clip", "Concat", "Expand", "Gather", "GlobalAveragePool",
    "GlobalMaxPool", "LeakyRelu", "MaxPool", "Mul", "Pad", "Relu", "Resize", "Slice", "Split",
    "Tile", "Transpose", "BatchNormalization",
})  # fmt: skip
# Read no more than they write, however large their input is.
PARTIAL = ("Expand", "Gather", "GatherElements", "GatherND", "Slice", "Tile")
BODIES = ("If", "Loop", "Scan")
# TensorRT has formats and kernels for a first layer of so few channels (CHW4, HWC4).
FEW_CHANNELS = 4

ReadDims = Callable[[str, int, Tensor], Sequence[int] | None]
WrittenDims = Callable[[Tensor], Sequence[int] | None]


@dataclass(frozen=True, slots=True)
class Factors:
    """Sizes to be multiplied.

    Attributes:
        extents: the sizes; for the pruner, the numbers of its extents.
        channels: places in ``extents`` of what a device pads to its channel multiple.
    """

    extents: tuple[int, ...]
    channels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """A tensor that a kernel reads or writes: its elements, and the bytes of each."""

    elements: Factors
    itemsize: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a kernel does.

    Attributes:
        precision: ``int8``, ``fp16`` or ``fp32``.
        macs: whose product is its multiply-accumulates; None where it only moves.
        moved: what it reads and writes.
        depthwise: one input channel an output channel: no work for tensor cores.
    """

    precision: str
    macs: Factors | None
    moved: tuple[Moved, ...]
    depthwise: bool = False


@dataclass(slots=True, eq=False)
class Kernel:
    """Nodes that run as one.

    Attributes:
        number: its place among the kernels.
        nodes: in graph order.
        main: the one it is named after: the first, which has the weights if any has.
        precision: ``int8``, ``fp16`` or ``fp32``.
        reads: (node, input index, tensor) of what comes from outside, constants included.
    """

    number: int
    nodes: list[Node]
    precision: str = "fp32"
    reads: list[tuple[Node, int, Tensor]] = field(default_factory=list)

    @property
    def main(self) -> Node:
        """The node it is named after."""
        return self.nodes[0]

    @property
    def name(self) -> str:
        """The name of that node."""
        return str(self.main.name)

    @property
    def op(self) -> str:
        """Its operators, in order: ``Conv+Add+Relu``."""
        return "+".join(str(node.op) for node in self.nodes)

    @property
    def contracts(self) -> bool:
        """Whether it has multiply-accumulates that are counted."""
        return is_op(self.main, *MACS)

    @property
    def writes(self) -> list[Tensor]:
        """What it writes: what its last node does, because nothing else reads what is between."""
        return [t for t in self.nodes[-1].outputs if t.name]


def kernels(model: Model, precision: str | None = None, rest: str = "fp16") -> list[Kernel]:
    """Group the nodes of a graph, in time linear in its size.

    Args:
        model: with its nodes named and in order.
        precision: of all layers, Q/DQ or not (``int8``: of all that can); by default as the graph
            says: INT8 where a layer reads through DequantizeLinear, FP16 where tensors are.
        rest: with ``int8``, the precision of what cannot.
    """
    grouper = _Grouper(model, through=precision is not None)
    for node in model.graph.nodes:
        grouper.add(node)
    for kernel in grouper.found:
        if precision is None:
            kernel.precision = _as_written(kernel)
        else:
            kernel.precision = precision if precision != "int8" or _can_int8(kernel) else rest
    return grouper.found


class _Grouper:
    """Takes nodes in graph order."""

    def __init__(self, model: Model, *, through: bool) -> None:
        self.found: list[Kernel] = []
        self._through = (*SAME, *QDQ) if through else SAME
        self._static: set[int] = set()  # tensors whose values are known when the engine is built
        self._open: dict[int, Kernel] = {}  # tensor -> what writes it and could take its reader in
        self._outputs = {id(t) for t in model.graph.outputs}

    def add(self, node: Node) -> None:
        """Put a node into a kernel, or into none."""
        if self._is_static(node):
            self._static |= {id(t) for t in node.outputs}
            return
        if is_op(node, *VIEWS, *QDQ):
            before = self._of(node.inputs[0])
            if before is not None and is_op(node, *self._through):
                self._open[id(node.outputs[0])] = before
            return
        kernel = self._taker(node)
        inside = {id(t) for t in node.inputs if kernel is not None and self._of(t) is kernel}
        if kernel is None:
            kernel = Kernel(len(self.found), [])
            self.found.append(kernel)
        kernel.nodes.append(node)
        known = {id(t) for _, _, t in kernel.reads}
        for index, tensor in enumerate(node.inputs):
            if tensor.name and id(tensor) not in inside and id(tensor) not in known:
                kernel.reads.append((node, index, tensor))
                known.add(id(tensor))
        if kernel.contracts or is_op(node, *POINTWISE):
            self._open[id(node.outputs[0])] = kernel

    def _is_static(self, node: Node) -> bool:
        if is_op(node, "Shape", "Size", "Constant"):
            return True
        if not is_standard(node) or is_op(node, *BODIES) or node.op.startswith("Random"):
            return False
        given = [t for t in node.inputs if t.name]
        return bool(given) and all(self._known(t) for t in given)

    def _known(self, tensor: Tensor) -> bool:
        return is_constant(tensor) or id(tensor) in self._static

    def _of(self, tensor: Tensor) -> Kernel | None:
        """Return the kernel that writes a tensor for one reader alone, or None."""
        kernel = self._open.get(id(tensor))
        alone = id(tensor) not in self._outputs and len(consumers(tensor)) == 1
        return kernel if alone else None

    def _taker(self, node: Node) -> Kernel | None:
        """Return the kernel this node runs in, or None for one of its own."""
        if not is_op(node, *POINTWISE):
            return None
        others = [t for t in node.inputs if t.name and not self._known(t)]
        before = [k for k in (self._of(t) for t in others) if k is not None]
        # Of two branches the later one takes the other's result in: a residual.
        for kernel in sorted(before, key=lambda k: k.number, reverse=True):
            if not kernel.contracts or len(others) == 1 or _is_residual(kernel, node):
                return kernel
        return None


def _is_residual(kernel: Kernel, node: Node) -> bool:
    return is_op(node, "Add", "Sum") and not any(is_op(n, "Add", "Sum") for n in kernel.nodes)


def _can_int8(kernel: Kernel) -> bool:
    return kernel.contracts or all(is_op(n, *INT8_OPS) for n in kernel.nodes)


def _as_written(kernel: Kernel) -> str:
    """Return the precision that Q/DQ and types give a kernel."""
    wanted = 2 if kernel.contracts else 1
    data = [_dequantized(t) for _, _, t in kernel.reads[:wanted]]
    if data and all(data):
        quantized = all(_quantized(t) for t in kernel.writes)
        if kernel.contracts or (quantized and _can_int8(kernel)):
            return "int8"
    return "fp16" if any(_itemsize(t) == 2 for t in kernel.writes) else "fp32"


def _dequantized(tensor: Tensor) -> bool:
    """Whether a tensor was an integer before: what reads it reads that."""
    node = producer(tensor)
    while node is not None and is_op(node, *VIEWS):
        node = producer(node.inputs[0])
    return node is not None and is_op(node, "DequantizeLinear")


def _quantized(tensor: Tensor) -> bool:
    """Whether a tensor is only quantized: what writes it writes integers."""
    readers = consumers(tensor)
    return bool(readers) and all(is_op(n, "QuantizeLinear") for n in readers)


def _itemsize(tensor: Tensor) -> int:
    return 4 if tensor.dtype is None else int(np.dtype(tensor.dtype).itemsize)


def work_of(
    kernel: Kernel, read: ReadDims, written: WrittenDims, precision: str | None = None
) -> Work | None:
    """Return what a kernel does, or None where shapes that it depends on are not known.

    Args:
        kernel: of :func:`kernels`.
        read: (node name, input index, tensor) -> its sizes.
        written: tensor -> its sizes.
        precision: as it was for :func:`kernels`.
    """

    def itemsize(tensor: Tensor, *, is_read: bool) -> int:
        if tensor.dtype is not None and np.dtype(tensor.dtype).kind in "iub":
            return _itemsize(tensor)
        if precision is not None:
            return BYTES[kernel.precision]
        integer = _dequantized(tensor) if is_read else _quantized(tensor)
        return 1 if integer else _itemsize(tensor)

    outs = [written(t) for t in kernel.writes]
    if not outs or outs[0] is None:
        return None
    moved = [
        Moved(_padded(dims), itemsize(t, is_read=False))
        for t, dims in zip(kernel.writes, outs, strict=True)
        if dims is not None
    ]
    macs = None
    others = kernel.reads
    if kernel.contracts:
        main = kernel.main
        first, second = main.inputs[:2]
        given, weight = read(main.name, 0, first), read(main.name, 1, second)
        out = written(main.outputs[0])
        macs = mac_factors(main, given, weight, out)
        if macs is None or given is None or weight is None or out is None:
            return None
        of_given, of_weight, of_out = _contracted(main, given, weight, out)
        if _is_first(main):  # not padded: of the weights, the input's channels are the second
            macs = Factors(macs.extents, (1,))
            of_given, of_weight = Factors(of_given.extents), Factors(of_weight.extents, (0,))
        moved = [
            Moved(of_given, itemsize(first, is_read=True)),
            Moved(of_weight, itemsize(second, is_read=True)),
            Moved(of_out, moved[0].itemsize),
        ]
        others = [r for r in others if r[2] is not first and r[2] is not second]
    for node, index, tensor in others:
        dims = outs[0] if is_op(node, *PARTIAL) and index == 0 else read(node.name, index, tensor)
        if dims is not None:
            moved.append(Moved(_padded(dims), itemsize(tensor, is_read=True)))
    return Work(kernel.precision, macs, tuple(moved), _is_depthwise(kernel.main))


def mac_factors(
    node: Node,
    given: Sequence[int] | None,
    weight: Sequence[int] | None,
    out: Sequence[int] | None,
) -> Factors | None:
    """Return what the multiply-accumulates are a product of, as :func:`graphopt.cost.cost` counts.

    Args:
        node: one of ``MACS``.
        given: the sizes of its first input.
        weight: of its second.
        out: of its output.

    Returns:
        None where sizes that it takes are not known.
    """
    if weight is None:
        return None
    if "Conv" in node.op:
        # Layouts pad the channels of a tensor; the columns of a group are no dimension of one.
        rows = out if node.op == "Conv" else given
        if rows is None:
            return None
        return Factors((*rows, *weight[1:]), (1,) if _groups(node) > 1 else (1, len(rows)))
    if given is None or out is None:
        return None
    # A product with a vector has no columns.
    columns = (len(out) - 1,) if out and len(weight) > 1 else ()
    return Factors((*out, given[_inner(node, given)]), (*columns, len(out)))


def _contracted(
    node: Node, given: Sequence[int], weight: Sequence[int], out: Sequence[int]
) -> tuple[Factors, Factors, Factors]:
    """Return the elements of a contraction's first input, its second, and its output."""
    if "Conv" in node.op:
        filters = Factors(tuple(weight), (0,) if _groups(node) > 1 else (0, 1))
        return Factors(tuple(given), (1,)), filters, Factors(tuple(out), (1,))
    columns = (len(out) - 1,) if out and len(weight) > 1 else ()
    last = tuple(range(len(weight)))[-2:]
    first = Factors(tuple(given), (_inner(node, given),))
    return first, Factors(tuple(weight), last), Factors(tuple(out), columns)


def _padded(dims: Sequence[int]) -> Factors:
    """Return the elements of a tensor: images have their channels second, all else last."""
    axis = 1 if len(dims) > 3 else len(dims) - 1
    return Factors(tuple(dims), (axis,) if len(dims) > 1 else ())


def _is_first(node: Node) -> bool:
    """Whether it is a convolution of a graph input, of few channels."""
    if not is_op(node, "Conv"):
        return False
    tensor = node.inputs[0]
    shape = tensor.shape
    while (before := producer(tensor)) is not None and is_op(before, *VIEWS, *QDQ, "Cast"):
        tensor = before.inputs[0]
    few = shape is not None and len(shape) > 1 and isinstance(shape[1], int)
    return before is None and few and shape[1] <= FEW_CHANNELS


def _inner(node: Node, given: Sequence[int]) -> int:
    return 0 if node.op == "Gemm" and node.attrs.get("transA", 0) else len(given) - 1


def _groups(node: Node) -> int:
    return int(node.attrs.get("group", 1))


def _is_depthwise(node: Node) -> bool:
    if not is_op(node, "Conv", "ConvTranspose") or _groups(node) == 1:
        return False
    shape = node.inputs[1].shape
    return shape is not None and shape[1] == 1
