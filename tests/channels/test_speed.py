"""What narrowing a group saves, by the estimate: what is told is what the pruned model takes."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.channels import analyze, apply_plan, make_plan
from graphopt.channels.allocation import CostModel
from graphopt.channels.allocation.speed import steps
from graphopt.errors import UsageError
from graphopt.profiles import DeviceProfile, load_device
from graphopt.profiles.roofline import estimate

T4 = load_device("t4")
NET = """g (float[1,3,64,64] x, float[{a},3,3,3] w1, float[{b},{a},3,3] w2, float[32,{b},3,3] w3)
    => (float[1,32,64,64] y) {{ a = Conv <pads=[1,1,1,1]> (x, w1)  b = Relu(a)
    c = Conv <pads=[1,1,1,1]> (b, w2)  y = Conv <pads=[1,1,1,1]> (c, w3) }}"""


def told(model, device=T4, precision="int8"):
    analysis = analyze(model)
    costs = CostModel.of(analysis, device=device, precision=precision)
    return analysis, steps([g.name for g in analysis.groups], costs)


def test_widths_just_above_a_multiple_come_first(tools):
    analysis, found = told(tools.graph(NET.format(a=128, b=66)))
    assert [(s.width, s.to, s.removed) for s in found] == [(66, 64, 2), (128, 96, 32)]
    assert found[0].per_channel_ms > found[1].per_channel_ms > 0
    assert {s.group for s in found} == {g.name for g in analysis.groups}
    assert found[0].to_json()["removed"] == 2


def test_what_is_told_is_what_the_pruned_model_saves(tools):
    model = tools.graph(NET.format(a=128, b=66))
    analysis, found = told(model)
    before = estimate(model, T4, precision="int8").ms
    for step in found:
        scores = {g.name: np.arange(g.width, dtype=float) for g in analysis.groups}
        ratios = {s.group: 0.0 for s in found} | {step.group: step.removed / step.width}
        plan = make_plan(analysis, scores, align=1, floor=1, ratios=ratios)
        assert {g.name: g.after for g in plan.groups}[step.group] == step.to
        pruned = model.clone()
        apply_plan(pruned, plan)
        after = estimate(pruned, T4, precision="int8").ms
        assert before - after == pytest.approx(step.saved_ms, abs=1e-9)


def test_a_group_as_narrow_as_a_multiple_saves_nothing(tools):
    (one, two) = told(tools.graph(NET.format(a=16, b=32)))[1]
    assert (one.to, one.removed, one.saved_ms, one.per_channel_ms) == (0, 0, 0.0, 0.0)
    assert two.to == 0


def test_what_shares_a_dimension_counts_together(tools):
    """40 and 30 make 70 channels of 96: six fewer of either make it 64."""
    text = """g (float[1,3,64,64] x, float[40,3,1,1] w1, float[30,3,1,1] w2, float[64,70,3,3] w3)
        => (float[1,64,62,62] y) { a = Conv(x, w1)  b = Conv(x, w2)
        c = Concat <axis=1> (a, b)  y = Conv(c, w3) }"""
    found = {s.width: s for s in told(tools.graph(text))[1]}
    assert found[30].to == 24
    assert found[40].to in (32, 34)


def test_a_device_of_which_nothing_is_known_is_refused(tools):
    with pytest.raises(UsageError, match="no peak for int8"):
        told(tools.graph(NET.format(a=32, b=32)), DeviceProfile("x"))
