"""Random graphs: ONNX Runtime's integer kernels compute what the Q and DQ of the dialect say."""

from __future__ import annotations

from helpers import run, sqnr
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPE = "float[N,18,8,8]"
# Each line makes {o} of an earlier {a} (and {b}), all [N, 18, 8, 8]: channels that fit no kernel.
STEPS = [
    "{o}c = Conv<pads=[1,1,1,1]>({a}, w3, bias) \n {o} = Relu({o}c)",
    "{o} = Conv<pads=[1,1,1,1], group=18>({a}, wd)",
    "{o}u = ConvTranspose<strides=[2,2]>({a}, wt, bias) \n"
    " {o} = MaxPool<kernel_shape=[2,2], strides=[2,2]>({o}u)",
    "{o}u = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>({a}, wu) \n {o}r = Relu({o}u) \n"
    " {o} = Conv<strides=[2,2]>({o}r, w1)",
    '{o}u = Resize<mode="nearest">({a}, , twice) \n'
    " {o} = AveragePool<kernel_shape=[2,2], strides=[2,2]>({o}u)",
    "{o}n = BatchNormalization({a}, bias, bias, bias, variance) \n {o}r = Relu({o}n) \n"
    " {o} = Conv({o}r, w1)",
    "{o} = Add({a}, {b})",
    "{o}h = HardSwish({a}) \n {o}g = GlobalAveragePool({o}h) \n {o}s = Conv({o}g, w1) \n"
    " {o}t = HardSigmoid({o}s) \n {o}m = Mul({o}h, {o}t) \n {o} = Conv({o}m, w1)",
    "{o}c = Concat<axis=1>({a}, {b}) \n {o} = Conv<pads=[1,1,1,1]>({o}c, wc)",
    "{o}s = Slice({a}, start, end, start) \n {o}p = Pad({o}s, pads) \n {o} = Add({o}p, {b})",
    "{o}t = Transpose<perm=[0,2,3,1]>({a}) \n {o}m = MatMul({o}t, wm) \n {o}b = Add({o}m, bias) \n"
    " {o}r = Relu({o}b) \n {o}q = MatMul({o}r, wm) \n {o}e = Add({o}q, bias) \n"
    " {o} = Transpose<perm=[0,3,1,2]>({o}e)",
    "{o}m = ReduceMean<axes=[2,3]>({a}) \n {o}c = Conv({o}m, w1) \n {o} = Add({a}, {o}c)",
]
WEIGHTS = {
    "w3": (18, 18, 3, 3),
    "w1": (18, 18, 1, 1),
    "wd": (18, 1, 3, 3),
    "wt": (18, 18, 2, 2),
    "wu": (18, 18, 4, 4),
    "wc": (18, 36, 3, 3),
    "wm": (18, 18),
    "bias": (18,),
}
CONSTANTS = """
    twice = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
    variance = Constant<value_floats=[0.5,1.0,2.0,0.5,1.0,2.0,0.5,1.0,2.0,0.5,1.0,2.0,0.5,1.0,2.0,
        0.5,1.0,2.0]>()
    start = Constant<value_ints=[1]>()
    end = Constant<value_ints=[16]>()
    pads = Constant<value_ints=[0,2,0,0,0,1,0,0]>()
"""


@st.composite
def graphs(draw: st.DrawFn) -> str:
    tensors, lines = ["x"], []
    for i in range(draw(st.integers(1, 6))):
        a, b = draw(st.sampled_from(tensors[-2:])), draw(st.sampled_from(tensors))
        lines.append(draw(st.sampled_from(STEPS)).format(o=f"t{i}", a=a, b=b))
        tensors.append(f"t{i}")
    outputs = sorted({tensors[-1], draw(st.sampled_from(tensors[1:]))})
    interface = ", ".join(f"{SHAPE} {name}" for name in outputs)
    body = "\n".join(lines)
    return f"net ({SHAPE} x) => ({interface}) {{ {CONSTANTS} \n {body} }}"


@settings(max_examples=50)
@given(text=graphs())
def test_integer_kernels_agree_with_q_and_dq(net, quantizer, text):
    graph = net(text, WEIGHTS)
    feeds = graph.feeds(2)
    made = quantizer(graph.model(), "onnxruntime", feeds)
    assert min(made.sqnr.values()) > 18, (text, made.sqnr)
    said, integer = run(made.model, feeds[0]), run(made.model, feeds[0], optimize=True)
    # One step of 255 where a sum lies between two, again in each layer.
    assert min(sqnr(a, b) for a, b in zip(said, integer, strict=True)) > 30, text
    assert not {"Conv", "FusedConv", "ConvTranspose", "MatMul", "Gemm"} & set(made.ort), text
