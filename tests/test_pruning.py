"""Pruning as the pipeline does it: defaults, steps, replay, recovery of what others pruned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import conv_net, image_samples, parse, run

from graphopt.channels import PrunePlan, analyze, apply_plan
from graphopt.channels.steps import goes_on, widths_on_the_way
from graphopt.console import Console
from graphopt.errors import DataError, GraphoptError, UnsupportedModelError, UsageError
from graphopt.model import Model
from graphopt.passes.prune_channels import plan_for
from graphopt.pipeline import build, preview
from graphopt.plan import Request
from graphopt.profiles import load_device
from graphopt.prune_options import choose_align
from graphopt.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and samples that live in few dimensions, so that channels repeat each other."""
    where = tmp_path_factory.mktemp("pruning")
    conv_net(16).save(where / "net.onnx")
    rng = np.random.default_rng(3)
    basis = image_samples(6, seed=4).reshape(6, -1)
    mixed = rng.normal(size=(160, 6)) @ basis + 0.05 * rng.normal(size=(160, basis.shape[1]))
    np.savez(where / "data.npz", image=mixed.reshape(160, 3, 16, 16).astype("f4"))
    return where


def request(folder: Path, out: Path, parts: dict[str, Any], model: str = "net.onnx") -> Request:
    values = {"data": {"calibration": str(folder / "data.npz")}, **parts}
    recipe = Recipe.from_dict(values)
    return Request(folder / model, recipe, out, build_engine=False)


def quiet() -> Console:
    return Console(verbosity=-1)


def values(model: Model, folder: Path) -> np.ndarray:
    return run(model, {"image": np.load(folder / "data.npz")["image"]})[0].astype(np.float64)


def error(folder: Path, path: Path) -> float:
    """Relative squared error against the dense model, on the samples."""
    dense = values(Model.load(folder / "net.onnx"), folder)
    return float(
        np.square(values(Model.load(path), folder) - dense).sum() / dense.var() / dense.size
    )


def test_with_data_it_scores_by_second_order_and_recovers(folder: Path, tmp_path: Path) -> None:
    wanted = {"ratio": 0.5, "align": 1, "allocation": "uniform"}
    report = build(request(folder, tmp_path / "a", {"prune": wanted}), quiet())
    assert report.recipe["prune"]["importance"] == "obs"
    assert report.recipe["recover"]["method"] == "least-squares"
    assert {d["what"]: d["value"] for d in report.decisions}["importance"] == "obs"
    layers = next(s for s in reversed(report.stages) if s.name == "recover").facts["layers"]
    assert [x["node"] for x in layers] == ["conv1", "conv2", "fc"]
    none = {"prune": wanted, "recover": {"method": "none"}}
    build(request(folder, tmp_path / "b", none), quiet())
    recovered, left = (error(folder, tmp_path / x / "model.onnx") for x in "ab")
    assert recovered < 0.5 * left


def test_without_data_it_scores_by_norms_and_leaves_the_weights(
    folder: Path, tmp_path: Path
) -> None:
    parts = {"data": {}, "prune": {"ratio": 0.5, "align": 1}}
    report = build(request(folder, tmp_path / "a", parts), quiet())
    assert report.recipe["prune"]["importance"] == "l2"
    assert report.recipe["recover"]["method"] == "none"
    assert not [s for s in report.stages if s.name == "recover"]


