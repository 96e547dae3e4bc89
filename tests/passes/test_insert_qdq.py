"""The pass around the dialects: patterns, errors, determinism."""

from __future__ import annotations

import pytest
from helpers import conv_net, image_samples, run

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.dialects import DIALECTS
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.passes.insert_qdq import InsertQDQ, excluded_nodes

BOTH = pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])


def table_for(model, *dialects: str) -> CalibrationTable:
    names = [n for d in dialects for n in DIALECTS.load(d)().wanted(model, frozenset())]
    return CalibrationTable(dict.fromkeys(names, TensorRange(6.0, -6.0, 6.0)), "unit", "")


@BOTH
def test_the_same_input_gives_the_same_bytes_and_stays_as_it_was(dialect):
    model = conv_net()
    before = model.to_onnx().SerializeToString(deterministic=True)
    table = table_for(model, dialect)
    backwards = CalibrationTable(dict(reversed(table.ranges.items())), "unit", "")
    results = [InsertQDQ(dialect, t)(m) for t, m in [(table, model), (backwards, conv_net())]]
    made = [r.model.to_onnx().SerializeToString(deterministic=True) for r in results]
    assert made[0] == made[1]
    assert results[0].changes == results[1].changes
    assert model.to_onnx().SerializeToString(deterministic=True) == before


@BOTH
def test_every_head_is_a_change_or_a_skip(dialect):
    model = conv_net()
    result = InsertQDQ(dialect, table_for(model, dialect))(model)
    told = {c.where for c in result.changes} | {s.where for s in result.skipped}
    assert {"stem", "conv1", "conv2", "fc"} <= told
    assert result.counts() == {"quantized": len(result.changes)}
    assert len({c.where for c in result.changes}) == len(result.changes)


@BOTH
def test_a_second_layer_of_qdq_is_refused(dialect):
    model = conv_net()
    table = table_for(model, dialect)
    with pytest.raises(UnsupportedModelError, match="quantized already"):
        InsertQDQ(dialect, table)(InsertQDQ(dialect, table)(model).model)


@BOTH
def test_a_table_of_another_model_names_the_first_missing_tensor(dialect):
    table = CalibrationTable({"image": TensorRange(1.0, -1.0, 1.0)}, "unit", "")
    with pytest.raises(UsageError, match=r"no range for tensor 'r0' and .* more: it belongs"):
        InsertQDQ(dialect, table)(conv_net())


@BOTH
def test_patterns_over_names_and_operators(dialect):
    model = conv_net()
    table = table_for(model, dialect)
    result = InsertQDQ(dialect, table, ("conv?", "Gemm", "absent*"))(model)
    reasons = {s.where: s.reason for s in result.skipped}
    assert reasons["absent*"] == "this exclude pattern matches no node's name or operator"
    assert {w for w, r in reasons.items() if "as asked" in r} == {"conv1", "conv2", "fc"}
    heads = {c.where for c in result.changes if c.detail.startswith("Conv")}
    assert heads == {"stem"}


def test_excluding_everything_leaves_the_model_as_it_was():
    model = conv_net()
    result = InsertQDQ("onnxruntime", table_for(model, "onnxruntime"), ("*",))(model)
    assert not result.changes
    assert result.model.digest() == model.digest()


def test_excluded_nodes_is_a_union_and_case_sensitive():
    model = conv_net()
    assert excluded_nodes(model, ()) == frozenset()
    assert excluded_nodes(model, ("Conv", "fc")) == {"stem", "conv1", "conv2", "fc"}
    assert excluded_nodes(model, ("conv",)) == frozenset()


def test_a_node_without_a_name_goes_by_its_output():
    model = conv_net()
    model.graph.nodes[0].name = ""
    assert excluded_nodes(model, ("c0",)) == {"c0"}


def test_an_unknown_dialect_is_told_the_known_ones():
    model = conv_net()
    with pytest.raises(UsageError, match=r"'tensort' \(did you mean 'tensorrt'\?\)"):
        InsertQDQ("tensort", table_for(model, "tensorrt"))(model)


@BOTH
def test_one_table_serves_both_dialects(dialect):
    model = conv_net()
    made = InsertQDQ(dialect, table_for(model, "tensorrt", "onnxruntime"))(model).model
    feeds = {"image": image_samples(3)}
    assert run(made, feeds)[0].shape == run(model, feeds)[0].shape
