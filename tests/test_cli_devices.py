"""``graphopt devices``, and power modes wherever ``--device`` is taken."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from helpers import command_line as call

from graphopt.model import Model
from graphopt.profiles import hostpeaks, load_device
from graphopt.profiles.hostpeaks import HostPeaks
from graphopt.profiles.roofline import Rates, estimate
from graphopt.verbs_devices import figures, span_of, uses

NET = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,32,32] x) => (float[1,32,32,32] y)
<float[32,3,3,3] w, float[32,1,3,3] d> {
  a = Conv<pads=[1,1,1,1]>(x, w)
  y = Conv<pads=[1,1,1,1], group=32>(a, d)
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    proto = onnx.parser.parse_model(NET)
    for name, dims in (("w", [32, 3, 3, 3]), ("d", [32, 1, 3, 3])):
        kept = [i for i in proto.graph.initializer if i.name != name]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        values = [0.1] * (dims[0] * dims[1] * 9)
        proto.graph.initializer.append(
            onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, dims, values)
        )
    onnx.save(proto, path)
    return path


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("devices") == 0
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if " jetson-agx-xavier " in line]
    for told in ("7.2", "22.6", "11.3", "137", "32 GB", "8.5.2 only", "MAXN 10W 15W"):
        assert told in row
    assert call("devices", "--json") == 0
    assert {"t4", "host", "rtx-5090"} <= {d["name"] for d in json.loads(capsys.readouterr().out)}


def test_one_device_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("devices", "xavier") == 0
    printed = capsys.readouterr().out
    for key, value, source in figures(load_device("xavier")):
        (line,) = [x for x in printed.splitlines() if x.startswith(f"  {key} ")]
        assert value in line
        assert source in line
    assert "from memory of NVDLA's documents, unverified" in printed
    assert "what --device jetson-agx-xavier does" in printed
    assert "TensorRT-RTX cannot target" in printed
    assert call("devices", "xavier:30w") == 0
    printed = capsys.readouterr().out
    assert "jetson-agx-xavier:30W" in printed
    assert "14.7712 TOPS" in printed
    assert call("devices", "xavier:30W", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mode"] == "30W"
    assert told["unverified"] == ["dla_mhz", "dla_peaks.fp16"]
    assert [m["name"] for m in told["power_modes"]] == ["MAXN", "10W", "15W", "15W-DESKTOP", "30W"]


@pytest.mark.parametrize("name", ["host", "t4", "a10", "orin", "rtx-2080-ti"])
def test_what_is_done_with_it_is_told_for_any(name: str) -> None:
    lines = list(uses(load_device(name)))
    assert any("multiples of channels" in line for line in lines)
    assert any("graphopt estimate" in line for line in lines)


def test_the_versions_are_spelled() -> None:
    spelled = {name: span_of(load_device(name)) for name in ("t4", "xavier", "orin", "host")}
    assert spelled == {"t4": "8.5 on", "xavier": "8.5.2 only", "orin": "8.5.2 on", "host": ""}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("t40",), "did you mean 't4'"),
        (("t4:15W",), "no power modes"),
        (("t4", "--measure"), "--measure is of the machine it runs on: host, not 't4'"),
        (("-o", "x.toml"), "--output goes with --measure"),
        (("--threads", "1"), "--threads goes with --measure"),
        (("--measure", "-o", "x.txt"), "--device knows a file by its end, .toml"),
    ],
)
def test_mistakes_are_one_line(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("devices", *words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(threads: int | None = None) -> HostPeaks:
        peaks = {"int8": 1.0, "fp32": 0.25}
        return HostPeaks(threads or 1, peaks, {"int8": 0.5, "fp32": 0.5}, 0.125, 40.0, 0.2)

    monkeypatch.setattr(hostpeaks, "measure_host", found)


@pytest.mark.usefixtures("measured")
def test_the_host_is_measured_and_estimated_for(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my-host.toml"
    assert call("devices", "host", "--measure", "--threads", "1", "-o", str(out)) == 0
    capsys.readouterr()
    assert call("devices", "--measure", "-o", str(out)) != 0
    assert "exists; use --force" in capsys.readouterr().err
    assert call("devices", "--measure") == 0
    assert capsys.readouterr().out.startswith('name = "my-host"\n')
    assert call("estimate", str(net), "--device", str(out), "--precision", "fp32") == 0
    printed = capsys.readouterr()
    assert "is no NVIDIA GPU" in printed.out
    assert "efficiency, depthwise, launch_us are its own, all else is as for GPUs" in printed.out
    assert call("estimate", str(net), "--device", "host") == 2
    assert "graphopt devices host --measure finds them" in capsys.readouterr().err


@pytest.mark.usefixtures("measured")
def test_what_was_measured_is_what_is_computed_with(net: Path) -> None:
    device = hostpeaks.host_profile(hostpeaks.measure_host(1), "mine")
    rates = Rates.of(device)
    assert rates.macs == {"int8": 0.25, "fp32": 0.0625}
    assert rates.vector == 0.125 * 0.125  # the share of depthwise convolutions, of 0.125 MAC a ps
    assert rates.launch == 200_000
    full, apart = estimate(Model.load(net), device, precision="fp32").layers
    assert full.compute_ms == pytest.approx(32 * 32 * 32 * 3 * 9 / 0.0625 / 1e9)
    assert apart.compute_ms == pytest.approx(32 * 32 * 32 * 9 / 0.015625 / 1e9)


def test_a_power_mode_goes_wherever_a_device_goes(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("estimate", str(net), "--device", "xavier:10W", "--json") == 0
    slow = json.loads(capsys.readouterr().out)
    assert slow["device"] == "jetson-agx-xavier:10W"
    assert any("none of the devices this was fitted to" in note for note in slow["notes"])
    assert call("estimate", str(net), "--device", "xavier:MAXN", "--json") == 0
    fast = json.loads(capsys.readouterr().out)
    assert not any("fitted to" in note for note in fast["notes"])
    moved = [sum(x["memory_ms"] for x in told["layers"]) for told in (slow, fast)]
    assert moved[0] / moved[1] == pytest.approx(2133 / 1065.6)
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'name = "mine"\nsm = "8.6"\nboost_mhz = 1000\nbandwidth_gbs = 100\n[peaks]\nfp32 = 1\n'
        "[power_modes.half]\ngpu_mhz = 500\n"
    )
    assert call("estimate", str(net), "--device", f"{mine}:half", "--precision", "fp32") == 0
    assert "mine:half" in capsys.readouterr().out
    assert call("inspect", str(net), "--device", "xavier:30W") == 0
    out = tmp_path / "out"
    words = ("optimize", str(net), "--prune", "0.5", "--device", "xavier:30W", "-o", str(out))
    assert call(*words) == 0
    told = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert told["recipe"]["engine"]["device"] == "xavier:30W"
    assert call("inspect", str(net), "--device", "xavier:31W") == 2


def test_a_stored_estimate_finds_the_roofs_of_a_mode_and_never_a_file(tmp_path: Path) -> None:
    from graphopt.html.roof import _device

    found = _device("jetson-agx-xavier:30W")
    assert found is not None
    assert found.mode == "30W"
    path = tmp_path / "t4.toml"
    path.write_text('name = "mine"\n')
    for word in (str(path), "t4:30W", "t4:" + str(path), "xavier", "nothing", ""):
        assert _device(word) is None
