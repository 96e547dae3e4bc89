"""One range for what a Concat or a pool joins."""

from __future__ import annotations

import onnx.parser

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.engines.dla_ranges import joined_ranges
from graphopt.model import Model

NET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4,8,8] x) => (float[1,8,4,4] y, float[1,8,8,8] z) {
  a = Relu (x)
  b = Sigmoid (x)
  c = Concat <axis = 1> (a, b)
  y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
  z = Sigmoid (c)
}"""


def test_what_a_concat_and_a_pool_join_has_the_widest_range() -> None:
    model = Model.from_onnx(onnx.parser.parse_model(NET))
    amax = {"x": 9.0, "a": 3.0, "b": 1.0, "c": 2.5, "y": 2.0, "z": 0.5}
    ranges = {name: TensorRange(value, -value, value) for name, value in amax.items()}
    table = CalibrationTable(ranges, "minmax", model.digest())
    found = joined_ranges(model, table).ranges
    assert {name: r.amax for name, r in found.items()} == {
        "x": 9.0, "a": 3.0, "b": 3.0, "c": 3.0, "y": 3.0, "z": 0.5,
    }  # fmt: skip
    assert found["b"].high == 1.0  # what was seen stays


def test_a_tensor_without_a_range_joins_nothing() -> None:
    model = Model.from_onnx(onnx.parser.parse_model(NET))
    ranges = {name: TensorRange(value, 0, value) for name, value in (("a", 3.0), ("y", 2.0))}
    found = joined_ranges(model, CalibrationTable(ranges, "minmax", model.digest())).ranges
    assert {name: r.amax for name, r in found.items()} == {"a": 3.0, "y": 2.0}
