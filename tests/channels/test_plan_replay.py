"""The example of docs/plan.md does what ``apply_plan`` does, without graphopt."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers import ROOT, conv_net

from graphopt.channels.allocation import Target
from graphopt.graph import constant
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.prune_channels import PruneChannels, plan_for
from graphopt.passes.simplify import Simplify

PAGE = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def replay():
    (block,) = [b for b in BLOCKS if "def replay" in b]
    assert "graphopt" not in block
    names = {}
    exec(compile(block, "docs/plan.md", "exec"), names)
    return names["replay"]


def weights_of(model):
    return {
        name: value
        for name, tensor in model.graph.tensors().items()
        if (value := constant(tensor)) is not None and value.dtype.kind == "f"
    }


def compare(model, plan, replay):
    wanted = weights_of(PruneChannels(plan=plan)(model).model)
    got = replay(json.loads(plan.to_json()), weights_of(model))
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value)
    assert sum(v.size for v in wanted.values()) < sum(v.size for v in weights_of(model).values())


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_small_net(replay, allocation):
    model = conv_net(32)
    compare(model, plan_for(model, 0.4, align=1, allocation=allocation), replay)


@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet56_cifar10", "face_yunet_n"])
def test_real_models(real_model, replay, name):
    model = FoldBatchNorm()(Simplify()(real_model(name)).model).model
    compare(model, plan_for(model, target=Target("params", 0.5), align=1), replay)


def test_the_first_example_of_the_page_runs(tools):
    text = "g (float[N,3,H,W] x, float[64,3,3,3] w1, float[64,64,3,3] w2, float[5,64,1,1] w9)"
    model = tools.graph(
        f"{text} => (float[N,5,I,J] y) {{ a = Conv(x, w1)  b = Conv(a, w2)  y = Conv(b, w9) }}"
    )
    (block,) = [b for b in BLOCKS if "plan_for" in b]
    names = {"model": model}
    exec(compile(block, "docs/plan.md", "exec"), names)
    plan = names["plan"]
    assert plan.target == Target("latency", 0.7)
    assert 0 < plan.reached <= 0.7
    assert names["pruned"].parameters() < model.parameters()
