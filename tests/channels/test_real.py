"""The four real models: what can be pruned, that it is pruned by 30 %, and that it is right."""

from __future__ import annotations

from math import floor

import pytest

from graphopt.channels import analyze, make_plan
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.prune_channels import PruneChannels, plan_for
from graphopt.passes.simplify import Simplify

# name: (channels in prunable groups, frozen layers, the words every reason has)
MODELS = {
    "resnet20_cifar10": (400, 1, ("graph output 'logits'",)),
    "resnet56_cifar10": (1072, 1, ("graph output 'logits'",)),
    "face_rfb320": (1716, 8, ("graph output 'scores'", "graph output 'boxes'")),
    "face_yunet_n": (880, 6, ("graph output 'bbox_", "graph output 'kps_")),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_third_of_every_group_and_equal_to_masked(tools, real_model, name):
    model = FoldBatchNorm()(Simplify()(real_model(name)).model).model
    prunable, frozen, outputs = MODELS[name]
    analysis = analyze(model)
    assert sum(g.width for g in analysis.groups) == prunable
    assert len(analysis.frozen) == frozen
    for group in analysis.frozen:  # Heads, and nothing else: all of them end in an output.
        assert any(word in reason for reason in group.reasons for word in outputs), group
    plan = plan_for(model, 0.3, align=1)
    assert [g.name for g in plan.groups] == [g.name for g in analysis.groups]
    for item in plan.groups:
        assert len(item.removed) == floor(0.3 * item.before + 1e-9)
        assert item.after == item.asked == item.before - len(item.removed)
    pruned = tools.prove(model, plan)
    assert pruned.parameters() < 0.6 * model.parameters()
    result = PruneChannels(0.3, align=1)(model)
    assert result.model.digest() == pruned.digest()
    assert result.counts() == {"pruned": len(analysis.groups)}


@pytest.mark.parametrize("name", MODELS)
def test_raw_exports_are_safe(tools, real_model, name):
    """With BatchNorm unfolded and constants folded by GraphSurgeon only."""
    model = real_model(name)
    for seed in range(2):
        tools.prove(model, tools.random_plan(analyze(model), seed), seed=seed)


@pytest.mark.parametrize("name", ["face_rfb320", "resnet20_cifar10"])
def test_aligned_widths_are_multiples(tools, real_model, name):
    model = real_model(name)
    plan = plan_for(model, 0.3, align=8)
    for item in plan.groups:
        assert item.after >= item.asked
        assert item.after % 8 == 0 or item.after == item.before
    tools.prove(model, plan)


def test_option_a_stream_is_three_groups(real_model):
    """Stage 3 of ResNet-20 is stage 2 with padding around it, and that is stage 1 with padding."""
    analysis = analyze(real_model("resnet20_cifar10"))
    stream = [g for g in analysis.groups if len([m for m in g.members if m.role == "producer"]) > 1]
    assert [g.width for g in stream] == [16, 16, 32]


def test_two_steps_equal_one(tools, real_model):
    """apply(R1 | R2) is apply(R1), then apply(R2 renumbered)."""
    model = real_model("resnet20_cifar10")
    analysis = analyze(model)
    groups = analysis.groups
    first = {g.name: [i * 7 % g.width < g.width // 4 for i in range(g.width)] for g in groups}
    second = {g.name: [i * 5 % g.width >= 3 * g.width // 4 for i in range(g.width)] for g in groups}

    def plan(of, gone):
        scores = {g.name: [0.0 if x else 1.0 for x in gone[g.name]] for g in of.groups}
        ratio = {g.name: sum(gone[g.name]) / g.width for g in of.groups}
        items = [
            next(
                i
                for i in make_plan(of, scores, ratio[g.name], align=1, floor=1).groups
                if i.name == g.name
            )
            for g in of.groups
        ]
        return make_plan(of, scores, 0.0).__class__(0.3, 1, "test", tuple(items))

    both = {n: [a or b for a, b in zip(first[n], second[n], strict=True)] for n in first}
    once = tools.prune(model, plan(analysis, both))
    half = tools.prune(model, plan(analysis, first))
    left = {n: [b for a, b in zip(first[n], second[n], strict=True) if not a] for n in first}
    twice = tools.prune(half, plan(analyze(half), left))
    given = tools.feeds(model)
    assert twice.parameters() == once.parameters() < model.parameters()
    for a, b in zip(tools.run(once, given), tools.run(twice, given), strict=True):
        assert (a == b).all()
