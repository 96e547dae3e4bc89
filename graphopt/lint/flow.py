"""Where INT8 can flow: how far DQ moves down, and how far Q moves up.

TensorRT propagates Q/DQ "to maximize the proportion of the graph that is processed in low
precision": it moves quantization up and dequantization down, past layers that commute with them,
until they meet a layer that can take them in (developer guide, "Explicit Quantization",
section "TensorRT Processing of Q/DQ Networks"). A layer commutes if ``Q(layer(x)) ==
layer(Q(x))``: max pooling, and whatever only moves values. A Concat does if all its inputs have
one scale.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.lint import network as kinds
from graphopt.lint.network import Layer, Network


@dataclass(frozen=True, slots=True)
class Sink:
    """What becomes of a tensor, seen through the layers that Q commutes with.

    Attributes:
        key: the scale it is quantized with somewhere, or None.
        other: it is quantized with another scale too.
        reader: who reads it in float, "" if nobody does.
    """

    key: bytes | None = None
    other: bool = False
    reader: str = ""

    @property
    def pure(self) -> bool:
        """Whether everyone reads it quantized, with one scale: then it need never be float."""
        return self.key is not None and not self.other and not self.reader

    @property
    def impurity(self) -> str:
        """Why it is not pure."""
        if self.reader:
            return f"{self.reader} reads the same tensor in float"
        return "the same tensor is quantized with another scale too"

    def also(self, more: Sink) -> Sink:
        """Return what becomes of a tensor that ends both ways."""
        keys = {self.key, more.key} - {None}
        return Sink(
            self.key if self.key is not None else more.key,
            self.other or more.other or len(keys) > 1,
            self.reader or more.reader,
        )


class Flow:
    """Readers, writers, and the INT8 each tensor could be.

    Attributes:
        readers: tensor -> (layer index, input index) of everyone who reads its values.
        writer: tensor -> index of the layer that writes it.
        int8: tensor -> key of the scale, where a DQ (moved down) makes it of INT8.
        sinks: tensor -> what becomes of it.
        from_input: inputs of the network, also seen through layers that only move values.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.readers: dict[str, list[tuple[int, int]]] = {}
        self.writer: dict[str, int] = {}
        for index, layer in enumerate(network.layers):
            for name in layer.outputs:
                self.writer[name] = index
            for slot, name in enumerate(layer.inputs):
                self.readers.setdefault(name, []).append((index, slot))
        self.int8: dict[str, bytes] = {}
        self.from_input: set[str] = set(network.inputs)
        for index, layer in enumerate(network.layers):
            self._advance(index, layer)
        self.sinks: dict[str, Sink] = {}
        for layer in reversed(network.layers):
            for name in layer.outputs:
                self.sinks[name] = self._sink(name)
        for name in network.inputs:
            self.sinks[name] = self._sink(name)

    def dynamic(self, layer: Layer) -> list[str]:
        """Return the inputs of a layer that depend on the network's inputs."""
        return [name for name in layer.inputs if name not in self.network.constants]

    def sink(self, tensor: str) -> Sink:
        """Return what becomes of a tensor; nothing for one that nobody writes."""
        return self.sinks.get(tensor, Sink())

    def written_by(self, tensor: str) -> Layer | None:
        """Return the layer that writes a tensor, or None for inputs and initializers."""
        index = self.writer.get(tensor)
        return None if index is None else self.network.layers[index]

    def _advance(self, index: int, layer: Layer) -> None:
        if layer.kind == kinds.DEQUANTIZE:
            assert layer.quant is not None
            constant = layer.outputs[0] in self.network.constants
            # A scale for each channel is for weights; int32 is for nothing TensorRT knows.
            if layer.quant.dtype != "int32" and (constant or layer.quant.per_tensor):
                # Scales that are no constants agree with none but their own.
                self.int8[layer.outputs[0]] = layer.quant.key or f"layer {index}".encode()
        elif layer.kind == kinds.COPY and layer.inputs:
            if layer.inputs[0] in self.from_input:
                self.from_input.update(layer.outputs)
            key = self.int8.get(layer.inputs[0])
            if key is not None:
                self.int8.update(dict.fromkeys(layer.outputs, key))
        elif layer.kind == kinds.CONCAT:
            keys = {self.int8.get(name) for name in layer.inputs}
            if len(keys) == 1 and (key := keys.pop()) is not None:
                self.int8[layer.outputs[0]] = key

    def _sink(self, tensor: str) -> Sink:
        found = Sink()
        if tensor in self.network.outputs:
            found = Sink(reader="whoever takes the network's output")
        for index, _ in self.readers.get(tensor, ()):
            layer = self.network.layers[index]
            if layer.kind == kinds.QUANTIZE:
                assert layer.quant is not None
                key = layer.quant.key or f"layer {index}".encode()
                found = found.also(Sink(key=key))
            elif layer.kind in (kinds.COPY, kinds.CONCAT):
                for name in layer.outputs:
                    found = found.also(self.sinks.get(name, Sink()))
            else:
                found = found.also(Sink(reader=layer.title))
        return found
