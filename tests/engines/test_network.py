from __future__ import annotations

import json

import pytest
from engine_models import HOST, convnet, needs_rtx

from graphopt.engines import BuildOptions
from graphopt.engines.network import parsed_network, read_network, reader
from graphopt.errors import MissingDependencyError, UnsupportedModelError
from graphopt.model import Model


@needs_rtx
def test_the_parsed_network_is_read_in_a_process_of_its_own():
    import sys

    model = convnet(quantized=True)
    digest = model.digest()
    network = read_network(model, BuildOptions(HOST), "tensorrt-rtx")
    assert model.digest() == digest
    assert network.title == f"tensorrt-rtx {network.version}"
    assert (network.inputs, network.outputs) == (("x",), ("fc_y",))
    kinds = [layer.kind for layer in network.layers]
    assert (kinds.count("CONVOLUTION"), kinds.count("QUANTIZE")) == (2, 6)
    conv = next(layer for layer in network.layers if layer.node == "conv1")
    assert conv.settings == {"num_groups": 1}
    assert len(conv.inputs) >= 2
    assert network.shapes[conv.outputs[0]] == (None, 16, 8, 8)
    assert network.dtypes[conv.outputs[0]] == "float"
    q = next(layer for layer in network.layers if layer.kind == "QUANTIZE")
    assert network.dtypes[q.outputs[0]] == "int8"
    assert network.values[q.inputs[1]] == pytest.approx((0.03,))
    assert network.unread == ()
    # Weights stay where they are: only scales, zero-points and scalars cross.
    assert max(len(values) for values in network.values.values()) == 16
    assert "tensorrt" not in sys.modules


@needs_rtx
def test_a_model_that_is_refused_is_told_by_node():
    from engine_models import parsed

    model = parsed("g (float[2,2] x) => (float[2,2] y) { y = my.ops.Fancy(x) }")
    with pytest.raises(UnsupportedModelError, match="Fancy"):
        read_network(model, BuildOptions(HOST), "tensorrt-rtx")


def test_without_tensorrt_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(
        "graphopt.engines._builder.Builder.missing", lambda self: "x", raising=False
    )
    for name in ("tensorrt:TensorRT", "tensorrt_rtx:TensorRTRTX"):
        module, cls = name.split(":")
        monkeypatch.setattr(f"graphopt.engines.{module}.{cls}.missing", lambda self: "not here")
    assert reader() is None
    model = Model(graph=None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        read_network(model, BuildOptions(HOST))


def test_what_the_child_writes_is_read_back():
    raw = {
        "layers": [
            {"name": "c", "kind": "CONVOLUTION", "node": "n", "inputs": ["x", ""],
             "outputs": ["y"], "settings": {"num_groups": 2}}
        ],
        "tensors": {"x": ["float", [-1, 3]], "y": ["half", None]},
        "inputs": ["x"],
        "outputs": ["y"],
        "values": {"s": [0.5]},
        "unread": ["CONSTANT k: int4"],
    }  # fmt: skip
    network = parsed_network(json.loads(json.dumps(raw)), runtime="tensorrt", version="10.9")
    assert network.shapes == {"x": (None, 3), "y": None}
    assert network.layers[0].inputs == ("x", "")
    assert network.title == "tensorrt 10.9"
    assert network.unread == ("CONSTANT k: int4",)
