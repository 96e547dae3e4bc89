"""A trained network: what second order is worth, before and after recovery."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import SHARED

from graphopt.channels import analyze, make_plan, survivors
from graphopt.channels.importance import IMPORTANCES
from graphopt.data import load_preprocess, open_data
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.prune_channels import PruneChannels
from graphopt.passes.simplify import Simplify
from graphopt.recovery import RECOVERIES, recover
from graphopt.statistics import Statistics


@pytest.fixture(scope="module")
def network(real_model):
    model = FoldBatchNorm()(Simplify()(real_model("resnet20_cifar10")).model).model
    analysis = analyze(model)
    outer = [g.name for g in analysis.groups if sum(m.role == "consumer" for m in g.members) > 1]
    return model, analysis, outer


def images(model, name, limit):
    data = open_data(
        str(SHARED / "cifar10" / name),
        model.inputs(),
        preprocess=load_preprocess("cifar"),
        limit=limit,
        seed=0,
    )
    return list(data.batches(32))


@pytest.mark.slow
def test_second_order_beats_norms_and_chance(tools, network):
    """Half of the inner channels of ResNet-20; error of the logits on images not seen."""
    model, analysis, outer = network
    seen, unseen = images(model, "calib", 128), images(model, "test", 128)

    def logits(which):
        return np.concatenate([tools.run(which, feeds)[0] for feeds in unseen])

    wanted = logits(model)
    energy = np.square(wanted - wanted.mean(axis=0)).sum()
    before, after = {}, {}
    for name in ("obs", "activation", "l1", "random"):
        statistics = Statistics(model, lambda: seen)
        found = IMPORTANCES.load(name)(model, analysis.groups, statistics=statistics)
        plan = make_plan(analysis, found, 0.5, align=1, keep=outer, importance=name)
        pruned = PruneChannels(plan=plan)(model).model
        before[name] = np.square(logits(pruned) - wanted).sum() / energy
        kept = survivors(analysis, plan)
        recover(model, pruned, kept, lambda: seen, RECOVERIES.load("least-squares"))
        after[name] = np.square(logits(pruned) - wanted).sum() / energy
    assert before["obs"] < 0.7 * min(before["l1"], before["random"])
    assert after["obs"] < 0.8 * min(after["l1"], after["random"])
    assert after["obs"] < after["activation"] * 1.05
    assert all(after[name] < before[name] for name in after)


@pytest.mark.slow
def test_half_of_a_doubled_group_is_free(network):
    """Each channel has a copy, so that half of them can go at next to no error; not the rest."""
    model, analysis, outer = network
    group = next(g for g in analysis.groups if g.name not in outer)
    doubled = model.clone()
    tensors = doubled.graph.tensors()
    for member in group.members:
        values = tensors[member.tensor].values
        half = group.width // 2
        if member.role != "consumer":
            index = np.arange(values.shape[member.axis])
            for a, b in zip(member.positions[:half], member.positions[half:], strict=True):
                index[list(b)] = list(a)
            tensors[member.tensor].values = values.take(index, axis=member.axis)
    seen = images(model, "calib", 64)
    found = IMPORTANCES.load("obs")(
        doubled, analyze(doubled).groups, statistics=Statistics(doubled, lambda: seen)
    )
    running = np.cumsum(np.sort(found[group.name]))
    assert running[half - 1] < 0.02 * running[-1]
