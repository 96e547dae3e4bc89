"""One streaming pass: right values, the same table for any order or split, flat memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import Collected, by_sample, collect
from graphopt.calibrators.entropy import Entropy
from graphopt.calibrators.histogram import Histogram, merge
from graphopt.calibrators.minmax import MinMax
from graphopt.errors import DataError, UnsupportedModelError, UsageError
from graphopt.model import Model
from graphopt.runtime import open_session


def batches(images: np.ndarray, size: int, name: str = "x") -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(images), size):
        yield {name: images[start : start + size]}


def tables(collected: Collected) -> list[str]:
    return [
        repr(calibrate(collected, rule, method="m", model_digest="d").to_json())
        for rule in (Entropy(), MinMax())
    ]


def test_counts_are_those_of_the_plain_model(small: Model, images: np.ndarray, inner) -> None:
    collected = collect(small, batches(images, 3), inner)
    assert list(collected.histograms) == inner
    assert collected.samples == 7
    with open_session(small, extra_outputs=inner[1:-1], optimize=False) as session:
        plain = dict(zip(inner[1:], session.run(inner[1:], {"x": images}), strict=True))
    plain["x"] = images
    for name, histogram in collected.histograms.items():
        reference = Histogram.of(plain[name])
        assert histogram.count == reference.count
        assert histogram.exponent == reference.exponent
        assert histogram.low == pytest.approx(reference.low, abs=1e-5)
        assert histogram.high == pytest.approx(reference.high, abs=1e-5)
        # Optimization rounds differently in the last bit: a few values change sides of an edge.
        moved = np.abs(np.cumsum(histogram.counts) - np.cumsum(reference.counts)).max()
        assert moved <= max(3, histogram.count // 500)


def test_order_and_batch_size_leave_no_trace(small: Model, images: np.ndarray) -> None:
    # Not the MatMul's output: ONNX Runtime may sum in another order where the batch is 1.
    inner = ["x", "r1", "c2", "r2"]
    reference = collect(small, batches(images, 1), inner)
    for again in (
        collect(small, batches(images[::-1], 1), inner),
        collect(small, batches(images, 3), inner),  # 3, 3 and a ragged 1
        collect(small, batches(images, 7), inner, threads=1),
        collect(small, batches(images, 7), inner[::-1]),
    ):
        assert dict(again.histograms) == dict(reference.histograms)
        assert again.samples == reference.samples
        assert tables(again) == tables(reference)


@settings(max_examples=8)
@given(order=st.permutations(range(6)), cut=st.integers(1, 5))
def test_shards_add_up(order: list[int], cut: int) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,5] x) => (float[N,5] y) {y = Relu(x)}'
    )
    model = Model.from_onnx(proto)
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    whole = collect(model, batches(x, 6), ["x", "y"])
    a = collect(model, batches(x[order[:cut]], 2), ["x", "y"])
    b = collect(model, batches(x[order[cut:]], 2), ["x", "y"])
    for name in ("x", "y"):
        assert merge(a.histograms[name], b.histograms[name]) == whole.histograms[name]


def test_a_black_image_adds_zeros_to_the_input_alone(small: Model, images: np.ndarray) -> None:
    plain = collect(small, batches(images, 2), ["x"]).histograms["x"]
    black = np.concatenate([np.zeros_like(images[:1]), images])
    more = collect(small, batches(black, 2), ["x"]).histograms["x"]
    assert more == merge(plain, Histogram.of(np.zeros(images[0].size, np.float32)))
    assert Entropy()(more) == Entropy()(plain)


def test_every_dynamic_dimension_may_change(small: Model, images: np.ndarray, inner) -> None:
    mixed = [{"x": images[:2]}, {"x": images[:1, :, :5, :4]}, {"x": images[:3, :, :7, :9]}]
    collected = collect(small, mixed, inner)
    assert collected.samples == 6
    assert collected.histograms["x"].count == sum(feeds["x"].size for feeds in mixed)


def test_several_inputs_and_a_scalar() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float k, float[2,3] fixed, float[N,3] a, float[N,3] b) => (float[N,3] y) "
        "{ s = Add(a, b)  t = Mul(s, k)  m = ReduceMax(fixed)  y = Add(t, m) }"
    )
    model = Model.from_onnx(proto)
    feeds = {
        "a": np.ones((4, 3), np.float32),
        "b": np.full((4, 3), -3.0, np.float32),
        "k": np.float32(2.0),
        "fixed": np.ones((2, 3), np.float32),
    }
    feeds["k"] = np.asarray(feeds["k"])
    collected = collect(model, [feeds, feeds], ["a", "b", "k", "t", "y"])
    assert collected.samples == 8
    found = {name: (h.low, h.high, h.count) for name, h in collected.histograms.items()}
    assert found["k"] == (2.0, 2.0, 2)
    assert found["b"] == (-3.0, -3.0, 24)
    assert found["t"] == (-4.0, -4.0, 24)
    assert found["y"] == (-3.0, -3.0, 24)


def test_inputs_alone_and_initializers(small: Model, images: np.ndarray) -> None:
    collected = collect(small, batches(images, 4), ["x", "w1", "x"])
    assert list(collected.histograms) == ["x"]
    assert collected.histograms["x"] == Histogram.of(images)


def test_the_model_is_left_alone(small: Model, images: np.ndarray, inner) -> None:
    before = small.digest()
    collect(small, batches(images, 4), inner)
    assert small.digest() == before


def test_memory_is_flat_in_the_number_of_samples(small: Model, inner) -> None:
    def stream(count: int) -> Iterator[dict[str, np.ndarray]]:
        for seed in range(count):
            yield {"x": np.random.default_rng(seed).normal(size=(1, 3, 64, 64)).astype("f4")}

    def peak(count: int) -> int:
        tracemalloc.start()
        collect(small, stream(count), inner)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)  # imports and caches
    # Kept, the inputs alone of 56 more samples would be 2.7 MB.
    assert peak(64) < peak(8) + 300_000


def test_progress_counts_samples(small: Model, images: np.ndarray) -> None:
    steps: list[int] = []
    collect(small, batches(images, 3), ["r1"], progress=steps.append)
    assert steps == [3, 3, 1]


def test_unknown_tensors_are_told(small: Model, images: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"no tensor 'r11'.*did you mean 'r1'"):
        collect(small, batches(images, 3), ["r11"])


def test_no_data_is_told(small: Model) -> None:
    with pytest.raises(DataError, match="no calibration samples"):
        collect(small, [], ["r1"])


def test_a_missing_input_is_told(small: Model, images: np.ndarray) -> None:
    with pytest.raises(DataError, match="lacks the input 'x'; it gives image"):
        collect(small, [{"image": images}], ["r1"])


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 4, 8, 8), np.float32), np.zeros((1, 3, 8, 8), np.float64)]
)
def test_a_wrong_shape_or_dtype_is_told_in_one_line(small: Model, wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"calibration data \(x float") as caught:
        collect(small, [{"x": wrong}], ["r1"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [0, 1])
def test_nan_is_told_by_tensor(small: Model, images: np.ndarray, position: int) -> None:
    bad = images.copy()
    bad[3 * position, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"tensor '[xr].*' holds NaN"):
        collect(small, batches(bad, 3), ["x", "r2"])


def test_integer_tensors_are_refused() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (int64[2] y) {y = Shape(x)}'
    )
    with pytest.raises(DataError, match="'y' holds int64"):
        collect(Model.from_onnx(proto), [{"x": np.ones((2, 3), np.float32)}], ["y"])


def test_what_onnx_runtime_refuses_is_told(small: Model, images: np.ndarray) -> None:
    broken = small.clone()
    broken.graph.nodes[1].domain = "no.such.domain"
    with pytest.raises(UnsupportedModelError, match="refuses the model"):
        collect(broken, batches(images, 3), ["r2"])


def test_a_sample_of_positions_leaves_no_trace_of_order_or_batch(small: Model) -> None:
    images = np.random.default_rng(5).normal(size=(6, 3, 24, 20)).astype(np.float32)
    names = ["x", "r1", "c2", "r2"]
    whole = collect(small, batches(images, 1), names, positions=None)
    reference = collect(small, batches(images, 1), names, positions=100)
    assert (whole.positions, reference.positions) == (None, 100)
    for name, histogram in reference.histograms.items():
        full = whole.histograms[name]
        assert (histogram.low, histogram.high) == (full.low, full.high)
        assert 6 * 100 <= histogram.count < full.count / 4
    for again in (
        collect(small, batches(images[::-1], 1), names, positions=100),
        collect(small, batches(images, 4), names, positions=100),
    ):
        assert again == reference
    halves = [collect(small, batches(part, 2), names, positions=100) for part in
              (images[[5, 0, 3]], images[[1, 4, 2]])]  # fmt: skip
    for name in names:
        merged = merge(*(half.histograms[name] for half in halves))
        assert merged == reference.histograms[name]


def test_a_sample_of_positions_is_representative(small: Model) -> None:
    images = np.random.default_rng(5).normal(size=(4, 3, 96, 96)).astype(np.float32)
    full = collect(small, batches(images, 2), ["r2"], positions=None).histograms["r2"]
    part = collect(small, batches(images, 2), ["r2"], positions=4096).histograms["r2"]
    a, b = (np.cumsum(h.counts) / h.count for h in (full, part))
    # Kolmogorov-Smirnov at a level of about 1e-6, had each value been drawn by itself.
    assert np.abs(a - b).max() < 2.7 / np.sqrt(part.count)


def test_extremes_alone_are_the_same_extremes(small: Model, images: np.ndarray, inner) -> None:
    full = collect(small, batches(images, 2), inner)
    bare = collect(small, batches(images, 2), inner, counts=False)
    assert not bare.counted
    for name in inner:
        a, b = full.histograms[name], bare.histograms[name]
        assert (a.low, a.high, a.exponent) == (b.low, b.high, b.exponent)
        assert b.count == 0
        assert MinMax()(a) == MinMax()(b)


@pytest.mark.parametrize(
    ("shape", "batch", "sure"),
    [
        (["N", 64, 56, 56], "N", True),
        (["N", 64, "H", "W"], "N", True),
        (["N", 64, None, None], "N", True),
        ([None, 64, None, None], "N", False),
        ([None, 64, None, None], None, False),
        (["N", "N"], "N", False),
        ([197, "N", 384], "N", False),
        ([None, 197, 384], "N", True),
        (["N*197", 384], "N", True),
        ([1, 64, None, None], 1, True),
        ([4, 64, 56], 4, True),
        ([197, 4, 384], 4, False),
        ([4, 64, None], 4, False),
        ([], "N", False),
        (None, "N", False),
    ],
)
def test_samples_are_told_apart_by_axis_0(shape, batch, sure: bool) -> None:
    assert by_sample(gs.Variable("t", np.float32, shape), batch) is sure


def test_where_they_are_not_all_values_are_counted() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[N,9,40] x) => (float[9,N,40] y) { y = Transpose<perm=[1,0,2]>(x) }"
    )
    x = np.random.default_rng(0).normal(size=(5, 9, 40)).astype(np.float32)
    found = collect(Model.from_onnx(proto), batches(x, 2), ["x", "y"], positions=10)
    assert found.histograms["y"] == Histogram.of(x)
    assert found.histograms["x"].count < x.size / 10


def test_nothing_beyond_what_is_wanted_is_run(small: Model, images: np.ndarray) -> None:
    """The MatMul at the end fails on this data; nobody asked for it."""
    odd = small.clone()
    odd.graph.nodes[-1].inputs[1].values = np.ones((5, 4), np.float32)
    found = collect(odd, batches(images, 3), ["r1"])
    assert found.histograms["r1"] == collect(small, batches(images, 3), ["r1"]).histograms["r1"]


@pytest.mark.parametrize("positions", [0, -1])
def test_no_positions_are_refused(small: Model, images: np.ndarray, positions: int) -> None:
    with pytest.raises(UsageError, match="at least one position"):
        collect(small, batches(images, 3), ["r1"], positions=positions)
