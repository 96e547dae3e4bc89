"""The accounting: into which kernel each Q and DQ fuses, or that it stands alone, and why.

By the rules that TensorRT documents (developer guide, "Working with Quantized Types", sections
"TensorRT Processing of Q/DQ Networks" and "Q/DQ Layer-Placement Recommendations"); see
:mod:`graphopt.lint.flow` for how far Q and DQ move and :mod:`graphopt.lint.kernels` for what takes
them in. A compiler may fuse more than it promises: TensorRT-RTX and the newest TensorRT compile
pointwise code on the fly. What is said to stand alone is what no document promises to fuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphopt.lint import network as kinds
from graphopt.lint.flow import Flow
from graphopt.lint.kernels import Kernel, Kernels
from graphopt.lint.network import Layer, Network

FUSED = "fused"
CANCELLED = "cancelled"
FOLDED = "folded"
BOUNDARY = "boundary"
ALONE = "alone"
# From best to worst: a Q or DQ that ends in several ways is told by the worst.
VERDICTS = (FUSED, CANCELLED, FOLDED, BOUNDARY, ALONE)
_MOST_KERNELS = 4
_REQUANTIZED = "requantized"
_PER_CHANNEL = "an activation has a scale for each channel"


@dataclass(frozen=True, slots=True)
class Account:
    """What becomes of one Q or DQ.

    Attributes:
        name: of the node.
        op: ``"Q"`` or ``"DQ"``.
        verdict: ``"fused"`` into a kernel; ``"cancelled"`` by its counterpart of the same scale;
            ``"folded"`` into a constant when the engine is built, without making anything INT8;
            ``"boundary"``: a kernel of its own where the network begins or ends; ``"alone"``: a
            kernel of its own elsewhere.
        kernels: heads of the kernels it fuses into.
        detail: as what it fuses, or why it does not, one line.
        cause: why it stands alone, in a word for counting: ``"float"``: what it meets computes in
            float; ``"default"``: so it does, as such layers do by default (Softmax, normalization,
            products of two activations); ``"shared"``: someone reads the same tensor in float;
            ``"limited"``: what it meets adds something that is not quantized; ``"no-q"``: what it
            meets takes INT8 only between a DQ and a Q; ``"scale"``: it meets another scale;
            ``"requantized"``: a Q of another scale follows, which is one kernel with it;
            ``"channels"``: it has a scale for each channel of an activation; ``"int32"``.
    """

    name: str
    op: str
    verdict: str
    kernels: tuple[str, ...] = ()
    detail: str = ""
    cause: str = ""

    def line(self) -> str:
        """Return one line for a person."""
        if self.verdict == FUSED:
            into = ", ".join(self.kernels)
            return f"{self.op} '{self.name}' fuses into {into} ({self.detail})"
        word = {ALONE: "stands alone", BOUNDARY: "is at the boundary"}.get(
            self.verdict, f"is {self.verdict}"
        )
        return f"{self.op} '{self.name}' {word}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "name": self.name,
            "op": self.op,
            "verdict": self.verdict,
            "kernels": list(self.kernels),
            "detail": self.detail,
            "cause": self.cause,
        }


@dataclass(frozen=True, slots=True)
class _End:
    """One way a Q or DQ may end."""

    verdict: str
    kernels: tuple[str, ...] = ()
    detail: str = ""
    cause: str = ""


class Accounting:
    """Every Q and DQ of a network accounted for.

    Attributes:
        network: what was walked.
        flow: how far Q and DQ move.
        kernels: what takes them in.
        accounts: in the order of the network.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.flow = Flow(network)
        self.kernels = Kernels(self.flow)
        self._above: dict[str, _End] = {}
        self._below: dict[str, _End] = {}
        for name in sorted(network.inputs):
            self._above[name] = _End(BOUNDARY, detail="it quantizes the network's input")
        for layer in network.layers:
            for name in layer.outputs:
                if self.flow.sink(name).pure:
                    self._above[name] = self._origin(name, layer)
        for layer in reversed(network.layers):
            for name in layer.outputs:
                if name in self.flow.int8:
                    self._below[name] = self._use(name)
        self.accounts = tuple(self._account(layer) for layer in network.quantizers())

    def counts(self) -> dict[str, int]:
        """Return verdict -> how many; every verdict is there."""
        found = Counter(account.verdict for account in self.accounts)
        return {verdict: found[verdict] for verdict in VERDICTS}

    def conversions(self) -> int:
        """Return how many kernels at run time do nothing but convert between INT8 and float.

        A DQ and a Q of another scale behind it are one kernel, counted once.
        """
        return sum(
            account.verdict in (ALONE, BOUNDARY) and account.cause != _REQUANTIZED
            for account in self.accounts
        )

    def _account(self, layer: Layer) -> Account:
        dequantizes = layer.kind == kinds.DEQUANTIZE
        end = self._dequantize(layer) if dequantizes else self._quantize(layer)
        op = "DQ" if dequantizes else "Q"
        cause = end.cause if end.verdict == ALONE else ""
        return Account(layer.name, op, end.verdict, end.kernels, end.detail, cause)

    # Upwards: what a Q meets.

    def _quantize(self, layer: Layer) -> _End:
        assert layer.quant is not None
        source = layer.inputs[0]
        if source in self.network.constants:
            return self._constant_quantize(layer)
        if not layer.quant.per_tensor:
            return _End(ALONE, detail=_PER_CHANNEL, cause="channels")
        return self._at(source, layer.quant.key)

    def _at(self, tensor: str, key: bytes | None) -> _End:
        """Return what a Q meets that has moved up to this tensor."""
        if tensor in self.flow.int8:
            return self._requantize(tensor, key)
        sink = self.flow.sink(tensor)
        if sink.pure and tensor in self._above:
            return self._above[tensor]
        if tensor in self.flow.from_input:
            return _End(BOUNDARY, detail="it quantizes the network's input")
        return _End(ALONE, detail=sink.impurity, cause="shared" if sink.reader else "scale")

    def _origin(self, tensor: str, layer: Layer) -> _End:
        """Return what a Q meets at a tensor that everyone quantizes alike."""
        key = self.flow.sink(tensor).key
        if layer.kind == kinds.DEQUANTIZE:
            return self._at(tensor, key)
        if layer.kind == kinds.COPY and layer.inputs:
            return self._at(layer.inputs[0], key)
        if layer.kind == kinds.CONCAT:
            return _worst(self._at(name, key) for name in self.flow.dynamic(layer))
        kernel = self.kernels.owner.get(self.flow.writer[tensor])
        if kernel is None:
            return _End(ALONE, detail=f"{layer.title} computes in float", cause="default")
        if tensor != kernel.exit:
            several = f"{kernel.head.title} writes another tensor besides"
            return _End(ALONE, detail=several, cause="shared")
        if not kernel.int8:
            return _End(ALONE, detail=kernel.why, cause=kernel.cause)
        if kernel.limited:
            why = f"{kernel.head.title} cannot write INT8: {kernel.limited}"
            return _End(ALONE, detail=why, cause="limited")
        return _End(FUSED, (kernel.head.title,), "as its output")

    def _requantize(self, tensor: str, key: bytes | None) -> _End:
        """Return what becomes of a Q that a DQ, moved down, meets at this tensor."""
        if key is not None and self.flow.int8[tensor] == key:
            return _End(CANCELLED, detail=f"undoes the DQ in front of '{tensor}'")
        why = f"'{tensor}' in front of it was dequantized by another scale"
        return _End(ALONE, detail=why, cause="scale")

    def _constant_quantize(self, layer: Layer) -> _End:
        ends = [
            self._dequantize(self.network.layers[index])
            for index, _ in self.flow.readers.get(layer.outputs[0], ())
            if self.network.layers[index].kind == kinds.DEQUANTIZE
        ]
        if not ends:
            return _End(FOLDED, detail="a constant, quantized when the engine is built")
        return _worst(ends)

    # Downwards: what a DQ meets.

    def _dequantize(self, layer: Layer) -> _End:
        assert layer.quant is not None
        tensor = layer.outputs[0]
        if layer.quant.dtype == "int32":
            why = "it dequantizes int32, which TensorRT refuses"
            return _End(ALONE, detail=why, cause="int32")
        if tensor not in self.flow.int8:
            return _End(ALONE, detail=_PER_CHANNEL, cause="channels")
        return self._below.get(tensor, _End(FOLDED, detail="nobody reads it"))

    def _use(self, tensor: str) -> _End:
        ends = [self._read(tensor, *reader) for reader in self.flow.readers.get(tensor, ())]
        if tensor in self.network.outputs:
            ends.append(_End(BOUNDARY, detail="it dequantizes the network's output"))
        if not ends:
            return _End(FOLDED, detail="nobody reads it")
        end = _worst(ends)
        if tensor in self.network.constants and end.verdict in (ALONE, BOUNDARY):
            return _End(FOLDED, detail=f"a constant, made float again: {end.detail}")
        return end

    def _read(self, tensor: str, index: int, slot: int) -> _End:
        layer = self.network.layers[index]
        key = self.flow.int8[tensor]
        if layer.kind == kinds.QUANTIZE:
            return self._meet(layer, key)
        if layer.kind == kinds.COPY:
            ends = [self._below[name] for name in layer.outputs if name in self._below]
            return _worst(ends) if ends else _End(FOLDED, detail="nobody reads it")
        if layer.kind == kinds.CONCAT:
            return self._join(layer, key)
        kernel = self.kernels.owner.get(index)
        if kernel is None:
            return _End(ALONE, detail=f"{layer.title} computes in float", cause="default")
        return self._enter(tensor, kernel, layer, slot)

    def _meet(self, layer: Layer, key: bytes) -> _End:
        assert layer.quant is not None
        if layer.quant.key == key:
            return _End(CANCELLED, detail=f"undone by Q '{layer.name}'")
        return _End(
            ALONE, detail=f"Q '{layer.name}' behind it has another scale", cause=_REQUANTIZED
        )

    def _join(self, layer: Layer, key: bytes) -> _End:
        output = layer.outputs[0]
        if output in self.flow.int8:
            return self._below.get(output, _End(FOLDED, detail="nobody reads it"))
        sink = self.flow.sink(output)
        if sink.pure:
            if sink.key == key:
                return _End(CANCELLED, detail=f"undone by the Q behind {layer.title}")
            why = f"the Q behind {layer.title} has another scale"
            return _End(ALONE, detail=why, cause=_REQUANTIZED)
        joined = [self.flow.int8.get(name) for name in layer.inputs]
        if None in joined:
            why = f"{layer.title} joins it with tensors in float"
            return _End(ALONE, detail=why, cause="float")
        why = f"{layer.title} joins it with tensors of another scale"
        return _End(ALONE, detail=why, cause="scale")

    def _enter(self, tensor: str, kernel: Kernel, layer: Layer, slot: int) -> _End:
        constant = tensor in self.network.constants
        if not kernel.int8:
            if kernel.weight_only and constant and layer is kernel.head:
                return _End(FUSED, (kernel.head.title,), "as its weight, which alone is quantized")
            return _End(ALONE, detail=kernel.why, cause=kernel.cause)
        if layer is not kernel.head:
            role = "as the residual's second input" if kernel.weighted else "as an input"
        elif constant and kernel.weighted:
            role = "as its weight"
        elif kernel.weighted:
            role = "as its data" if slot == 0 else "as its second input"
        else:
            role = "as an input"
        return _End(FUSED, (kernel.head.title,), role)


def _worst(ends: Iterable[_End]) -> _End:
    """Return the worst end; where all fuse, all the kernels they fuse into."""
    found = list(ends)
    worst = max(found, key=lambda e: (VERDICTS.index(e.verdict), e.cause != _REQUANTIZED))
    if worst.verdict != FUSED:
        return worst
    names = list(dict.fromkeys(name for end in found for name in end.kernels))
    details = list(dict.fromkeys(end.detail for end in found))
    if len(names) > _MOST_KERNELS:
        names = [*names[:_MOST_KERNELS], f"{len(names) - _MOST_KERNELS} more"]
    return _End(FUSED, tuple(names), "; ".join(details))
