"""``graphopt estimate`` as a user meets it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import onnx
import pytest
from helpers import SHARED, command_line, conv_net, needs_shared

from graphopt.profiles.roofline.anchors import fit

call = partial(command_line, "estimate")

MINE = """name = "mine"
bandwidth_gbs = 100
[peaks]
int8 = 10
fp16 = 5
fp32 = 1
"""


@pytest.fixture(autouse=True)
def _in_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    conv_net(48).save(tmp_path / "net.onnx")
    (tmp_path / "mine.toml").write_text(MINE + "\n", encoding="utf-8")


def test_every_table_is_labelled(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("net.onnx", "--device", "t4", "--precision", "int8") == 0
    printed = capsys.readouterr().out
    tables = [line for line in printed.splitlines() if line and not line.startswith(" ")]
    assert all("estimate" in line.lower() for line in tables)
    assert "ESTIMATE, nothing was measured" in tables[0]
    assert f"t4 resnet50 Offline {100 * fit().errors['t4 resnet50 Offline']:+.0f} %" in printed
    for word in ("error band", "bound by", "what to prune", "leave in FP16"):
        assert word in printed


def test_json_holds_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "estimate.json"
    args = ("net.onnx", "--device", "xavier", "--batch", "8", "--json", "-o", str(out))
    assert call(*args) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads(out.read_text())
    assert (value["schema"], value["kind"]) == (1, "graphopt-estimate")
    assert value["label"] == "estimate, not measured"
    assert (value["device"], value["batch"]) == ("jetson-agx-xavier", 8)
    assert set(value["by_precision"]) == {"int8", "fp16", "fp32"}
    assert value["ms"] == value["by_precision"]["fp32"]["ms"]  # as the graph says
    assert value["low_ms"] < value["ms"] < value["high_ms"]
    assert value["ms"] == pytest.approx(sum(layer["ms"] for layer in value["layers"]))
    assert value["prune"]["precision"] == "fp32"
    assert len(value["leave_in_fp16"]) == sum(bool(layer["macs"]) for layer in value["layers"])
    first = out.read_bytes()
    assert call(*args) == 2  # exists
    assert call(*args, "--force") == 0
    assert out.read_bytes() == first


def test_a_device_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("net.onnx", "--device", "mine.toml", "--precision", "fp32") == 0
    printed = capsys.readouterr().out
    assert "none of the devices this was fitted to" in printed
    assert "error at devices left out of the fit" in printed


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--device", "bare.toml"), "lacks 'bandwidth_gbs' and 'peaks'"),
        (("--device", "int8.toml", "--precision", "fp16"), "lacks 'peaks.fp16'"),
        (("--device", "int8.toml"), "lacks 'peaks.fp32'"),
        (("--device", "nothing"), "unknown device 'nothing'"),
        (("--device", "t4", "--opt-shapes", "imag:1x3x16x16"), "no input of the model"),
        (("--device", "t4", "--opt-shapes", "image:1x4x16x16"), "image"),
        (("--device", "t4", "--batch", "2", "--opt-shapes", "image:1x3x16x16"), "--batch 2"),
        (("--device", "t4", "-o", "net.onnx", "--force"), "is what is read"),
    ],
)
def test_what_cannot_be_estimated_ends_with_2_and_one_line(
    args: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare.toml").write_text('name = "bare"\n', encoding="utf-8")
    text = 'name = "int8"\nbandwidth_gbs = 100\n[peaks]\nint8 = 10\n'
    (tmp_path / "int8.toml").write_text(text, encoding="utf-8")
    assert call("net.onnx", *args) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


def test_wrong_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("none.onnx", "--device", "t4") == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "bad.onnx").write_bytes(b"\x00" * 64)
    assert call("bad.onnx", "--device", "t4") == 3


def test_a_fixed_batch_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = conv_net(16)
    model.graph.inputs[0].shape[0] = 2
    model.save(tmp_path / "two.onnx")
    assert call("two.onnx", "--device", "t4", "--batch", "2") == 0
    assert "batch 2" in capsys.readouterr().out
    assert call("two.onnx", "--device", "t4", "--batch", "4") == 2
    assert "fixed at 2" in capsys.readouterr().err


def save(text: str, path: Path) -> str:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}'), path)
    return str(path)


def test_nothing_left_to_run_takes_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = save(
        "() => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Relu(w) }", tmp_path / "s.onnx"
    )
    assert call(still, "--device", "t4", "-o", "e.json") == 0
    assert "no kernel is left to run" in capsys.readouterr().out
    value = json.loads(Path("e.json").read_text())
    assert (value["ms"], value["throughput"], value["layers"]) == (0, None, [])


def test_open_sizes_that_count_as_1_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = save("(float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }", tmp_path / "f")
    assert call(free, "--device", "t4") == 0
    told = capsys.readouterr().out
    assert "open sizes count as 1" in told and "--opt-shapes x:1x3x224x224" in told
    assert call(free, "--device", "t4", "--opt-shapes", "x:1x3x8x8") == 0
    assert "count as 1" not in capsys.readouterr().out


def test_an_input_that_holds_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = save("(float[0, 4] x) => (float[0, 4] y) { y = Relu(x) }", tmp_path / "e.onnx")
    assert call(empty, "--device", "t4") == 3
    assert "input 'x' is 0x4, which holds nothing" in capsys.readouterr().err


@needs_shared
def test_resnet56_is_at_the_floor_on_a_large_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    model = str(SHARED / "models" / "resnet56_cifar10.onnx")
    assert call(model, "--device", "t4", "--precision", "int8", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert len([layer for layer in value["layers"] if layer["op"].startswith("Conv")]) == 55
    assert not any("BatchNorm" in layer["op"] for layer in value["layers"])
    assert {layer["bound"] for layer in value["layers"]} == {"floor"}
    assert any("narrower layers hardly do" in note for note in value["notes"])
