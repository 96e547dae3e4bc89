"""Kernels: which layers TensorRT runs together, and in what precision.

From the developer guide, "Explicit Quantization":

- Convolution, deconvolution and matrix multiplication are *quantizable layers*: with DQ in front
  of all their inputs they run in INT8 ("Q/DQ Layer-Placement Recommendations": quantize all inputs
  of weighted operations). They take in the bias, the pointwise layers behind them and one
  elementwise addition ("Types of Fusions").
- "Quantize the residual input in skip connections": the other input of that addition sets the
  precision of what the kernel writes. In float, "the trailing Q-layer cannot be fused".
- "Non-weighted layers that have INT8 inputs also require INT8 outputs": an average pool, a resize
  or an elementwise layer runs in INT8 only with DQ in front of all its inputs *and* Q behind it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from graphopt.lint import network as kinds
from graphopt.lint.flow import Flow
from graphopt.lint.network import Layer

# A kernel is cut where one tensor leaves it; how much further to look for such a place.
_LOOK_AHEAD = 16
_ALONE = frozenset({kinds.POOL, kinds.RESIZE})


@dataclass(slots=True, eq=False)
class Kernel:
    """Layers that run as one.

    Attributes:
        head: its first layer, after which it is called.
        layers: indices of its layers, the head's first.
        exit: the tensor it writes, "" if none is read.
        weighted: the head multiplies by a weight.
        int8: it computes in INT8.
        why: why it does not, "" if it does.
        cause: why it does not, in the words of :class:`graphopt.lint.fusion.Account`.
        limited: why it writes float although it computes in INT8, or "".
        weight_only: a matrix product in float whose weight is held in few bits.
    """

    head: Layer
    layers: list[int]
    exit: str
    weighted: bool
    int8: bool = False
    why: str = ""
    cause: str = ""
    limited: str = ""
    weight_only: bool = False

    @property
    def writes_int8(self) -> bool:
        """Whether a Q behind it fuses into it."""
        return self.int8 and not self.limited


class Kernels:
    """The kernels of a network.

    Attributes:
        all: in the order of their heads, weighted ones first.
        owner: layer index -> its kernel.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._layers = flow.network.layers
        self.all: list[Kernel] = []
        self.owner: dict[int, Kernel] = {}
        dynamic = [i for i, layer in enumerate(self._layers) if flow.dynamic(layer)]
        for index in dynamic:
            if self._layers[index].kind in kinds.WEIGHTED:
                self._add(index, weighted=True)
        for index in dynamic:
            if self._layers[index].op.lower() == "softmax":
                self._attend(index)
        for index in dynamic:
            layer = self._layers[index]
            if index not in self.owner and layer.kind in kinds.ELEMENTWISE | _ALONE:
                self._add(index, weighted=False)

    def _add(self, index: int, *, weighted: bool) -> None:
        layer = self._layers[index]
        if layer.kind in _ALONE:
            kernel = Kernel(layer, [index], layer.outputs[0], weighted)
        else:
            kernel = self._grow(index, weighted=weighted)
        if weighted:
            self._judge_weighted(kernel)
        else:
            self._judge(kernel)
        self.all.append(kernel)
        for member in kernel.layers:
            self.owner[member] = kernel

    def _attend(self, index: int) -> None:
        """Give a Softmax to the INT8 product in front of it, where INT8 attention fuses.

        "Multi-Head Attention Fusion" asks for DQ before both products and Q behind the Softmax:
        then the two products and the Softmax are one kernel.
        """
        layer, flow = self._layers[index], self._flow
        source = layer.inputs[0]
        kernel = self.owner.get(flow.writer.get(source, -1))
        if kernel is None or kernel.exit != source or len(flow.readers[source]) != 1:
            return
        product = kernel.head.kind == kinds.MATMUL and len(flow.dynamic(kernel.head)) == 2
        if product and kernel.writes_int8 and flow.sink(layer.outputs[0]).pure:
            kernel.layers.append(index)
            kernel.exit = layer.outputs[0]
            self.owner[index] = kernel

    def _judge_weighted(self, kernel: Kernel) -> None:
        head, flow = kernel.head, self._flow
        data, weight = self._operands(head)
        quantized = [name in flow.int8 for name in (data, weight)]
        kernel.int8 = all(quantized)
        if not kernel.int8:
            what = {
                (False, True): "its data is not quantized, its weight is",
                (True, False): "its weight is not quantized, its data is",
            }.get((quantized[0], quantized[1]), "neither its data nor its weight is quantized")
            both = len(flow.dynamic(head)) > 1 and not any(quantized)
            kernel.why = f"{head.title} computes in float: {what}"
            kernel.cause = "default" if both else "float"
            kernel.weight_only = (
                head.kind == kinds.MATMUL
                and quantized == [False, True]
                and weight in flow.network.constants
            )

    def _operands(self, head: Layer) -> tuple[str, str]:
        """Return data and weight; "" for a weight that is no tensor of the network."""
        first = head.inputs[0]
        second = head.inputs[1] if len(head.inputs) > 1 else ""
        if head.kind == kinds.MATMUL and first in self._flow.network.constants:
            return second, first
        return first, second

    def _judge(self, kernel: Kernel) -> None:
        flow, head = self._flow, kernel.head
        members = {name for i in kernel.layers for name in self._layers[i].outputs}
        fed = {
            name
            for i in kernel.layers
            for name in flow.dynamic(self._layers[i])
            if name not in members
        }
        floats = sorted(name for name in fed if name not in flow.int8)
        sink = flow.sink(kernel.exit)
        kernel.int8 = not floats and sink.pure
        kernel.cause = "" if kernel.int8 else "float" if floats else "no-q"
        if floats and len(floats) < len(fed):
            kernel.why = f"{head.title} computes in float: its input '{floats[0]}' is not quantized"
        elif floats:
            kernel.why = f"{head.title} computes in float"
        elif not kernel.int8:
            behind = "no Q follows" if sink.key is None else sink.impurity
            kernel.why = (
                f"{head.title} has no weight, and such a layer takes INT8 in only if it writes "
                f"INT8: {behind}"
            )

    def _grow(self, start: int, *, weighted: bool) -> Kernel:
        """Take in pointwise layers, up to the last place where a single tensor leaves."""
        flow, layers = self._flow, self._layers
        members = [start]
        outside: dict[str, int] = {}
        leaving = self._leave(layers[start].outputs, outside)
        limited, residual = "", False
        best = (1, self._exit(outside), "") if leaving <= 1 else (1, layers[start].outputs[0], "")
        todo: list[int] = []
        seen = {start}
        self._push(layers[start].outputs, todo, start)
        while todo and len(members) - best[0] <= _LOOK_AHEAD:
            index = heapq.heappop(todo)
            layer = layers[index]
            if index in self.owner or index in seen:
                continue
            seen.add(index)
            foreign = [name for name in flow.dynamic(layer) if name not in outside]
            if foreign:
                if not self._takes(layer, foreign, weighted=weighted, residual=residual):
                    continue
                if weighted:
                    residual = True
                    if foreign[0] not in flow.int8:
                        limited = (
                            f"{layer.title} in it adds '{foreign[0]}', which is not quantized, "
                            "so that it writes float"
                        )
            members.append(index)
            for name in layer.inputs:
                if name in outside:
                    outside[name] -= 1
                    leaving -= outside[name] == 0
            leaving += self._leave(layer.outputs, outside)
            if leaving <= 1:
                best = (len(members), self._exit(outside, layer.outputs), limited)
            self._push(layer.outputs, todo, index)
        return Kernel(layers[start], members[: best[0]], best[1], weighted, limited=best[2])

    def _takes(self, layer: Layer, foreign: list[str], *, weighted: bool, residual: bool) -> bool:
        """Whether a kernel takes in a layer that reads something from outside."""
        flow = self._flow
        if not weighted:
            return all(name in flow.int8 for name in foreign)
        return (
            layer.kind == kinds.ADD
            and not residual
            and len(foreign) == 1
            and len(flow.dynamic(layer)) == 2
            and self._same_shape(layer)
        )

    def _same_shape(self, layer: Layer) -> bool:
        first, second = (self._flow.network.shapes.get(name) for name in layer.inputs[:2])
        if first is None or second is None:
            return True
        return len(first) == len(second) and all(
            a == b or a is None or b is None for a, b in zip(first, second, strict=True)
        )

    def _push(self, tensors: tuple[str, ...], todo: list[int], after: int) -> None:
        for name in tensors:
            for index, _ in self._flow.readers.get(name, ()):
                layer = self._layers[index]
                if index > after and layer.kind in kinds.ELEMENTWISE and len(layer.outputs) == 1:
                    heapq.heappush(todo, index)

    def _leave(self, tensors: tuple[str, ...], outside: dict[str, int]) -> int:
        """Note how often each tensor is read outside; return how many are."""
        found = 0
        for name in tensors:
            uses = len(self._flow.readers.get(name, ()))
            outside[name] = uses + (name in self._flow.network.outputs)
            found += outside[name] > 0
        return found

    def _exit(self, outside: dict[str, int], latest: tuple[str, ...] = ()) -> str:
        for name in [*latest, *reversed(outside)]:
            if outside[name] > 0:
                return name
        return ""
