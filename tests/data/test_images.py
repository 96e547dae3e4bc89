"""Image folders: order, labels, links, every mode, and files made to do harm."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import F32, IMAGE, RAW, joined, labelled, paint

from graphopt.data import open_data
from graphopt.data.preprocess import Preprocess
from graphopt.errors import DataError


def test_labelled_folder(tmp_path: Path) -> None:
    root = labelled(tmp_path / "set", {"dog": 3, "cat": 2})
    data = open_data(str(root), IMAGE, preprocess=RAW)
    assert len(data) == 5
    assert data.classes == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.names == ("cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png", "dog/002.png")
    sizes = [len(b["image"]) for b in data.batches(2)]
    assert sizes == [2, 2, 1]
    first = np.asarray(Image.open(root / "cat" / "000.png"), dtype=np.float32).transpose(2, 0, 1)
    got = next(iter(data.batches(2)))["image"]
    assert got.dtype == F32
    np.testing.assert_array_equal(got[0], first)


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    data = open_data(str(labelled(tmp_path, {"a": 3, "b": 3})), IMAGE, preprocess=RAW)
    once, again = joined(list(data.batches(4)), "image"), joined(list(data.batches(1)), "image")
    np.testing.assert_array_equal(once, again)


def test_flat_folder_has_no_labels_and_every_suffix_is_read(tmp_path: Path) -> None:
    for i, suffix in enumerate((".png", ".jpg", ".JPEG", ".bmp", ".webp", ".ppm")):
        paint(tmp_path / f"{i}{suffix}", i)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    data = open_data(str(tmp_path), IMAGE, preprocess=RAW)
    assert data.labels is None
    assert len(joined(list(data.batches(4)), "image")) == 6
    assert "1 files that are no images were passed over" in data.summary()


def test_deeper_files_belong_to_the_top_folder_and_empty_folders_keep_their_index(
    tmp_path: Path,
) -> None:
    paint(tmp_path / "a" / "deep" / "deeper" / "1.png")
    paint(tmp_path / "c" / "1.png")
    (tmp_path / "b").mkdir()
    data = open_data(str(tmp_path), IMAGE, preprocess=RAW)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 2]
    assert "1 of 3 sub-folders hold no image, 'b'" in data.summary()


def test_numbered_folders_that_sort_otherwise_are_told(tmp_path: Path) -> None:
    root = labelled(tmp_path / "ten", {str(i): 1 for i in range(10)})
    assert "numbers" not in open_data(str(root), IMAGE, preprocess=RAW).summary()
    root = labelled(tmp_path / "twelve", {str(i): 1 for i in range(12)})
    assert "'10' is class 2" in open_data(str(root), IMAGE, preprocess=RAW).summary()


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    real = labelled(tmp_path / "real", {"a": 2})
    root = tmp_path / "set"
    (root / "b").mkdir(parents=True)
    (root / "a").symlink_to(real / "a")
    (root / "b" / "x.png").symlink_to(real / "a" / "000.png")
    (root / "b" / "loop").symlink_to(root)
    (root / "c").symlink_to(real / "a")  # A second way to the same files is not a loop.
    data = open_data(str(root), IMAGE, preprocess=RAW)
    assert data.names == ("a/000.png", "a/001.png", "b/x.png", "c/000.png", "c/001.png")
    assert len(list(data.batches(1))) == 5


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    root = labelled(tmp_path, {"a": 1, ".cache": 2, "__MACOSX": 3})
    data = open_data(str(root), IMAGE, preprocess=RAW)
    assert data.names == ("a/000.png",)
    assert data.classes == ("a",)


def test_images_beside_sub_folders_are_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    paint(tmp_path / "stray.png")
    with pytest.raises(DataError, match="labels are unclear"):
        open_data(str(tmp_path), IMAGE, preprocess=RAW)


def test_images_without_preprocessing_are_refused_with_examples(tmp_path: Path) -> None:
    paint(tmp_path / "1.png")
    with pytest.raises(DataError, match="name the preprocessing") as caught:
        open_data(str(tmp_path), IMAGE)
    assert "--preprocess imagenet" in caught.value.hint


def test_images_of_a_free_size_are_batched_by_shape(tmp_path: Path) -> None:
    free = {"image": (F32, ("N", 3, "H", "W"))}
    for i, size in enumerate([(6, 4), (6, 4), (8, 4), (8, 4), (8, 4), (6, 4)]):
        paint(tmp_path / f"{i}.png", i, size)
    data = open_data(str(tmp_path), free, preprocess=RAW)
    shapes = [b["image"].shape for b in data.batches(2)]
    assert shapes == [(2, 3, 4, 6), (2, 3, 4, 8), (1, 3, 4, 8), (1, 3, 4, 6)]
    fixed = {"image": (F32, (2, 3, "H", "W"))}
    with pytest.raises(DataError, match="differ in shape"):
        list(open_data(str(tmp_path), fixed, preprocess=RAW).batches(2))


def test_every_mode_becomes_three_channels(tmp_path: Path) -> None:
    paint(tmp_path / "gray.png", 1, mode="L")
    paint(tmp_path / "alpha.png", 2, mode="RGBA")
    Image.open(paint(tmp_path / "p.png", 3)).quantize(8).save(tmp_path / "palette.png")
    Image.open(tmp_path / "gray.png").convert("1").save(tmp_path / "bits.png")
    data = open_data(str(tmp_path), IMAGE, preprocess=RAW)
    assert joined(list(data.batches(9)), "image").shape == (5, 3, 4, 6)


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    data = open_data(str(tmp_path), IMAGE, preprocess=RAW)
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits"):
        list(data.batches(1))


def truncated(path: Path) -> None:
    paint(path, size=(60, 40))
    path.write_bytes(path.read_bytes()[:-400])


def flipped(path: Path) -> None:
    """Damage the compressed pixels, leaving header and length."""
    paint(path, size=(60, 40))
    raw = bytearray(path.read_bytes())
    for i in range(60, 200):
        raw[i] ^= 0xFF
    path.write_bytes(raw)


def text(path: Path) -> None:
    path.write_text("this is no image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere.png")


@pytest.mark.parametrize("damage", [truncated, flipped, text, empty, dangling])
def test_a_broken_image_is_named(tmp_path: Path, damage: object) -> None:
    damage(tmp_path / "odd.png")  # type: ignore[operator]
    data = open_data(str(tmp_path), IMAGE, preprocess=Preprocess(size=(4, 6)))
    with pytest.raises(DataError, match=r"odd\.png is broken") as caught:
        list(data.batches(1))
    assert "\n" not in str(caught.value)


def bomb(path: Path, side: int) -> Path:
    """Write a PNG header that claims side x side pixels over almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    bomb(tmp_path / "bomb.png", side)
    data = open_data(str(tmp_path), IMAGE, preprocess=RAW)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.png has more than .* pixels"):
        list(data.batches(1))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_folder_of_images_is_never_all_in_memory(tmp_path: Path) -> None:
    inputs = {"image": (F32, ("N", 3, 256, 256))}
    for i in range(40):
        Image.new("RGB", (256, 256), (i, i, i)).save(tmp_path / f"{i:02}.png")
    data = open_data(str(tmp_path), inputs, preprocess=RAW)
    tracemalloc.start()
    count = sum(len(b["image"]) for b in data.batches(2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40
    assert peak < 10 * 3 * 256 * 256 * 4  # ten samples; all forty would be four times that
