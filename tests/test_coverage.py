from __future__ import annotations

import pytest
from helpers import conv_net, parse

from graphopt.coverage import FLOAT_COMPUTE, INTEGER_COMPUTE, count, optimized_ops
from graphopt.errors import UnsupportedModelError


def test_a_model_and_its_file_are_counted_alike(tmp_path):
    model = conv_net()
    ops = optimized_ops(model)
    assert optimized_ops(model.save(tmp_path / "m.onnx"), threads=1) == ops
    assert list(ops) == sorted(ops)
    assert (count(ops, FLOAT_COMPUTE), count(ops, INTEGER_COMPUTE)) == (4, 0)


def test_nodes_of_sub_graphs_are_counted():
    model = parse(
        "g (bool c, float[2] x) => (float[2] y) {\n"
        "  y = If(c) <\n    then_branch = t () => (float[2] a) { a = Sin(x) },\n"
        "    else_branch = e () => (float[2] b) { b = Cos(x) }\n  >\n}"
    )
    assert {"If": 1, "Sin": 1, "Cos": 1}.items() <= optimized_ops(model).items()


def test_a_model_that_is_refused_is_told():
    head = '<ir_version: 8, opset_import: ["" : 17, "other" : 1]>'
    model = parse(f"{head} g (float[1, 4] x) => (float[1, 4] y) {{ y = other.Fancy(x) }}")
    with pytest.raises(UnsupportedModelError, match="Fancy"):
        optimized_ops(model)
