"""The structures that ship with the onnx package, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import prepared
from onnx import numpy_helper

from graphopt.channels import analyze
from graphopt.model import Model
from graphopt.passes.prune_channels import plan_for

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
SLOW = ("densenet121", "vgg19", "zfnet512", "bvlc_alexnet", "resnet50", "inception_v2")
# name: (channels in prunable groups, channels frozen)
MODELS = {
    "squeezenet": (2944, 1000),
    "inception_v1": (7280, 1000),
    "shufflenet": (247, 2088),
    "inception_v2": (9952, 1000),
    "resnet50": (11456, 1000),
    "densenet121": (10240, 1000),
    "bvlc_alexnet": (8880, 1000),
    "zfnet512": (7008, 1000),
    "vgg19": (13696, 1000),
}
BATCH_NORM = ("scale", "bias", "mean", "variance")


def load(name: str) -> Model:
    """Replace ConstantOfShape by random weights (He-scaled) and drop the softmax, which hides."""
    path = LIGHT / f"light_{name}.onnx"
    if not path.exists():
        pytest.skip("this onnx package ships no light models")
    proto = onnx.load(path)
    graph, rng = proto.graph, np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    role = {
        value: BATCH_NORM[i]
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for i, value in enumerate(node.input[1:5])
    }
    for node in [n for n in graph.node if n.op_type == "ConstantOfShape"]:
        shape = [int(n) for n in shapes[node.input[0]]]
        if role.get(node.output[0]) in ("scale", "variance"):
            values = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            values = rng.standard_normal(shape) * np.sqrt(1.5 / np.prod(shape[1:]))
        else:
            values = rng.standard_normal(shape) * 0.1
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        graph.node.remove(node)
    last = next((n for n in graph.node if n.output[0] == graph.output[0].name), None)
    if last is not None and last.op_type == "Softmax":
        graph.node.remove(last)
        graph.output[0].name = last.input[0]
        graph.output[0].type.tensor_type.ClearField("shape")
    return Model.from_onnx(proto)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MODELS]
)
def test_pruned_equals_masked(tools, name):
    model = prepared(load(name))
    analysis = analyze(model)
    widths = sum(g.width for g in analysis.groups), sum(g.width for g in analysis.frozen)
    assert widths == MODELS[name]
    plan = plan_for(model, 0.3, align=1)
    assert plan.achieved > 0.28
    pruned = tools.prove(model, plan)
    dense, after = (tools.run(m, tools.feeds(model))[0] for m in (model, pruned))
    assert np.abs(dense - after).max() > 1e-3 * np.abs(dense).max()  # Something was removed.
    tools.prove(model, tools.random_plan(analysis, 1))
