"""The contact sheet shows the samples as the network is shown them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import F32, IMAGE, RAW, VECTOR, labelled

from graphopt.data import Dataset, Preprocess, open_data, synthetic
from graphopt.data.contact_sheet import GAP, contact_sheet


def flat(root: Path, colors: list[tuple[int, int, int]]) -> Path:
    root.mkdir()
    for i, color in enumerate(colors):
        Image.new("RGB", (6, 4), color).save(root / f"{i}.png")
    return root


def sheet(data: Dataset, **options: int) -> np.ndarray:
    made = contact_sheet(data, **options)
    assert made is not None
    return np.asarray(Image.open(BytesIO(made)).convert("RGB")).astype(int)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_normalizing_is_taken_back(tmp_path: Path, layout: str, color: str) -> None:
    colors = [(250, 10, 10), (10, 250, 10), (30, 60, 200)]
    how = Preprocess(
        color=color,  # type: ignore[arg-type]
        layout=layout,  # type: ignore[arg-type]
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
    )
    shape = ("N", 3, 4, 6) if layout == "nchw" else ("N", 4, 6, 3)
    data = open_data(str(flat(tmp_path / "set", colors)), {"x": (F32, shape)}, preprocess=how)
    shown = sheet(data, side=48)
    assert shown.shape == (32, 3 * 48 + 2 * GAP, 3)
    for i, wanted in enumerate(colors):
        middle = shown[16, i * (48 + GAP) + 24]
        assert np.abs(middle - wanted).max() <= 12  # WebP is lossy


def test_gray(tmp_path: Path) -> None:
    how = Preprocess(color="gray", mean=(0.5,), std=(0.25,))
    folder = flat(tmp_path / "set", [(200, 200, 200)])
    data = open_data(str(folder), {"x": (F32, ("N", 1, 4, 6))}, preprocess=how)
    assert np.abs(sheet(data)[20, 20] - 200).max() <= 8


def test_some_of_many_evenly_spread(tmp_path: Path) -> None:
    data = open_data(str(labelled(tmp_path, {"a": 20, "b": 20})), IMAGE, preprocess=RAW)
    chosen = data.at_most(8)
    assert chosen.indices == (0, 5, 10, 15, 20, 25, 30, 35)
    assert sheet(data, shown=24, side=12).shape[1] == 12 * 12 + 11 * GAP
    assert data.at_most(40) is data


def test_a_fixed_batch_is_kept_whole(tmp_path: Path) -> None:
    spec = {"image": (F32, (4, 3, 4, 6))}
    data = open_data(str(labelled(tmp_path, {"a": 12})), spec, preprocess=RAW)
    assert len(data.at_most(7)) == 4
    assert len(data.at_most(1)) == 4
    assert contact_sheet(data, shown=6) is not None


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    data = open_data(str(labelled(tmp_path, {"a": 5})), IMAGE, preprocess=RAW)
    assert contact_sheet(data) == contact_sheet(data)


def test_what_is_no_image_has_none() -> None:
    assert contact_sheet(synthetic(VECTOR, 4)) is None
