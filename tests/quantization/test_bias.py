"""Biases that take back the mean of what rounding weights does."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import run
from test_rounding import CASES, rounded_to_nearest
from weight_nets import batches, int8, net, one_layer, quality, samples, table_for

from graphopt.graph import constant
from graphopt.quantization.bias import correct_bias


@pytest.mark.parametrize(("op", "x", "w", "bias", "attrs"), CASES)
def test_the_mean_of_each_output_channel_is_what_it_was(op, x, w, bias, attrs) -> None:
    model = one_layer(op, x, w, bias, **attrs)
    feeds = samples(model)
    digest = model.digest()
    result = correct_bias(model, table_for(model, feeds), batches(feeds), dialect="tensorrt")
    assert model.digest() == digest
    if op == "MatMul" and not bias:
        assert not result.changes
        assert "nothing is added" in result.skipped[0].reason
        return
    (change,) = result.changes
    assert (change.kind, change.where) == ("corrected", "n")
    errors = []
    for candidate in (rounded_to_nearest(model), rounded_to_nearest(result.model)):
        axis = 1 if "Conv" in op else -1
        lost = [run(model, f)[0] - run(candidate, f)[0] for f in feeds]
        flat = np.concatenate([np.moveaxis(e, axis, -1).reshape(-1, e.shape[axis]) for e in lost])
        errors.append(np.abs(flat.mean(axis=0)).max())
    assert errors[1] < 2e-5
    assert errors[0] > 100 * errors[1]


def test_weights_stay_and_logits_gain() -> None:
    model = net(
        """g (float[N,8,12,12] x) => (float[N,16,12,12] y) {
          a = Conv<pads=[1,1,1,1]>(x, w0)  ar = Relu(a)
          d = Conv<pads=[1,1,1,1], group=32>(ar, w1, b1)  dr = Relu(d)
          y = Conv(dr, w2, b2) }""",
        {"w0": (32, 8, 3, 3), "w1": (32, 1, 3, 3), "b1": (32,), "w2": (16, 32, 1, 1), "b2": (16,)},
    )
    feeds = samples(model, 16)
    table = table_for(model, feeds)
    result = correct_bias(model, table, batches(feeds), dialect="tensorrt")
    assert {c.where for c in result.changes} == {"a", "d", "y"}
    nodes = {n.name: n for n in result.model.graph.nodes}
    assert len(nodes["a"].inputs) == 3
    for node in model.graph.nodes:
        if node.op == "Conv":
            twin = nodes[node.name]
            np.testing.assert_array_equal(constant(node.inputs[1]), constant(twin.inputs[1]))
    unseen = samples(model, 8, seed=9)
    before = quality(model, int8(model, table), unseen)
    assert quality(model, int8(result.model, table), unseen) > before
