"""The recipe: TOML and flags, unknown keys, shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import RecipeError, UsageError
from graphopt.recipe import Recipe, parse_one_profile, parse_shapes
from graphopt.toml import load_toml

FULL = """
[prune]
ratio = 0.3
keep = ["head*"]
[quantize]
int8 = true
calibrator = "percentile"
[data]
calibration = "images"
[engine]
name = "onnxruntime"
[engine.shapes.input]
min = [1, 3, 8, 8]
opt = [2, 3, 8, 8]
max = [4, 3, 8, 8]
[gate]
max_drop = 0.5
"""


def test_reads_toml_and_writes_back_the_same(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(FULL)
    recipe = Recipe.load(tmp_path / "r.toml")
    assert recipe.prune.ratio == 0.3
    assert recipe.engine.shapes["input"].max == (4, 3, 8, 8)
    (tmp_path / "again.toml").write_text(recipe.to_toml())
    assert Recipe.load(tmp_path / "again.toml") == recipe


def test_every_default_is_written_out() -> None:
    text = Recipe().to_toml()
    for key in ("keep", "exclude", "samples", "seed", "device"):
        assert f"{key} = " in text


def test_flags_override_the_file_and_none_does_not() -> None:
    base = Recipe.from_dict({"prune": {"ratio": 0.3}})
    changed = base.override({"prune": {"ratio": 0.5}, "quantize": {"int8": None}})
    assert changed.prune.ratio == 0.5
    assert base.override({"prune": {"ratio": None}}) == base


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"prune": {"ratoi": 0.3}}, r"unknown key 'prune.ratoi' \(did you mean 'ratio'\?\)"),
        ({"prun": {}}, r"unknown key 'prun' \(did you mean 'prune'\?\)"),
        ({"prune": {"ratio": 1.5}}, r"'prune.ratio': input should be less than 1 \(got 1.5\)"),
        ({"prune": {"ratio": float("nan")}}, "'prune.ratio'"),
        ({"prune": 3}, "'prune'"),
        (
            {"engine": {"shapes": {"x": {"min": [2], "opt": [1], "max": [3]}}}},
            "min <= opt <= max",
        ),
        ({"engine": {"shapes": {"x": {"min": [1], "opt": [1, 2], "max": [1]}}}}, "same number"),
        ({"engine": {"shapes": {"x": {"min": [0], "opt": [1], "max": [1]}}}}, "shapes.x.min"),
    ],
)
def test_what_is_wrong_is_one_line(values: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        Recipe.from_dict(values)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(RecipeError, match=r"prune\.align.*quantize\.int"):
        Recipe.from_dict({"prune": {"align": 0}, "quantize": {"int": 1}})


def test_bad_toml_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[prune\n")
    with pytest.raises(RecipeError, match=r"r\.toml is not valid TOML.*line 1"):
        load_toml(tmp_path / "r.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not text"):
        load_toml(tmp_path / "b.toml")
    with pytest.raises(UsageError, match="no such file"):
        load_toml(tmp_path / "none.toml")


def test_shapes_fill_in_what_is_missing() -> None:
    (shapes,) = parse_shapes((), ("in:1x3x8x8,b:1",), ("in:4x3x8x8",))
    assert shapes == {
        "b": {"min": (1,), "opt": (1,), "max": (1,)},
        "in": {"min": (1, 3, 8, 8), "opt": (1, 3, 8, 8), "max": (4, 3, 8, 8)},
    }
    assert parse_shapes((), (), ()) == []


def test_names_with_colons_are_kept_whole() -> None:
    assert list(parse_shapes((), ("serving:0:2x2",), ())[0]) == ["serving:0"]


def test_an_input_named_again_begins_another_profile() -> None:
    small, large = parse_shapes((), ("in:1x3", "in:8x3,b:2"), ("in:4x3,in:32x3",))
    assert small == {
        "b": {"min": (2,), "opt": (2,), "max": (2,)},
        "in": {"min": (1, 3), "opt": (1, 3), "max": (4, 3)},
    }
    assert large["in"] == {"min": (8, 3), "opt": (8, 3), "max": (32, 3)}
    assert large["b"] == small["b"]
    with pytest.raises(UsageError, match=r"'in' has 2 shapes where there are 3"):
        parse_shapes((), ("in:1", "in:2", "in:3"), ("in:4,in:4",))
    with pytest.raises(UsageError, match="several optimization profiles are for a build"):
        parse_one_profile((), ("in:1", "in:2"), ())


@pytest.mark.parametrize("spec", ["in", "in:", "in:axb", ":1x2", "in:1x2:", "in:1xx2"])
def test_bad_shapes_are_told(spec: str) -> None:
    with pytest.raises(UsageError, match=r"--opt-shapes .* is not of the form"):
        parse_shapes((), (spec,), ())


@given(st.text(max_size=30))
def test_any_text_is_a_shape_or_one_line(text: str) -> None:
    try:
        parse_shapes((), (text,), ())
    except UsageError as problem:
        assert "--opt-shapes" in str(problem)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"quantize": {"exclude": "Gemm"}}, "must be a list, in brackets"),
        ({"prune": 3}, "must be a table"),
        ({"engine": {"shapes": 3}}, "must be a table"),
    ],
)
def test_wrong_types_are_told_in_the_words_of_toml(values: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        Recipe.from_dict(values)


@pytest.mark.parametrize("spec", ["in:0x3", "in:-1x3"])
def test_shapes_hold_something(spec: str) -> None:
    with pytest.raises(UsageError, match="--opt-shapes"):
        parse_shapes((), (spec,), ())


@pytest.mark.parametrize(
    "engine", [{"host": ""}, {"trtexec": ""}, {"time_limit": 0}, {"time_limit": 1e12}, {"dla": 16}]
)
def test_options_of_builds_have_bounds(engine: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=rf"engine\.{next(iter(engine))}"):
        Recipe.from_dict({"engine": engine})
