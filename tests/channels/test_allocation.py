"""How many channels each group keeps: targets, uniform, global, and what a user says by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.channels import analyze, make_plan
from graphopt.channels.allocation import ALLOCATIONS, CostModel, Decision, Limit, Problem, Target
from graphopt.channels.allocation.limits import limits_of
from graphopt.channels.allocation.problem import loss_curve
from graphopt.errors import UsageError
from graphopt.passes.base import Skip
from graphopt.passes.prune_channels import PruneChannels, plan_for
from graphopt.profiles import DeviceProfile

# Two blocks on a residual stream, then a wider end.
NET = """g (float[1,3,16,16] x, float[24,3,3,3] w0, float[32,24,3,3] w1, float[24,32,3,3] w2,
            float[40,24,3,3] w3, float[24,40,3,3] w4, float[64,24,1,1] w5, float[5,64,1,1] w6)
    => (float[1,5,16,16] y) {
    a = Conv <pads=[1,1,1,1]> (x, w0)  b = Conv <pads=[1,1,1,1]> (a, w1)
    c = Conv <pads=[1,1,1,1]> (b, w2)  d = Add(a, c)
    e = Conv <pads=[1,1,1,1]> (d, w3)  f = Conv <pads=[1,1,1,1]> (e, w4)  h = Add(d, f)
    i = Conv (h, w5)  y = Conv (i, w6) }"""
DEVICE = DeviceProfile(
    "d", peaks={"int8": 0.1}, bandwidth_gbs=1.0, channel_multiple={"int8": 8}
)  # So slow that kernel launches hardly count.


@pytest.fixture(scope="module")
def analysis(tools):
    return analyze(tools.graph(NET))


@pytest.fixture(scope="module")
def costs(analysis):
    return CostModel.of(analysis, device=DEVICE, precision="int8")


def scores_of(analysis, seed):
    rng = np.random.default_rng(seed)
    return {g.name: rng.random(g.width) ** 3 * rng.uniform(0.1, 2) for g in analysis.groups}


def kept(plan):
    return [g.after for g in plan.groups]


# Targets.


def test_targets_are_read_and_checked():
    assert Target.parse("macs=0.5") == Target("macs", 0.5)
    assert str(Target.parse("LATENCY = .7".replace(" ", ""))) == "latency=0.7"
    assert Target("ratio", 0.0).value == 0
    for text, word in (
        ("macs", "a target is written as"),
        ("macs=half", "a target is written as"),
        ("=0.5", "unknown target ''"),
        ("mac=0.5", "did you mean 'macs'"),
        ("macs=0", "above 0 and up to 1"),
        ("params=1.5", "above 0 and up to 1"),
        ("latency=nan", "above 0 and up to 1"),
        ("ratio=1", "from 0 to below 1"),
    ):
        with pytest.raises(UsageError, match=word) as caught:
            Target.parse(text)
        assert "\n" not in str(caught.value)


def test_unknown_allocations_are_refused(analysis):
    with pytest.raises(UsageError, match="unknown allocation 'globl'"):
        make_plan(analysis, {}, allocation="globl")
    assert ALLOCATIONS.names()[:2] == ["uniform", "global"]


# What is met, and how closely.

TARGETS = st.builds(
    Target, st.sampled_from(["macs", "params", "latency"]), st.sampled_from([0.3, 0.5, 0.7, 0.9])
)


@settings(max_examples=60, deadline=None)
@given(
    target=TARGETS,
    allocation=st.sampled_from(["uniform", "global"]),
    align=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 20),
    estimates=st.booleans(),
)
def test_a_cost_is_met_and_not_by_a_step_more(
    analysis, costs, target, allocation, align, seed, estimates
):
    plan = make_plan(
        analysis,
        scores_of(analysis, seed),
        target=target,
        allocation=allocation,
        align=align,
        costs=costs,
        estimates=estimates,
    )
    widths = kept(plan)
    tally = costs.tally(target.kind)
    goal = target.value * tally.of_model()
    assert tally.at(widths) <= goal
    assert plan.reached == costs.remains(target.kind, widths) <= target.value
    limits = limits_of(analysis, align=align, floor=None, keep=(), ratios={})
    wider = []
    for index, limit in enumerate(limits):
        options = limit.options()
        assert widths[index] in options
        if widths[index] != options[0]:
            step = list(widths)
            step[index] = options[options.index(widths[index]) - 1]
            wider.append(tally.at(step))
    if allocation == "global":
        assert all(cost > goal for cost in wider)  # No group could be a step wider.
    elif wider:
        assert max(wider) > goal  # The last step was needed.


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["macs", "params", "latency"]),
    align=st.sampled_from([1, 8]),
    values=st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)),
    seed=st.integers(0, 9),
)
def test_a_tighter_target_keeps_no_group_wider(analysis, costs, kind, align, values, seed):
    less, more = (
        kept(
            make_plan(
                analysis,
                scores_of(analysis, seed),
                target=Target(kind, value),
                align=align,
                costs=costs,
            )
        )
        for value in sorted(values)
    )
    assert all(a <= b for a, b in zip(less, more, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    ratios=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    align=st.sampled_from([1, 8]),
    seed=st.integers(0, 9),
)
def test_a_global_ratio_counts_all_channels_and_is_never_exceeded(analysis, ratios, align, seed):
    scores, whole = scores_of(analysis, seed), sum(g.width for g in analysis.groups)
    less, more = (
        make_plan(analysis, scores, r, allocation="global", align=align) for r in sorted(ratios)
    )
    for plan, ratio in zip((less, more), sorted(ratios), strict=True):
        assert plan.removed <= ratio * whole + 1e-6
        assert plan.ratio == ratio
        assert plan.target is None
        free = [g for g in plan.groups if g.after > max(g.floor, g.align)]
        if free:  # Another step would exceed it.
            assert plan.removed + max(g.align for g in free) > ratio * whole - 1
    assert less.removed <= more.removed


def test_a_target_already_met_removes_nothing(analysis, costs):
    for allocation in ("uniform", "global"):
        plan = make_plan(
            analysis,
            scores_of(analysis, 0),
            target=Target("macs", 1.0),
            allocation=allocation,
            costs=costs,
        )
        assert plan.removed == 0
        assert plan.reached == 1.0


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_out_of_reach_says_how_far_one_gets(analysis, costs, allocation):
    with pytest.raises(UsageError, match=r"macs=0.01 is out of reach: .* 0\.0\d\d of") as caught:
        make_plan(
            analysis,
            scores_of(analysis, 0),
            target=Target("macs", 0.01),
            allocation=allocation,
            costs=costs,
        )
    assert "\n" not in str(caught.value)


def test_uniform_finds_the_ratio_that_the_same_ratio_then_gives(analysis, costs):
    plan = make_plan(analysis, scores_of(analysis, 1), target=Target("macs", 0.5), align=1,
                     costs=costs)  # fmt: skip
    same = make_plan(analysis, scores_of(analysis, 1), plan.ratio, align=1)
    assert all(0 <= a - b <= 1 for a, b in zip(kept(plan), kept(same), strict=True))
    assert all(g.ratio == plan.ratio for g in plan.groups)
    assert costs.macs.at(kept(same)) <= 0.5 * costs.macs.of_model()


def test_costs_are_made_where_none_are_given(analysis, costs):
    target = Target("params", 0.5)
    scores = scores_of(analysis, 2)
    assert make_plan(analysis, scores, target=target) == make_plan(
        analysis, scores, target=target, costs=CostModel.of(analysis)
    )


# Global: what makes it good, and what would make it bad.


def test_global_takes_what_costs_most_and_matters_least(analysis, costs):
    scores = {g.name: np.ones(g.width) for g in analysis.groups}
    scores["Conv_b"][:20] = 1e-3
    plan = make_plan(analysis, scores, target=Target("macs", 0.75), allocation="global",
                     align=1, costs=costs)  # fmt: skip
    by_name = {g.name: g for g in plan.groups}
    assert set(range(20)) <= set(by_name["Conv_b"].removed)
    assert by_name["Conv_i"].after > 0.8 * by_name["Conv_i"].before  # 1 x 1: saves little.


@pytest.mark.parametrize("estimates", [False, True])
def test_global_empties_no_group_however_little_it_scores(analysis, costs, estimates):
    scores = {g.name: np.linspace(1, 2, g.width) for g in analysis.groups}
    scores["Conv_b"] *= 1e-9
    plan = make_plan(analysis, scores, target=Target("macs", 0.6), allocation="global", align=1,
                     floor=1, costs=costs, estimates=estimates)  # fmt: skip
    assert all(g.after >= 1 for g in plan.groups)
    if not estimates:  # Norms of different layers are not compared: the factor changes nothing.
        scores["Conv_b"] *= 1e9
        again = make_plan(analysis, scores, target=Target("macs", 0.6), allocation="global",
                          align=1, floor=1, costs=costs)  # fmt: skip
        assert kept(again) == kept(plan)


@pytest.mark.parametrize("estimates", [False, True])
def test_a_stream_that_many_layers_read_weighs_as_many(estimates):
    scores = {"g": np.array([1.0, 2.0, 3.0])}
    one, three, none = (
        Problem((Limit("g", 3),), scores, estimates, (readers,), CostModel.of).loss(0)
        for readers in (1, 3, 0)
    )
    np.testing.assert_allclose(three, 3 * one)
    np.testing.assert_array_equal(none, one)


@settings(max_examples=100)
@given(
    st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=2, max_size=20),
    st.booleans(),
)
def test_loss_curves_rise_ever_faster_and_start_as_the_error(scores, estimates):
    assume(max(scores) > 1e-100)
    loss = loss_curve(np.array(scores), estimates=estimates)
    assert loss[0] == 0
    assert np.isinf(loss[-1])
    steps = np.diff(loss[:-1])
    assert (steps >= 0).all()
    assert (np.diff(steps) >= -1e-9 * loss[-2]).all()


def test_the_loss_of_a_small_error_is_the_error():
    scores = np.array([1e-4, 2e-4, 0.5, 0.5])
    np.testing.assert_allclose(loss_curve(scores, estimates=True)[:3], [0, 1e-4, 3e-4], rtol=1e-3)
    # LAMP: a weight's square over the sum of the squares not smaller, the slope of the curve.
    magnitudes = np.array([1e-3, 2e-3, 1.0, 2.0])
    lamp = magnitudes**2 / np.cumsum((magnitudes**2)[::-1])[::-1]
    np.testing.assert_allclose(
        np.diff(loss_curve(magnitudes, estimates=False))[:2], lamp[:2], rtol=1e-5
    )


def test_negative_scores_count_as_no_loss_and_all_zero_as_nothing_known():
    assert loss_curve(np.array([-5.0, 1.0]), estimates=True)[1] == 0
    for estimates in (False, True):
        assert not loss_curve(np.zeros(4), estimates=estimates).any()


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_the_same_problem_has_the_same_answer(tools, allocation):
    texts = set()
    for _ in range(2):
        model = tools.graph(NET)
        plan = plan_for(model, target=Target("macs", 0.5), allocation=allocation, align=1)
        texts.add(plan.to_json())
    assert len(texts) == 1


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_the_pass_meets_the_target_and_pruned_equals_masked(tools, allocation):
    model = tools.graph(NET)
    target = Target("macs", 0.6)
    step = PruneChannels(target=target, allocation=allocation, align=4)
    whole = CostModel.of(analyze(model)).macs.of_model()
    assert CostModel.of(analyze(step(model).model)).macs.of_model() <= 0.6 * whole
    tools.prove(model, plan_for(model, target=target, allocation=allocation, align=4))


def test_of_a_staircase_global_takes_whole_steps(analysis, costs):
    """Latency falls at multiples of 8 only: no width between them is chosen."""
    plan = make_plan(analysis, scores_of(analysis, 3), target=Target("latency", 0.6),
                     allocation="global", align=1, costs=costs)  # fmt: skip
    assert plan.removed
    assert all(g.after % 8 == 0 or g.after == g.before for g in plan.groups)
    assert all("channels cost what" not in g.note for g in plan.groups)


# What a user says by name.


def test_ratios_by_name_come_before_the_target_and_keep_before_both(analysis, costs):
    ratios = {"Conv_b": 0.5, "Conv_*": 0.25, "Conv_i": 0.75}
    for allocation in ("uniform", "global"):
        plan = make_plan(analysis, scores_of(analysis, 0), 0.125, ratios=ratios, align=1,
                         keep=("e",), allocation=allocation)  # fmt: skip
        assert [(g.name, g.after, g.ratio) for g in plan.groups] == [
            ("Conv_a", 18, 0.25),
            ("Conv_b", 16, 0.5),
            ("Conv_e", 40, 0.0),
            ("Conv_i", 48, 0.25),  # The first pattern that matches.
        ]


def test_ratio_zero_by_name_leaves_alone_and_the_rest_meets_the_target(analysis, costs):
    for allocation in ("uniform", "global"):
        plan = make_plan(analysis, scores_of(analysis, 0), target=Target("macs", 0.6),
                         ratios={"Conv_a": 0.0}, align=1, costs=costs,
                         allocation=allocation)  # fmt: skip
        assert plan.groups[0].removed == ()
        assert plan.groups[0].note == "width 24 at ratio 0 (by 'Conv_a')"
        assert plan.reached <= 0.6


def test_patterns_that_name_nothing_are_reported(tools):
    result = PruneChannels(0.3, align=1, ratios={"Conv_z*": 0.5, "Conv_b": 0.1})(tools.graph(NET))
    assert [s for s in result.skipped if s.where == "Conv_z*"] == [
        Skip("Conv_z*", "a ratio is given for it, and it matches no prunable layer")
    ]
    assert not [s for s in result.skipped if s.where == "Conv_b"]


@pytest.mark.parametrize(
    "options",
    [{"ratios": {"a": 1.0}}, {"floor": 0}, {"align": 0}, {"allocation": "x"}, {"ratio": -1}],
)
def test_options_are_checked_before_any_work(tools, options):
    with pytest.raises(UsageError):
        PruneChannels(**options)(tools.graph(NET))


@settings(max_examples=200)
@given(
    width=st.integers(2, 300),
    align=st.sampled_from([1, 3, 8, 32]),
    floor=st.sampled_from([None, 1, 7, 40]),
)
def test_options_are_the_widths_that_ratios_give(width, align, floor):
    limit = Limit("g", width, align, floor)
    options = limit.options()
    assert options == sorted(set(options), reverse=True)
    assert options[0] == width
    reachable = {limit.after(k / width) for k in range(width)}
    assert reachable == set(options)


def test_whole_heads_are_counted_one_by_one(analysis):
    class Heads:
        name, width, kind, nodes, tensors = "attn", 12, "heads", (), ()

    limit = limits_of(replace(analysis, groups=(Heads,)), align=8, floor=16, keep=(), ratios={})[0]
    assert (limit.align, limit.least, limit.after(0.5)) == (1, 2, 6)


def test_a_plugin_gets_the_problem_and_decides(analysis, monkeypatch):
    def halve(problem: Problem, target: Target, /) -> Decision:
        assert target == Target("ratio", 0.3)
        return Decision(0.5, *2 * (tuple(n.width // 2 for n in problem.limits),))

    monkeypatch.setattr("graphopt.channels.allocation.uniform.uniform", halve)
    plan = make_plan(analysis, scores_of(analysis, 0), 0.3)
    assert all(g.after * 2 == g.before for g in plan.groups)
