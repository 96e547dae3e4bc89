"""What the pipeline calls: sparse and factorized models, with samples and without."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import SHARED, conv_net, image_samples, needs_shared, parse, rtx_refuses, run, sqnr
from onnx import numpy_helper
from recovery_nets import batched, halved

from graphopt.cost import cost
from graphopt.data import load_preprocess, open_data
from graphopt.errors import UsageError
from graphopt.graph import constant
from graphopt.model import Feeds, Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.low_rank import LowRank
from graphopt.passes.simplify import Simplify
from graphopt.passes.sparsify import Sparsify
from graphopt.passes.sparsity import parse_sparsity
from graphopt.recovery.weights import low_rank, reached, sparsify

X = image_samples(64)
TEST = image_samples(16, seed=9)
SHAPES = {"image": (1, 3, 16, 16)}


def samples() -> list[Feeds]:
    return batched(X, 16, "image")()


def zeros(model: Model) -> dict[str, float]:
    found = {}
    for node in model.graph.nodes:
        if node.op in ("Conv", "Gemm", "MatMul"):
            weight = np.asarray(constant(node.inputs[1]))
            found[node.name] = float(np.count_nonzero(weight == 0) / weight.size)
    return found


def distance(model: Model, other: Model) -> float:
    return sqnr(run(model, {"image": TEST})[0], run(other, {"image": TEST})[0])


@pytest.mark.parametrize("spec", ["2:4", "0.5"])
def test_each_step_brings_the_outputs_nearer(spec: str) -> None:
    model = conv_net(32)
    digest = model.digest()
    asked = parse_sparsity(spec)
    results = {
        (by, recovery): sparsify(model, asked, samples, by=by, recovery=recovery, threads=1)
        for by in ("magnitude", "obs")
        for recovery in (False, True)
    }
    assert model.digest() == digest
    for result, _ in results.values():
        assert zeros(result.model) == {"stem": 0, "conv1": 0.5, "conv2": 0.5, "fc": 0}
        assert {c.where for c in result.changes} == {"conv1", "conv2"}
        onnx.checker.check_model(result.model.to_onnx(), full_check=True)
        assert rtx_refuses(result.model) is None
    near = {key: distance(model, result.model) for key, (result, _) in results.items()}
    assert near["obs", True] > near["magnitude", True] > near["magnitude", False] + 3
    assert near["obs", False] > near["magnitude", False]
    plain = Sparsify(spec)(model).model
    assert results["magnitude", False][0].model.digest() == plain.digest()


def test_what_was_solved_is_told() -> None:
    turns: list[int] = []
    result, solved = sparsify(
        conv_net(32), parse_sparsity("2:4"), samples, threads=1, progress=turns.append
    )
    assert [s.node for s in solved] == ["conv1", "conv2", "fc"]
    assert len(turns) == 3
    assert all(0 <= s.after < 0.5 for s in solved)
    assert {s.where for s in result.skipped} == {"stem", "fc"}


def test_the_same_samples_give_the_same_bytes() -> None:
    model = conv_net(32)
    for spec in ("2:4", "0.7"):
        first, second = (
            sparsify(model, parse_sparsity(spec), samples, threads=1)[0].model.digest()
            for _ in range(2)
        )
        assert first == second
    first, second = (
        low_rank(model, 0.6, samples, shapes=SHAPES, threads=1)[0].model.digest() for _ in range(2)
    )
    assert first == second


def test_without_samples_magnitude_is_the_default_and_second_order_is_refused() -> None:
    model = conv_net(32)
    result, solved = sparsify(model, parse_sparsity("2:4"))
    assert not solved
    assert result.model.digest() == Sparsify("2:4")(model).model.digest()
    with pytest.raises(UsageError, match="--data"):
        sparsify(model, parse_sparsity("2:4"), by="obs")
    with pytest.raises(UsageError, match="obs or magnitude"):
        sparsify(model, parse_sparsity("2:4"), by="taylor")


def shared_net() -> Model:
    text = """g (float[N, 16, 8, 8] image, float[16, 16, 3, 3] w, float[16, 16, 3, 3] v) =>
              (float[N, 16, 8, 8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (image, w)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w)
        y = Conv <pads = [1, 1, 1, 1]> (c, v)
    }"""
    proto = parse(text).to_onnx()
    rng = np.random.default_rng(0)
    for name in ("w", "v"):
        array = (rng.normal(size=(16, 16, 3, 3)) / 12).astype("f4")
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
        proto.graph.input.remove(next(i for i in proto.graph.input if i.name == name))
    return Model.from_onnx(proto)


def test_shared_weights_are_cut_by_magnitude_and_stay_shared() -> None:
    model = shared_net()
    x = np.random.default_rng(1).normal(size=(32, 16, 8, 8)).astype("f4")
    result, solved = sparsify(model, parse_sparsity("2:4"), batched(x, 8, "image"), threads=1)
    assert result.model.parameters() == model.parameters() + 16  # the bias of the last
    assert set(zeros(result.model).values()) == {0.5}
    assert len(solved) == 1
    assert sum("others share" in s.reason for s in result.skipped) == 2


def test_a_layer_that_the_original_knows_nothing_of_is_cut_by_magnitude() -> None:
    model = conv_net(32)
    original = model.clone()
    renamed = next(n for n in original.graph.nodes if n.name == "conv1").outputs[0]
    renamed.name = "another"
    result, solved = sparsify(model, parse_sparsity("2:4"), samples, original=original, threads=1)
    assert zeros(result.model) == {"stem": 0, "conv1": 0.5, "conv2": 0.5, "fc": 0}
    assert "conv1" not in {s.node for s in solved}
    assert "no such output" in {s.where: s.reason for s in result.skipped}["conv1"]


def test_layers_behind_an_edit_are_reached_and_no_others() -> None:
    model = conv_net(32)
    nodes = {"conv1", "conv2", "fc"}
    assert {t.layer.node for t in reached(model, model, {"conv1"})} == nodes
    assert {t.layer.node for t in reached(model, model, {"fc"})} == {"fc"}
    assert reached(model, model, set()) == []


def test_factors_from_samples_are_nearer_and_recovery_nearer_still() -> None:
    model = conv_net(32)
    plain = low_rank(model, 0.6, shapes=SHAPES)[0].model
    assert plain.digest() == LowRank(0.6, shapes=SHAPES)(model).model.digest()
    seen, none = low_rank(model, 0.6, samples, recovery=False, shapes=SHAPES, threads=1)
    full, solved = low_rank(model, 0.6, samples, shapes=SHAPES, threads=1)
    assert not none
    assert solved
    assert distance(model, full.model) > distance(model, seen.model) > distance(model, plain)
    for found in (seen.model, full.model):
        assert cost(found, SHAPES).macs <= 0.6 * cost(model, SHAPES).macs
        onnx.checker.check_model(found.to_onnx(), full_check=True)
        assert rtx_refuses(found) is None


def test_after_pruning_the_original_is_what_is_asked_for() -> None:
    original = conv_net(64)
    cut, kept = halved(original, 128)
    plain, _ = sparsify(cut, parse_sparsity("2:4"), samples, threads=1)
    aimed, _ = sparsify(
        cut, parse_sparsity("2:4"), samples, original=original, kept=kept, threads=1
    )
    assert zeros(aimed.model) == zeros(plain.model)
    assert distance(original, aimed.model) > distance(original, plain.model) + 1
    factored, _ = low_rank(
        cut, 0.7, samples, original=original, kept=kept, shapes=SHAPES, threads=1
    )
    alone, _ = low_rank(cut, 0.7, samples, shapes=SHAPES, threads=1)
    assert distance(original, factored.model) > distance(original, alone.model) + 1


# --- the real network ------------------------------------------------------------------------


@cache
def resnet20() -> tuple[Model, Any, Any]:
    model = Model.load(SHARED / "models/resnet20_cifar10.onnx")
    for step in (Simplify(), FoldBatchNorm()):
        model = step(model).model
    pre = load_preprocess("cifar")
    calib, test = (
        open_data(str(SHARED / "cifar10" / part), model.inputs(), preprocess=pre, limit=limit)
        for part, limit in (("calib", 192), ("test", None))
    )
    return model, list(calib.batches(48)), test


def right(model: Model) -> int:
    _, _, test = resnet20()
    scores = [run(model, feeds, optimize=True)[0] for feeds in test.batches(64)]
    return int((np.concatenate(scores).argmax(axis=1) == test.labels).sum())


@needs_shared
@pytest.mark.slow
def test_resnet20_in_two_of_four_keeps_its_accuracy() -> None:
    model, calib, _ = resnet20()
    dense = right(model)
    result, _ = sparsify(model, parse_sparsity("2:4"), lambda: calib, threads=1)
    assert dense == 854
    assert right(Sparsify("2:4")(model).model) < 750
    assert right(result.model) >= dense - 14  # 1.5 points; 512 images lose none
    assert rtx_refuses(result.model) is None


@needs_shared
@pytest.mark.slow
def test_resnet20_at_half_its_operations() -> None:
    model, calib, _ = resnet20()
    plain = LowRank(0.5)(model).model
    result, _ = low_rank(model, 0.5, lambda: calib, threads=1)
    assert cost(result.model).macs <= 0.5 * cost(model).macs
    assert right(result.model) > right(plain) + 300
    assert rtx_refuses(result.model) is None
