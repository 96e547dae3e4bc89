"""The machine's state, source by source, from files and tools that print what real ones do."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.profiles.reading import ask, number, spelled
from graphopt.profiles.state import cpu as state_cpu
from graphopt.profiles.state import read_state
from graphopt.profiles.state.cgroup import cgroup_state
from graphopt.profiles.state.heat import heat_state, zones
from graphopt.profiles.state.jetson import jetson_state
from graphopt.profiles.state.nvidia import (
    COUNTERS,
    FIELDS,
    decode_reasons,
    nvidia_state,
    parse_fields,
    parse_row,
    parse_slowdown,
)
from graphopt.profiles.state.software import software_state

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "standins"))
import jetson
import nvidia_smi


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def check_plain(state: dict[str, str]) -> None:
    for key, value in state.items():
        assert key.isascii(), key
        assert value, key
        assert value.isprintable(), value
        assert len(value) <= 300, value


# --- this machine ---


def test_this_machine_is_read():
    state = read_state()
    check_plain(state)
    assert list(state) == sorted(state)
    assert {"cpu", "cores", "governor", "kernel", "python", "onnxruntime", "numpy"} <= set(state)
    assert int(state["cores"]) >= 1
    again = read_state()
    assert {k for k in state if "counter" not in k} == {k for k in again if "counter" not in k}
    if "counter_at_s" in state:
        assert float(again["counter_at_s"]) >= float(state["counter_at_s"])


def test_nothing_of_a_person_or_a_specimen_is_recorded(monkeypatch, tmp_path):
    import getpass
    import socket

    monkeypatch.setenv("LD_PRELOAD", "")
    told = " ".join(read_state().values()).lower()
    name = socket.gethostname().lower()
    assert len(name) < 4 or name not in told
    monkeypatch.setenv("USER", "somebody-unlikely")
    assert getpass.getuser() not in told
    asked = ",".join(n for names in FIELDS.values() for n in names)
    assert "uuid" not in asked
    assert "serial" not in asked


# --- the processor ---


def test_governors_clocks_and_switches(tmp_path, monkeypatch):
    monkeypatch.setattr(state_cpu, "usable_cpus", lambda: (0, 1))
    cpu = "sys/devices/system/cpu"
    files = {f"{cpu}/smt/active": "1\n", f"{cpu}/intel_pstate/no_turbo": "0\n"}
    for n, governor, mhz in ((0, "powersave", 1200), (1, "performance", 3400), (2, "other", 9000)):
        files |= {
            f"{cpu}/cpu{n}/cpufreq/scaling_governor": f"{governor}\n",
            f"{cpu}/cpu{n}/cpufreq/scaling_driver": "intel_pstate\n",
            f"{cpu}/cpu{n}/cpufreq/energy_performance_preference": "balance_performance\n",
            f"{cpu}/cpu{n}/cpufreq/scaling_cur_freq": f"{mhz}000\n",
            f"{cpu}/cpu{n}/cpufreq/scaling_min_freq": "800000\n",
            f"{cpu}/cpu{n}/cpufreq/scaling_max_freq": "3600000\n",
            f"{cpu}/cpu{n}/thermal_throttle/core_throttle_count": "7\n",
        }
    files["proc/cpuinfo"] = "model name\t: A Processor\nflags\t\t: fpu hypervisor sse\n"
    files["sys/class/dmi/id/sys_vendor"] = "QEMU\n"
    files["proc/loadavg"] = "0.52 0.58 0.59 1/543 12345\n"
    files["proc/meminfo"] = "MemTotal:       32692744 kB\nMemFree: 100 kB\n"
    files["proc/stat"] = (
        "cpu  9 9 9 9 9 9 9 9 0 0\n"
        "cpu0 100 10 20 5000 7 3 2 40 0 0\ncpu1 200 0 0 5000 0 0 0 10 0 0\n"
        "cpu2 9999 0 0 0 0 0 0 0 0 0\nintr 1 2 3\n"
    )
    state = state_cpu.cpu_state(tree(tmp_path, files))
    check_plain(state)
    assert state["governor"] == "performance, powersave"  # not that of the third processor
    assert state["cpu_driver"] == "intel_pstate"
    assert state["energy_preference"] == "balance_performance"
    assert (state["cpu_mhz"], state["cpu_min_mhz"], state["cpu_max_mhz"]) == ("3400", "800", "3600")
    assert (state["smt"], state["turbo"], state["hypervisor"]) == ("on", "on", "QEMU")
    assert (state["load_1m"], state["memory_gb"]) == ("0.52", "33.5")
    assert state["counter_cpu_throttled"] == "14"
    assert state["counter_busy_s"] == spelled(335 / 100, 2)
    assert state["counter_stolen_s"] == spelled(50 / 100, 2)


def test_a_machine_that_tells_nothing(tmp_path):
    state = state_cpu.cpu_state(tmp_path)
    check_plain(state)
    assert state["governor"] == "unknown"
    assert not {"smt", "turbo", "cpu_mhz", "load_1m", "counter_busy_s", "cpu_quota"} & set(state)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (  # version 2, a quota above the group
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/a/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 4\n",
                "sys/fs/cgroup/a/b/memory.max": "2000000000\n",
            },
            {"cpu_quota": "1.5", "memory_limit_gb": "2", "counter_quota_paused": "4"},
        ),
        (  # in a container the path is the host's: what is seen is at the top
            {
                "proc/self/cgroup": "0::/../../docker/0123\n0::/docker/4567\n",
                "sys/fs/cgroup/cpu.max": "200000 100000\n",
            },
            {"cpu_quota": "2", "counter_quota_paused": "0"},
        ),
        (  # version 1
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
            },
            {"cpu_quota": "0.5", "counter_quota_paused": "0"},
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            {},
        ),
        ({"proc/self/cgroup": "garbage\n:::\n0::../../etc\n"}, {}),
    ],
)
def test_a_containers_limits(tmp_path, files, told):
    assert cgroup_state(tree(tmp_path, files)) == told


def test_temperatures_and_where_the_system_slows_down(tmp_path):
    zone = "sys/class/thermal/thermal_zone"
    files = {
        f"{zone}0/type": "CPU-therm\n",
        f"{zone}0/temp": "46500\n",
        f"{zone}0/trip_point_0_type": "active\n",
        f"{zone}0/trip_point_0_temp": "50000\n",
        f"{zone}0/trip_point_1_type": "passive\n",
        f"{zone}0/trip_point_1_temp": "96000\n",
        f"{zone}1/type": "PMIC-Die\n",
        f"{zone}1/temp": "100000000\n",
        f"{zone}2/type": "x86_pkg_temp\n",
        f"{zone}2/temp": "41000\n",
        f"{zone}2/trip_point_0_type": "passive\n",
        f"{zone}2/trip_point_0_temp": "0\n",
        f"{zone}3/type": "x86_pkg_temp\n",
        f"{zone}3/temp": "43000\n",
        "sys/class/hwmon/hwmon0/name": "k10temp\n",
        "sys/class/hwmon/hwmon0/temp1_input": "55125\n",
        "sys/class/hwmon/hwmon1/name": "nvme\n",
        "sys/class/hwmon/hwmon1/temp1_input": "30000\n",
    }
    assert heat_state(tree(tmp_path, files)) == {
        "temp_c_cpu_therm": "46.5",
        "temp_limit_c_cpu_therm": "96",
        "temp_c_x86_pkg_temp": "43",
        "temp_c_k10temp": "55.1",
    }


@given(
    st.lists(
        st.tuples(st.text(max_size=40), st.text(max_size=12), st.lists(st.text(max_size=8))),
        max_size=5,
    )
)
@settings(max_examples=50)
def test_any_zones(rows):
    check_plain(zones(rows))


# --- software ---


def test_variables_are_recorded_and_paths_are_not():
    state = software_state(
        {
            "OMP_NUM_THREADS": "2",
            "GOMP_CPU_AFFINITY": "0-3 5",
            "MALLOC_CONF": "prof_prefix:/home/me/x",
            "LD_PRELOAD": "/home/me/lib/libjemalloc.so.2:/x/libb.so",
            "CUDA_VISIBLE_DEVICES": "GPU-90e3dab0-b59d-8bf6-d909-d4fab8d2f29b",
            "SECRET": "1",
        }
    )
    assert {k: v for k, v in state.items() if k.startswith("env_")} == {
        "env_OMP_NUM_THREADS": "2",
        "env_GOMP_CPU_AFFINITY": "0-3 5",
        "env_MALLOC_CONF": "set",
        "env_LD_PRELOAD": "libb.so libjemalloc.so.2",
    }


# --- nvidia-smi ---

# Formats of nvidia-smi as its help and public rows have them: "2026/09/17 00:36:36.360, 41, 51,
# 800, 12.00, P3, 0x0000000000000004"; "GeForce RTX 2080 Ti, ..., [Unknown Error]"; "[N/A]".
A10 = {
    "name": "NVIDIA A10",
    "driver_version": "535.161.08",
    "pstate": "P0",
    "clocks.sm": "1695",
    "clocks.mem": "6251",
    "clocks.max.sm": "1695",
    "clocks.applications.graphics": "1695",
    "clocks.applications.memory": "6251",
    "temperature.gpu": "61",
    "power.draw.instant": "148.22",
    "power.draw": "147.90",
    "power.limit": "150.00",
    "persistence_mode": "Enabled",
    "compute_mode": "Default",
    "mig.mode.current": "[N/A]",
    "ecc.mode.current": "Enabled",
    "clocks_event_reasons.active": "0x0000000000000004",
    "clocks_throttle_reasons.active": "0x0000000000000004",
}
# fastfetch-cli/fastfetch issue 1029.
HEAT = """    Temperature
        GPU Current Temp                  : 51 C
        GPU T.Limit Temp                  : N/A
        GPU Shutdown Temp                 : 98 C
        GPU Slowdown Temp                 : 95 C
        GPU Max Operating Temp            : 105 C
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "bin"


