"""Random graphs of mixed operators, in both dialects: valid, accepted and close to float."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.dialects.partition import is_copy

SHAPE = "float[N,16,8,8]"
# {a} and {b} are earlier tensors; each line leaves a [N, 16, 8, 8] tensor called {o}.
STEPS = [
    "{o} = Conv<pads=[1,1,1,1]>({a}, w3, bias)",
    "{o} = Conv({a}, w1)",
    "{o} = Conv<pads=[1,1,1,1], group=16>({a}, wd)",
    "{o} = ConvTranspose<pads=[1,1,1,1]>({a}, wt)",
    "{o} = Relu({a})",
    "{o} = LeakyRelu<alpha=0.1>({a})",
    "{o} = Clip({a}, zero, two)",
    "{o} = HardSwish({a})",
    "{o}s = Sigmoid({a}) \n {o} = Mul({a}, {o}s)",
    "{o} = Add({a}, {b})",
    "{o} = Add({a}, {a})",
    "{o} = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({a})",
    "{o} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({a})",
    "{o}c = Concat<axis=1>({a}, {b}) \n {o} = Conv({o}c, wc)",
    "{o}p, {o}q = Split<axis=1>({a}, halves) \n {o} = Concat<axis=1>({o}q, {o}p)",
    "{o} = Transpose<perm=[0,1,3,2]>({a})",
    '{o}r = Resize<mode="nearest">({a}, , twice) \n'
    " {o} = MaxPool<kernel_shape=[2,2], strides=[2,2]>({o}r)",
    "{o}i = Identity({a}) \n {o}d = Dropout({o}i) \n {o} = Add({b}, {o}d)",
    "{o}u = DepthToSpace<blocksize=2>({a}) \n {o}v = Conv<strides=[2,2]>({o}u, wu) \n"
    " {o} = Relu({o}v)",
    # A transformer's MLP over channels, added to the stream.
    "{o}t = Transpose<perm=[0,2,3,1]>({a}) \n {o}n = LayerNormalization({o}t, bias) \n"
    " {o}m = MatMul({o}n, wm) \n {o}e = Erf({o}m) \n {o}g = Mul({o}m, {o}e) \n"
    " {o}f = MatMul({o}g, wm) \n {o}r = Add({o}t, {o}f) \n"
    " {o} = Transpose<perm=[0,3,1,2]>({o}r)",
    "{o}g = GlobalAveragePool({a}) \n {o}h = Conv({o}g, w1) \n {o}s = Sigmoid({o}h) \n"
    " {o} = Mul({a}, {o}s)",
]
WEIGHTS = {
    "w3": (16, 16, 3, 3),
    "w1": (16, 16, 1, 1),
    "wd": (16, 1, 3, 3),
    "wt": (16, 16, 3, 3),
    "wc": (16, 32, 1, 1),
    "bias": (16,),
    "wm": (16, 16),
    "wu": (16, 4, 2, 2),
}


@dataclass
class Draw:
    """A graph as text."""

    lines: list[str] = field(default_factory=list)
    tensors: list[str] = field(default_factory=lambda: ["x"])


@st.composite
def graphs(draw: st.DrawFn) -> str:
    made = Draw()
    for i in range(draw(st.integers(2, 9))):
        step = draw(st.sampled_from(STEPS))
        # Mostly the latest tensor, so that chains grow; now and then an older one.
        a = draw(st.sampled_from(made.tensors[-2:]))
        b = draw(st.sampled_from(made.tensors))
        made.lines.append(step.format(o=f"t{i}", a=a, b=b))
        made.tensors.append(f"t{i}")
    outputs = {made.tensors[-1], draw(st.sampled_from(made.tensors[1:]))}
    interface = ", ".join(f"{SHAPE} {name}" for name in sorted(outputs))
    body = "\n".join(made.lines)
    constants = (
        "zero = Constant<value_float=0.0>() \n two = Constant<value_float=2.0>() \n"
        "halves = Constant<value_ints=[8,8]>() \n"
        "twice = Constant<value_floats=[1.0,1.0,2.0,2.0]>()"
    )
    return f"net ({SHAPE} x) => ({interface}) {{ {constants} \n {body} }}"


@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
@settings(max_examples=60)
@given(text=graphs())
def test_random_graphs(net, quantizer, dialect, text):
    graph = net(text, WEIGHTS)
    made = quantizer(graph.model(), dialect, graph.feeds(2))
    assert min(made.sqnr.values()) > 20, (text, made.sqnr)
    if dialect == "tensorrt":
        _check_placement(made.model.graph)
    else:
        assert made.ort.get("Conv", 0) + made.ort.get("FusedConv", 0) == 0


READERS = {"Conv", "ConvTranspose", "MatMul", "Add", "AveragePool", "GlobalAveragePool", "Resize"}


def _check_placement(graph) -> None:
    """What holds for every model of the tensorrt dialect, whatever was drawn."""
    pairs = [node for node in graph.nodes if node.op == "QuantizeLinear"]
    quantized = [node.inputs[0].name for node in pairs]
    assert len(quantized) == len(set(quantized)), "a tensor is quantized twice"
    assert all(output.inputs[0].op != "DequantizeLinear" for output in graph.outputs)
    scales = {}
    for node in pairs:
        (dequantize,) = node.outputs[0].outputs
        assert dequantize.op == "DequantizeLinear"
        assert dequantize.inputs[1].name == node.inputs[1].name
        assert {reader.op for reader in dequantize.outputs[0].outputs} <= READERS
        scales[node.inputs[0].name] = node.inputs[1].values
    for name, scale in scales.items():
        tensor = graph.tensors()[name]
        while tensor.inputs and is_copy(tensor.inputs[0]):
            tensor = tensor.inputs[0].inputs[0]
            if tensor.name in scales:
                assert scales[tensor.name] == scale, "two scales on two sides of a copy"
    for add in (node for node in graph.nodes if node.op == "Add"):
        behind = [t.inputs[0].op for t in add.inputs if t.inputs]
        if behind.count("DequantizeLinear") == 1:
            other = next(op for op in behind if op != "DequantizeLinear")
            assert other not in ("MatMul", "Transpose"), "a stream is quantized"
