"""Power: what meters print, and the pass that uses them."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.power import power_pass, summarize
from graphopt.profiles.power.meters import (
    Reading,
    Stream,
    find_meter,
    grown,
    nvidia_meter,
    rapl_meter,
    read_nvidia,
    read_tegrastats,
)
from graphopt.profiles.power.tegrastats import read_rails, total

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "standins"))
import jetson
import nvidia_smi


@pytest.mark.parametrize(
    ("text", "rails", "watts"),
    [
        (jetson.XAVIER_4_2,
         {"GPU": 0.463, "CPU": 0.618, "SOC": 2.936, "CV": 0, "VDDRQ": 0.309, "SYS5V": 3.306},
         7.632),
        (jetson.XAVIER_5,
         {"GPU": 0.467, "CPU": 0.467, "SOC": 1.245, "CV": 0, "VDDRQ": 0.311, "SYS5V": 2.768},
         5.258),
        (jetson.XAVIER_BUSY,
         {"GPU": 18.401, "CPU": 2.301, "SOC": 4.602, "CV": 0, "VDDRQ": 2.914, "SYS5V": 4.632},
         32.85),
        (jetson.ORIN_7,
         {"VDD_GPU_SOC": 3.034, "VDD_CPU_CV": 1.137, "VIN_SYS_5V0": 4.939}, 9.11),
        (jetson.ORIN_6,
         {"VDD_GPU_SOC": 3.342, "VDD_CPU_CV": 1.909, "VIN_SYS_5V0": 3.717}, 8.968),
        (jetson.ORIN_NANO_7,
         {"VDD_IN": 4.548, "VDD_CPU_GPU_CV": 0.483, "VDD_SOC": 1.489}, 4.548),
        (jetson.TX2,
         {"VDD_IN": 1.931, "VDD_CPU": 0.231, "VDD_GPU": 0.154, "VDD_SOC": 0.385,
          "VDD_WIFI": 0.038, "VDD_DDR": 0.326}, 1.931),
        (jetson.NANO, {"POM_5V_IN": 4.52, "POM_5V_GPU": 0, "POM_5V_CPU": 1.078}, 4.52),
        (jetson.NO_POWER, {}, None),
        ("RAM 4722/7844MB SWAP 1/2MB VDD_IN 5/", {}, None),
        ("VDD_GPU_SOC 3034mW/3049 VDD_CPU_CV 1/2", {"VDD_CPU_CV": 0.001}, None),
    ],
)  # fmt: skip
def test_rails_of_every_board(text, rails, watts):
    assert read_rails(text) == rails
    assert total(rails) == pytest.approx(watts)
    told = read_tegrastats(text)
    assert (told is None) == (watts is None)


@given(st.text(max_size=300), st.sampled_from([jetson.XAVIER_5, jetson.ORIN_7, ""]))
@settings(max_examples=100)
def test_any_line(noise, line):
    for text in (noise, noise + line, line[:50] + noise + line[50:]):
        for name, watts in read_rails(text).items():
            assert name.isascii()
            assert 0 <= watts < 1e6
    read_nvidia(noise)


@pytest.mark.parametrize(
    ("row", "watts"),
    [("148.22\n", 148.22), ("[N/A]\n", None), ("[Unknown Error]\n", None), ("", None),
     ("-3", None), ("nan", None), ("1e3", None), ("99999999999", None)],
)  # fmt: skip
def test_a_row_of_nvidia_smi(row, watts):
    assert read_nvidia(row) == (None if watts is None else (watts, {}))


# --- the pass, on a clock of its own ---


@dataclass
class Clock:
    """Time that passes when it is told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Fake:
    """A meter that tells 10 W while the clock is before ``busy_from``, and then more."""

    clock: Clock
    watts: dict[float, float]
    source: str = "a fake"
    interval_s: float = 0.1
    settle_s: float = 0.5
    rails: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def record(self):
        readings: list[Reading] = []
        self.clock.pass_by = self._passing(readings)  # type: ignore[method-assign]
        yield readings

    def _passing(self, readings):
        def pass_by(seconds):
            end = self.clock.now + seconds
            while self.clock.now < end - 1e-9:
                self.clock.now = min(end, self.clock.now + self.interval_s)
                level = [w for t, w in self.watts.items() if t <= self.clock.now][-1]
                readings.append(Reading(self.clock.now, level, self.rails))

        return pass_by