def test_a_written_recipe_gives_the_same_bytes_again(folder: Path, tmp_path: Path) -> None:
    build(request(folder, tmp_path / "a", {"prune": {"ratio": 0.4, "align": 1}}), quiet())
    recipe = Recipe.load(tmp_path / "a" / "recipe.toml")
    build(Request(folder / "net.onnx", recipe, tmp_path / "b", build_engine=False), quiet())
    for name in ("model.onnx", "prune-plan.json", "recipe.toml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_steps_add_up_to_one_plan(folder: Path, tmp_path: Path, steps: int) -> None:
    parts = {"prune": {"ratio": 0.5, "align": 1, "steps": steps, "allocation": "uniform"}}
    report = build(request(folder, tmp_path / "a", parts), quiet())
    plan = PrunePlan.from_json((tmp_path / "a" / "prune-plan.json").read_text())
    assert [g.after for g in plan.groups] == [8, 16]
    assert sum(s.name == "recover" for s in report.stages) == steps
    # The plan alone leads to the same shapes.
    model = Model.load(folder / "net.onnx")
    apply_plan(model, plan)
    pruned = Model.load(tmp_path / "a" / "model.onnx")
    shapes = {n: t.shape for n, t in model.graph.tensors().items() if n.startswith("w")}
    assert shapes == {n: t.shape for n, t in pruned.graph.tensors().items() if n.startswith("w")}


def test_widths_on_the_way_shrink_evenly_and_end_where_asked(folder: Path) -> None:
    plan = plan_for(Model.load(folder / "net.onnx"), 0.75, align=1)
    ways = [widths_on_the_way(plan, k, 4) for k in range(5)]
    for group in plan.groups:
        widths = [way[group.name] for way in ways]
        assert widths[0] == group.before
        assert widths[-1] == group.after
        assert widths == sorted(widths, reverse=True)


def test_groups_that_change_on_the_way_are_noticed(folder: Path) -> None:
    analysis = analyze(Model.load(folder / "net.onnx"))
    before = {g.name: g.width for g in analysis.groups}
    halves = {name: width // 2 for name, width in before.items()}
    assert goes_on(analysis, {}, before, halves)
    assert not goes_on(analysis, {"stem": (0, 1)}, before, halves)  # it should be narrower
    assert not goes_on(analysis, {}, {**before, "lost": 4}, {**halves, "lost": 2})
    assert goes_on(analysis, {}, {**before, "lost": 4}, {**halves, "lost": 4})  # nothing left to do


def test_a_plan_is_replayed(folder: Path, tmp_path: Path) -> None:
    build(
        request(folder, tmp_path / "a", {"prune": {"ratio": 0.5, "align": 1, "steps": 1}}), quiet()
    )
    path = tmp_path / "a" / "prune-plan.json"
    build(request(folder, tmp_path / "b", {"prune": {"plan": str(path)}}), quiet())
    for name in ("model.onnx", "prune-plan.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_dry_run_shows_the_plan_that_is_carried_out(folder: Path, tmp_path: Path) -> None:
    wanted = request(folder, tmp_path / "a", {"prune": {"ratio": 0.5, "align": 1}})
    _, done = preview(wanted, quiet())
    assert not (tmp_path / "a").exists()
    build(wanted, quiet())
    assert done.plan is not None
    assert done.plan.to_json() == (tmp_path / "a" / "prune-plan.json").read_text()


def test_a_ratio_allocated_globally_saves_what_it_does_of_every_group(
    folder: Path, tmp_path: Path
) -> None:
    macs = {}
    for allocation in ("uniform", "global"):
        parts = {"prune": {"ratio": 0.5, "align": 1, "allocation": allocation}}
        report = build(request(folder, tmp_path / allocation, parts), quiet())
        metric = report.metric("MACs")
        assert metric is not None
        macs[allocation] = metric.values["fp32"]
    assert 0.85 * macs["uniform"] < macs["global"] <= macs["uniform"]


def test_a_target_is_met(folder: Path, tmp_path: Path) -> None:
    for allocation in ("uniform", "global"):
        parts = {"prune": {"to": "macs=0.5", "align": 1, "allocation": allocation}}
        report = build(request(folder, tmp_path / allocation, parts), quiet())
        macs = report.metric("MACs")
        assert macs is not None
        assert 0.4 < macs.values["fp32"] / macs.values["before"] <= 0.5


def test_ratios_by_pattern_and_floor(folder: Path, tmp_path: Path) -> None:
    parts = {
        "prune": {
            "ratio": 0.5,
            "align": 1,
            "allocation": "uniform",
            "ratios": {"conv1": 0.75},
            "floor": 6,
        }
    }
    build(request(folder, tmp_path / "a", parts), quiet())
    plan = PrunePlan.from_json((tmp_path / "a" / "prune-plan.json").read_text())
    assert {g.name: g.after for g in plan.groups} == {"stem": 8, "conv1": 8}


def test_a_model_pruned_elsewhere_is_recovered(folder: Path, tmp_path: Path) -> None:
    model = Model.load(folder / "net.onnx")
    analysis = analyze(model)
    plan = plan_for(model, 0.5, importance="l1", align=1, analysis=analysis)
    apply_plan(model, plan, analysis)
    model.save(tmp_path / "pruned.onnx")
    parts = {"recover": {"original": str(folder / "net.onnx")}}
    wanted = request(folder, tmp_path / "a", parts)
    wanted = Request(tmp_path / "pruned.onnx", wanted.recipe, tmp_path / "a", build_engine=False)
    report = build(wanted, quiet())
    found = PrunePlan.from_json((tmp_path / "a" / "prune-plan.json").read_text())
    assert [g.removed for g in found.groups] == [g.removed for g in plan.groups]
    recovered = error(folder, tmp_path / "a" / "model.onnx")
    assert recovered < 0.5 * error(folder, tmp_path / "pruned.onnx")
    sqnr = report.metric("SQNR")
    assert sqnr is not None
    assert sqnr.values["fp32"] > sqnr.values["before"]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"prune": {"ratio": 0.3, "to": "macs=0.5"}}, "--prune names a ratio and --prune-to"),
        ({"prune": {"ratio": 0.3, "plan": "p.json"}}, "--plan says what to remove"),
        ({"prune": {"to": "flops=0.5"}}, "unknown target 'flops'"),
        ({"prune": {"ratio": 0.3, "importance": "obz"}}, "did you mean 'obs'"),
        ({"prune": {"ratio": 0.3}, "recover": {"method": "least"}}, "unknown recovery 'least'"),
        ({"prune": {"ratio": 0.3}, "recover": {"original": "x.onnx"}}, "as it was pruned"),
        ({"prune": {"plan": "nowhere.json"}}, "nowhere.json"),
        ({"prune": {"plan": "p.json", "steps": 3}}, "leave --prune-steps out"),
        ({"prune": {"importance": "l2"}}, "nothing is pruned"),
        ({"recover": {"method": "affine"}}, "nothing is pruned"),
        ({"prune": {"to": "ratio=0.3"}}, "says what remains"),
    ],
)
def test_contradictions_are_told(
    folder: Path, tmp_path: Path, parts: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        build(request(folder, tmp_path / "a", parts), quiet())
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "parts",
    [
        {"prune": {"ratio": 0.3, "importance": "obs"}},
        {"prune": {"ratio": 0.3}, "recover": {"method": "affine"}},
        {"prune": {"ratio": 0.3, "steps": 2}},
        {"recover": {"original": "net.onnx"}},
    ],
)
def test_what_needs_samples_says_so(folder: Path, tmp_path: Path, parts: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="--data"):
        build(request(folder, tmp_path / "a", {"data": {}, **parts}), quiet())


