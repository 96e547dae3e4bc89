"""Power and state beside trtexec, with stand-ins for it and for the meters."""

from __future__ import annotations

import functools
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.engines import BuildOptions, ShapeRange
from graphopt.engines.remote.job import Waits
from graphopt.engines.trtexec import power as power_of
from graphopt.engines.trtexec.engine import Trtexec
from graphopt.engines.trtexec.requests import FILES
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.state import fingerprint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "standins"))
import engine_models
import jetson
import nvidia_smi
from trtexec import install

X = ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
OPTIONS = BuildOptions(engine_models.T4, shapes={"x": X})
SIZES = {"x": (4, 3, 8, 8)}
SMI = {
    "name": "Tesla T4",
    "compute_cap": "7.5",
    "memory.total": "15360",
    "driver_version": "535.161.08",
    "pstate": "P0",
    "clocks.sm": "585",
    "clocks.mem": "5000",
    "clocks.max.sm": "1590",
    "clocks.applications.graphics": "585",
    "clocks.applications.memory": "5001",
    "temperature.gpu": "61",
    "persistence_mode": "Enabled",
    "compute_mode": "Default",
    "mig.mode.current": "[N/A]",
    "ecc.mode.current": "Enabled",
    "power.draw": "31.50",
    "power.limit": "70.00",
    "clocks_throttle_reasons.active": "0x0000000000000004",
    "pid": "",
}


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A trtexec of this machine, and a folder for meters, first on PATH."""
    brisk = functools.partial(Waits, poll_s=0.02, tick_s=0.05, lock=str(tmp_path / "lock"))
    monkeypatch.setattr("graphopt.engines.trtexec.engine.Waits", brisk)
    monkeypatch.setattr(power_of, "IDLE_S", 0.8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    meters = tmp_path / "the meters"
    nvidia_smi.install_strict(meters, SMI, record=tmp_path / "calls")
    monkeypatch.setenv("PATH", f"{meters}:/usr/bin:/bin")

    def make(version="8.5.2", **behaviour):
        return Trtexec(None, str(install(tmp_path / "tensorrt", version, **behaviour)))

    make.meters = meters
    return make


def engine(tool, path):
    tool.build(engine_models.convnet(quantized=True), path, OPTIONS)
    return path


def gone(pid: int) -> bool:
    for _ in range(60):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if ") Z" in Path(f"/proc/{pid}/stat").read_text():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("version", [pytest.param("8.5.2", marks=pytest.mark.slow), "10.3.0"])
def test_an_engines_power_on_a_jetson(tool, tmp_path, version):
    jetson.install(tool.meters, stats=(jetson.XAVIER_BUSY,), record=tmp_path / "pids")
    path = engine(tool(version), tmp_path / "m.engine")
    slow = tool(version, slow=1.5)
    found = slow.power(path, SIZES, seconds=1.0)
    assert found.source == "tegrastats"
    assert found.mean_w == pytest.approx(32.85)
    assert found.idle_w == pytest.approx(32.85)  # the stand-in knows no rest, and that is said
    assert any("no more than the idle" in note for note in found.notes)
    assert found.seconds == pytest.approx(1.5 - 0.3, abs=0.5)
    assert found.gross_mj == pytest.approx(
        1000 * 32.85 * found.seconds / (found.runs * found.batch)
    )
    assert found.runs > 0
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 1
    assert gone(pids[0])


def test_an_engines_power_by_nvidia_smi(tool, tmp_path):
    path = engine(tool(), tmp_path / "m.engine")
    found = tool(slow=2.5).power(path, SIZES, 2.0)
    assert found.source == "nvidia-smi power.draw"  # power.draw.instant was refused
    assert found.mean_w == pytest.approx(31.5)
    streams = [x for x in (tmp_path / "calls").read_text().splitlines() if "-lms" in x]
    assert len(streams) == 1
    assert gone(int(streams[0].split()[0]))


def test_what_cannot_be_measured_is_told(tool, tmp_path):
    made = tool()
    path = engine(made, tmp_path / "m.engine")
    with pytest.raises(UsageError, match="1 to 3600"):
        made.power(path, SIZES, 0.1)
    with pytest.raises(UsageError, match="no such file"):
        made.power(tmp_path / "none.engine", SIZES, 5)
    model = engine_models.convnet().save(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="is no engine"):
        made.power(model, SIZES, 5)
    nvidia_smi.install_strict(tool.meters, {**SMI, "power.draw": "[N/A]"})
    with pytest.raises(EnvironmentProblem, match="looked for tegrastats"):
        made.power(path, SIZES, 1)
    jetson.install(tool.meters, stats=(jetson.NO_POWER,))
    with pytest.raises(EnvironmentProblem, match="told nothing"):
        made.power(path, SIZES, 1)
    jetson.install(tool.meters, stats=(jetson.XAVIER_5,))
    with pytest.raises(EnvironmentProblem, match=r"cannot run m\.engine"):
        tool(killed="inference").power(path, SIZES, 1)


def test_ctrl_c_leaves_nothing_running(tool, tmp_path):
    jetson.install(tool.meters, record=tmp_path / "pids")
    path = engine(tool(), tmp_path / "m.engine")

    def say(text):
        if "Starting inference" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tool(slow=2.0).power(path, SIZES, 30, say)
    (pid,) = [int(p) for p in (tmp_path / "pids").read_text().split()]
    assert gone(pid)
    jobs = tmp_path / "cache" / "graphopt" / "jobs"
    assert list(jobs.iterdir()) == []


def test_a_build_and_a_timing_tell_the_state(tool, tmp_path):
    jetson.install(tool.meters, mode=jetson.NVPMODEL_30W)
    (tool.meters / "nvpmodel").unlink()
    made, said = tool(), []
    artifact = made.build(
        engine_models.convnet(), tmp_path / "m.engine",
        replace(OPTIONS, say=said.append),
    )  # fmt: skip
    assert artifact.latency is not None
    told = artifact.latency.environment
    assert told["gpu"] == "Tesla T4"
    assert (told["gpu_sm_mhz"], told["gpu_power_limit_w"]) == ("585", "70")
    assert told["gpu_throttle"] == "software power cap"
    assert {"kernel", "cores"} <= set(told)
    assert any("held at its power limit" in line for line in said)
    assert "gpu_power_limit_w" in fingerprint(told)
    assert "gpu_sm_mhz" not in fingerprint(told)
    timing = made.time(tmp_path / "m.engine", SIZES, power_of.Timing())
    assert timing.latency.environment["gpu_sm_mhz"] == "585"
    assert any("held at its power limit" in line for line in timing.warnings)


def test_a_machine_that_tells_no_state_is_still_timed(tool, tmp_path, monkeypatch):
    made = tool()
    path = engine(made, tmp_path / "m.engine")
    monkeypatch.setattr("graphopt.engines.remote.state.telling", lambda _: "exit 3\n")
    timed = made.time(path, SIZES, power_of.Timing())
    assert timed.latency.samples_ms
    assert "gpu_sm_mhz" not in timed.latency.environment


def test_a_failed_timing_still_fails(tool, tmp_path):
    path = engine(tool(), tmp_path / "m.engine")
    with pytest.raises(EnvironmentProblem):
        tool(killed="inference").time(path, SIZES, power_of.Timing())
    assert not (tmp_path / FILES.times).exists()


@pytest.mark.slow
def test_power_and_state_over_ssh(tmp_path, monkeypatch):
    """The same on a machine at the other end of a real ssh, and nothing is left there."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "remote"))
    from sshd import missing, ssh_device

    if reason := missing():
        pytest.skip(reason)
    with ssh_device(tmp_path / "device") as device:
        monkeypatch.setenv("PATH", device.path)
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        monkeypatch.setattr(power_of, "IDLE_S", 0.6)
        nvidia_smi.install_strict(device.bin, SMI)
        jetson.install(device.bin, stats=(jetson.ORIN_7,), mode=None, clocks=None)
        install(device.bin, "10.3.0", slow=0.7)
        far = Trtexec(device.host)
        path = engine(far, tmp_path / "m.engine")
        timing = far.time(path, SIZES, power_of.Timing())
        assert timing.latency.environment["gpu_max_sm_mhz"] == "1590"
        found = far.power(path, SIZES, 1.0)
        assert found.source == "tegrastats"
        assert found.mean_w == pytest.approx(9.11)
        assert found.batch == 4
        far.link().close()
        left = [words for words in device.quiet().values() if "tegrastats" in words]
        assert left == []
