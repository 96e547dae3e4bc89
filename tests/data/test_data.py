"""Data whatever its kind: choice, digest, batches, the echo, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import DIGITS, SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import F32, IMAGE, RAW, VECTOR, joined, labelled, paint

from graphopt.data import open_data, synthetic
from graphopt.data.preprocess import Preprocess, load_preprocess
from graphopt.data.samples import choose
from graphopt.errors import DataError, UsageError
from graphopt.files import dump_json
from graphopt.model import Model


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("missing", "no such file or folder"),
        ("empty", "holds no images"),
        ("other.txt", "not a kind of data"),
        ("one.png", "name the folder"),
        ("code.py", "name the function"),
        ("mixed", "1 images and 1 array files"),
    ],
)
def test_what_is_no_data_is_told(tmp_path: Path, spec: str, told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("x")
    (tmp_path / "other.txt").write_text("x")
    (tmp_path / "code.py").write_text("x = 1")
    paint(tmp_path / "one.png")
    paint(tmp_path / "mixed" / "1.png")
    np.save(tmp_path / "mixed" / "2.npy", np.zeros(3, "f4"))
    with pytest.raises(DataError, match=told):
        open_data(str(tmp_path / spec), VECTOR)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_told(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(DataError, match="may not read"):
            open_data(str(tmp_path), IMAGE, preprocess=RAW)
    finally:
        (tmp_path / "a").chmod(0o755)


def test_images_for_two_inputs_are_refused(tmp_path: Path) -> None:
    paint(tmp_path / "1.png")
    two = {"a": IMAGE["image"], "b": IMAGE["image"]}
    with pytest.raises(DataError, match=r"one input.*a, b"):
        open_data(str(tmp_path), two, preprocess=RAW)


@pytest.mark.parametrize("limit", [0, -1])
def test_no_samples_asked_for_is_refused(tmp_path: Path, limit: int) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3), "f4"))
    with pytest.raises(UsageError, match="at least one sample"):
        open_data(str(tmp_path / "x.npy"), VECTOR, limit=limit)


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    limit=st.integers(1, 40),
    seed=st.integers(0, 5),
)
@settings(max_examples=50)
def test_the_choice_is_balanced_whatever_the_order(
    counts: list[int], limit: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"{label}/{i}" for i, label in enumerate(labels)]
    chosen = choose(names, labels, limit, seed)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(limit, len(names))
    taken = np.bincount(labels[chosen], minlength=len(counts))
    # A class has fewer than another, by more than one, only where it has no more to give.
    assert all(t >= taken.max() - 1 or t == c for t, c in zip(taken, counts, strict=True))
    order = np.random.default_rng(seed).permutation(len(names))
    shuffled = choose([names[i] for i in order], labels[order], limit, seed)
    assert {names[i] for i in chosen} == {names[order[i]] for i in shuffled}


def test_the_choice_depends_on_the_seed_and_not_on_the_folder(tmp_path: Path) -> None:
    a = labelled(tmp_path / "a", {"x": 20, "y": 20})
    b = tmp_path / "elsewhere" / "b"
    shutil.copytree(a, b)
    sets = [open_data(str(p), IMAGE, preprocess=RAW, limit=10, seed=s) for p, s in
            ((a, 0), (b, 0), (a, 1))]  # fmt: skip
    assert sets[0].names == sets[1].names
    assert sets[0].names != sets[2].names
    assert sets[0].digest == sets[1].digest
    assert sets[0].digest != sets[2].digest
    assert np.bincount(sets[0].labels).tolist() == [5, 5]  # type: ignore[arg-type]


def test_the_digest_is_of_what_is_fed(tmp_path: Path) -> None:
    root = labelled(tmp_path / "a", {"x": 2, "y": 2})

    def digest(pre: Preprocess = RAW) -> str:
        return open_data(str(root), IMAGE, preprocess=pre).digest

    first = digest()
    assert digest(Preprocess(name="another", scale=1.0)) == first
    assert digest(Preprocess(scale=0.5)) != first
    (root / "x" / "000.png").rename(root / "x" / "zzz.png")
    assert digest() == first  # neither name nor order matters
    (root / "x" / "zzz.png").rename(root / "y" / "zzz.png")
    assert digest() != first  # the label does
    (root / "y" / "zzz.png").rename(root / "x" / "zzz.png")
    paint(root / "x" / "zzz.png", 99)
    assert digest() != first  # and the pixels do


def test_the_digest_of_arrays_does_not_depend_on_how_they_are_split(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("f4")
    (tmp_path / "parts").mkdir()
    np.save(tmp_path / "parts" / "b.npy", x[:2])
    np.save(tmp_path / "parts" / "a.npy", x[2:])
    np.savez(tmp_path / "whole.npz", x=x)
    one = open_data(str(tmp_path / "whole.npz"), VECTOR).digest
    assert open_data(str(tmp_path / "parts"), VECTOR).digest == one
    np.savez(tmp_path / "whole.npz", x=x[::-1])
    assert open_data(str(tmp_path / "whole.npz"), VECTOR).digest == one
    np.savez(tmp_path / "whole.npz", x=x + np.float32(1e-6))
    assert open_data(str(tmp_path / "whole.npz"), VECTOR).digest != one


def test_a_fixed_batch_drops_the_tail_and_says_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((10, 3), "f4"), y=np.arange(10))
    data = open_data(str(tmp_path / "x.npz"), {"x": (F32, (4, 3))})
    assert (len(data), data.fixed_batch, data.batch_size(16)) == (8, 4, 4)
    assert data.labels is not None
    assert len(data.labels) == 8
    assert [len(b["x"]) for b in data.batches(1)] == [4, 4]
    assert "2 left out: the model's batch is fixed at 4" in data.summary()
    with pytest.raises(DataError, match=r"fixed at 16, and .* gives 10"):
        open_data(str(tmp_path / "x.npz"), {"x": (F32, (16, 3))})


def test_a_batch_holds_something(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3), "f4"))
    data = open_data(str(tmp_path / "x.npy"), VECTOR)
    with pytest.raises(UsageError, match="at least one"):
        list(data.batches(0))


def test_what_was_read_is_told(tmp_path: Path) -> None:
    x = np.array([[0, 1, 2], [3, 4, 5]], "f4")
    np.savez(tmp_path / "x.npz", x=x, labels=[0, 1])
    data = open_data(str(tmp_path / "x.npz"), VECTOR, preprocess=RAW)
    assert data.ranges() == {
        "x": {"dtype": "float32", "shape": [3], "min": 0, "max": 5, "mean": 2.5}
    }
    for word in ("2 samples", "npz file, labelled", "x 3 float32, 0 to 5, mean 2.5", "for images"):
        assert word in data.summary()
    value = data.to_json()
    assert value["digest"] == data.digest
    dump_json(value)


def test_synthetic_is_marked_seeded_and_of_the_right_shape() -> None:
    inputs = {
        "x": (F32, ("N", 3, "H")),
        "ids": (np.dtype(np.int64), ("N", 4)),
        "on": (np.dtype(bool), ("N",)),
    }
    data = synthetic(inputs, 5, seed=3, shapes={"x": (1, 3, 7)})
    assert data.synthetic
    assert data.summary().startswith("SYNTHETIC")
    batches = list(data.batches(2))
    assert [b["x"].shape for b in batches] == [(2, 3, 7), (2, 3, 7), (1, 3, 7)]
    assert batches[0]["ids"].dtype == np.int64
    assert batches[0]["on"].dtype == bool
    again = synthetic(inputs, 5, 3, {"x": (1, 3, 7)})
    np.testing.assert_array_equal(joined(list(again.batches(5)), "x"), joined(batches, "x"))
    assert again.digest == data.digest
    assert synthetic(inputs, 5, seed=4, shapes={"x": (1, 3, 7)}).digest != data.digest
    many = joined(list(synthetic(VECTOR, 2000).batches(500)), "x")
    assert abs(many.mean()) < 0.05
    assert abs(many.std() - 1) < 0.05


def test_synthetic_needs_sizes_and_fills_whole_batches() -> None:
    with pytest.raises(UsageError, match="--opt-shapes x:"):
        synthetic({"x": (F32, ("N", 3, "H"))}, 2)
    with pytest.raises(DataError, match="'x' is 1x5, but the model takes Nx3"):
        synthetic(VECTOR, 2, shapes={"x": (1, 5)})
    assert len(synthetic({"x": (F32, (4, 3))}, 5)) == 8
    assert len(list(synthetic({"x": (F32, ())}, 2, shapes={"x": (1, 2)}).batches(2))) == 1
    with pytest.raises(UsageError):
        synthetic(VECTOR, 0)


def test_the_sample_is_whole() -> None:
    pre = load_preprocess(str(DIGITS / "preprocess.toml"))
    inputs = Model.load(DIGITS / "model.onnx").inputs()
    calib = open_data(str(DIGITS / "calib"), inputs, preprocess=pre)
    test = open_data(str(DIGITS / "test"), inputs, preprocess=pre)
    assert (len(calib), len(test)) == (200, 500)
    assert len(calib.classes) == len(test.classes) == 10
    assert not {n.split("/")[1] for n in calib.names} & {n.split("/")[1] for n in test.names}
    assert next(iter(test.batches(3)))["image"].shape == (3, 1, 40, 40)


@needs_shared
def test_faces_of_many_sizes() -> None:
    inputs = Model.load(SHARED / "models" / "face_rfb320.onnx").inputs()
    pre = Preprocess(scale=1.0, mean=(127.0,), std=(128.0,))
    data = open_data(str(SHARED / "faces"), inputs, preprocess=pre, limit=4)
    (name,) = inputs
    for batch in data.batches(8):
        assert batch[name].shape == (1, 3, 240, 320)
        assert np.abs(batch[name]).max() <= 1