def test_an_original_that_is_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    conv_net(8, seed=5).save(tmp_path / "other.onnx")
    parts = {"recover": {"original": str(tmp_path / "other.onnx")}}
    with pytest.raises(GraphoptError):
        build(request(folder, tmp_path / "a", parts), quiet())


def test_the_report_lists_what_was_recovered(folder: Path, tmp_path: Path) -> None:
    build(request(folder, tmp_path / "a", {"prune": {"ratio": 0.5, "align": 1}}), quiet())
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    stage = [s for s in report["stages"] if s["name"] == "recover"][-1]
    assert stage["facts"]["method"] == "least-squares"
    for layer in stage["facts"]["layers"]:
        assert 0 <= layer["after"] <= layer["before"] < 1


@pytest.mark.parametrize("parts", [{"keep": ["conv1", "no*"]}, {"ratios": {"no*": 0.5}}])
def test_a_pattern_that_names_nothing_is_told(
    folder: Path, tmp_path: Path, parts: dict[str, Any]
) -> None:
    wanted = {"ratio": 0.5, "align": 1, "importance": "l1", **parts}
    report = build(request(folder, tmp_path / "a", {"prune": wanted}), quiet())
    stage = next(s for s in report.stages if s.name == "prune-channels")
    assert [r["where"] for r in stage.skipped if "matches no" in r["reason"]] == ["no*"]
    assert ["no*" in warning for warning in report.warnings if "matches" in warning] == [True]


def test_a_model_without_layers_has_nothing_to_prune(tmp_path: Path) -> None:
    parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }").save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((8, 4), np.float32))
    report = build(request(tmp_path, tmp_path / "a", {"prune": {"ratio": 0.3}}), quiet())
    assert any("removed nothing" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    "parts",
    [{"prune": {"ratio": 0.3}}, {"weights": {"sparsity": "0.5"}}, {"prune": {"to": "macs=0.5"}}],
)
def test_weights_that_are_nan_are_refused(
    folder: Path, tmp_path: Path, parts: dict[str, Any]
) -> None:
    model = Model.load(folder / "net.onnx")
    weight = model.graph.tensors()["w1"]
    broken = weight.values.copy()
    broken[0, 1, 2, 0] = np.nan
    weight.values = broken
    model.save(tmp_path / "net.onnx")
    parts = {"data": {"calibration": str(folder / "data.npz")}, **parts}
    with pytest.raises(UnsupportedModelError, match="NaN or infinity"):
        build(request(tmp_path, tmp_path / "a", parts), quiet())


@pytest.mark.parametrize(
    ("channels", "prune", "align"),
    [
        (32, {"ratio": 0.3}, 16),  # of 64 channels 48 are left; with 32 all would be
        (32, {"ratio": 0.6}, 32),
        (256, {"ratio": 0.3}, 32),
        (8, {"ratio": 0.3}, 8),  # nothing helps: not below what every kernel wants
        (256, {"to": "macs=0.5"}, 32),
    ],
)
def test_widths_divide_by_what_the_device_wants_unless_nothing_would_go(
    channels: int, prune: dict[str, object], align: int
) -> None:
    recipe = Recipe.from_dict({"prune": prune, "quantize": {"int8": True}})
    found, why = choose_align(conv_net(channels), recipe, load_device("t4"))
    assert found == align
    assert ("too narrow" in why) is (align < 32)
