"""Mixed precision with a budget, on models."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import SHARED, conv_net, needs_shared, parse, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from graphopt.calibrators import CalibrationTable
from graphopt.console import Console
from graphopt.data import Dataset, Preprocess, load_preprocess, open_data
from graphopt.dialects.tensorrt import TensorRT
from graphopt.errors import GateError, UsageError
from graphopt.graph import is_op
from graphopt.measure import fidelity
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.quantization import mixed
from graphopt.quantization.mixed import Found, Limit, Placement, find
from graphopt.quantization.search_limit import Verdict
from graphopt.quantization.search_trial import trials
from graphopt.quantize import calibration_table, qdq_pass, wanted_tensors

QUIET = Console(verbosity=-1)


def chain(layers: int, *, bad: int | None = None, seed: int = 0, width: int = 16) -> Model:
    """Make a chain of Conv and Relu with class scores.

    One channel of the input of the bad layer is 3,000 times larger than the others, and the layer
    gives it a weight as much smaller: in INT8 with one scale for the tensor, the others vanish.
    """
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    read, channels = "image", 3
    for index in range(layers):
        weight = rng.normal(size=(width, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        bias = rng.normal(size=width) * 0.1
        if bad is not None and index == bad - 1:
            weight[0], bias[0] = 3000 * weight[0], 3000 * bias[0]
        if index == bad:
            weight[:, 0] /= 3000
        for name, value in ((f"w{index}", weight), (f"b{index}", bias)):
            weights.append(numpy_helper.from_array(value.astype("f4"), name))
        inputs = [read, f"w{index}", f"b{index}"]
        nodes += [
            onnx.helper.make_node("Conv", inputs, [f"c{index}"], f"conv{index}", pads=[1] * 4),
            onnx.helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"),
        ]
        read, channels = f"r{index}", width
    weights.append(numpy_helper.from_array(rng.normal(size=(5, width)).astype("f4"), "wf"))
    weights.append(numpy_helper.from_array(np.zeros(5, "f4"), "bf"))
    nodes += [
        onnx.helper.make_node("GlobalAveragePool", [read], ["pooled"], "pool"),
        onnx.helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        onnx.helper.make_node("Gemm", ["flat", "wf", "bf"], ["scores"], "fc", transB=1),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "chain",
        [info("image", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [info("scores", onnx.TensorProto.FLOAT, ["N", 5])],
        weights,
    )
    opset = onnx.helper.make_opsetid("", 17)
    proto = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    # Scores around zero, so that classes differ from sample to sample.
    probe = rng.normal(size=(200, 3, 8, 8)).astype("f4")
    (scores,) = run(Model.from_onnx(proto), {"image": probe})
    graph.initializer[-1].CopyFrom(numpy_helper.from_array(-scores.mean(0), "bf"))
    proto = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return Model.from_onnx(proto)


def samples(model: Model, path: Path, count: int = 40, *, labels: bool = False) -> Dataset:
    rng = np.random.default_rng(7)
    (name, (_, shape)), *_ = model.inputs().items()
    arrays = {name: rng.normal(size=(count, *shape[1:])).astype("f4")}
    if labels:
        arrays["labels"] = run(model, arrays)[0].argmax(1)
        arrays["labels"][::7] = (arrays["labels"][::7] + 1) % 5
    np.savez(path, **arrays)
    return open_data(str(path), model.inputs())


def placement(model: Model, data: Dataset, dialect: str = "tensorrt", **options) -> Placement:
    method = options.pop("method", "minmax")
    tensors = wanted_tensors(model, options.get("exclude", ()))
    table = calibration_table(model, data, method, tensors, QUIET)
    return Placement(model, table, dialect, **options)


def value(place: Placement, names: Sequence[str], reference: Model, data: Dataset) -> Verdict:
    """What the report would say of a set."""
    quantized = qdq_pass(place.dialect, place.table, mixed.patterns(names))(place.model).model
    exact = place.dialect == "tensorrt"
    return Verdict.of(fidelity(reference, quantized, data, QUIET, exact=exact, what="int8"))


def is_minimal(found: Found, place: Placement, reference: Model, data: Dataset) -> bool:
    return not any(
        found.limit.met(value(place, rest, reference, data))
        for rest in combinations(found.exclude, len(found.exclude) - 1)
    )


@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("bad", [1, 3, 5])
def test_exactly_the_bad_layer_is_chosen(tmp_path: Path, dialect: str, bad: int) -> None:
    model = chain(6, bad=bad)
    data = samples(model, tmp_path / "x.npz")
    place = placement(model, data, dialect)
    # ONNX Runtime quantizes behind a layer: neither who writes the tensor nor who reads it may.
    layers = (f"conv{bad}",) if dialect == "tensorrt" else (f"conv{bad - 1}", f"conv{bad}")
    good = value(place, layers, model, data).sqnr_db
    found = find(place, model, data, Limit(min_sqnr=good - 1))
    assert found.full.verdict.sqnr_db < good - 8
    assert found.met
    assert found.minimal
    assert found.exclude == layers
    assert "alone in INT8" in found.reasons[found.exclude[0]]
    assert found.final == value(place, found.exclude, model, data)


def test_within_the_limit_nothing_is_left_in_float_and_nothing_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chain(3)
    data = samples(model, tmp_path / "x.npz")
    monkeypatch.setattr(mixed, "measured_alone", None)
    found = find(placement(model, data), model, data, Limit(min_sqnr=10))
    assert found.met
    assert found.minimal
    assert found.exclude == ()
    assert found.evaluations == len(found.steps) == 1
    assert len(found.lines()) == 1
    found.require()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
def test_the_set_passes_is_minimal_and_the_figure_is_that_of_the_report(
    tmp_path: Path, dialect: str, seed: int
) -> None:
    model = conv_net(16, seed=seed)
    data = samples(model, tmp_path / "x.npz", labels=True)
    place = placement(model, data, dialect)
    full = value(place, (), model, data).sqnr_db
    for more in (1.5, 4, 8):
        found = find(place, model, data, Limit(min_sqnr=full + more))
        if not found.met:
            with pytest.raises(GateError, match="cannot be met with INT8"):
                found.require()
            continue
        assert found.final == value(place, found.exclude, model, data)
        assert found.final.sqnr_db >= full + more
        assert found.minimal
        assert is_minimal(found, place, model, data)
        assert found.exclude


@given(st.integers(2, 5), st.integers(0, 99), st.floats(0.5, 12), st.sampled_from([None, 1, 2]))
@settings(max_examples=12)
def test_met_or_said_that_it_cannot_be(tmp_path_factory, layers, seed, more, bad) -> None:
    model = chain(layers, seed=seed, bad=bad)
    data = samples(model, tmp_path_factory.mktemp("x") / "x.npz", 12)
    place = placement(model, data)
    full = value(place, (), model, data).sqnr_db
    found = find(place, model, data, Limit(min_sqnr=full + more), evaluations=100)
    assert found.full.verdict.sqnr_db == full
    if found.met:
        assert value(place, found.exclude, model, data).sqnr_db >= full + more
        assert is_minimal(found, place, model, data)
        found.require()
    else:
        with pytest.raises(GateError):
            found.require()


def test_accuracy_is_judged_by_the_paired_count(tmp_path: Path) -> None:
    model = chain(5, bad=2)
    data = samples(model, tmp_path / "x.npz", 60, labels=True)
    place = placement(model, data)
    limit = Limit(max_drop=value(place, ["conv2"], model, data).drop)
    found = find(place, model, data, limit)
    assert found.full.verdict.labelled
    assert found.full.verdict.drop > limit.max_drop + 10
    assert found.met
    assert found.exclude == ("conv2",)
    assert "standard error" in found.lines()[0]
    assert "McNemar" in found.lines()[0]
    assert found.to_json()["final"]["lost"] is not None


def test_agreement_without_labels(tmp_path: Path) -> None:
    model = chain(5, bad=2)
    data = samples(model, tmp_path / "x.npz", 60)
    place = placement(model, data)
    limit = Limit(max_drop=value(place, ["conv2"], model, data).drop)
    found = find(place, model, data, limit)
    assert not found.final.labelled
    assert found.exclude == ("conv2",)
    assert "agreement" in str(found.final)


def test_what_stays_in_float_anyway_stays_and_is_not_counted(tmp_path: Path) -> None:
    model = chain(5, bad=3)
    data = samples(model, tmp_path / "x.npz")
    place = placement(model, data, exclude=("conv1", "Gemm"))
    good = value(place, ["conv1", "conv3", "fc"], model, data).sqnr_db
    found = find(place, model, data, Limit(min_sqnr=good - 1))
    assert found.exclude == ("conv3",)
    names = {node.name for node in place(found.exclude).model.graph.nodes}
    assert not any("w1" in name for name in names)
    assert found.candidates == len({s for t in found.steps for s in t.names})


def test_a_model_pruned_too_far_is_not_blamed_on_int8(tmp_path: Path) -> None:
    model, other = chain(4), chain(4, seed=1)
    data = samples(model, tmp_path / "x.npz")
    found = find(placement(model, data), other, data, Limit(min_sqnr=20))
    assert not found.met
    assert found.evaluations == 2
    assert found.exclude == ()
    with pytest.raises(GateError, match="before anything is in INT8"):
        found.require()


def test_the_best_is_told_when_evaluations_run_out(tmp_path: Path) -> None:
    model = chain(6)
    data = samples(model, tmp_path / "x.npz")
    place = placement(model, data)
    full = value(place, (), model, data).sqnr_db
    found = find(place, model, data, Limit(max_drop=100, min_sqnr=full + 5), evaluations=3)
    assert found.evaluations == 3
    assert not found.met
    assert not found.minimal
    assert len(found.exclude) < found.candidates
    assert found.final.sqnr_db == max(
        t.verdict.sqnr_db for t in found.steps if len(t.names) < found.candidates
    )
    with pytest.raises(GateError, match="the best of 3 evaluated"):
        found.require()


def test_a_limit_out_of_reach_says_so(tmp_path: Path) -> None:
    model = chain(3)
    data = samples(model, tmp_path / "x.npz")
    found = find(placement(model, data), model, data, Limit(min_sqnr=80))
    assert not found.met
    assert 0 < len(found.exclude) < found.candidates
    assert found.lines()[1].startswith("missed with")


def test_without_class_scores_a_drop_cannot_be_asked_for(tmp_path: Path) -> None:
    weight = ", ".join(["0.01"] * 16 * 16 * 9)
    model = parse(
        f"""net (float[N, 16, 6, 6] x) => (float[N, 16, 6, 6] y)
        <float[16, 16, 3, 3] w = {{{weight}}}>
        {{ y = Conv <pads = [1, 1, 1, 1]> (x, w) }}"""
    )
    data = samples(model, tmp_path / "x.npz", 4)
    with pytest.raises(UsageError, match="--min-sqnr"):
        find(placement(model, data), model, data, Limit(max_drop=1))


def test_nothing_to_quantize(tmp_path: Path) -> None:
    model = parse("net (float[N, 8] x) => (float[N, 8] y) { y = Relu (x) }")
    data = samples(model, tmp_path / "x.npz", 4)
    place = Placement(model, CalibrationTable({}, "minmax", model.digest()), "tensorrt")
    found = find(place, model, data, Limit(min_sqnr=30))
    assert found.met
    assert found.candidates == 0
    other = parse("net (float[N, 8] x) => (float[N, 8] y) { y = Abs (x) }")
    found = find(place, other, data, Limit(min_sqnr=30))
    assert not found.met
    with pytest.raises(GateError):
        found.require()


def test_names_with_wildcards_match_themselves_only(tmp_path: Path) -> None:
    model = chain(5, bad=2)
    for node in model.graph.nodes:
        if node.name.startswith("conv"):
            node.name = f"conv[{node.name[4:]}]*"
    data = samples(model, tmp_path / "x.npz")
    place = placement(model, data)
    good = value(place, ["conv[2]*"], model, data).sqnr_db
    found = find(place, model, data, Limit(min_sqnr=good - 1))
    assert found.exclude == ("conv[2]*",)
    left = qdq_pass("tensorrt", place.table, found.patterns)(model).skipped
    assert [skip.where for skip in left if "as asked" in skip.reason] == ["conv[2]*"]


def two_convs_and_an_add() -> Model:
    """y = conv_b(x) + conv_a(x), and a Conv behind: which input of the Add is quantized depends."""
    rng = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.normal(size=shape) * 0.2).astype("f4"), name)

    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["image", "w0"], ["a0"], "stem", pads=[1] * 4),
        node("Conv", ["a0", "w1"], ["a1"], "left", pads=[1] * 4),
        node("Conv", ["a0", "w2"], ["a2"], "right", pads=[1] * 4),
        node("Add", ["a1", "a2"], ["sum"], "add"),
        node("Relu", ["sum"], ["r"], "relu"),
        node("Conv", ["r", "w3"], ["last"], "last", pads=[1] * 4),
        node("GlobalAveragePool", ["last"], ["pooled"], "pool"),
        node("Flatten", ["pooled"], ["scores"], "flatten"),
    ]
    weights = [weight("w0", 16, 3, 3, 3), *(weight(f"w{i}", 16, 16, 3, 3) for i in (1, 2, 3))]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [info("image", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [info("scores", onnx.TensorProto.FLOAT, ["N", 16])],
        weights,
    )
    opset = onnx.helper.make_opsetid("", 17)
    return Model.from_onnx(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8))


def test_a_tensor_that_is_wanted_only_now_is_calibrated_now(tmp_path: Path) -> None:
    model = two_convs_and_an_add()
    data = samples(model, tmp_path / "x.npz")
    asked: list[tuple[str, ...]] = []

    def extend(names: Sequence[str]) -> CalibrationTable:
        asked.append(tuple(names))
        return calibration_table(model, data, "minmax", names, QUIET)

    tensorrt = Placement(model, CalibrationTable({}, "minmax", model.digest()), "tensorrt")
    needs = TensorRT().wanted(model, frozenset())
    table = calibration_table(model, data, "minmax", needs, QUIET)
    place = replace(tensorrt, table=table)
    full = value(place, (), model, data).sqnr_db
    whole = calibration_table(model, data, "minmax", wanted_tensors(model, ()), QUIET)
    expected = find(replace(place, table=whole), model, data, Limit(min_sqnr=full + 3))
    found = find(replace(place, extend=extend), model, data, Limit(min_sqnr=full + 3))
    assert found.exclude == expected.exclude
    assert found.final == expected.final
    assert all(name not in table.ranges for names in asked for name in names)
    assert asked
    assert place.ready(())
    assert not all(place.ready({node.name}) for node in model.graph.nodes)
    # With nothing to calibrate by, such sets are passed over, and that is said.
    alone = find(place, model, data, Limit(min_sqnr=80))
    assert any("lacks tensors" in note for note in alone.notes)


def test_the_input_is_left_alone_and_the_outcome_repeats(tmp_path: Path) -> None:
    model = conv_net(16)
    data = samples(model, tmp_path / "x.npz", labels=True)
    before = model.to_onnx().SerializeToString(deterministic=True)
    place = placement(model, data)
    full = value(place, (), model, data).sqnr_db
    first = find(place, model, data, Limit(min_sqnr=full + 3))
    again = find(place, model, data, Limit(min_sqnr=full + 3))
    assert first == again
    assert model.to_onnx().SerializeToString(deterministic=True) == before


def test_little_memory_changes_nothing(tmp_path: Path) -> None:
    model = conv_net(16)
    data = samples(model, tmp_path / "x.npz", labels=True)
    quantized = placement(model, data)().model
    verdicts = []
    for memory in (0, 40 * 10 * 4, 1 << 30):
        with trials(model, data, exact=True, memory=memory) as judge:
            verdicts += [judge(quantized), judge(quantized)]
    assert len(set(verdicts)) == 1


def test_each_set_is_run_once(tmp_path: Path) -> None:
    """Leaving an Add in float whose Conv is in float too changes nothing, and costs nothing."""
    model = conv_net(16)
    data = samples(model, tmp_path / "x.npz")
    place = placement(model, data)
    full = value(place, (), model, data).sqnr_db
    found = find(place, model, data, Limit(min_sqnr=full + 6), evaluations=100)
    assert found.evaluations < len(found.steps)
    assert len({t.names for t in found.steps}) == len(found.steps)


@needs_shared
@pytest.mark.slow
def test_a_detector_with_a_floor_on_sqnr() -> None:
    path = SHARED / "models" / "face_yunet_n.onnx"
    model = Model.load(path)
    preprocess = Preprocess(scale=1.0, color="bgr", size=(256, 320))
    data = open_data(str(SHARED / "faces"), model.inputs(), preprocess=preprocess)
    folded = FoldBatchNorm()(Simplify()(RaiseOpset(13)(model).model).model).model
    place = placement(folded, data, method="entropy")
    with trials(path, data, exact=True) as judge:
        full = judge(place().model).sqnr_db
    found = find(place, path, data, Limit(min_sqnr=full + 2))
    assert found.met
    assert 0 < len(found.exclude) < 12
    assert found.evaluations < 32
    heavy = sum(is_op(node, "Conv") for node in folded.graph.nodes)
    assert found.candidates <= heavy + 20


@needs_shared
@pytest.mark.slow
def test_a_classifier_with_a_budget_that_bad_ranges_miss() -> None:
    path = SHARED / "models" / "resnet20_cifar10.onnx"
    model = Model.load(path)
    preprocess = load_preprocess("cifar")
    calibration = open_data(
        str(SHARED / "cifar10" / "calib"), model.inputs(), preprocess=preprocess, limit=64
    )
    data = open_data(
        str(SHARED / "cifar10" / "test"), model.inputs(), preprocess=preprocess, limit=300
    )
    folded = FoldBatchNorm()(Simplify()(model).model).model
    place = placement(folded, calibration)
    # The range of one tensor is ten times too small: everything above is cut off.
    name = next(
        n.inputs[0].name for n in folded.graph.nodes if n.name == "/layer2/layer2.0/conv1/Conv"
    )
    wrong = replace(place.table.ranges[name], amax=place.table.ranges[name].amax / 10)
    place.table = replace(place.table, ranges={**place.table.ranges, name: wrong})
    found = find(place, path, data, Limit(max_drop=1.0), calibration=calibration)
    assert not found.full.met
    assert found.met
    assert found.minimal
    assert len(found.exclude) <= 2
    assert "/layer2/layer2.0/conv1/Conv" in found.exclude


def test_a_set_that_leaves_nothing_in_int8_meets_no_limit(tmp_path: Path) -> None:
    # With its Convs in float the Add is too, so that fewer than all layers are all.
    model = conv_net(32)
    data = samples(model, tmp_path / "x.npz")
    place = placement(model, data)
    convs = ("stem", "conv1", "conv2", "fc")
    assert not place(convs).changes
    found = find(place, model, data, Limit(min_sqnr=100))
    assert not found.met
    assert place(found.exclude).changes
    with pytest.raises(GateError, match="cannot be met with INT8"):
        found.require()


def test_what_ships_is_what_is_judged(tmp_path: Path) -> None:
    model = chain(3)
    data = samples(model, tmp_path / "x.npz")
    place = placement(model, data)
    seen: list[tuple[str, ...]] = []

    def refine(names: Collection[str]) -> Model:
        seen.append(tuple(names))
        return model

    def broken(quantized: Model) -> Model:
        clone = quantized.clone()
        clone.graph.nodes[-1].inputs[2].values = np.full(5, 3, np.float32)
        return clone

    full = find(place, model, data, Limit(min_sqnr=1)).final
    worse = find(replace(place, refine=refine, finish=broken), model, data, Limit(min_sqnr=80))
    assert worse.full.verdict.sqnr_db < full.sqnr_db
    assert () in seen
    assert any(names for names in seen)
