"""Which nodes are layers, and how they get new weights."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import parse, run
from layer_nets import layer_model, only_layer, values

from graphopt.graph import Array, Names, constant
from graphopt.model import Model
from graphopt.statistics import Layer, bias_of, layers, set_weights

KINDS = {
    "conv": ("Conv", (2, 4, 6, 6), (6, 2, 3, 3), {"group": 2}),
    "depthwise": ("Conv", (2, 4, 6, 6), (8, 1, 3, 3), {"group": 4}),
    "transposed": ("ConvTranspose", (2, 4, 6, 6), (4, 3, 2, 3), {"group": 2}),
    "gemm": ("Gemm", (5, 4), (4, 6), {"alpha": 0.5}),
    "gemm, turned": ("Gemm", (5, 4), (6, 4), {"transB": 1}),
    "matmul": ("MatMul", (2, 3, 4), (4, 6), {}),
}


def give(model: Model, layer: Layer, matrix: Array, bias: Array | None) -> None:
    nodes = {n.name: n for n in model.graph.nodes}
    set_weights(model, layer, matrix, bias, nodes, Names(model.graph))


@pytest.mark.parametrize("dtype", ["f4", "f2"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_new_weights_are_those_that_run(kind: str, bias: bool, dtype: str) -> None:
    op, shape, weight, attrs = KINDS[kind]
    model = layer_model(op, shape, weight, bias=bias, dtype=dtype, **attrs)
    before = model.clone()
    layer, node = only_layer(model)
    assert layer.output == "y"
    assert (layer.bias is None) == (op == "MatMul" and not bias)
    matrix = layer.matrix(node.inputs[1].values, node)
    old = bias_of(layer, {n.name: n for n in model.graph.nodes})
    assert np.any(old) == bias
    other = matrix[:, ::-1] * 2
    more = old + 1 if layer.bias is not None else None
    give(model, layer, other, more)
    # What is read back is what was given, and what was given is what is computed.
    layer, node = only_layer(model)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(layer.matrix(node.inputs[1].values, node), other, rtol=eps)
    assert node.inputs[1].dtype == np.dtype(dtype)
    again = before.clone()
    layer, node = only_layer(again)
    values_of = layer.weight_of(other, node.inputs[1].values, node)
    x = values(*shape, dtype=dtype)
    by_hand = _with(before, values_of, more)
    tolerance = 1e-5 if dtype == "f4" else 2e-2
    np.testing.assert_allclose(
        run(model, {"x": x})[0], run(by_hand, {"x": x})[0], atol=tolerance, rtol=tolerance
    )
    # The clone it came from still has its own.
    assert not np.array_equal(run(before, {"x": x})[0], run(model, {"x": x})[0])
    model.to_onnx()


def _with(model: Model, weight: Array, bias: Array | None) -> Model:
    """The same by protobuf: initializers replaced, a bias put where there was none."""
    import onnx

    proto = model.to_onnx()
    kept = [i for i in proto.graph.initializer if i.name not in ("w", "b")]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, onnx.numpy_helper.from_array(weight, "w")])
    if bias is not None:
        flat = bias.reshape(-1).astype(weight.dtype)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(flat, "b"))
        node = proto.graph.node[0]
        if "b" not in [i for n in proto.graph.node for i in n.input]:
            node.input.append("b")
    return Model.from_onnx(proto)


SHARED = """
g (float[N,4] x) => (float[N,4] y)
<float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float[4] b = {1,2,3,4}> {
  [one] h = Gemm(x, w, b)
  [two] y = Gemm(h, w, b)
}"""


def test_other_readers_of_a_constant_keep_it() -> None:
    model = parse(SHARED)
    one, _ = layers(model)
    give(model, one, np.eye(4)[None] * 2, np.zeros((1, 4)))
    x = values(3, 4)
    w, b = np.arange(1, 17, dtype="f4").reshape(4, 4), np.arange(1, 5, dtype="f4")
    np.testing.assert_allclose(run(model, {"x": x})[0], 2 * x @ w + b, rtol=1e-5)
    again = Model.from_onnx(model.to_onnx())  # names are still unique
    np.testing.assert_array_equal(run(again, {"x": x})[0], run(model, {"x": x})[0])


def test_a_weight_that_is_an_output_stays_what_it_was() -> None:
    model = parse("""
    g (float[N,2] x) => (float[N,2] y, float[2,2] w) <float[2,2] w = {1,2,3,4}> {
      [one] y = MatMul(x, w)
    }""")
    (layer,) = layers(model)
    give(model, layer, np.zeros((1, 2, 2)), None)
    y, w = run(model, {"x": values(3, 2)})
    assert not y.any()
    np.testing.assert_array_equal(w, [[1, 2], [3, 4]])


def test_weights_of_constant_nodes() -> None:
    model = parse("""
    g (float[N,2] x) => (float[N,2] y) {
      w = Constant<value = float[2,2] {1,2,3,4}>()
      [one] y = Gemm(x, w)
    }""")
    (layer,) = layers(model)
    give(model, layer, np.eye(2)[None], np.ones((1, 2)))
    x = values(3, 2)
    np.testing.assert_allclose(run(model, {"x": x})[0], x + 1, rtol=1e-6)


REFUSED = {
    "weights from outside": "y = MatMul(x, v)",
    "constant times constant": "c = Identity(w) y = MatMul(w, w)",
    "weight on the left": "y = MatMul(w, x)",
    "transposed input": "y = Gemm<transA=1>(x, w)",
    "scaled bias": "y = Gemm<beta=0.5>(x, w, b)",
    "computed bias": "y = Gemm(x, w, r)",
    "bias of rows": "y = Gemm(x, w, column)",
    "computed bias of a convolution": "y = Conv(image, k, r)",
    "whole numbers": "y = MatMul(i, j)",
    "batched weights": "y = MatMul(image, k)",
    "of another domain": "y = other.MatMul(x, w)",
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_no_layer(why: str) -> None:
    kind = "int32[4,4]" if why == "whole numbers" else "float[]"
    model = parse(f"""<ir_version: 8, opset_import: ["" : 17, "other" : 1]>
    g (float[4,4] x, float[4,4] v, float[4] r, int32[4,4] i, float[1,4,4,4] image) => ({kind} y)
    <float[4,4] w = {{1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}}, float[4] b = {{1,2,3,4}},
     float[4,1] column = {{1,2,3,4}}, float[4,4,1,1] k = {{1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}},
     int32[4,4] j = {{1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}}> {{ {REFUSED[why]} }}""")
    assert list(layers(model)) == []


def test_an_add_is_a_bias_only_where_nothing_else_reads_the_product() -> None:
    model = parse("""
    g (float[N,2] x) => (float[N,2] y, float[N,2] m, float[N,2] z)
    <float[2,2] w = {1,2,3,4}, float[2] b = {1,2}, float[1] s = {1}> {
      [one] m = MatMul(x, w)
      y = Add(m, b)
      [two] n = MatMul(x, w)
      z = Add(n, s)
    }""")
    one, two = layers(model)
    assert (one.output, one.bias) == ("m", None)
    assert (two.output, two.bias) == ("n", None)
    assert constant(model.graph.nodes[0].inputs[1]) is not None