def test_a_gpu(path):
    counted = dict.fromkeys(COUNTERS.values(), "1200")
    nvidia_smi.install_strict(path, {**A10, **counted}, heat=HEAT)
    state = nvidia_state()
    check_plain(state)
    assert state["gpu"] == "NVIDIA A10"
    assert (state["gpu_sm_mhz"], state["gpu_max_sm_mhz"]) == ("1695", "1695")
    assert (state["gpu_power_w"], state["gpu_power_limit_w"]) == ("148.22", "150")
    assert (state["gpu_throttle"], state["gpu_slowdown_c"]) == ("software power cap", "95")
    assert (state["gpu_temp_c"], state["gpu_pstate"], state["gpu_ecc"]) == ("61", "P0", "Enabled")
    assert "gpu_mig" not in state
    assert state["gpu_counter_sw_power_cap_us"] == "1200"


def test_an_old_driver_is_asked_again_without_what_it_does_not_know(path, tmp_path):
    record = tmp_path / "calls"
    new = ("clocks_event_reasons.active", "power.draw.instant", "mig.mode.current")
    old = {k: v for k, v in A10.items() if k not in new}
    nvidia_smi.install_strict(path, old, record=record)
    state = nvidia_state()
    assert state["gpu_throttle"] == "software power cap"  # by its old name
    assert state["gpu_power_w"] == "147.9"
    assert not set(state) & set(COUNTERS)
    assert "gpu_slowdown_c" not in state
    calls = record.read_text().splitlines()
    assert len([c for c in calls if "query-gpu" in c]) == 1 + len(new) + 1  # counters go at once


