"""Arrays: names, ranks, dtypes, labels, and files that are broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_sets import F32, VECTOR, joined

from graphopt.data import open_data
from graphopt.errors import DataError


def test_npz_with_an_array_for_each_input_and_labels(tmp_path: Path) -> None:
    inputs = {"x": (F32, ("N", 3)), "ids": (np.dtype(np.int64), ("N",))}
    x = np.random.default_rng(0).normal(size=(5, 3))
    np.savez(tmp_path / "d.npz", x=x, ids=np.arange(5, dtype=np.int32), labels=np.arange(5), z=x)
    data = open_data(str(tmp_path / "d.npz"), inputs)
    batches = list(data.batches(2))
    assert [set(b) for b in batches] == [{"x", "ids"}] * 3
    np.testing.assert_array_equal(joined(batches, "x"), x.astype("f4"))
    assert joined(batches, "ids").dtype == np.int64
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.names[3] == "d.npz[3]"
    assert "passed over: z" in data.summary()


def test_the_only_array_feeds_the_only_input(tmp_path: Path) -> None:
    x = np.ones((2, 3), "f4")
    np.savez(tmp_path / "a.npz", x)
    np.savez(tmp_path / "b.npz", whatever=x, y=[1, 0])
    np.save(tmp_path / "c.npy", x)
    assert len(open_data(str(tmp_path / "a.npz"), VECTOR)) == 2
    assert open_data(str(tmp_path / "b.npz"), VECTOR).labels is not None
    assert open_data(str(tmp_path / "c.npy"), VECTOR).labels is None


def test_an_input_named_like_labels_is_an_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", y=np.ones((2, 3), "f4"))
    data = open_data(str(tmp_path / "a.npz"), {"y": VECTOR["x"]})
    assert data.labels is None
    assert len(data) == 2


def test_a_folder_mixes_samples_and_batches(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("f4")
    np.save(tmp_path / "b.npy", x[0])
    np.save(tmp_path / "c.npy", x[1:4])
    np.savez(tmp_path / "d.npz", x=x[4:])
    data = open_data(str(tmp_path), VECTOR)
    assert data.names == ("b.npy[0]", "c.npy[0]", "c.npy[1]", "c.npy[2]", "d.npz[0]", "d.npz[1]")
    np.testing.assert_array_equal(joined(list(data.batches(4)), "x"), x)
    few = open_data(str(tmp_path), VECTOR, limit=3)
    np.testing.assert_array_equal(joined(list(few.batches(4)), "x"), x[list(few.indices)])


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"X": np.zeros((2, 3), "f4"), "other": np.zeros(3)}, "input 'x'.*the model takes x"),
        ({"x": np.zeros((2, 4), "f4")}, "'x' is 2x4, but the model takes Nx3 float32"),
        ({"x": np.zeros((2, 2, 3), "f4")}, "'x' is 2x2x3"),
        ({"x": np.float32(1)}, "'x' is scalar"),
        ({"x": np.zeros((2, 3), "u1")}, r"uint8.*takes float32.*astype\('float32'\) / 255"),
        ({"x": np.zeros((2, 3), bool)}, "bool, but the model takes float32"),
        ({"x": np.zeros((2, 3), "c8")}, "complex64, but the model takes float32"),
        ({"x": np.zeros((0, 3), "f4")}, "holds no samples"),
        ({"x": np.array([[object()] * 3])}, "Python objects"),
        ({"x": np.zeros((2, 3), "f4"), "labels": np.zeros(3, int)}, "one class index a sample"),
        ({"x": np.zeros((2, 3), "f4"), "labels": np.zeros((2, 10), int)}, "one class index"),
        ({"x": np.zeros((2, 3), "f4"), "labels": np.zeros(2)}, "as integers"),
        ({"x": np.zeros((2, 3), "f4"), "labels": [0, -1]}, "negative"),
    ],
)
def test_arrays_that_do_not_fit_are_told(
    tmp_path: Path, arrays: dict[str, np.ndarray], told: str
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=told) as caught:
        open_data(str(tmp_path / "d.npz"), VECTOR)
    assert "\n" not in str(caught.value)


def test_a_misspelt_input_is_suggested(tmp_path: Path) -> None:
    inputs = {"image": VECTOR["x"], "mask": VECTOR["x"]}
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 3), "f4"), mask=np.zeros((2, 3), "f4"))
    with pytest.raises(DataError, match=r"no array for input 'image'.*did you mean 'image'"):
        open_data(str(tmp_path / "d.npz"), inputs)


def test_inputs_of_different_lengths_are_told(tmp_path: Path) -> None:
    inputs = {"a": VECTOR["x"], "b": VECTOR["x"]}
    np.savez(tmp_path / "d.npz", a=np.zeros((2, 3), "f4"), b=np.zeros((4, 3), "f4"))
    with pytest.raises(DataError, match="a 2, b 4"):
        open_data(str(tmp_path / "d.npz"), inputs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_the_sample(tmp_path: Path, value: float) -> None:
    x = np.zeros((5, 3), "f4")
    x[3, 1] = value
    np.save(tmp_path / "x.npy", x)
    data = open_data(str(tmp_path / "x.npy"), VECTOR)
    with pytest.raises(DataError, match=r"x\.npy\[3\]: 'x' has 1 NaN or infinite of 3"):
        list(data.batches(2))


@pytest.mark.parametrize(
    ("stored", "value", "wants", "told"),
    [
        ("f8", 1e300, "f4", "too large for float32"),
        ("f4", 1e30, "f2", "too large for float16"),
        ("i8", 1 << 40, "i4", "int32 cannot hold"),
        ("i4", -1, "u1", "uint8 cannot hold"),
    ],
)
def test_conversions_that_lose_values_are_refused(
    tmp_path: Path, stored: str, value: float, wants: str, told: str
) -> None:
    np.save(tmp_path / "x.npy", np.full((2, 3), value, stored))
    data = open_data(str(tmp_path / "x.npy"), {"x": (np.dtype(wants), ("N", 3))})
    with pytest.raises(DataError, match=told):
        list(data.batches(2))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("content", [b"", b"no arrays", b"\x93NUMPY\x01\x00", b"PK\x03\x04junk"])
def test_broken_array_files_are_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"odd{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="odd") as caught:
        open_data(str(path), VECTOR)
    assert "\n" not in str(caught.value)


def test_truncated_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "cut.npz", x=np.zeros((200, 3), "f4"))
    whole = (tmp_path / "cut.npz").read_bytes()
    # The directory at the end stays readable; the member's own bytes are damaged.
    (tmp_path / "cut.npz").write_bytes(whole[:300] + b"\xff" * 64 + whole[364:])
    with pytest.raises(DataError, match=r"cut\.npz is broken"):
        open_data(str(tmp_path / "cut.npz"), VECTOR)
    np.save(tmp_path / "one.npy", np.zeros((2, 3), "f4"))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(DataError, match=r"one\.npz is one array"):
        open_data(str(tmp_path / "one.npz"), VECTOR)
    np.save(tmp_path / "cut.npy", np.zeros((200, 3), "f4"))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"cut\.npy is broken"):
        open_data(str(tmp_path / "cut.npy"), VECTOR)


def test_labels_for_some_files_only_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3), "f4"), labels=[0, 1])
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3), "f4"))
    with pytest.raises(DataError, match=r"b\.npz has no labels, but a\.npz has"):
        open_data(str(tmp_path), VECTOR)


def test_an_unknown_rank_takes_arrays_as_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 5), "f4"))
    (batch,) = open_data(str(tmp_path / "x.npy"), {"x": (None, ())}).batches(8)
    assert batch["x"].shape == (2, 3, 5)
