"""``compare --host``: the fidelity of an engine on the device it runs on, over a real ssh."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import image_samples

Call = Callable[..., tuple[int, str, str]]
Setup = Callable[..., Any]
NET = "my 'net'.onnx"


def quiet(there: Any) -> bool:
    jobs = there.home / ".cache" / "graphopt" / "jobs"
    return not (jobs.is_dir() and list(jobs.iterdir())) and not there.quiet()


def shapes(low: int, high: int) -> list[str]:
    sizes = (("min", low), ("opt", high), ("max", high))
    return [f"--{which}-shapes=image:{n}x3x16x16" for which, n in sizes]


def compared(call: Call, *words: object) -> tuple[dict[str, Any], str]:
    code, out, err = call("compare", *words, "--json")
    assert code == 0, err
    return json.loads(out), err


@pytest.mark.parametrize(("name", "version"), [("jetson-agx-xavier", "8.5.2"), ("t4", "11.0.0")])
def test_an_int8_engine_does_on_the_device_what_its_simulation_does_here(
    name: str, version: str, work: Path, device: Setup, call: Call, tmp_path: Path
) -> None:
    there = device(name, version, record=str(tmp_path / "words.jsonl"))
    words = ("--int8", "--data", "calib.npz", "--host", there.host, *shapes(1, 8))
    code, _, err = call("build", NET, *words, "-o", "o 1")
    assert code == 0, err
    engine, here = work / "o 1" / "model.engine", work / "o 1" / "model.int8.onnx"
    simulated, _ = compared(call, NET, here, "--data", "calib.npz")
    measured, said = compared(call, NET, engine, "--data", "calib.npz", "--host", there.host)
    assert 40 < measured["total"]["sqnr_db"] < 80
    assert measured["total"]["sqnr_db"] == pytest.approx(simulated["total"]["sqnr_db"], abs=1e-3)
    assert measured["samples"] == simulated["samples"] == 8
    assert measured["top1"] == simulated["top1"]
    assert "6 digits" in said
    assert quiet(there)


def test_a_float_engine_differs_by_the_digits_of_the_text_alone(
    work: Path, device: Setup, call: Call
) -> None:
    there = device("t4", "10.3.0")
    assert call("build", NET, "--host", there.host, *shapes(3, 6), "-o", "out")[0] == 0
    engine = work / "out" / "model.engine"
    found, said = compared(call, NET, engine, "--data", "calib.npz", "--host", there.host)
    assert found["samples"] == 6
    assert "the last 2 samples are left out: the engine takes 3 at least" in said
    assert found["total"]["sqnr_db"] > 100
    assert found["total"]["max_abs"] > 0
    np.savez(work / "two.npz", image=image_samples(2))
    code, _, err = call("compare", NET, engine, "--data", "two.npz", "--host", there.host)
    assert code != 0
    assert "3 samples at a time at least, and there are 2" in err
    other = work / "other" / "model.engine"
    assert call("build", NET, "--host", there.host, "--fp16", *shapes(3, 6), "-o", "other")[0] == 0
    engine.write_bytes(other.read_bytes())
    code, _, err = call("compare", NET, engine, "--data", "calib.npz", "--host", there.host)
    assert code != 0
    assert "not what its sidecar tells of" in err or "belongs to another build" in err
    code, _, err = call("compare", NET, NET, "--data", "calib.npz", "--host", there.host)
    assert code == 2
    assert "is no engine of TensorRT's" in err
    code, _, err = call("compare", NET, other, "--data", "calib.npz")
    assert code == 4
    assert "cannot be run here" in err
    assert "--host" in err
    assert quiet(there)


def test_nan_on_the_device_is_told(work: Path, device: Setup, call: Call) -> None:
    there = device("t4", "10.3.0")
    text = "g (float[2, 4] x) => (float[2, 4] y) { y = Sqrt (x) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]>{text}')
    onnx.save(proto, work / "root.onnx")
    text = "g (float[2, 4] x) => (float[2, 4] y) { a = Abs (x) y = Sqrt (a) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]>{text}')
    onnx.save(proto, work / "sound.onnx")
    np.savez(work / "x.npz", x=np.array([[1, -1, 4, 9], [16, 25, -4, 0]], np.float32))
    words = ("--data", "x.npz", "--host", there.host)
    assert call("build", "root.onnx", "--host", there.host, "-o", "root")[0] == 0
    code, out, err = call("compare", "sound.onnx", "root/model.engine", *words)
    assert code == 0, err
    assert "NaN or infinite: 0 in A, 2 in B" in out
