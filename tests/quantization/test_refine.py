"""What the pipeline calls before and after calibration."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
from helpers import SHARED, conv_net, image_samples, needs_shared, rtx_refuses
from weight_nets import batches, int8, net, outputs, quality, samples, table_for

from graphopt.data import Preprocess, open_data
from graphopt.errors import UsageError
from graphopt.graph import constant
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.quantization.refine import ROUNDINGS, WeightOptions, prepare_weights, refine


def block() -> Model:
    """A separable block of a CNN and, behind it, a normalization with outliers."""
    model = net(
        """g (float[N,8,8,8] x) => (float[N,64,16] y) {
          a = Conv<pads=[1,1,1,1]>(x, w0, b0)  r = Relu(a)
          d = Conv<group=32,pads=[1,1,1,1]>(r, w1, b1)  q = Relu(d)  e = Conv(q, w2, b2)
          s = Constant<value_ints=[0,32,64]>()  f = Reshape(e, s)
          t = Transpose<perm=[0,2,1]>(f)  n = LayerNormalization(t, g, b)
          m = MatMul(n, w3)  y = Add(m, b3) }""",
        {"w0": (32, 8, 3, 3), "b0": (32,), "w1": (32, 1, 3, 3), "b1": (32,),
         "w2": (32, 32, 1, 1), "b2": (32,), "g": (32,), "b": (32,), "w3": (32, 16), "b3": (16,)},
    )  # fmt: skip
    norm = next(n for n in model.graph.nodes if n.name == "n")
    gain = np.ones(32, "f4")
    gain[5] = 60
    norm.inputs[1].values = gain
    return model


@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
def test_all_together_gain_on_samples_not_seen(dialect) -> None:
    model = block()
    feeds, unseen = samples(model, 16), samples(model, 8, seed=5)
    digest = model.digest()
    done = prepare_weights(model, batches(feeds))
    assert [r.name for r in done] == ["equalize", "smooth"]
    assert [c.where for r in done for c in r.changes] == ["a", "d", "n"]
    assert quality(model, done[-1].model, unseen) > 120
    table = table_for(done[-1].model, feeds)
    found = refine(done[-1].model, table, batches(feeds), dialect=dialect)
    written = int8(found.model, table, found.codes, dialect=dialect)
    assert model.digest() == digest
    plain = int8(model, table_for(model, feeds), dialect=dialect)
    assert quality(model, written, unseen) > quality(model, plain, unseen) + 1
    onnx.checker.check_model(written.to_onnx(), full_check=True)
    if dialect == "tensorrt":
        assert rtx_refuses(written) is None


def test_without_samples_nothing_is_done() -> None:
    model = conv_net(16)
    assert prepare_weights(model, None) == []
    table = table_for(model, [{"image": image_samples(4)}])
    found = refine(model, table, None, dialect="tensorrt")
    assert found.model is model
    assert not found.codes


def test_each_is_an_option() -> None:
    model = block()
    feeds = samples(model)
    for equalize, smooth in product([True, False], repeat=2):
        done = prepare_weights(model, batches(feeds), WeightOptions(equalize, smooth))
        assert [r.name for r in done] == ["equalize"] * equalize + ["smooth"] * smooth
    table = table_for(model, feeds)
    weights = {n.name: n for n in model.graph.nodes}["a"].inputs
    for rounding, bias in product(ROUNDINGS, [True, False]):
        options = WeightOptions(rounding=rounding, bias=bias)
        found = refine(model, table, batches(feeds), options, dialect="tensorrt")
        own = {n.name: n for n in found.model.graph.nodes}["a"].inputs
        assert bool(found.codes) == (rounding != "nearest")
        changed = [not np.array_equal(constant(weights[i]), constant(own[i])) for i in (1, 2)]
        assert changed == [rounding != "nearest", bias]
    with pytest.raises(UsageError, match="one of nearest, float, sequential, not 'gptq'"):
        WeightOptions(rounding="gptq")


def test_layers_that_stay_float_get_their_biases_back_too() -> None:
    model = block()
    feeds = samples(model)
    table = table_for(model, feeds)
    options = WeightOptions(rounding="nearest")
    found = refine(model, table, batches(feeds), options, dialect="tensorrt")
    back = found.without(model, ["a", "m", "r", "nobody"])
    nodes = [{n.name: n for n in m.graph.nodes} for m in (model, found.model, back.model)]
    for name, changed in (("a", True), ("y", True), ("d", False)):
        index = 1 if name == "y" else 2
        values = [constant(n[name].inputs[index]) for n in nodes]
        assert not np.array_equal(values[0], values[1])
        assert np.array_equal(values[0], values[2]) == changed


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["float", "sequential"])
def test_a_real_detector_gains_on_photographs_not_seen(rounding) -> None:
    model = Model.load(SHARED / "models" / "face_rfb320.onnx")
    model = FoldBatchNorm()(Simplify()(RaiseOpset(13)(model).model).model).model
    preprocess = Preprocess(size=(240, 320), color="rgb", scale=1, mean=(127,), std=(128,))
    feeds = list(open_data(str(SHARED / "faces"), model.inputs(), preprocess=preprocess).batches(1))
    chosen, unseen = feeds[::2], feeds[1::2]
    ready = prepare_weights(model, batches(chosen))[-1].model
    for a, b in zip(outputs(model, unseen), outputs(ready, unseen), strict=True):
        np.testing.assert_array_equal(a, b)
    table = table_for(ready, chosen)
    found = refine(
        ready, table, batches(chosen), WeightOptions(rounding=rounding), dialect="tensorrt"
    )
    before = quality(model, int8(model, table_for(model, chosen)), unseen)
    after = quality(model, int8(found.model, table, found.codes), unseen)
    assert after > before + 2
