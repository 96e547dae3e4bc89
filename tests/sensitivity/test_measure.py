"""Every figure against the straightforward way: the whole changed model beside the whole model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import SHARED, needs_shared

from graphopt.channels import analyze as find_groups
from graphopt.channels import apply_plan, make_plan
from graphopt.channels.importance import IMPORTANCES
from graphopt.console import Console
from graphopt.data import Dataset, load_preprocess, open_data
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.quantize import calibration_table, wanted_tensors
from graphopt.sensitivity import Item, Loss, Options, Sensitivity, analyze, fewer, steps
from graphopt.sensitivity import measure as measuring
from graphopt.sensitivity.layers import layer_alone
from graphopt.verify import compare, opened

NETS = ["residual", "chain", "branches", "skips", "bodies", "linear", "sequences"]
QUIET = Console(verbosity=-1)


def folded(model: Model) -> Model:
    model = RaiseOpset(13)(model).model if model.opset < 13 else model
    return FoldBatchNorm()(Simplify()(model).model).model


def beside(before: Model, after: Model, data: Dataset, *, optimize: bool = True) -> Loss:
    with ExitStack() as stack:
        run_a = stack.enter_context(opened(before))
        run_b = stack.enter_context(opened(after, optimize=optimize))
        return Loss.of(compare(run_a, run_b, data))


class Plainly:
    """Makes the whole changed model of an item and runs it from start to end."""

    def __init__(self, model: Model, data: Dataset, dialect: str, importance: str = "l2") -> None:
        self.model, self.data, self.dialect = folded(model), data, dialect
        self.groups = find_groups(self.model)
        score = IMPORTANCES.load(importance)
        self.scores = score(self.model, self.groups.groups) if self.groups.groups else {}
        tensors = wanted_tensors(self.model, ())
        self.table = calibration_table(self.model, data, Options().calibrator, tensors, QUIET)
        self.everywhere = InsertQDQ(dialect, self.table)(self.model).model

    def loss(self, item: Item, data: Dataset) -> Loss:
        if item.kind == "int8":
            alone = layer_alone(self.model, self.everywhere, item.name)
            return beside(self.model, alone, data, optimize=self.dialect == "onnxruntime")
        plan = make_plan(self.groups, self.scores, item.ratio, align=1)
        plan = replace(plan, groups=tuple(g for g in plan.groups if g.name == item.name))
        assert plan.groups[0].after == item.kept
        variant = self.model.clone()
        apply_plan(variant, plan)
        return beside(self.model, variant, data)


def alike(item: Item, plain: Loss) -> None:
    """The same but for the rounding of sums that ONNX Runtime forms in another order.

    A value that lies half-way between two integers may then be rounded to the other one: 0.1 dB
    where there are as few values as here. A scale that is 10 % off makes 0.8 dB.
    """
    found, margin = item.loss, 0.25 if item.kind == "int8" else 0.01
    assert list(found.outputs) == list(plain.outputs)
    pairs = [(value, plain.outputs[name]) for name, value in found.outputs.items()]
    for a, b in [(found.sqnr_db, plain.sqnr_db), *pairs]:
        if a == b:
            continue
        assert min(a, b) > 100 or a == pytest.approx(b, abs=margin), (found, plain)
    counts = ("agree", "right_before", "right_after", "only_before", "only_after")
    for name in ("samples", "broken", *counts):
        assert getattr(found, name) == getattr(plain, name), name
    assert found.max_abs == pytest.approx(plain.max_abs, rel=0.05, abs=1e-4)


@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("name", NETS)
def test_figures_are_those_of_the_whole_changed_model(
    name: str, dialect: str, tools, tmp_path: Path
) -> None:
    model = tools.nets[name]()
    labels = 5 if name in ("chain", "bodies") else 0
    data = tools.samples(model, tmp_path / "x.npz", labels=labels)
    options = Options(ratios=(0.3, 0.5), importance="l2", dialect=dialect)
    found = analyze(model, data, options=options)
    assert found.complete
    assert found.of("prune")
    assert found.of("int8")
    plainly = Plainly(model, data, dialect)
    for item in found.items:
        alike(item, plainly.loss(item, data))
    if labels:
        assert all(item.loss.right_before is not None for item in found.items)


@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
def test_a_layer_alone_is_what_the_build_makes_of_it_when_all_others_are_excluded(
    dialect: str, tools, tmp_path: Path
) -> None:
    model = tools.chain()
    data = tools.samples(model, tmp_path / "x.npz")
    plainly = Plainly(model, data, dialect)
    found = analyze(model, data, options=Options(kinds=("int8",), dialect=dialect))
    convs = [item for item in found.items if item.op == "Conv"]
    assert len(convs) == 3
    exact = dialect == "tensorrt"
    for item in convs:
        others = tuple(n.name for n in plainly.model.graph.nodes if n.name != item.name
                       and n.op != "Relu")  # fmt: skip
        built = InsertQDQ(dialect, plainly.table, others)(plainly.model)
        assert [c.where for c in built.changes if c.kind == "quantized"] == [item.name]
        alike(item, beside(plainly.model, built.model, data, optimize=not exact))


def test_one_layer_alone_is_the_whole_of_a_model_with_one_layer(tools, tmp_path: Path) -> None:
    net = tools.net()
    model = net.model({"x": ["N", 16, 6, 6]}, {net.conv("x", 16, 32, relu=False): ["N", 32, 6, 6]})
    data = tools.samples(model, tmp_path / "x.npz")
    plainly = Plainly(model, data, "tensorrt")
    (item,) = analyze(model, data, options=Options()).items
    assert (item.kind, item.op, item.macs) == ("int8", "Conv", 32 * 16 * 9 * 36)
    alike(item, beside(plainly.model, plainly.everywhere, data, optimize=False))


@pytest.mark.parametrize("name", NETS)
def test_only_what_lies_behind_a_change_is_run(
    name: str, tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tools.nets[name]()
    data = tools.samples(model, tmp_path / "x.npz")
    regions, parts = [], []
    region, part = measuring.region, steps.part

    def noted_region(variant, is_changed):
        regions.append(region(variant, is_changed))
        return regions[-1]

    def noted_part(variant, feeds, outputs):
        made = part(variant, feeds, outputs)
        parts.append({node.name for node in made.graph.nodes})
        needed = {*regions[0].changed, *regions[0].affected}
        extra = [n for n in made.graph.nodes if n.name not in needed]
        assert not extra, f"{[n.name for n in extra]} are known already"
        return made

    original = measuring._Run.loss

    def loss(self, job, variant):
        regions.clear()
        return original(self, job, variant)

    monkeypatch.setattr(measuring, "region", noted_region)
    monkeypatch.setattr(steps, "part", noted_part)
    monkeypatch.setattr(measuring._Run, "loss", loss)
    analyze(model, data, options=Options(importance="l2", ratios=(0.3,)))
    assert parts


def test_the_unchanged_model_runs_each_node_once(
    tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphopt.statistics import replay

    model = tools.nets["branches"]()
    data = tools.samples(model, tmp_path / "x.npz")
    ran: list[str] = []
    part = replay._part

    def noted(*args):
        made = part(*args)
        ran.extend(node.name for node in made.graph.nodes)
        return made

    monkeypatch.setattr(replay, "_part", noted)
    analyze(model, data, options=Options(importance="l2"))
    assert len(ran) == len(set(ran)) > 5


def test_activations_go_to_disk_and_the_figures_stay(tools, tmp_path: Path) -> None:
    model = tools.nets["branches"]()
    data = tools.samples(model, tmp_path / "x.npz")
    options = Options(importance="l2", ratios=(0.5,))
    assert analyze(model, data, options=options) == analyze(
        model, data, options=replace(options, memory=0)
    )


def test_the_model_given_is_left_as_it_was(tools, tmp_path: Path) -> None:
    model = tools.nets["skips"]()
    before = model.digest()
    analyze(model, tools.samples(model, tmp_path / "x.npz"), options=Options(importance="l2"))
    assert model.digest() == before


def test_scores_that_look_at_data_decide_with_obs(tools, tmp_path: Path) -> None:
    model = tools.chain()
    data = tools.samples(model, tmp_path / "x.npz")
    found = analyze(model, data, options=Options(kinds=("prune",), ratios=(0.5,)))
    assert found.subject.importance == "obs"
    assert all(0 < item.loss.noise < 4 for item in found.items)


def test_losses_are_measured_on_other_samples_where_some_are_given(tools, tmp_path: Path) -> None:
    model = tools.chain()
    data = tools.samples(model, tmp_path / "x.npz")
    test = tools.samples(model, tmp_path / "y.npz", 12, labels=5, seed=8)
    options = Options(importance="l2", ratios=(0.5,))
    found = analyze(model, data, test, options)
    assert (found.subject.samples, found.subject.on_calibration) == (12, False)
    plainly = Plainly(model, data, "tensorrt")
    for item in found.items:
        alike(item, plainly.loss(item, test))
        assert item.loss.right_before is not None


def test_macs_are_those_of_the_pruned_model(tools, tmp_path: Path) -> None:
    from graphopt.cost import cost

    model = tools.nets["skips"]()
    found = analyze(
        model,
        tools.samples(model, tmp_path / "x.npz"),
        options=Options(kinds=("prune",), importance="l2", ratios=(0.5,)),
    )
    dense = folded(model)
    groups = find_groups(dense)
    scores = IMPORTANCES.load("l2")(dense, groups.groups)
    assert found.macs == cost(dense).macs
    for item in found.items:
        plan = make_plan(groups, scores, 0.5, align=1)
        plan = replace(plan, groups=tuple(g for g in plan.groups if g.name == item.name))
        variant = dense.clone()
        apply_plan(variant, plan)
        assert item.macs == found.macs - cost(variant).macs


def test_what_cannot_be_measured_is_listed_with_the_reason(tools, tmp_path: Path) -> None:
    model = tools.chain()
    found = analyze(
        model,
        tools.samples(model, tmp_path / "x.npz"),
        options=Options(importance="l2", ratios=(0.01, 0.5)),
    )
    told = {(out.kind, out.ratio, out.reason.split(":")[0]) for out in found.left_out}
    assert ("prune", 0.01, "16 channels at ratio 0.01") in told
    assert any(out.reason.startswith("frozen: graph output") for out in found.left_out)
    assert any(out.kind == "int8" and "Gemm" in out.reason for out in found.left_out)


def test_a_quantized_model_is_pruned_only_or_refused(tools, tmp_path: Path) -> None:
    model = tools.chain()
    data = tools.samples(model, tmp_path / "x.npz")
    quantized = Plainly(model, data, "tensorrt").everywhere
    found = analyze(quantized, data, options=Options(importance="l2"))
    assert not found.of("int8")
    assert [out.name for out in found.left_out if out.kind == "int8"] == ["the model"]
    with pytest.raises(UnsupportedModelError, match="nothing can be measured"):
        analyze(quantized, data, options=Options(kinds=("int8",)))


def test_options_out_of_range_are_refused(tools, tmp_path: Path) -> None:
    model = tools.chain()
    data = tools.samples(model, tmp_path / "x.npz")
    for options in (Options(ratios=(0.5, 1.0)), Options(kinds=()), Options(importance="l3")):
        with pytest.raises(UsageError):
            analyze(model, data, options=options)


def test_fewer_samples_are_whole_batches_of_all_classes(tools, tmp_path: Path) -> None:
    model = tools.chain()
    data = tools.samples(model, tmp_path / "x.npz", 40, labels=4)
    few = fewer(data, 12, 0)
    assert data.labels is not None
    assert np.bincount(few.labels).tolist() == np.minimum(np.bincount(data.labels), 3).tolist()
    assert fewer(data, 100, 0) is data
    fixed = tools.nets["linear"]()
    assert len(fewer(tools.samples(fixed, tmp_path / "z.npz"), 5, 0)) == 4


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
def test_figures_of_resnet20(dialect: str) -> None:
    model = Model.load(SHARED / "models/resnet20_cifar10.onnx")
    data = open_data(
        str(SHARED / "cifar10/test"), model.inputs(), preprocess=load_preprocess("cifar"), limit=32
    )
    options = Options(importance="l2", ratios=(0.3,), dialect=dialect)
    found: Sensitivity = analyze(model, data, options=options)
    assert len(found.of("prune")) == 12
    plainly = Plainly(model, data, dialect)
    for item in found.items:
        alike(item, plainly.loss(item, data))
