"""The state of a machine over there, told by its own shell, read here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines.remote import power, state
from graphopt.engines.remote.probe import parse, telling
from graphopt.errors import EnvironmentProblem
from graphopt.profiles.state import read_state as state_here

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "standins"))
import jetson
import nvidia_smi

A10 = {
    "name": "NVIDIA A10",
    "driver_version": "470.82.01",
    "pstate": "P0",
    "clocks.sm": "1695",
    "temperature.gpu": "61",
    "clocks.mem": "6251",
    "clocks.max.sm": "1695",
    "clocks.applications.graphics": "1695",
    "clocks.applications.memory": "[N/A]",
    "power.draw": "147.90",
    "power.limit": "150.00",
    "persistence_mode": "Enabled",
    "compute_mode": "Default",
    "mig.mode.current": "[N/A]",
    "ecc.mode.current": "Enabled",
    "clocks_throttle_reasons.active": "0x0000000000000020",
}
VALUES = {
    "kernel": "5.10.104-tegra",
    "system": "Linux aarch64",
    "cores": "8",
    "load": "0.52 0.58 0.59 1/543 12345\n",
    "cpu": "model name\t: ARMv8 Processor rev 0 (v8l)\n",
    "governor": "performance\nschedutil\n",
    "zones": "CPU-therm 46500 96000\nPMIC-Die 100000000\nGPU-therm 97000 96000 98000\nodd\n",
    "gpu-clocks": "114750000 1377000000 675750000\n",
    "board": "Jetson-AGX\n",
    "l4t": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
    "power-mode": jetson.NVPMODEL_30W,
    "clocks": jetson.JETSON_CLOCKS_NO_ROOT,
}


def test_a_xavier():
    assert state.read_state(VALUES) == {
        "kernel": "5.10.104-tegra",
        "system": "Linux aarch64",
        "cores": "8",
        "load_1m": "0.52",
        "cpu": "ARMv8 Processor rev 0 (v8l)",
        "governor": "performance, schedutil",
        "temp_c_cpu_therm": "46.5",
        "temp_limit_c_cpu_therm": "96",
        "temp_c_gpu_therm": "97",
        "temp_limit_c_gpu_therm": "96",
        "board": "Jetson-AGX",
        "gpu": "Jetson-AGX",
        "l4t": "35.4.1",
        "power_mode": "MODE_30W_ALL",
        "clocks_fixed": "no",
        "gpu_sm_mhz": "675.8",
        "gpu_max_sm_mhz": "1377",
    }


def test_the_script_tells_of_this_machine_what_is_read_here(link, there, monkeypatch):
    (there / state.SCRIPT).write_text(telling("state.sh"))
    done = link.run(f'cd "$1" && {state.asking("out")}', str(there), limit_s=60)
    assert done.status == 0
    far, here = state.read_file(there / "out"), state_here()
    assert {"kernel", "system", "cores", "load_1m", "cpu"} <= set(far)
    for key in ("kernel", "system", "cpu"):
        assert far[key] == here[key]


@pytest.mark.parametrize("shell", [["dash"], ["bash", "--posix"], ["busybox", "sh"]])
def test_an_old_driver_is_asked_again_in_any_shell(tmp_path, monkeypatch, shell):
    bin_ = tmp_path / "bin"
    nvidia_smi.install_strict(bin_, A10, heat="        GPU Slowdown Temp                 : 95 C\n")
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    state.write_script(tmp_path)
    line = state.asking("out").replace("sh ", " ".join(shell) + " ", 1)
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True, timeout=100)
    told = state.read_file(tmp_path / "out")
    assert told["gpu"] == "NVIDIA A10"
    assert told["driver"] == "470.82.01"
    assert told["gpu_power_w"] == "147.9"
    assert told["gpu_throttle"] == "software thermal slowdown"
    assert told["gpu_slowdown_c"] == "95"


def test_a_script_that_cannot_run_costs_nothing(tmp_path):
    line = state.asking("out")
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, check=False).returncode == 0
    assert state.read_file(tmp_path / "out") == {}
    assert state.read_file(tmp_path / "none") == {}


@given(st.dictionaries(st.sampled_from([*VALUES, "gpu-fields", "gpu-row"]), st.text(max_size=80)))
@settings(max_examples=100)
def test_any_values_give_a_state_that_can_be_shown(values):
    for key, value in state.read_state(values).items():
        assert re.fullmatch(r"[a-z0-9_]+", key)
        assert value.isprintable()
        assert len(value) <= 300


def test_the_scripts_print_what_is_parsed(tmp_path):
    text = telling("state.sh")
    assert parse(f"\nm begin\n@cores {b'8'.hex()}\nm end\n", "m") == {"cores": "8"}
    for key in VALUES:
        assert re.search(rf"(?:say|text|file) {key}\b", text), key


# --- power ---


def told(*rows):
    return "\n".join(["90.00 =meter tegrastats", *rows])


RUN = told(
    "90.00 =idle", *(f"{90 + n / 10:.2f} {jetson.XAVIER_4_2}" for n in range(1, 21)),
    "92.00 =load", "93.00 =begin",
    *(f"{93 + n / 10:.2f} {jetson.XAVIER_BUSY}" for n in range(1, 21)),
    "95.00 =end", "95.40 =over",
)  # fmt: skip


def test_power_of_a_run():
    found = power.result(power.parse(RUN), runs_per_s=100.0, batch=8)
    assert found.source == "tegrastats"
    assert found.idle_w == pytest.approx(7.632)
    assert found.mean_w == pytest.approx(32.85)
    assert found.seconds == pytest.approx(1.7)  # without what the meter lags
    assert found.gross_mj == pytest.approx(1000 * 32.85 / 800)
    assert found.net_mj == pytest.approx(1000 * (32.85 - 7.632) / 800)
    assert found.rails["GPU"] == pytest.approx(18.401)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("text", "rate", "words"),
    [
        ("", 100.0, "names no meter|no meter"),
        ("1 =meter nvidia-smi power.evil\n", 100.0, "no meter"),
        (RUN.replace("=begin", "=never"), 100.0, "does not tell when it ran"),
        (RUN, 0.0, "how often"),
        (RUN, float("inf"), "how often"),
        (RUN.replace("mW", "").replace("GPU ", "XPU "), 100.0, "told nothing"),
    ],
)
def test_readings_that_tell_nothing(text, rate, words):
    with pytest.raises(EnvironmentProblem, match=words):
        power.result(power.parse(text), runs_per_s=rate, batch=1)


@given(st.text(max_size=300), st.integers(0, 4000))
@settings(max_examples=100)
def test_any_file(noise, at):
    try:
        found = power.result(power.parse(RUN[:at] + noise + RUN[at:]), runs_per_s=10, batch=1)
    except EnvironmentProblem:
        return
    assert 0 <= found.mean_w < 1e6
