"""Rows times the weight matrix are what ONNX Runtime computes, for every geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import run
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from layer_nets import layer_model, only_layer, values

from graphopt.errors import UnsupportedModelError
from graphopt.statistics import Unfolder, bias_of, output_rows, sampled
from graphopt.statistics.unfold import PIECE, pieces


def check(op: str, x: tuple[int, ...], weight: tuple[int, ...], **attrs: Any) -> None:
    model = layer_model(op, x, weight, **attrs)
    array = values(*x)
    (y,) = run(model, {"x": array})
    layer, node = only_layer(model)
    unfolder = Unfolder(layer, node, array)
    rows = unfolder.rows()
    w = np.asarray(node.inputs[1].values)
    matrix = layer.matrix(w, node)
    assert rows.shape == (layer.groups, unfolder.count, layer.features)
    given_back = rows.astype("f8") @ matrix + bias_of(layer, _nodes(model))[:, None]
    wanted = output_rows(layer, y)
    assert given_back.shape == wanted.shape
    scale = max(float(np.abs(wanted).max(initial=0)), 1e-3)
    np.testing.assert_allclose(given_back / scale, wanted / scale, atol=2e-6, rtol=0)
    some = np.unique(np.linspace(0, unfolder.count - 1, 5).astype(int))
    np.testing.assert_array_equal(unfolder.rows(some), rows[:, some])
    np.testing.assert_array_equal(output_rows(layer, y, some), wanted[:, some])
    np.testing.assert_array_equal(layer.weight_of(matrix, w, node), w)


def _nodes(model: Any) -> dict[str, Any]:
    return {n.name: n for n in model.graph.nodes}


CASES = {
    "plain": ("Conv", (2, 4, 8, 9), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    "all": (
        "Conv",
        (2, 4, 8, 9),
        (6, 2, 3, 2),
        {"pads": [1, 0, 2, 1], "group": 2, "strides": [2, 1], "dilations": [1, 2]},
    ),
    "depthwise": ("Conv", (2, 4, 8, 9), (8, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 4}),
    "rows left over": ("Conv", (1, 2, 8, 8), (3, 2, 3, 3), {"strides": [4, 4]}),
    "same upper": (
        "Conv",
        (2, 4, 8, 9),
        (6, 4, 3, 3),
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    "same lower": (
        "Conv",
        (2, 4, 8, 9),
        (6, 4, 4, 3),
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    ),
    "valid": ("Conv", (2, 4, 8, 9), (6, 4, 4, 3), {"auto_pad": "VALID"}),
    "1-D": ("Conv", (2, 4, 11), (6, 4, 3), {"pads": [1, 1]}),
    "3-D": ("Conv", (2, 2, 3, 4, 5), (3, 2, 2, 3, 3), {"pads": [1, 1, 1, 0, 1, 1]}),
    "transposed": ("ConvTranspose", (2, 4, 5, 6), (4, 3, 2, 2), {"strides": [2, 2]}),
    "transposed 1-D": ("ConvTranspose", (2, 4, 5), (4, 3, 4), {"strides": [2], "pads": [1, 1]}),
    "gaps between kernels": ("ConvTranspose", (2, 4, 5, 6), (4, 3, 2, 2), {"strides": [3, 3]}),
    "transposed groups": (
        "ConvTranspose",
        (2, 4, 5, 6),
        (4, 3, 3, 3),
        {"strides": [2, 1], "pads": [1, 1, 0, 2], "group": 2, "dilations": [2, 1]},
    ),
    "output padding": (
        "ConvTranspose",
        (2, 4, 5, 6),
        (4, 3, 3, 3),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]},
    ),
    "output shape": (
        "ConvTranspose",
        (2, 4, 5, 6),
        (4, 3, 3, 3),
        {"strides": [2, 2], "output_shape": [10, 12]},
    ),
    "transposed same upper": (
        "ConvTranspose",
        (2, 4, 5, 6),
        (4, 3, 3, 3),
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    "transposed same lower": (
        "ConvTranspose",
        (2, 4, 5, 6),
        (4, 3, 4, 3),
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    ),
    "gemm": ("Gemm", (5, 4), (4, 6), {"alpha": 0.5}),
    "gemm, turned": ("Gemm", (5, 4), (6, 4), {"transB": 1}),
    "matmul": ("MatMul", (2, 3, 4), (4, 6), {}),
    "matmul, no bias": ("MatMul", (2, 3, 4), (4, 6), {"bias": False}),
    "conv, no bias": ("Conv", (2, 4, 5, 5), (6, 4, 3, 3), {"bias": False}),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_times_weights_are_the_output(name: str) -> None:
    op, x, weight, attrs = CASES[name]
    check(op, x, weight, **attrs)


@st.composite
def geometry(draw: st.DrawFn) -> tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    op = draw(st.sampled_from(["Conv", "ConvTranspose"]))
    dims = draw(st.integers(1, 2))
    small = st.integers(1, 3)

    def each(values: st.SearchStrategy[int], count: int = dims) -> list[int]:
        return draw(st.lists(values, min_size=count, max_size=count))

    groups, into, out = draw(small), draw(small), draw(small)
    kernel, strides, dilations = each(small), each(small), each(st.integers(1, 2))
    attrs: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    size = each(st.integers(6, 9))
    auto = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attrs["pads"] = each(st.integers(0, 2), 2 * dims)
    else:
        attrs["auto_pad"] = auto
        if auto != "VALID":
            attrs["dilations"] = [1] * dims  # ONNX Runtime refuses others, or pads otherwise
    if op == "Conv":
        weight = (groups * out, into, *kernel)
    else:
        if auto == "NOTSET":
            attrs["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
        if auto != "VALID" and draw(st.booleans()):
            attrs["output_shape"] = [
                n * s - draw(st.integers(0, 2)) for n, s in zip(size, strides, strict=True)
            ]
        weight = (groups * into, out, *kernel)
    return op, (2, groups * into, *size), weight, attrs


@given(geometry())
@settings(max_examples=120)
def test_any_geometry(case: tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]) -> None:
    op, x, weight, attrs = case
    try:
        check(op, x, weight, **attrs)
    except UnsupportedModelError:
        reject()  # what ONNX Runtime refuses nobody needs to unfold


def test_no_rows() -> None:
    model = layer_model("Conv", (1, 4, 5, 5), (6, 2, 3, 3), group=2)
    layer, node = only_layer(model)
    unfolder = Unfolder(layer, node, np.zeros((0, 4, 5, 5), "f4"))
    assert unfolder.count == 0
    assert unfolder.rows().shape == (2, 0, 18)
    assert output_rows(layer, np.zeros((0, 6, 3, 3), "f4")).shape == (2, 0, 3)
    model = layer_model("MatMul", (2, 3, 4), (4, 6))
    layer, node = only_layer(model)
    assert Unfolder(layer, node, np.zeros((2, 0, 4), "f4")).rows().shape == (1, 0, 4)


@given(st.integers(1, 5000), st.integers(1, 700), st.integers(0, 99))
def test_sampled_rows_are_even(count: int, most: int, turn: int) -> None:
    rows = sampled(count, most, turn)
    if count <= most:
        assert rows is None
        return
    assert rows is not None
    assert len(rows) == most
    assert rows.min() >= 0
    assert rows.max() < count
    assert (np.diff(rows) > 0).all()
    # One in each of equal strata.
    edges = np.arange(most + 1) * count // most
    assert ((rows >= edges[:-1]) & (rows < edges[1:])).all()
    np.testing.assert_array_equal(rows, sampled(count, most, turn))


def test_samples_fall_on_all_image_columns() -> None:
    rows = sampled(32 * 32 * 64, 32 * 64, turn=0)
    assert rows is not None
    counts = np.bincount(rows % 32, minlength=32)
    assert counts.min() > 0.5 * counts.mean()


@pytest.mark.parametrize("most", [10, 10**6])
def test_pieces_are_all_rows_once(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, _ = only_layer(layer_model("Conv", (1, 4, 5, 5), (6, 2, 3, 3), group=2))
    whole = list(pieces(layer, 1000, most, 3))
    assert len(whole) == 1
    assert PIECE >= 4 * 1000 * 2 * (18 + 3)
    width = 4 * 2 * (18 + 3)
    monkeypatch.setattr("graphopt.statistics.unfold.PIECE", 7 * width)
    found = list(pieces(layer, 1000, most, 3))
    assert all(p is not None and len(p) <= 7 for p in found)
    wanted = np.arange(1000) if whole[0] is None else whole[0]
    np.testing.assert_array_equal(np.concatenate([p for p in found if p is not None]), wanted)
