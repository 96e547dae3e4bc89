"""Options of quantization: what is refused names the flag and the way out, what is open is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import image_samples
from hypothesis import given
from hypothesis import strategies as st

from graphopt.console import Console
from graphopt.data import Dataset, open_data, synthetic
from graphopt.engines.target import Target, target_of
from graphopt.errors import DataError, GraphoptError, UnsupportedModelError, UsageError
from graphopt.profiles import DeviceProfile, load_device
from graphopt.quantize_options import (
    DEFAULT_CALIBRATOR,
    check_device,
    check_quantization,
    decide_quantization,
    label,
    memory_of,
    parse_size,
)
from graphopt.recipe import Quantize, Recipe
from graphopt.report import KINDS, Report

IMAGE = {"image": (np.dtype("f4"), ("N", 3, 16, 16))}
DATA = {"calibration": "calib.npz"}


def recipe(data: dict[str, Any] | None = None, gate: Any = None, **quantize: Any) -> Recipe:
    return Recipe.from_dict({"quantize": quantize, "data": data or {}, "gate": gate or {}})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("1", 1),
        ("2GB", 2_000_000_000),
        ("2 gb", 2_000_000_000),
        (" 512MiB ", 512 << 20),
        ("512 mib", 512 << 20),
        ("1.5g", 1_500_000_000),
        ("1.5GiB", 3 << 29),
        ("7k", 7000),
        ("7Ki", 7168),
        ("1T", 10**12),
        ("12B", 12),
        ("999999999999", 999_999_999_999),
    ],
)
def test_a_size_of_memory_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert memory_of(recipe({"memory": text})) == size


@pytest.mark.parametrize(
    "text",
    [
        "0", "0GB", "0.0", "0.4", "-1", "abc", "1e5XB", "1e5", "", " ", "GB", "2GBB", "2 GB GB",
        "1,5GB", "5i", "5iB", "inf", "nan", "0x10", "2PB", "9" * 400, "1." + "9" * 400,
        "2\N{KELVIN SIGN}B", "\N{ARABIC-INDIC DIGIT TWO}GB", "2GB\n3GB",
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="is no size of memory: write it like 2GB or 512MB") as e:
        parse_size(text)
    assert text in str(e.value)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        assert parse_size(text) >= 1
    except UsageError as problem:
        assert "is no size of memory" in str(problem)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "fp32"),
        ({"int8": True}, "int8"),
        ({"fp16": True}, "fp16"),
        ({"int8": True, "fp16": True}, "int8+fp16"),
        ({"weights": "int4"}, "w4"),
        ({"weights": "int8"}, "w8"),
        ({"weights": "int4", "fp16": True}, "w4+fp16"),
        ({"weights": "int8", "fp16": True}, "w8+fp16"),
    ],
)
def test_every_combination_has_a_name_and_a_kind_of_file(
    options: dict[str, Any], name: str
) -> None:
    assert label(Quantize(**options)) == name
    assert f"onnx-{name}" in KINDS


LIMIT = "needs samples to measure on: give --eval or --data"
NEEDLESS = "is about INT8, which is not asked for: give --int8"
REFUSED: list[tuple[Recipe, type[GraphoptError], str, str]] = [
    (recipe(DATA, int8=True, weights="int4"), UsageError, "--weights int4", "choose one"),
    (recipe(DATA, int8=True, calibrator="entrop"), UsageError, "entrop", "entropy"),
    (recipe({**DATA, "memory": "much"}, int8=True), UsageError, "'much'", "like 2GB"),
    (recipe(calibrator="entropy"), UsageError, "--calibrator", "give --int8"),
    (recipe(table="t.json"), UsageError, "--calibration", NEEDLESS),
    (recipe(bias=True), UsageError, "--bias-correction", NEEDLESS),
    (recipe(bias=False, fp16=True), UsageError, "--bias-correction", NEEDLESS),
    (recipe(equalize=True, weights="int4"), UsageError, "--equalize", NEEDLESS),
    (recipe(smooth=True, fp16=True), UsageError, "--smooth", NEEDLESS),
    (recipe(rounding="nearest"), UsageError, "--rounding", NEEDLESS),
    (recipe(rounding="nearest", fp16=True), UsageError, "--rounding", NEEDLESS),
    (recipe(exclude=["Gemm"]), UsageError, "--exclude-nodes", NEEDLESS),
    (recipe(block=64), UsageError, "--block", "give --weights int4"),
    (recipe(DATA, block=64, int8=True), UsageError, "--block", "give --weights int4"),
    (recipe(block=100, weights="int4"), UsageError, "--block 100", "16, 32, 64, 128"),
    (recipe(gate={"max_drop": 1}, int8=True), UsageError, "--max-drop", LIMIT),
    (recipe(gate={"min_sqnr": 20}, fp16=True), UsageError, "--min-sqnr", LIMIT),
    (
        recipe({"synthetic": True}, {"min_sqnr": 20}, int8=True),
        UsageError,
        "--min-sqnr means nothing on made-up data",
        "leave --synthetic out",
    ),
    (
        recipe({"synthetic": True}, rounding="second-order", int8=True),
        DataError,
        "--rounding second-order looks at activations",
        "give --data",
    ),
    (recipe(rounding="second-order", weights="int4"), DataError, "--rounding", "give --data"),
    (recipe(table="t", int8=True, rounding="second-order"), DataError, "--rounding", "--data"),
]


@pytest.mark.parametrize(("asked", "kind", "flag", "way_out"), REFUSED)
def test_a_contradiction_is_refused_with_the_flag_and_the_way_out(
    asked: Recipe, kind: type[GraphoptError], flag: str, way_out: str
) -> None:
    with pytest.raises(kind) as caught:
        check_quantization(asked)
    assert type(caught.value) is kind
    line = str(caught.value)
    assert flag in line
    assert way_out in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "asked",
    [
        recipe(),
        recipe(fp16=True),
        recipe(fp16=True, exclude=["Gemm"]),
        recipe(weights="int4", exclude=["Gemm"], block=64, rounding="nearest"),
        recipe(DATA, weights="int8", rounding="second-order", fp16=True),
        recipe(DATA, {"max_drop": 0.5, "min_sqnr": 20}, int8=True, fp16=True),
        recipe({"evaluation": "test.npz"}, {"min_sqnr": 20}, fp16=True),
        recipe({"synthetic": True}, int8=True, calibrator="percentile:99.9"),
        recipe(int8=True, table="t.json", rounding="nearest"),
    ],
)
def test_what_makes_sense_is_let_through(asked: Recipe) -> None:
    check_quantization(asked)


# Devices.

XAVIER, T4 = load_device("xavier"), load_device("t4")


def target(device: DeviceProfile, **options: Any) -> Target:
    return target_of(
        device, int8=bool(options.get("int8")), fp16=bool(options.get("fp16")), version=None
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "int4"}, ("--weights int4", "jetson-agx-xavier", "opset 17", "use --int8")),
        ({"weights": "int8"}, ("--weights int8", "TensorRT 10", "use --int8")),
    ],
)
def test_a_device_whose_opsets_end_early_refuses(
    options: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        check_device(recipe(**options), target(XAVIER, **options))
    for word in words:
        assert word in str(caught.value)
    check_device(recipe(**options), target(T4, **options))


@pytest.mark.parametrize("options", [{}, {"int8": True}, {"fp16": True}, {"int8": 1, "fp16": 1}])
def test_that_device_takes_both(options: dict[str, Any]) -> None:
    # TensorRT 8.5 is told FP16 by a flag, and the graph stays fp32.
    check_device(recipe(**options), target(XAVIER, **options))


def test_fp16_scales_need_an_opset_that_has_them() -> None:
    old = Target(XAVIER, max_opset=17, fp16_in_graph=True)
    with pytest.raises(UnsupportedModelError, match=r"--fp16 beside --int8 needs opset 19"):
        check_device(recipe(int8=True, fp16=True), old)


def test_a_gpu_without_fp16_refuses_it_and_one_of_which_nothing_is_known_does_not() -> None:
    maxwell = DeviceProfile("maxwell", sm=(5, 2), precisions=("fp32",))
    with pytest.raises(UsageError, match=r"maxwell has no FP16"):
        target(maxwell, fp16=True)
    check_device(recipe(fp16=True), target(DeviceProfile("cpu"), fp16=True))


# Decisions.


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    np.savez(tmp_path / "a.npz", image=image_samples(4))
    return open_data(str(tmp_path / "a.npz"), IMAGE)


def decided(
    asked: Recipe, data: Dataset | None, *, unrunnable: bool = False
) -> tuple[dict[str, object], dict[str, str]]:
    report = Report()
    ui = Console(verbosity=-1)
    found = dict(decide_quantization(asked, data, report, ui, unrunnable=unrunnable))
    asked.override({"quantize": found})  # what is decided is a recipe
    return found, {d["what"]: d["reason"] for d in report.decisions}


def test_rounding_is_by_second_order_where_there_is_real_data(data: Dataset) -> None:
    for options in ({"int8": True}, {"weights": "int4"}):
        found, reasons = decided(recipe(DATA, **options), data)
        assert found["rounding"] == "second-order"
        assert reasons["rounding"] == "there is data to weigh errors with"
        found, reasons = decided(recipe(**options), None)
        assert found["rounding"] == "nearest"
        assert reasons["rounding"] == "there is no data to weigh errors"


def test_made_up_data_weighs_nothing() -> None:
    made_up = synthetic(IMAGE, 4, seed=0, shapes={})
    found, _ = decided(recipe({"synthetic": True}, int8=True), made_up)
    assert found["rounding"] == "nearest"
    assert not any(found.get(name) for name in ("bias", "equalize", "smooth"))


def test_a_model_that_does_not_run_is_rounded_to_nearest_and_that_is_said(data: Dataset) -> None:
    found, reasons = decided(recipe(DATA, weights="int4"), data, unrunnable=True)
    assert found["rounding"] == "nearest"
    assert "does not run here" in reasons["rounding"]


def test_what_was_asked_for_is_not_decided(data: Dataset) -> None:
    asked = recipe(
        DATA, int8=True, rounding="nearest", calibrator="minmax", bias=False, equalize=False,
        smooth=False,
    )  # fmt: skip
    found, reasons = decided(asked, data)
    assert found == {"calibrator": "minmax", "quantization": "explicit"}
    assert reasons == {}


def test_the_calibrator_is_decided_where_something_is_calibrated(data: Dataset) -> None:
    assert decided(recipe(DATA, int8=True), data)[0]["calibrator"] == DEFAULT_CALIBRATOR
    assert "calibrator" not in decided(recipe(DATA, int8=True, table="t.json"), data)[0]
    assert "calibrator" not in decided(recipe(DATA, weights="int4"), data)[0]


def test_nothing_is_decided_of_fp16_alone(data: Dataset) -> None:
    assert decided(recipe(DATA, fp16=True), data) == ({}, {})
    assert decided(recipe(DATA), data) == ({}, {})