def test_the_gpu_in_use_is_asked_after(path, tmp_path, monkeypatch):
    nvidia_smi.install_strict(path, A10, record=tmp_path / "calls")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    nvidia_state()
    assert " -i 2" in (tmp_path / "calls").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "; rm -rf /")
    nvidia_state()
    assert (tmp_path / "calls").read_text().splitlines()[-1].endswith("-i 0")


@pytest.mark.parametrize(
    "body",
    [
        "exit 9",
        "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'",
        "printf '\\377\\376\\0 , , ,'",
        "echo 'Field \"name\" is not a valid field to query.'; exit 2",
        "yes ', , ' | head -c 5000000",
        "kill -KILL $$",
        "sleep 60 & echo 1",
    ],
)
def test_an_nvidia_smi_that_is_none(path, body):
    path.mkdir()
    tool = path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    before = time.monotonic()
    assert nvidia_state() == {}
    assert time.monotonic() - before < 9


def test_a_tool_that_hangs_is_given_up_with_its_children(path, tmp_path):
    path.mkdir()
    tool = path / "hangs"
    tool.write_text(f"#!/bin/sh\n(echo $$ >{tmp_path}/pid; sleep 100) &\necho begun\nwait\n")
    tool.chmod(0o755)
    assert ask("hangs", limit_s=0.5).status is None
    pid = (tmp_path / "pid").read_text().strip()
    time.sleep(0.05)
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or ") Z" in state.read_text()
    assert ask("no such program").status is None


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("0x0000000000000000", []),
        ("0x0000000000000001", ["idle"]),
        ("0x0000000000000004", ["software power cap"]),
        ("0x0000000000000048", ["hardware slowdown", "hardware thermal slowdown"]),
        ("0x00000000000001FF", None),
        ("0x8000000000000200", ["reason 0x200", "reason 0x8000000000000000"]),
        ("Not Active", None),
        ("[N/A]", None),
        ("0x", None),
        ("0x00000000000000000", None),
    ],
)
def test_throttle_reasons(mask, words):
    told = decode_reasons(mask)
    if mask.endswith("1FF"):
        assert told is not None
        assert len(told) == 9
    else:
        assert told == words


