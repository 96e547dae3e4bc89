"""Widths, alignment, scores, JSON, and plans that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.channels import PrunePlan, analyze, apply_plan, make_plan, masked
from graphopt.channels.allocation import Target
from graphopt.channels.plan import aligned_width, asked_width
from graphopt.errors import UsageError

TEXT = """g (float[N,3,8,6] x, float[64,3,1,1] w1, float[16,64,1,1] w2, float[5,16,1,1] w9)
    => (float[N,5,8,6] y) { a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  y = Conv(c, w9) }"""


@pytest.fixture(scope="module")
def model(tools):
    return tools.graph(TEXT)


def ones(analysis):
    return {g.name: np.arange(g.width, dtype=float) for g in analysis.groups}


@given(width=st.integers(1, 5000), percent=st.integers(0, 999))
def test_asked_is_exact_where_floats_are_not(width, percent):
    exact = ceil((1 - Fraction(percent, 1000)) * width)
    assert asked_width(width, percent / 1000) == exact


def test_the_float_trap():
    assert (1 - 0.3) * 10 > 7 or ceil((1 - 0.3) * 10) == 7
    assert asked_width(10, 0.3) == 7
    assert asked_width(100, 0.29) == 71


@given(
    width=st.integers(1, 600),
    ratio=st.floats(0, 0.999),
    align=st.sampled_from([1, 4, 8, 16, 32]),
)
def test_alignment_never_removes_more_than_asked(width, ratio, align):
    asked = asked_width(width, ratio)
    after = aligned_width(width, asked, align)
    assert asked <= after <= width
    assert after % align == 0 or after == width or after == ceil(width / 8)
    assert after >= min(width, align, ceil(width / 8))


def test_example_of_the_issue(model):
    plan = make_plan(analyze(model), ones(analyze(model)), 0.3)
    first, second = plan.groups
    assert (first.before, first.asked, first.after) == (64, 45, 48)
    assert first.removed == tuple(range(16))
    assert (second.before, second.asked, second.after, second.removed) == (16, 12, 16, ())
    assert second.note == (
        "width 16 at ratio 0.3 keeps 12, rounded up to 16 by --align 8: nothing removed; "
        "--align 1 would remove 4"
    )
    assert plan.removed == 16
    assert plan.achieved == pytest.approx(16 / 80)


def test_members_say_what_each_weight_loses(model):
    plan = make_plan(analyze(model), ones(analyze(model)), 0.5, align=1)
    lost = {(m.tensor, m.axis): m.removed for g in plan.groups for m in g.members}
    assert lost[("w1", 0)] == lost[("w2", 1)] == tuple(range(32))
    assert lost[("w2", 0)] == lost[("w9", 1)] == tuple(range(8))


@pytest.mark.parametrize("pattern", ["w1", "Conv_a", "b", "*b"])
def test_keep_names_groups_nodes_and_tensors(model, pattern):
    analysis = analyze(model)
    for node, name in zip(model.graph.nodes, ("Conv_a", "Relu_b", "Conv_c", "Conv_y"), strict=True):
        node.name = name
    analysis = analyze(model)
    plan = make_plan(analysis, ones(analysis), 0.5, align=1, keep=("nothing", pattern))
    assert [bool(g.removed) for g in plan.groups] == [False, True]
    assert plan.groups[0].note == f"kept by --keep '{pattern}'"


def test_the_least_important_go_and_ties_go_by_index(model):
    analysis = analyze(model)
    scores = {g.name: np.ones(g.width) for g in analysis.groups}
    scores[analysis.groups[1].name][[3, 9, 5]] = 0
    plan = make_plan(analysis, scores, 0.25, align=1)
    assert plan.groups[1].removed == (0, 3, 5, 9)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 30, float("nan"), float("inf")])
def test_ratios_out_of_range(model, ratio):
    analysis = analyze(model)
    with pytest.raises(UsageError, match="fraction from 0 to below 1"):
        make_plan(analysis, ones(analysis), ratio)


def test_bad_scores_and_alignment(model):
    analysis = analyze(model)
    with pytest.raises(UsageError, match="--align"):
        make_plan(analysis, ones(analysis), 0.3, align=0)
    with pytest.raises(UsageError, match="must be 64 numbers"):
        make_plan(analysis, {}, 0.3)
    nan = {g.name: np.full(g.width, np.nan) for g in analysis.groups}
    with pytest.raises(UsageError, match="NaN or infinite somewhere"):
        make_plan(analysis, nan, 0.3)


def test_json_round_trip_is_deterministic(model):
    plan = make_plan(analyze(model), ones(analyze(model)), 0.3, importance="l2")
    text = plan.to_json()
    assert PrunePlan.from_json(text) == plan
    assert PrunePlan.from_json(text).to_json() == text
    assert json.loads(text)["ratio"] == {"requested": 0.3, "achieved": 0.2}
    by_cost = make_plan(analyze(model), ones(analyze(model)), target=Target("macs", 0.5),
                        allocation="global", ratios={"w2": 0.25}, importance="obs")  # fmt: skip
    assert PrunePlan.from_json(by_cost.to_json()) == by_cost
    assert json.loads(by_cost.to_json())["target"] == {
        "kind": "macs", "value": 0.5, "reached": by_cost.reached
    }  # fmt: skip


def test_json_has_what_it_takes_to_repeat_the_cut(model):
    plan = make_plan(analyze(model), ones(analyze(model)), 0.3, importance="l2")
    first, second = json.loads(plan.to_json())["groups"]
    assert first["kind"] == "channels"
    assert first["width"] == {"before": 64, "asked": 45, "after": 48}
    assert first["ratio"] == {"requested": 0.3, "achieved": 0.25}
    assert (first["align"], first["floor"]) == (8, 8)
    assert first["scores"] == [float(i) for i in range(64)]
    assert first["members"] == [
        {"tensor": t, "axis": axis, "size": 64, "nodes": [n], "removed": list(range(16))}
        for t, axis, n in (("w1", 0, "Conv_a"), ("w2", 1, "Conv_c"))
    ]
    assert second["members"] == []
    assert second["note"].startswith("width 16 at ratio 0.3 keeps 12")


def test_scores_are_written_to_six_digits_so_that_machines_agree(model):
    analysis = analyze(model)
    scores = {g.name: np.arange(g.width) / 3 for g in analysis.groups}
    near = {n: s * (1 + 1e-12) for n, s in scores.items()}
    one, two = (make_plan(analysis, s, 0.3).to_json() for s in (scores, near))
    assert one == two
    assert 0.333333 in json.loads(one)["groups"][0]["scores"]
    tiny = {g.name: np.full(g.width, -0.0) for g in analysis.groups}
    assert "-0" not in json.dumps(json.loads(make_plan(analysis, tiny, 0.3).to_json())["groups"])


def test_version_1_is_read(model):
    """Written by graphopt 0.1: no allocation, target, scores, sizes or nodes."""
    plan = make_plan(analyze(model), ones(analyze(model)), 0.3, importance="l2")
    data = json.loads(plan.to_json())
    data["version"] = 1
    del data["allocation"], data["target"]
    for group in data["groups"]:
        for key in ("kind", "ratio", "align", "floor", "scores"):
            del group[key]
        group["achieved"] = 0.25
        for member in group["members"]:
            del member["size"], member["nodes"]
    old = PrunePlan.from_json(json.dumps(data))
    assert [(g.name, g.removed, g.ratio, g.align) for g in old.groups] == [
        (g.name, g.removed, 0.3, 8) for g in plan.groups
    ]
    assert [(m.tensor, m.axis, m.removed) for m in old.groups[0].members] == [
        (m.tensor, m.axis, m.removed) for m in plan.groups[0].members
    ]
    one, two = model.clone(), model.clone()
    apply_plan(one, plan)
    apply_plan(two, old)
    assert one.digest() == two.digest()
    assert json.loads(old.to_json())["version"] == 2


def test_nodes_tell_which_reader_of_a_shared_constant_loses_what(tools):
    text = """g (float[N,3,4,4] x, float[8,3,1,1] w1, float[8,8,1,1] w2, float[5,8,1,1] w9,
        float[8] b) => (float[N,5,4,4] y) {
        a = Conv(x, w1, b)  c = Conv(a, w2, b)  y = Conv(c, w9) }"""
    analysis = analyze(tools.graph(text))
    scores = {"Conv_a": np.arange(8.0), "Conv_c": -np.arange(8.0)}
    plan = make_plan(analysis, scores, 0.5, align=1)
    biases = [m for g in plan.groups for m in g.members if m.tensor == "b"]
    assert [(m.nodes, m.removed) for m in biases] == [
        (("Conv_a",), (0, 1, 2, 3)),
        (("Conv_c",), (4, 5, 6, 7)),
    ]


HOSTILE = {
    "no JSON": lambda d: "{",
    "a list": lambda d: "[]",
    "deep": lambda d: "[" * 100_000,
    "another format": lambda d: d.update(format="x"),
    "a newer version": lambda d: d.update(version=3),
    "version true": lambda d: d.update(version=True),
    "no target": lambda d: d.pop("target"),
    "unknown target": lambda d: d["target"].update(kind="beauty"),
    "target out of range": lambda d: d["target"].update(kind="macs", value=2),
    "cost without what was reached": lambda d: d["target"].update(kind="macs", value=0.5),
    "reached infinite": lambda d: d["target"].update(kind="macs", value=0.5, reached=1e999),
    "no allocation": lambda d: d.pop("allocation"),
    "scores of another width": lambda d: d["groups"][0].update(scores=[1.0]),
    "scores of text": lambda d: d["groups"][0].update(scores=["a"] * 64),
    "scores infinite": lambda d: d["groups"][0].update(scores=[1e999] * 64),
    "scores too large": lambda d: d["groups"][0].update(scores=[10**400] * 64),
    "group ratio missing": lambda d: d["groups"][0].pop("ratio"),
    "group align zero": lambda d: d["groups"][0].update(align=0),
    "kind a number": lambda d: d["groups"][0].update(kind=1),
    "size too small": lambda d: d["groups"][0]["members"][0].update(size=3),
    "nodes a number": lambda d: d["groups"][0]["members"][0].update(nodes=[1]),
    "ratio of text": lambda d: d["ratio"].update(requested="0.3"),
    "ratio out of range": lambda d: d["ratio"].update(requested=3),
    "ratio too large": lambda d: d["ratio"].update(requested=10**400),
    "no ratio": lambda d: d.pop("ratio"),
    "align a bool": lambda d: d.update(align=True),
    "align zero": lambda d: d.update(align=0),
    "groups a text": lambda d: d.update(groups="abc"),
    "group a number": lambda d: d.update(groups=[1]),
    "group twice": lambda d: d["groups"].append(d["groups"][0]),
    "name missing": lambda d: d["groups"][0].pop("name"),
    "width missing": lambda d: d["groups"][0].pop("width"),
    "width zero": lambda d: d["groups"][0]["width"].update(after=0),
    "width grows": lambda d: d["groups"][0]["width"].update(after=99),
    "removed not sorted": lambda d: d["groups"][0].update(removed=[2, 1]),
    "removed twice": lambda d: d["groups"][0].update(removed=[1, 1]),
    "removed negative": lambda d: d["groups"][0].update(removed=[-1]),
    "removed floats": lambda d: d["groups"][0].update(removed=[1.5]),
    "removed out of range": lambda d: d["groups"][0].update(removed=[*range(15), 64]),
    "removed does not match": lambda d: d["groups"][0].update(removed=[1]),
    "member a text": lambda d: d["groups"][0].update(members=["w1"]),
    "member without axis": lambda d: d["groups"][0]["members"][0].pop("axis"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_plans_are_refused_in_a_line(model, name):
    data = json.loads(make_plan(analyze(model), ones(analyze(model)), 0.3).to_json())
    text = HOSTILE[name](data)
    with pytest.raises(UsageError) as caught:
        PrunePlan.from_json(text if isinstance(text, str) else json.dumps(data))
    assert "\n" not in str(caught.value)


def test_a_plan_for_another_model_is_refused(tools, model):
    plan = make_plan(analyze(model), ones(analyze(model)), 0.3, align=1)
    for change, word in (
        (replace(plan.groups[0], name="elsewhere"), "no prunable group 'elsewhere'"),
        (replace(plan.groups[0], before=65), "the plan says 65"),
        (
            replace(plan.groups[0], members=(replace(plan.groups[0].members[0], axis=1),)),
            "axis 1 of 'w1'",
        ),
        (replace(plan.groups[0], removed=(64,)), "channels"),
    ):
        wrong = replace(plan, groups=(change,))
        for use in (lambda w=wrong: apply_plan(model.clone(), w), lambda w=wrong: masked(model, w)):
            with pytest.raises(UsageError, match="another model") as caught:
                use()
            assert word in str(caught.value)
    emptied = replace(plan.groups[1], removed=tuple(range(16)), members=())
    with pytest.raises(UsageError, match="removes all of"):
        apply_plan(model.clone(), replace(plan, groups=(emptied,)))
