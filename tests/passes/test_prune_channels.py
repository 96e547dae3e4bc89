"""The pass: events, options, replay, and that its input stays as it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import conv_net, run

from graphopt.channels import PrunePlan, masked
from graphopt.errors import UsageError
from graphopt.passes import PASSES
from graphopt.passes.base import Change, Skip
from graphopt.passes.prune_channels import PruneChannels, plan_for


@pytest.fixture(scope="module")
def model():
    return conv_net(32)


def feeds(model):
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal([d if isinstance(d, int) else 2 for d in shape]).astype(dtype)
        for name, (dtype, shape) in model.inputs().items()
    }


def test_events_tell_what_was_done_and_what_was_not(model):
    before = model.digest()
    result = PruneChannels(0.3)(model)
    assert result.name == "prune-channels"
    assert result.changes == (
        Change("pruned", "stem", "32 -> 24 (asked 23, align 8)"),
        Change("pruned", "conv1", "64 -> 48 (asked 45, align 8)"),
    )
    assert [s.where for s in result.skipped] == ["fc"]
    assert "graph output 'scores'" in result.skipped[0].reason
    assert model.digest() == before


def test_pruned_equals_masked_and_shapes_are_inferred_again(model):
    plan = plan_for(model, 0.4, align=1)
    pruned = PruneChannels(0.4, align=1)(model).model
    assert pruned.parameters() < 0.5 * model.parameters()
    assert pruned.graph.tensors()["r1"].shape[1] == plan.groups[1].after == 39
    onnx.checker.check_model(pruned.to_onnx(), full_check=True)
    given = feeds(model)
    for got, wanted in zip(run(pruned, given), run(masked(model, plan), given), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_plan_replays(model):
    plan = plan_for(model, 0.5, importance="l1", align=4)
    assert plan.importance == "l1"
    saved = PrunePlan.from_json(plan.to_json())
    one = PruneChannels(0.5, importance="l1", align=4)(model)
    two = PruneChannels(plan=saved)(model)
    assert one.model.digest() == two.model.digest()
    assert one.changes == two.changes


def test_the_pass_is_deterministic(model):
    digests = {PruneChannels(0.3, align=1)(model.clone()).model.digest() for _ in range(2)}
    assert len(digests) == 1


def test_nothing_to_remove_names_the_flag():
    model = conv_net(8)
    result = PruneChannels(0.3)(model)
    assert result.changes == ()
    assert result.model.parameters() == model.parameters()
    assert (
        Skip(
            "stem",
            "width 8 at ratio 0.3 keeps 6, rounded up to 8 by --align 8: nothing removed; "
            "--align 1 would remove 2",
        )
        in result.skipped
    )


def test_keep_leaves_alone_and_says_when_it_matches_nothing(model):
    result = PruneChannels(0.3, keep=("conv1*", "typo*"))(model)
    assert Skip("typo*", "--keep matches no prunable group, node or tensor") in result.skipped
    # The node reads one group and writes the other: both of them stay for it to stay.
    assert result.changes == ()
    assert Skip("stem", "kept by --keep 'conv1*'") in result.skipped
    assert [c.where for c in PruneChannels(0.3, keep=("r1",))(model).changes] == ["stem"]


def test_ratio_zero_changes_nothing(model):
    result = PruneChannels(0.0)(model)
    assert result.changes == ()
    assert result.model.digest() == model.digest()


def test_options_are_checked(model):
    with pytest.raises(UsageError, match="fraction"):
        PruneChannels(1.5)(model)
    with pytest.raises(UsageError, match="--align"):
        PruneChannels(0.3, align=0)(model)
    with pytest.raises(UsageError, match="unknown importance 'l3'"):
        PruneChannels(0.3, importance="l3")(model)


def test_registered():
    assert PASSES.load("prune-channels") is PruneChannels


def test_the_name_of_a_group_keeps_that_group_alone() -> None:
    result = PruneChannels(0.5, align=1, keep=("conv1",))(conv_net(32))
    assert {c.where for c in result.changes} == {"stem"}
