"""What is known of an engine's inputs by its sidecar alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import conv_net

from graphopt.engines import ShapeRange
from graphopt.engines.known import known_batch, known_inputs, known_ranges
from graphopt.engines.sidecar import write_sidecar
from graphopt.errors import UsageError

SHAPES = {"x": {"min": [1, 3, 8], "opt": [4, 3, 8], "max": [8, 3, 8]}}


def engine(folder: Path, shapes: Any) -> Path:
    path = folder / "model.engine"
    path.write_bytes(b"ftrt" + bytes(60))
    write_sidecar(path, {"shapes": shapes})
    return path


def test_a_sidecar_tells_what_is_open_and_what_it_was_tuned_for(tmp_path: Path) -> None:
    path = engine(tmp_path, SHAPES)
    assert known_ranges(path) == {"x": ShapeRange((1, 3, 8), (4, 3, 8), (8, 3, 8))}
    assert known_inputs(path) == {"x": ((None, 3, 8), (4, 3, 8))}
    assert known_batch(path) == 4


def test_nothing_is_known_without_one(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"ftrt" + bytes(60))
    assert known_inputs(path) == {}
    assert known_batch(path) == 1


def test_a_model_tells_by_itself(tmp_path: Path) -> None:
    path = conv_net(8).save(tmp_path / "m.onnx")
    ((shape, tuned),) = known_inputs(path).values()
    assert shape[0] is None
    assert tuned is None
    assert known_batch(path) == 1


@pytest.mark.parametrize(
    "shapes",
    [
        {"x": None},
        {"x": {"min": [1], "opt": [1]}},
        {"x": {"min": [1], "opt": [1], "max": [1, 2]}},
        {"x": {"min": [2], "opt": [1], "max": [2]}},
        {"x": {"min": [0], "opt": [1], "max": [2]}},
        {"x": {"min": [True], "opt": [1], "max": [2]}},
        {"x": {"min": "1", "opt": "1", "max": "1"}},
    ],
)
def test_shapes_that_cannot_be_are_refused(tmp_path: Path, shapes: Any) -> None:
    with pytest.raises(UsageError, match="build it again"):
        known_inputs(engine(tmp_path, shapes))
