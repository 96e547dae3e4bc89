"""The forms that fast kernels want compute the very sums of the layer they stand for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import run
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.dialects.heads import Head, HeadRules, find_heads
from graphopt.dialects.ort_convs import Form, form_of, transposed
from graphopt.dialects.ort_moves import Move
from graphopt.model import Model


def head_of(model: Model) -> Head:
    (head,), _ = find_heads(model.graph, frozenset(), HeadRules())
    return head


def conv_model(
    op: str, shape: tuple[int, ...], image: tuple[int | str, ...], **attributes: object
) -> Model:
    """One layer, ``x`` [2, *image] -> ``y``, its weight of small whole numbers."""
    values = np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, ["x", "w"], ["y"], **attributes)],
        "layer",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, *image])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, list("nchw"))],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    return Model.from_onnx(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8))


def apply(moves: tuple[Move, ...], values: np.ndarray) -> np.ndarray:
    """Run moves in NumPy."""
    for move in moves:
        if move.op == "Transpose":
            values = values.transpose(move.attrs["perm"])
        elif move.op == "Reshape":
            wanted = move.constants[0]
            values = values.reshape([d or values.shape[i] for i, d in enumerate(wanted)])
        elif move.op == "Concat":
            values = np.concatenate([values] * move.copies, axis=move.attrs["axis"])
        elif move.op == "Pad":
            pads = move.constants[0].reshape(2, -1)
            values = np.pad(values, [(int(a), int(b)) for a, b in pads.T])
        else:
            start, end, axis = (int(c[0]) for c in move.constants)
            assert (move.op, start, axis) == ("Slice", 0, 1)
            values = values[:, :end]
    return values


def blocks(values: np.ndarray, size: int) -> np.ndarray:
    n, c, h, w = values.shape
    parts = values.reshape(n, c, h // size, size, w // size, size).transpose(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * size * size, h // size, w // size)


def same_sums(model: Model, form: Form) -> None:
    """Compare a layer of small whole numbers with its form, exactly."""
    head = head_of(model)
    shape = model.inputs()["x"][1]
    x = np.random.default_rng(1).integers(-9, 9, shape).astype(np.float32)
    (expected,) = run(model, {"x": x})
    weight = form.spread(head.values)
    attrs = {**head.node.attrs, **form.attrs}
    data = apply(form.before, blocks(x, form.block) if form.block > 1 else x)
    known = ("group", "pads", "strides")
    conv = {name: value for name, value in attrs.items() if name in known}
    plain = conv_model("Conv", weight.shape, data.shape[1:], **conv)
    plain.graph.tensors()["w"].values = weight
    (sums,) = run(plain, {"x": data})
    np.testing.assert_array_equal(apply(form.after, sums), expected)


@settings(max_examples=60)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    more=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_a_convtranspose_as_a_convolution(kernel, pads, more, channels):
    # Those whose output is a multiple in size: few are by chance.
    strides = tuple(kernel[i] + more[i] - pads[i] - pads[2 + i] for i in (0, 1))
    assume(all(1 <= s <= 3 for s in strides))
    assume(all(m < s for m, s in zip(more, strides, strict=True)))
    attrs = {"strides": strides, "pads": pads, "output_padding": more}
    model = conv_model("ConvTranspose", (*channels, *kernel), (channels[0], 5, 6), **attrs)
    form = transposed(head_of(model))
    assume(form is not None)
    same_sums(model, form)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "more", "fits"),
    [(2, 2, 0, 0, True), (4, 2, 1, 0, True), (3, 2, 1, 1, True), (3, 1, 1, 0, True),
     (8, 8, 0, 0, True), (5, 2, 2, 1, True), (3, 2, 0, 0, False), (3, 2, 1, 0, False)],
)  # fmt: skip
def test_which_convtransposes_become_convolutions(kernel, stride, pad, more, fits):
    attrs = {"strides": [stride] * 2, "pads": [pad] * 4, "output_padding": [more] * 2}
    model = conv_model("ConvTranspose", (3, 2, kernel, kernel), (3, 5, 6), **attrs)
    form = transposed(head_of(model))
    assert (form is not None) == fits
    if form is not None:
        same_sums(model, form)


@settings(max_examples=40)
@given(
    kernel=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    size=st.tuples(st.integers(4, 8), st.integers(4, 8)),
)
def test_a_stem_in_blocks(kernel, pads, size):
    image = (3, 2 * size[0], 2 * size[1])
    assume(all(image[1 + i] + pads[i] + pads[2 + i] >= kernel[i] for i in (0, 1)))
    model = conv_model("Conv", (4, 3, *kernel), image, strides=[2, 2], pads=pads)
    form = form_of(model.graph, head_of(model))
    assert form is not None
    same_sums(model, form)


@pytest.mark.parametrize("shape", [(16, 3, 3, 3), (13, 45, 3, 3), (16, 6, 3, 3), (45, 44, 3, 3)])
def test_channels_in_fours(shape):
    model = conv_model("Conv", shape, (shape[1], 6, 6), pads=[1] * 4)
    form = form_of(model.graph, head_of(model))
    assert form is not None
    assert all(size % 4 == 0 for size in form.spread(head_of(model).values).shape[:2])
    same_sums(model, form)


@pytest.mark.parametrize("channels", [12, 40, 60])
def test_depthwise_channels_in_sixteens(channels):
    shape = (channels, 1, 3, 3)
    model = conv_model("Conv", shape, (channels, 6, 6), group=channels, pads=[1] * 4)
    form = form_of(model.graph, head_of(model))
    assert form is not None
    assert form.attrs["group"] == len(form.spread(head_of(model).values)) == -(-channels // 16) * 16
    same_sums(model, form)


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((16, 16, 3, 3), 1),
        ((16, 3, 1, 1), 1),
        ((6, 12, 3, 3), 1),
        ((8, 1, 3, 3), 8),
        ((12, 3, 3, 3), 4),
        ((16, 1, 3, 3), 16),
    ],
)
def test_layers_that_stay_as_they_are(shape, groups):
    model = conv_model("Conv", shape, (shape[1] * groups, 6, 6), group=groups)
    assert form_of(model.graph, head_of(model)) is None


@pytest.mark.parametrize("image", [(3, "H", "W"), (3, 33, 32), (3, 0, 32)])
def test_a_stem_of_unknown_or_odd_size_is_filled_up_instead(image):
    model = conv_model("Conv", (4, 3, 7, 7), image, strides=[2, 2], pads=[3] * 4)
    form = form_of(model.graph, head_of(model))
    assert form is not None
    assert form.block == 1
    assert [move.op for move in form.before] == ["Pad"]
