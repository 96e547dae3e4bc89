"""Preprocessing: arithmetic against a second way of computing it, fit to the model, TOML specs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphopt.data.preprocess import PRESETS, Preprocess, from_mapping, load_preprocess
from graphopt.errors import DataError, RecipeError
from graphopt.files import dump_json

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def picture(pixels: np.ndarray = PIXELS) -> Image.Image:
    return Image.fromarray(pixels)


def test_cifar_is_what_the_baseline_was_measured_with() -> None:
    pre = PRESETS["cifar"].for_input("x", ("N", 3, 12, 20))
    want = PIXELS.astype(np.float64) / 255
    want = (want - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    got = pre(picture())
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, want.transpose(2, 0, 1), atol=1e-6)


def test_bgr_turns_the_channels_and_their_statistics_stay_in_that_order() -> None:
    pre = Preprocess(color="bgr", scale=1.0, mean=(1.0, 2.0, 3.0))
    want = PIXELS[:, :, ::-1].astype(np.float32) - [1, 2, 3]
    np.testing.assert_array_equal(pre(picture()), want.transpose(2, 0, 1))


def test_gray_is_luma_and_nhwc_keeps_channels_last() -> None:
    gray = Preprocess(color="gray", scale=1.0, layout="nhwc")(picture())
    assert gray.shape == (12, 20, 1)
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(gray[:, :, 0] - luma).max() <= 1


def test_integer_inputs_are_rounded_and_clipped() -> None:
    whole = Preprocess(scale=1.0)(picture(), np.uint8)
    np.testing.assert_array_equal(whole, PIXELS.transpose(2, 0, 1))
    low = Preprocess(scale=1.0, mean=(300.0,))(picture(), np.int8)
    assert low.dtype == np.int8
    assert low.min() == -128


@pytest.mark.parametrize(("resize", "exact"), [("nearest", True), ("bilinear", False)])
def test_resize_uses_the_filter_named(resize: str, exact: bool) -> None:
    pre = Preprocess(size=(24, 40), resize=resize, scale=1.0)
    twice = PIXELS.repeat(2, axis=0).repeat(2, axis=1).transpose(2, 0, 1)
    assert np.array_equal(pre(picture()), twice) is exact


@pytest.mark.parametrize(
    ("have", "want"),
    [((256, 256), (256, 256)), ((500, 375), (341, 256)), ((375, 500), (256, 341))],
)
def test_imagenet_crops_224_from_a_shorter_side_of_256(
    have: tuple[int, int], want: tuple[int, int]
) -> None:
    noise = RNG.integers(0, 256, (have[1], have[0], 3), dtype=np.uint8)
    resized = picture(noise).resize(want, Image.Resampling.BILINEAR)
    left, top = round((want[0] - 224) / 2), round((want[1] - 224) / 2)
    cut = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=np.float64)
    want_array = (cut / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    got = PRESETS["imagenet"].for_input("x", (1, 3, 224, 224))(picture(noise))
    np.testing.assert_allclose(got, want_array.transpose(2, 0, 1), atol=1e-6)


def test_crops_are_rounded_as_they_are_quoted() -> None:
    """torchvision's Inception v3: 299 from a shorter side of 342."""
    noise = picture(RNG.integers(0, 256, (400, 400, 3), dtype=np.uint8))
    resized = noise.resize((342, 342), Image.Resampling.BILINEAR).crop((22, 22, 321, 321))
    got = Preprocess(size=(299, 299), crop=0.875, scale=1.0)(noise)
    np.testing.assert_array_equal(got, np.asarray(resized, np.float32).transpose(2, 0, 1))


@pytest.mark.parametrize("crop", [0.3, 0.875, 1.0])
@pytest.mark.parametrize("have", [(1, 50), (50, 1), (7, 9), (100, 33)])
def test_a_crop_always_has_the_size_asked_for(have: tuple[int, int], crop: float) -> None:
    pre = Preprocess(size=(8, 13), crop=crop)
    assert pre(Image.new("RGB", have)).shape == (3, 8, 13)


def test_size_comes_from_the_model_then_from_the_preset() -> None:
    assert PRESETS["imagenet"].for_input("x", (1, 3, 299, 299)).size == (299, 299)
    free = PRESETS["imagenet"].for_input("x", ("N", 3, "H", None))
    assert free.size == (224, 224)
    assert "224x224" in free.notes()[0]
    assert Preprocess().for_input("x", ("N", 3, None, None)).size is None


@pytest.mark.parametrize(
    ("pre", "shape", "told"),
    [
        (Preprocess(), ("N", 128), "rank 4"),
        (Preprocess(), ("N", 1, 8, 8), "3 channels"),
        (Preprocess(), ("N", 8, 8, 3), 'layout = "nhwc"'),
        (Preprocess(size=(9, 8)), ("N", 3, 8, 8), "leave out size"),
        (Preprocess(crop=0.5), ("N", 3, "H", "W"), "names no size"),
        (Preprocess(), ("N", 3, 8, "W"), "names no size"),
    ],
)
def test_a_model_it_does_not_fit_is_refused(
    pre: Preprocess, shape: tuple[int | str, ...], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        pre.for_input("x", shape)


def test_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'size = [24, 32]\ncolor = "bgr"\nscale = "1/128"\nmean = [127, 127, 127]\nstd = 2\n'
        'resize = "bicubic"\nlayout = "nhwc"\n'
    )
    got = load_preprocess(str(path))
    assert got == Preprocess(
        name="mine.toml",
        size=(24, 32),
        color="bgr",
        scale=1 / 128,
        mean=(127.0, 127.0, 127.0),
        std=(2.0,),
        resize="bicubic",
        layout="nhwc",
    )
    assert "24x32" in str(got)
    assert '"scale": 0.0078125' in dump_json(got.to_json())


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("means", [0.5], "unknown key 'means' .*did you mean 'mean'"),
        ("name", "x", "unknown key 'name'"),
        ("size", [1, 2, 3], "height, width"),
        ("size", [0, 4], "sides are 1 to"),
        ("size", True, "height, width"),
        ("crop", 1.5, "fraction"),
        ("crop", "half", "number"),
        ("resize", "linear", "did you mean 'bilinear'"),
        ("color", "BGR", "known: rgb, bgr, gray"),
        ("scale", 0, "other than 0"),
        ("scale", "1/0", "wrong"),
        ("scale", "a/b", "wrong"),
        ("scale", float("inf"), "finite"),
        ("mean", [], "finite numbers"),
        ("mean", ["0.5"], "number"),
        ("mean", [0.1, 0.2], "2 numbers.*3 channels"),
        ("std", [1, 0, 1], "> 0"),
        ("std", [float("nan")], "finite"),
        ("layout", "chw", "did you mean 'nchw'"),
    ],
)
def test_wrong_values_are_told_in_one_line(key: str, value: object, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        from_mapping({key: value}, name="x", where="x.toml")
    assert "\n" not in str(caught.value)
    assert "x.toml" in str(caught.value)


def test_unknown_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'imagenet'") as caught:
        load_preprocess("imagnet")
    assert "--preprocess" in caught.value.hint
    with pytest.raises(DataError, match="no such preprocessing file"):
        load_preprocess(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("size = [")
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        load_preprocess(str(tmp_path / "bad.toml"))