def test_energy_is_of_whole_runs_and_named_gross_and_net():
    clock = Clock()
    # Idle at 10 W for 2 s, then 25 W; the meter lags for half a second.
    meter = Fake(clock, {0: 10, 102.45: 25}, rails={"GPU": 4.0})
    found = power_pass(
        lambda: clock.pass_by(0.2), batch=4, seconds=2.9, meter=meter, idle_s=2.0,
        clock=clock, pause=lambda s: clock.pass_by(s),  # noqa: PLW0108 - replaced by the meter
    )  # fmt: skip
    assert found.idle_w == pytest.approx(10)
    assert found.mean_w == pytest.approx(25)
    assert found.peak_w == 25
    assert found.runs == 15
    assert found.seconds == pytest.approx(3.0)
    assert found.gross_mj == pytest.approx(1000 * 25 * 3.0 / (15 * 4))
    assert found.net_mj == pytest.approx(1000 * 15 * 3.0 / (15 * 4))
    assert found.rails == {"GPU": pytest.approx(4.0)}
    assert found.polls == 30
    assert found.notes == ()
    names = {figure.name: (figure.unit, figure.value) for figure in found.figures()}
    assert names["energy_net"] == ("mJ", found.net_mj)
    assert names["power_idle"][0] == "W"
    assert found.to_json()["rails"] == {"GPU": pytest.approx(4.0)}


def span(watts, times):
    return [Reading(t, w) for t, w in zip(times, watts, strict=True)]


def summary(readings, load=(1.0, 2.0), **more):
    settings = {"idle": (0.0, 1.0), "runs": 10, "batch": 1, "source": "m", "interval_s": 0.1}
    return summarize(readings, load=load, **{**settings, **more})


def test_readings_that_come_unevenly_are_weighed_by_time():
    found = summary(span([5, 10, 30], [0.5, 1.9, 2.0]))
    assert found.mean_w == pytest.approx(0.9 * 10 + 0.1 * 30)
    assert found.idle_w == 5


@pytest.mark.parametrize(
    ("readings", "load", "words"),
    [
        (span([5, 20], [0.5, 1.5]), (1.0, 2.0), "only 1 readings in 1 s"),
        (span([5, 20], [0.5, 1.05]), (1.0, 1.1), "measured for 0.1 s, and the meter is read every"),
        (span([20] * 15, [1 + n / 16 for n in range(1, 16)]), (1.0, 2.0), "above idle is not kno"),
        (span([20, 20], [0.5, 1.5]), (1.0, 2.0), "no more than the idle machine did"),
        (span([5, 20], [0.5, 1.5]), (1.0, 2.0), "idle power is of 1 readings only"),
    ],
)
def test_what_a_reader_must_know_is_noted(readings, load, words):
    assert any(words in note for note in summary(readings, load).notes)


def test_a_meter_that_tells_nothing():
    with pytest.raises(EnvironmentProblem, match="told nothing in the 1 s"):
        summary(span([5], [0.5]))
    with pytest.raises(EnvironmentProblem, match="measure for longer"):
        summary(span([5], [1.5]), runs=0)
    with pytest.raises(UsageError):
        power_pass(lambda: None, batch=0, seconds=1)
    with pytest.raises(UsageError):
        power_pass(lambda: None, batch=1, seconds=float("nan"))


@given(
    st.lists(st.tuples(st.floats(0, 4), st.floats(0, 500)), max_size=40),
    st.integers(1, 1000),
)
@settings(max_examples=100)
def test_a_mean_is_between_the_readings(rows, runs):
    readings = [Reading(at, watts) for at, watts in sorted(rows)]
    inside = [r.watts for r in readings if 1 < r.at <= 2]
    if not inside:
        return
    found = summary(readings, runs=runs)
    assert min(inside) - 1e-6 <= found.mean_w <= max(inside) + 1e-6
    assert found.gross_mj == pytest.approx(1000 * found.mean_w / runs)


# --- meters ---


