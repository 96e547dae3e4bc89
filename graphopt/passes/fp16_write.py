"""Changes the types in a graph once it is settled which nodes run in fp16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.graph import (
    QUANTIZE_OPS,
    Array,
    Graph,
    Names,
    Node,
    Tensor,
    captured,
    constant,
    consumers,
    is_constant,
    is_graph_output,
    is_op,
    replace_input,
    replace_uses,
)
from graphopt.passes.base import Change
from graphopt.passes.fp16_masks import floored
from graphopt.passes.fp16_ops import FLOAT, FLOAT16, NEUTRAL, Ports, is_dequantize
from graphopt.passes.fp16_ranges import holds_constant
from graphopt.passes.fp16_scales import bias_values, half_scale, weight_codes

_HALF = np.dtype(np.float16)


class Rewrite:
    """Gives every tensor the types it is read in, with one cast at most.

    A tensor that only fp16 nodes read changes its type where it is; of one that both sides read,
    the fp32 one keeps object and name (so graph outputs and bodies of If, Loop and Scan follow),
    and the fp16 one is new. DequantizeLinear is written again rather than cast: TensorRT fuses it
    with what reads it.

    Args:
        graph: edited in place.
        half: ``id()`` of each node that runs in fp16 -> its places.
        masks: ``id()`` of tensors whose minus infinity may be less
            (:mod:`graphopt.passes.fp16_masks`).
    """

    def __init__(
        self, graph: Graph, half: Mapping[int, Ports], masks: frozenset[int] = frozenset()
    ) -> None:
        self._graph = graph
        self._nodes = [(node, half[id(node)]) for node in graph.nodes if id(node) in half]
        self._masks = masks
        self._names = Names(graph)
        self._inner = {id(t) for node in graph.nodes for t in captured(node)}
        self._places = {(id(node), i) for node, own in self._nodes for i in own.reads}
        self._made: dict[int, Tensor] = {}
        self._said: list[Change] = []

    def apply(self) -> Iterator[Change]:
        """Change the graph; yield the casts and the constants kept twice."""
        whole = [n for n in self._graph.nodes if is_dequantize(n) and self._only_half(n.outputs[0])]
        self._places |= {(id(node), 1) for node in whole}
        for node in whole:
            # Before any scale changes: codes are those of the fp32 one.
            source = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
            folded = self._codes(node) is not node.inputs[0]
            readers = consumers(node.inputs[0])
            if folded and all(any(n is other for other in whole) for n in readers):
                self._places.add((id(source), 1))
        for node in whole:
            self._dequantize_in_place(node)
        for node, own in self._nodes:
            for i in own.writes:
                self._write(node, i)
            if node.op == "Cast" and own.writes:
                node.attrs["to"] = FLOAT16
        for node, own in self._nodes:
            for i in own.reads:
                tensor = node.inputs[i]
                made = self._read(tensor)
                if made is not tensor:
                    replace_input(node, i, made)
        self._follow_neutral()
        self._drop_casts()
        yield from self._said

    def _only_half(self, tensor: Tensor) -> bool:
        """Whether nobody needs the tensor in fp32."""
        if is_graph_output(self._graph, tensor) or id(tensor) in self._inner:
            return False
        readers = consumers(tensor)
        return any(not is_op(n, *NEUTRAL) for n in readers) and all(
            is_op(node, *NEUTRAL)
            or all((id(node), i) in self._places for i, t in enumerate(node.inputs) if t is tensor)
            for node in readers
        )

    def _write(self, node: Node, index: int) -> None:
        tensor = node.outputs[index]
        if tensor.is_empty():
            return
        if not consumers(tensor) and not is_graph_output(self._graph, tensor):
            tensor.dtype = _HALF  # An output that nobody asked for.
            return
        if self._only_half(tensor):
            tensor.dtype = _HALF
            self._made[id(tensor)] = tensor
            return
        made = self._variable(tensor)
        node.outputs[index] = made
        self._made[id(tensor)] = made
        self._cast(made, tensor, FLOAT)

    def _read(self, tensor: Tensor) -> Tensor:
        """Return the tensor in fp16."""
        if id(tensor) not in self._made:
            source = tensor.inputs[0] if tensor.inputs else None
            if holds_constant(tensor):
                made = self._constant(tensor)
            elif source is not None and is_dequantize(source):
                made = self._dequantize_again(source)
            else:
                made = self._variable(tensor)
                self._cast(tensor, made, FLOAT16)
            self._made[id(tensor)] = made
        return self._made[id(tensor)]

    def _constant(self, tensor: Tensor) -> Tensor:
        values = constant(tensor)
        assert values is not None
        if id(tensor) in self._masks:
            values = floored(values)
        scale = any(is_op(n, *QUANTIZE_OPS) and n.inputs[1] is tensor for n in consumers(tensor))
        with np.errstate(over="ignore", under="ignore"):
            half = half_scale(values) if scale else values.astype(np.float16)
        if is_constant(tensor) and self._only_half(tensor):
            tensor.values = half
            return tensor
        if is_constant(tensor):
            self._said.append(
                Change("kept-twice", tensor.name, "read in fp16 and in fp32: it is stored in both")
            )
        return self._fresh_constant(tensor.name, half)

    # --- Q/DQ ------------------------------------------------------------------------------------

    def _dequantize_in_place(self, node: Node) -> None:
        tensor = node.outputs[0]
        bias = bias_values(node)
        if bias is not None:
            self._made[id(tensor)] = self._fresh_constant(tensor.name, bias)
            return
        for i, made in enumerate((self._codes(node), self._read(node.inputs[1]))):
            if made is not node.inputs[i]:
                replace_input(node, i, made)
        tensor.dtype = _HALF
        self._made[id(tensor)] = tensor

    def _dequantize_again(self, node: Node) -> Tensor:
        """The same DequantizeLinear with an fp16 scale, beside the one that gives fp32."""
        bias = bias_values(node)
        if bias is not None:
            return self._fresh_constant(node.outputs[0].name, bias)
        made = self._variable(node.outputs[0])
        inputs = [self._codes(node), self._read(node.inputs[1]), *node.inputs[2:]]
        name = self._names.fresh(f"{node.name}_half")
        self._graph.nodes.append(gs.Node(node.op, name, dict(node.attrs), inputs, [made]))
        return made

    def _codes(self, node: Node) -> Tensor:
        """The integers of a weight, as an initializer: rounded again in fp16 they would move."""
        tensor = node.inputs[0]
        if id(tensor) not in self._made:
            codes = weight_codes(node)
            kept = constant(tensor)
            if codes is None or (kept is not None and np.array_equal(codes, kept)):
                self._made[id(tensor)] = tensor
            else:
                self._made[id(tensor)] = self._fresh_constant(tensor.name, codes, "codes")
        return self._made[id(tensor)]

    # --- the rest --------------------------------------------------------------------------------

    def _follow_neutral(self) -> None:
        """Let Shape and Size read what the producer writes: no cast is kept for them alone."""
        for node in self._graph.nodes:
            if is_op(node, *NEUTRAL):
                tensor = node.inputs[0]
                made = self._made.get(id(tensor))
                cast = tensor.inputs[0] if tensor.inputs else None
                if made is None or cast is None or not is_op(cast, "Cast"):
                    continue
                if made is not tensor and cast.inputs[0] is made:
                    replace_input(node, 0, made)

    def _drop_casts(self) -> None:
        """Take out the casts, ours or the model's own, that change nothing any more."""
        for node in list(self._graph.nodes):
            if not is_op(node, "Cast"):
                continue
            before, after = node.inputs[0], node.outputs[0]
            half = before.dtype == _HALF and int(node.attrs.get("to", 0)) == FLOAT16
            if half and not is_graph_output(self._graph, after):
                replace_uses(self._graph, after, before)

    def _cast(self, before: Tensor, after: Tensor, to: int) -> None:
        name = self._names.fresh(f"{before.name}_to_{'fp16' if to == FLOAT16 else 'fp32'}")
        self._graph.nodes.append(gs.Node("Cast", name, {"to": to}, [before], [after]))
        way = "fp32 -> fp16" if to == FLOAT16 else "fp16 -> fp32"
        self._said.append(Change("cast", (before if to == FLOAT16 else after).name, way))

    def _variable(self, tensor: Tensor) -> Tensor:
        shape = None if tensor.shape is None else list(tensor.shape)
        return gs.Variable(self._names.fresh(f"{tensor.name}_half"), _HALF, shape)

    def _fresh_constant(self, name: str, values: Array, suffix: str = "half") -> Tensor:
        return gs.Constant(self._names.fresh(f"{name}_{suffix}"), values)