@given(st.text(max_size=200), st.sampled_from([("gpu",), tuple(FIELDS), tuple(COUNTERS)]))
@settings(max_examples=100)
def test_any_row(text, keys):
    check_plain(parse_row(text, keys))
    names = [name for group in FIELDS.values() for name in group]
    check_plain(parse_fields(text, names[: text.count(",") + 1]))
    check_plain(parse_slowdown(text))


def test_of_two_names_the_first_with_a_value_counts():
    fields = ["power.draw.instant", "power.draw", "name"]
    assert parse_fields("[N/A], 12.5, X", fields) == {"gpu_power_w": "12.5", "gpu": "X"}
    assert parse_fields("3, 12.5, X", fields)["gpu_power_w"] == "3"
    assert parse_fields("3, 12.5", fields) == {}


# --- a Jetson ---

XAVIER = {
    "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref\n",
    "proc/device-tree/model": "Jetson-AGX\0",
    "sys/class/devfreq/17000000.gv11b/min_freq": "114750000\n",
    "sys/class/devfreq/17000000.gv11b/max_freq": "1377000000\n",
    "sys/class/devfreq/17000000.gv11b/cur_freq": "675750000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "1\n",
}


def test_a_jetson_whose_clocks_only_root_may_ask(path, tmp_path):
    jetson.install(path, mode=jetson.NVPMODEL_30W)
    assert jetson_state(tree(tmp_path / "root", XAVIER)) == {
        "board": "Jetson-AGX",
        "gpu": "Jetson-AGX",
        "l4t": "35.4.1",
        "power_mode": "MODE_30W_ALL",
        "clocks_fixed": "no",  # as devfreq tells
        "gpu_sm_mhz": "675.8",
        "gpu_max_sm_mhz": "1377",
    }


def test_jetson_clocks_is_believed_where_it_tells(path, tmp_path):
    held = jetson.JETSON_CLOCKS.replace("GPU MinFreq=114750000", "GPU MinFreq=1134750000")
    jetson.install(path, clocks=held)
    assert jetson_state(tree(tmp_path / "root", XAVIER))["clocks_fixed"] == "yes"
    jetson.install(path, clocks=jetson.JETSON_CLOCKS)
    assert jetson_state(tmp_path / "root")["clocks_fixed"] == "no"


def test_a_jetson_without_its_tools(path, tmp_path):
    root = tree(tmp_path / "root", {"proc/device-tree/compatible": "nvidia,p3701\0nvidia,tegra234"})
    assert jetson_state(root) == {"power_mode": "unknown", "clocks_fixed": "unknown"}
    assert jetson_state(tmp_path / "elsewhere") == {}


@given(st.text(max_size=30))
@settings(max_examples=100)
def test_numbers(text):
    value = number(text)
    if value is not None:
        assert float(spelled(value, 6)) == pytest.approx(value, abs=1e-5)
    assert number("1e999") is None
    assert number("٣") is None
