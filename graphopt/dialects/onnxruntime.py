"""The ``onnxruntime`` dialect: uint8 activations everywhere, so that integer kernels run.

ONNX Runtime's CPU kernels want the opposite of TensorRT: asymmetric uint8 activations with the
Relu absorbed in the range, outputs quantized, both branches of an Add quantized, int8 weights per
channel, an int32 bias whose scale is the product of data and weight scale.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from graphopt.dialects.heads import (
    Head,
    HeadRules,
    describe,
    find_heads,
    label,
    require_per_channel,
    require_unquantized,
    thin_conv,
)
from graphopt.dialects.integer_flow import IntegerFlow
from graphopt.dialects.kernels import beyond_clip, must_stay_float
from graphopt.dialects.ort_batchnorm import affine_heads
from graphopt.dialects.ort_convs import transposed
from graphopt.dialects.ort_write import FULL_RANGE, IntegerWriter, channel_bias
from graphopt.dialects.scales import (
    affine,
    require_ranges,
)
from graphopt.graph import Graph, Tensor
from graphopt.passes.base import Change, Skip
from graphopt.profiles import host

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.dialects.codes import Codes
    from graphopt.model import Model

_RULES = HeadRules()
REDUCED_RANGE = 64


def saturates(machine: str, int8_flags: Collection[str]) -> bool:
    """Whether sums of two uint8 x int8 products may saturate on a CPU.

    x86 without VNNI or AMX adds pairs of products in 16 bits (vpmaddubsw).

    Args:
        machine: ``platform.machine()``.
        int8_flags: the instruction sets it has for integer dot products (``host.Cpu``).
    """
    return machine.lower() in ("x86_64", "amd64", "i386", "i686") and not int8_flags


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """Q/DQ where ONNX Runtime's optimizer turns it into integer kernels.

    Attributes:
        rules: where its integer kernels can win.
        thin_outputs: a Conv with fewer channels than this both in and out stays float where no
            other head comes behind it: quantizing the output of so small a layer costs accuracy
            and saves nothing. Inside the network a thin Conv keeps the chain of integers whole.
        reduce_range: whether weights take 7 bits instead of 8, so that uint8 x int8 does not
            saturate on an x86 CPU without VNNI; None looks at the CPU this runs on.
    """

    name: ClassVar[str] = "onnxruntime"
    rules: HeadRules = _RULES
    thin_outputs: int = 16
    reduce_range: bool | None = None

    @property
    def levels(self) -> int:
        """The greatest absolute value of an int8 weight."""
        reduce = self.reduce_range
        if reduce is None:
            reduce = saturates(platform.machine(), host.cpu().int8_flags)
        return REDUCED_RANGE if reduce else FULL_RANGE

    def _flow(self, model: Model, exclude: frozenset[str]) -> tuple[IntegerFlow, list[Skip]]:
        found, skipped = find_heads(model.graph, exclude, self.rules)
        inner = _before_another(model.graph, found)
        pools = must_stay_float(model.graph)
        heads = []
        for head in found:
            pool = pools.get(head.data.name)
            reason = self._refusal(head, pool, last=id(head.node) not in inner)
            if reason is None:
                heads.append(head)
            else:
                skipped.append(Skip(label(head.node), f"{head.node.op}: {reason}"))
        return _settled(model.graph, heads, exclude), skipped

    def _refusal(self, head: Head, pool: str | None, *, last: bool) -> str | None:
        if pool is not None:
            return f"it reads AveragePool '{pool}', whose int8 kernel computes something else"
        if head.bias is not None and channel_bias(head) is None:
            return f"its bias of shape {tuple(head.bias.shape)} is not one value a channel"
        if head.node.op == "ConvTranspose" and transposed(head) is None:
            return (
                "this engine has no integer kernel for it, and it is not the kind that is a Conv "
                "and DepthToSpace: one group, a known size, an output of stride times its input"
            )
        if last and head.node.op == "Conv":
            thin = thin_conv(head.node, head.values, self.thin_outputs)
            return f"{thin}, and it writes the model's output" if thin else None
        return None

    def wanted(self, model: Model, exclude: frozenset[str], /) -> list[str]:
        """Return the names of the tensors whose range is needed, in graph order.

        Raises:
            UnsupportedModelError: the model is quantized already, or a weight is not finite.
        """
        require_unquantized(model)
        flow, _ = self._flow(model, exclude)
        return [tensor.name for tensor in flow.tensors]

    def insert(
        self,
        model: Model,
        table: CalibrationTable,
        exclude: frozenset[str],
        codes: Codes,
        /,
    ) -> Iterator[Change | Skip]:
        """Insert Q/DQ in place; yield each node that now runs on integers and each that does not.

        Raises:
            UnsupportedModelError: the model is quantized already, is of an opset below 13, or a
                weight is not finite.
            UsageError: the table lacks a tensor.
        """
        require_unquantized(model)
        require_per_channel(model)
        flow, skipped = self._flow(model, exclude)
        names = [tensor.name for tensor in flow.tensors]
        require_ranges(table.ranges, names)
        tensors = dict(zip(names, flow.tensors, strict=True))
        parameters = {
            key: _range(table, [tensors[name] for name in members])
            for key, members in flow.groups.members(names).items()
        }
        writer = IntegerWriter(model.graph, flow, parameters, self.levels)
        # Heads first: they read the data's scale, and their inputs are renamed below.
        for head in flow.heads:
            yield Change("quantized", label(head.node), describe(head))
            writer.head(head, codes.get(label(head.node)))
        for node in flow.carried:
            yield Change("quantized", label(node), f"{node.op}: runs on integers")
            writer.carried(node)
        writer.tensors()
        yield from skipped


def _settled(graph: Graph, heads: list[Head], exclude: frozenset[str]) -> IntegerFlow:
    """Return the flow with those BatchNormalizations that stand between integers."""
    place = {id(node): i for i, node in enumerate(graph.nodes)}
    affine = affine_heads(graph, exclude)
    while True:
        flow = IntegerFlow(
            graph, sorted([*heads, *affine], key=lambda head: place[id(head.node)]), exclude
        )
        kept = [
            head
            for head in affine
            if flow.written(head.data) and flow.read(flow.final(head.node, head.node.outputs[0]))
        ]
        if len(kept) == len(affine):
            return flow
        affine = kept


def _before_another(graph: Graph, heads: list[Head]) -> set[int]:
    """Return ``id`` of the nodes whose output reaches a head."""
    own = {id(head.node) for head in heads}
    reaching: set[int] = set()
    for node in reversed(graph.nodes):
        for tensor in node.outputs:
            if any(id(n) in own or id(n) in reaching for n in tensor.outputs):
                reaching.add(id(node))
    return reaching


def _range(table: CalibrationTable, tensors: list[Tensor]) -> tuple[np.float32, np.uint8]:
    """Return scale and zero-point that hold the clipped ranges of all these tensors."""
    lows, highs = [], []
    for tensor in tensors:
        found = table.ranges[tensor.name]
        low, high = max(found.low, -found.amax), min(found.high, found.amax)
        low, high = beyond_clip(tensor, low, high)
        lows.append(low)
        highs.append(high)
    return affine(min(lows), max(highs))
