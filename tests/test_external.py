"""Weights in other files: read once, in memory once, and the same model as if they were inside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

from graphopt import writer
from graphopt.model import Model

SIDE, LAYERS = 1024, 16

PEAK = """
import re, sys
from pathlib import Path
from graphopt.model import Model
def now(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before = now("VmRSS")
model = Model.load(sys.argv[1])
loaded = now("VmHWM")
model.digest()
print(loaded - before, now("VmHWM") - before)
"""


def chain(layers: int = LAYERS, side: int = SIDE) -> onnx.ModelProto:
    body = "".join(f"t{i + 1} = MatMul(t{i}, w{i})\n" for i in range(layers))
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> '
        f"g (float[N,{side}] t0) => (float[N,{side}] t{layers}) {{ {body} }}"
    )
    rng = np.random.default_rng(0)
    for i in range(layers):
        value = rng.standard_normal((side, side), np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, f"w{i}"))
    return proto


def outside(proto: onnx.ModelProto, path: Path) -> Path:
    convert_model_to_external_data(proto, location="weights.bin")
    onnx.save_model(proto, path)
    return path


def test_a_model_with_its_weights_outside_is_the_same_model(tmp_path: Path) -> None:
    inside = Model.from_onnx(chain(3))
    path = outside(chain(3), tmp_path / "m.onnx")
    read = Model.load(path)
    assert [t.name for t in read.graph.inputs] == ["t0"]
    assert read.digest() == inside.digest()
    assert read.to_onnx().SerializeToString() == inside.to_onnx().SerializeToString()


def test_a_weight_that_is_an_input_too_is_read(tmp_path: Path) -> None:
    proto = chain(1)
    value = onnx.helper.make_tensor_value_info("w0", onnx.TensorProto.FLOAT, [SIDE, SIDE])
    proto.graph.input.append(value)
    read = Model.load(outside(proto, tmp_path / "m.onnx"))
    assert [t.name for t in read.graph.inputs] == ["t0"]
    assert read.digest() == Model.from_onnx(chain(1)).digest()


def test_what_a_body_reads_from_outside(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x, bool c) => (float[N,64] y) '
        "{ y = If(c) <then_branch = a () => (float[N,64] p) { p = MatMul(x, w) }, "
        "else_branch = b () => (float[N,64] q) { q = Identity(x) }> }"
    )
    w = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    inside = Model.from_onnx(proto)
    read = Model.load(outside(proto, tmp_path / "m.onnx"))
    assert read.digest() == inside.digest()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "uint8", "bool"])
def test_a_digest_of_large_weights_is_that_of_their_bytes(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    model = Model.from_onnx(chain(1, 8))
    weight = model.graph.nodes[0].inputs[1]
    weight.values = np.arange(24).reshape(2, 12)[:, ::3].astype(dtype)  # not contiguous, once
    plain = model.digest()
    monkeypatch.setattr(writer, "_APART_BYTES", 1)
    assert model.digest() == plain
    weight.values = weight.values[::-1]
    assert model.digest() != plain


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_weights_outside_are_in_memory_once(tmp_path: Path) -> None:
    path = outside(chain(), tmp_path / "m.onnx")
    size = SIDE * SIDE * 4
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], check=True, capture_output=True, text=True
    )
    loaded, digested = map(int, done.stdout.split())
    # All of them, three of one while it is read, and the rest of the process.
    assert loaded < (LAYERS + 3) * size + 20_000_000
    assert digested < loaded + 2 * size