@pytest.fixture
def path(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "bin"


def gone(pid: int) -> bool:
    for _ in range(40):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_nvidia_smi_is_read_beside_the_workload(path, tmp_path):
    busy, record = tmp_path / "busy", tmp_path / "calls"
    nvidia_smi.install_strict(
        path, {"power.draw": "30.00"}, record=record, busy=busy,
        busy_values={"power.draw": "90.50"},
    )  # fmt: skip
    meter = nvidia_meter()
    assert meter is not None
    assert meter.source == "nvidia-smi power.draw"  # instant was refused
    assert meter.settle_s >= 1  # it is a mean over a second

    def run():
        busy.touch()
        time.sleep(0.02)

    found = power_pass(run, batch=1, seconds=0.6, meter=meter, idle_s=2.2)
    assert (found.idle_w, found.mean_w) == (pytest.approx(30), pytest.approx(90.5))
    streams = [line for line in record.read_text().splitlines() if "-lms" in line]
    assert len(streams) == 1
    assert gone(int(streams[0].split()[0]))


def test_a_jetson_is_metered_whatever_else_is_there(path, tmp_path):
    nvidia_smi.install_strict(path, {"power.draw.instant": "1"})
    jetson.install(path, stats=(jetson.ORIN_7,), record=tmp_path / "pid")
    for of in ("any", "gpu", "cpu"):
        assert find_meter(of).source == "tegrastats"
    found = power_pass(lambda: time.sleep(0.01), batch=2, seconds=0.5, idle_s=0.5)
    assert found.source == "tegrastats"
    assert found.mean_w == pytest.approx(9.11)
    assert set(found.rails) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}
    assert gone(int((tmp_path / "pid").read_text()))


def test_an_error_in_the_workload_leaves_no_meter_running(path, tmp_path):
    jetson.install(path, record=tmp_path / "pid")
    with pytest.raises(KeyboardInterrupt):
        power_pass(lambda: _interrupt(tmp_path / "pid"), batch=1, seconds=1, idle_s=0.2)
    assert gone(int((tmp_path / "pid").read_text()))


def _interrupt(until: Path) -> None:
    while not until.exists():
        time.sleep(0.01)
    raise KeyboardInterrupt


def test_a_meter_that_dies_or_prints_garbage(path):
    for body in ("echo 5; exit 1", "printf 'x\\377\\0\\n'; sleep 9", "yes garbage"):
        meter = Stream("m", ("sh", "-c", body), read_nvidia)
        with pytest.raises(EnvironmentProblem, match="told nothing"):
            power_pass(lambda: time.sleep(0.01), batch=1, seconds=0.1, idle_s=0.3, meter=meter)
    with (
        pytest.raises(EnvironmentProblem, match="cannot be started"),
        Stream("m", (str(path / "none"),), read_nvidia).record(),
    ):
        pass


def test_no_meter_is_told_with_what_was_looked_for(path, monkeypatch):
    monkeypatch.setattr("graphopt.profiles.power.meters.rapl_meter", lambda: None)
    with pytest.raises(EnvironmentProblem, match=r"looked for tegrastats.*nvidia-smi.*RAPL"):
        find_meter()
    with pytest.raises(EnvironmentProblem) as caught:
        find_meter("cpu")
    assert "nvidia" not in str(caught.value)
    nvidia_smi.install_strict(path, {"power.draw": "[N/A]", "power.draw.instant": "[N/A]"})
    with pytest.raises(EnvironmentProblem):
        find_meter("gpu")


def zone(root: Path, name: str, told: str, energy: int) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{told}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    return folder


def test_rapl(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 262143328850 - 100_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    zone(tmp_path, "intel-rapl:1", "psys", 10**9)
    meter = rapl_meter(tmp_path)
    assert meter is not None
    assert meter.source == "RAPL (package-0, package-0:dram)"
    with meter.record() as readings:
        time.sleep(0.15)
        (package / "energy_uj").write_text("900000\n")  # 1 J later, begun anew
        (memory / "energy_uj").write_text("500000\n")
        time.sleep(0.25)
    begun = readings[0].at - 0.1
    times = [begun, *(r.at for r in readings)]
    joules = sum(r.watts * (b - a) for r, a, b in zip(readings, times, times[1:], strict=False))
    assert joules == pytest.approx(1.5, rel=0.2)
    assert set(readings[0].rails) == {"package-0", "package-0:core", "package-0:dram",
                                      "psys"}  # fmt: skip
    (package / "energy_uj").write_text("garbage\n")
    assert "package-0" not in meter.energies()


def test_rapl_for_root_only(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert rapl_meter(tmp_path) is None
    assert rapl_meter(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("before", "now", "most", "told"),
    [(5, 9, 100, 4), (95, 5, 100, 10), (5, 5, None, 0), (9, 5, None, None), (200, 5, 100, None)],
)
def test_a_counter_that_begins_anew(before, now, most, told):
    assert grown(before, now, most) == told
