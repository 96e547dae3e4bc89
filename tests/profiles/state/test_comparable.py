"""Which runs may be compared, and what is said of what disturbed one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.profiles.state import differences, fingerprint, read_state, throttled

CPU = {
    "engine": "onnxruntime",
    "onnxruntime": "1.22.0",
    "cpu": "A Processor",
    "cores": "4",
    "threads": "1",
    "governor": "performance",
    "load_1m": "0.1",
    "temp_c_cpu": "41",
    "cpu_mhz": "3000",
    "counter_at_s": "100",
    "counter_busy_s": "50",
    "counter_own_s": "10",
    "counter_stolen_s": "0",
    "gpu": "NVIDIA A10",
    "driver": "535.54",
    "env_OMP_NUM_THREADS": "1",
}
GPU = {**CPU, "engine": "tensorrt", "engine_version": "10.3.0", "gpu_app_sm_mhz": "1695"}


def test_a_fingerprint_leaves_out_what_varies():
    told = fingerprint(CPU)
    assert told == fingerprint(told)
    assert set(told) == {"engine", "onnxruntime", "cpu", "cores", "threads", "governor"}
    assert {"gpu", "driver", "gpu_app_sm_mhz"} <= set(fingerprint(GPU))
    assert "onnxruntime" not in fingerprint(GPU)
    assert "gpu" in fingerprint({**CPU, "provider": "CUDAExecutionProvider"})
    assert fingerprint(read_state()) == fingerprint(read_state())


@pytest.mark.parametrize(
    ("base", "change", "said"),
    [
        (GPU, {"driver": "550.90"}, ["driver: 535.54 there, 550.90 here"]),
        (CPU, {"driver": "550.90"}, []),  # the processor does not mind
        (CPU, {"temp_c_cpu": "90", "load_1m": "4", "cpu_mhz": "800"}, []),
        (CPU, {"governor": "powersave"}, ["governor: performance there, powersave here"]),
        (CPU, {"turbo": "off"}, ["turbo: not told there, off here"]),
        (CPU, {"threads": "2", "cores": "2"}, ["cores: 4 there, 2 here",
                                               "threads: 1 there, 2 here"]),
        (CPU, {"onnxruntime": "1.23.0"}, ["ONNX Runtime: 1.22.0 there, 1.23.0 here"]),
        (GPU, {"onnxruntime": "1.23.0"}, []),
        (CPU, {"env_LD_PRELOAD": "libjemalloc.so.2"},
         ["LD_PRELOAD: not told there, libjemalloc.so.2 here"]),
        (GPU, {"power_mode": "MODE_30W_ALL"}, ["power mode: not told there, MODE_30W_ALL here"]),
    ],
)  # fmt: skip
def test_differences_are_told(base, change, said):
    assert differences(base, {**base, **change}) == said
    assert differences(fingerprint(base), fingerprint({**base, **change})) == said


def after(**changed: str) -> dict[str, str]:
    """Ten seconds later, of which this process used all of one core."""
    counters = {"counter_at_s": "110", "counter_busy_s": "60.05", "counter_own_s": "20"}
    return {**CPU, **counters, **changed}


def test_a_quiet_run_is_not_warned_of():
    assert throttled(CPU, after()) == []
    assert throttled({}, {}) == []


@pytest.mark.parametrize(
    ("before", "changed", "words"),
    [
        ({}, {"counter_busy_s": "78"}, "other programs used 1.8 of 4 cores"),
        ({}, {"counter_stolen_s": "2"}, "the hypervisor gave 5 % of the processors' time"),
        ({"counter_quota_paused": "3", "cpu_quota": "1.5"},
         {"counter_quota_paused": "15", "cpu_quota": "1.5"},
         "the container's quota of 1.5 cores paused it 12 times: use no more threads"),
        ({"counter_cpu_throttled": "3"}, {"counter_cpu_throttled": "4"},
         "the processor slowed down for heat 1 time: cool it"),
        ({}, {"cpu_mhz": "2000"}, "the processor's clock fell from 3000 to 2000 MHz"),
        ({"governor": "powersave"}, {"governor": "powersave"}, "cpupower frequency-set"),
        ({}, {"governor": "powersave"},
         "this changed while it ran: governor: performance before, powersave after"),
        ({}, {"temp_c_tj": "96", "temp_limit_c_tj": "95"}, "tj is at 96 °C, and the system slows"),
        ({}, {"gpu_temp_c": "95", "gpu_slowdown_c": "95"}, "the GPU is at 95 °C and slows down"),
        ({"gpu_throttle": "idle"},
         {"gpu_throttle": "software power cap, hardware thermal slowdown"},
         "the GPU slows down for heat (hardware thermal slowdown): cool it"),
        ({}, {"gpu_throttle": "software power cap"}, "held at its power limit"),
        ({}, {"gpu_throttle": "hardware slowdown"}, "hardware halves its clocks"),
        ({"gpu_counter_sw_power_cap_us": "100"}, {"gpu_counter_sw_power_cap_us": "2000100"},
         "the GPU's clocks were held down for 2 s by its power limit: take the times"),
        ({"gpu_pstate": "P0", "gpu_sm_mhz": "1695"}, {"gpu_pstate": "P0", "gpu_sm_mhz": "1200"},
         "the GPU's clock fell from 1695 to 1200 MHz"),
        ({"power_mode": "MODE_15W"}, {"power_mode": "MODE_15W"},
         "nvpmodel says MODE_15W: figures hold for that mode"),
        ({}, {"clocks_fixed": "no"}, "sudo jetson_clocks, while timing"),
    ],
)  # fmt: skip
def test_what_disturbs_is_told_with_what_to_do(before, changed, words):
    base = {**CPU, **before}
    said = throttled(base, {**after(), **before, **changed})
    assert any(words in line for line in said), said
    assert all(line.isprintable() and (":" in line or ";" in line) for line in said)


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        ({"gpu_throttle": "idle"}, {"gpu_throttle": "idle, application clocks"}),
        ({"gpu_pstate": "P0", "gpu_sm_mhz": "1695"}, {"gpu_pstate": "P8", "gpu_sm_mhz": "210"}),
        ({"gpu_pstate": "P0", "gpu_sm_mhz": "1695"},
         {"gpu_pstate": "P0", "gpu_sm_mhz": "210", "gpu_throttle": "idle"}),
        ({"gpu_counter_sw_power_cap_us": "100"}, {"gpu_counter_sw_power_cap_us": "20000"}),
        ({"counter_busy_s": "70"}, {"counter_busy_s": "10"}),  # started anew meanwhile
        ({"power_mode": "MAXN_SUPER"}, {"power_mode": "MAXN_SUPER"}),
        ({"power_mode": "unknown"}, {"power_mode": "unknown"}),
        ({"load_1m": "9"}, {}),  # of before, and counters tell of the run itself
    ],
)  # fmt: skip
def test_what_says_nothing_is_not_told(before, changed):
    assert throttled({**CPU, **before}, {**after(), **before, **changed}) == []


def test_without_counters_the_load_before_is_told():
    quiet = {"cores": "4", "load_1m": "3.5"}
    assert "3.5 processes ran on 4 cores" in throttled(quiet, {"cores": "4"})[0]


@given(
    st.dictionaries(st.sampled_from([*CPU, "gpu_throttle", "power_mode", "temp_c_x"]), st.text()),
    st.dictionaries(st.sampled_from([*CPU, "gpu_throttle", "power_mode", "temp_c_x"]), st.text()),
)
@settings(max_examples=100)
def test_any_two_states(a, b):
    assert all(isinstance(line, str) for line in throttled(a, b))
    assert bool(differences(a, b)) == (fingerprint(a) != fingerprint(b))
