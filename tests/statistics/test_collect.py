"""Gram matrices and moments of a whole model, against one run of all of it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import conv_net, image_samples, parse
from layer_nets import layer_model, run_all, values

from graphopt.errors import DataError
from graphopt.statistics import Gram, Statistics, Unfolder, channel_rows, collect
from graphopt.statistics import gram as gram_module
from graphopt.statistics import unfold as unfold_module


def batches(count: int = 12, size: int = 5) -> list[dict[str, np.ndarray]]:
    images = image_samples(count)
    return [{"image": images[i : i + size]} for i in range(0, count, size)]


@pytest.mark.parametrize("piece", [32 << 20, 4 * 16 * 9 * 10])
@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_grams_of_all_layers(memory: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfold_module, "PIECE", piece)
    model = conv_net(8)
    told: list[int] = []
    statistics = Statistics(model, batches, memory=memory, progress=told.append)
    names = ["fc", "conv2", "stem", "conv1", "relu0", "unknown"]
    found = dict(statistics.grams(names))
    assert [layer.node for layer in found] == ["stem", "conv1", "conv2", "fc"]
    assert told == [1] * 4
    whole = run_all(model, {"image": image_samples(12)})
    whole["image"] = image_samples(12)
    nodes = {n.name: n for n in model.graph.nodes}
    for layer, gram in found.items():
        wanted = Gram(layer.groups, layer.features)
        wanted.add(Unfolder(layer, nodes[layer.node], whole[layer.input]).rows())
        assert gram.rows == wanted.rows
        assert gram.xy.shape[-1] == 0
        scale = np.abs(wanted.xx).max()
        np.testing.assert_allclose(gram.xx / scale, wanted.xx / scale, atol=1e-6)


def test_rows_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MOST_ROWS", 600)
    statistics = Statistics(conv_net(8), batches)
    ((layer, gram),) = statistics.grams(["conv1"])
    assert gram.rows == 600  # 200 of each of three batches; the last has 2 * 256
    monkeypatch.setattr(collect, "MOST_ROWS", 200_000)
    ((_, whole),) = statistics.grams(["conv1"])
    assert whole.rows == 12 * 256
    size = layer.features + 1
    ratio = np.trace(gram.xx[0]) / gram.rows / (np.trace(whole.xx[0]) / whole.rows)
    assert gram.xx.shape == (1, size, size)
    assert abs(ratio - 1) < 0.2


def test_too_many_features_are_seen_by_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layer_model("Conv", (2, 8, 6, 6), (6, 4, 3, 3), group=2, pads=[1, 1, 1, 1])
    x = values(4, 8, 6, 6)
    statistics = Statistics(model, lambda: [{"x": x[:2]}, {"x": x[2:]}])
    entries = 2 * (4 + 1) ** 2
    for module in (gram_module,):
        monkeypatch.setattr(module, "MOST_ENTRIES", entries)
    ((_, gram),) = statistics.grams(["n"])
    rows = channel_rows(x, 1).reshape(-1, 2, 4).transpose(1, 0, 2)
    wanted = Gram(2, 4)
    wanted.add(rows)
    assert gram.rows == wanted.rows == 4 * 36
    np.testing.assert_allclose(gram.xx, wanted.xx, rtol=1e-5, atol=1e-3)
    # Not even the channels fit: the layer is left out.
    monkeypatch.setattr(gram_module, "MOST_ENTRIES", entries - 1)
    assert list(statistics.grams(["n"])) == []


def test_stopping_early_leaves_nothing(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = Statistics(conv_net(8), batches, memory=0).grams(["conv1", "conv2"])
    next(iter(found))
    assert list(tmp_path.glob("graphopt-*"))
    found.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.glob("graphopt-*"))


@pytest.mark.parametrize("piece", [32 << 20, 1000])
def test_moments(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "PIECE", piece)
    model = conv_net(8)
    whole = run_all(model, {"image": image_samples(12)})
    asked = {"scores": -1, "r0": 1, "image": 1, "f": 1, "not there": 0}
    found = Statistics(model, batches).moments(asked)
    whole["image"] = image_samples(12)
    assert set(found) == {"scores", "r0", "image", "f"}
    for name, moments in found.items():
        axes = tuple(i for i in range(whole[name].ndim) if i != asked[name] % whole[name].ndim)
        wide = whole[name].astype("f8")
        np.testing.assert_allclose(moments.mean, wide.mean(axis=axes), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(moments.std, wide.std(axis=axes), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(moments.zeros, (wide == 0).mean(axis=axes), atol=2e-3)
    assert 0.2 < found["r0"].zeros.mean() < 0.8


def test_moments_of_nothing() -> None:
    model = parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    found = Statistics(model, lambda: [{"x": np.zeros((0, 4), "f4")}]).moments({"y": 1})
    assert not found["y"].mean.any()
    assert not found["y"].std.any()


def test_samples_are_asked_for() -> None:
    with pytest.raises(DataError, match="give --data"):
        list(Statistics(conv_net(8), None).grams(["conv1"]))


def test_two_runs_give_the_same_bytes() -> None:
    one, two = (dict(Statistics(conv_net(8), batches).grams(["conv1", "fc"])) for _ in range(2))
    for layer, gram in one.items():
        assert gram.xx.tobytes() == two[layer].xx.tobytes()
