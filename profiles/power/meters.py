"""What tells power here: tegrastats on a Jetson, nvidia-smi, and RAPL of an x86 processor."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from graphopt.errors import EnvironmentProblem
from graphopt.files import uninterrupted
from graphopt.profiles.power.tegrastats import read_rails, total
from graphopt.profiles.reading import ask, end, line, matches, number
from graphopt.profiles.state.nvidia import visible_gpu

Of = Literal["any", "gpu", "cpu"]
"""What a workload runs on, and so which meter sees it."""

INTERVAL_S = 0.1
NVIDIA_FIELDS: dict[str, float] = {"power.draw.instant": 0.3, "power.draw": 1.5}
"""Field of nvidia-smi -> for how long it lags; a second's mean on most since Ampere (NVML)."""

_GRACE_S = 2.0
_MOST_READINGS = 1_000_000
_RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a meter told once.

    Attributes:
        at: seconds of ``time.monotonic`` when it came.
        watts: the whole.
        rails: its parts by name, in W; empty where the meter tells one figure.
    """

    at: float
    watts: float
    rails: Mapping[str, float] = field(default_factory=dict)


class Meter(Protocol):
    """Something that tells power."""

    @property
    def source(self) -> str:
        """What it is, for people: ``"nvidia-smi power.draw.instant"``."""

    @property
    def interval_s(self) -> float:
        """Seconds between two readings."""

    @property
    def settle_s(self) -> float:
        """Seconds over which it averages or lags."""

    def record(self) -> AbstractContextManager[list[Reading]]:
        """Return a context that reads in the background; its list grows until it is left."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A program that prints a line for each reading, for as long as it is let.

    Attributes:
        source: what it is, for people.
        words: the command.
        read: a line -> watts and rails, or None for a line that tells no power.
        interval_s: what it is asked for.
        settle_s: how long it lags.
    """

    source: str
    words: tuple[str, ...]
    read: Callable[[str], tuple[float, Mapping[str, float]] | None]
    interval_s: float = INTERVAL_S
    settle_s: float = 0.3

    @contextmanager
    def record(self) -> Iterator[list[Reading]]:
        """Run the program while the block runs; it and all it started are gone afterwards."""
        readings: list[Reading] = []
        child: subprocess.Popen[bytes] | None = None
        try:
            with uninterrupted():
                child = subprocess.Popen(
                    self.words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except OSError as problem:
            raise EnvironmentProblem(
                f"{self.words[0]} cannot be started to measure power: {problem.strerror}"
            ) from problem
        listener = threading.Thread(target=self._listen, args=(child, readings), daemon=True)
        try:
            listener.start()
            yield readings
        finally:
            end(child, _GRACE_S)
            listener.join(_GRACE_S)
            if child.stdout is not None and not listener.is_alive():
                child.stdout.close()

    def _listen(self, child: subprocess.Popen[bytes], readings: list[Reading]) -> None:
        stream = child.stdout
        while stream is not None and len(readings) < _MOST_READINGS:
            raw = stream.readline(1 << 14)
            if not raw:
                return
            told = self.read(raw.decode(errors="replace"))
            if told is not None:
                readings.append(Reading(time.monotonic(), *told))


@dataclass(frozen=True, slots=True)
class Rapl:
    """Counters of energy of an x86 processor (Documentation/power/powercap): its packages.

    A counter begins anew at ``max_energy_range_uj``. Memory on a rail of its own is counted too.

    Attributes:
        zones: name -> folder of each; those whose name has a ``:`` in it are parts of another.
        interval_s: seconds between two readings.
    """

    zones: Mapping[str, Path]
    interval_s: float = INTERVAL_S
    settle_s: float = 0.0

    @property
    def source(self) -> str:
        """What it is, for people."""
        return f"RAPL ({', '.join(n for n in self.zones if _counts(n))})"

    @contextmanager
    def record(self) -> Iterator[list[Reading]]:
        """Read the counters while the block runs."""
        readings: list[Reading] = []
        over = threading.Event()
        reader = threading.Thread(target=self._read_on, args=(over, readings), daemon=True)
        reader.start()
        try:
            yield readings
        finally:
            over.set()
            reader.join(_GRACE_S)

    def _read_on(self, over: threading.Event, readings: list[Reading]) -> None:
        last, before = time.monotonic(), self.energies()
        ranges = {n: number(line(f / "max_energy_range_uj")) for n, f in self.zones.items()}
        while len(readings) < _MOST_READINGS:
            ended = over.wait(self.interval_s)
            now, energies = time.monotonic(), self.energies()
            if now > last:
                watts = {}
                for name in energies.keys() & before.keys():
                    used = grown(before[name], energies[name], ranges[name])
                    if used is not None:
                        watts[name] = used / 1e6 / (now - last)
                whole = [w for name, w in watts.items() if _counts(name)]
                if whole:
                    rails = dict(sorted(watts.items())) if len(watts) > 1 else {}
                    readings.append(Reading(now, sum(whole), rails))
            last, before = now, energies
            if ended:
                return

    def energies(self) -> dict[str, float]:
        """Return each counter in microjoules; one that cannot be read is left out."""
        told = {name: number(line(folder / "energy_uj")) for name, folder in self.zones.items()}
        return {name: value for name, value in told.items() if value is not None}


def grown(before: float, after: float, most: float | None) -> float | None:
    """Return how far a counter went that begins anew after ``most``; None: that is not known."""
    if after >= before:
        return after - before
    return None if most is None or before > most else most - before + after


def find_meter(of: Of = "any") -> Meter:
    """Return what tells the power of a workload here.

    Args:
        of: what it runs on. A Jetson's rails tell both.

    Raises:
        EnvironmentProblem: nothing does; what was looked for is named.
    """
    looked = []
    known: tuple[tuple[Of, str, Callable[[], Meter | None]], ...] = (
        ("any", "tegrastats (a Jetson)", tegra_meter),
        ("gpu", "nvidia-smi's power.draw", nvidia_meter),
        ("cpu", f"RAPL in {_RAPL} (often for root only)", rapl_meter),
    )
    for kind, name, find in known:
        if "any" in (of, kind) or of == kind:
            meter = find()
            if meter is not None:
                return meter
            looked.append(name)
    raise EnvironmentProblem(
        f"nothing here tells power: looked for {', '.join(looked)}",
        hint="virtual machines seldom have a meter; --host measures on another machine",
    )


def tegra_meter() -> Stream | None:
    """Return tegrastats, or None where there is none."""
    program = shutil.which("tegrastats")
    if program is None:
        return None
    words = (program, "--interval", str(round(INTERVAL_S * 1000)))
    return Stream("tegrastats", words, read_tegrastats)


def read_tegrastats(text: str) -> tuple[float, Mapping[str, float]] | None:
    """Read a line of tegrastats."""
    rails = read_rails(text)
    watts = total(rails)
    return None if watts is None else (watts, rails)


def nvidia_meter() -> Stream | None:
    """Return nvidia-smi's power of the GPU in use; None where the GPU does not tell it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    for name, lag in NVIDIA_FIELDS.items():
        words = (
            f"--query-gpu={name}",
            "--format=csv,noheader,nounits",
            *("-i", visible_gpu()),
        )
        answer = ask("nvidia-smi", *words)
        if answer.status == 0 and read_nvidia(answer.text) is not None:
            stream = (program, *words, "-lms", str(round(INTERVAL_S * 1000)))
            return Stream(f"nvidia-smi {name}", stream, read_nvidia, settle_s=lag)
    return None


def read_nvidia(text: str) -> tuple[float, Mapping[str, float]] | None:
    """Read a row of nvidia-smi: watts, or ``[N/A]``."""
    watts = number(text)
    return None if watts is None or not 0 <= watts < 1e5 else (watts, {})


def rapl_meter(root: Path = _RAPL) -> Rapl | None:
    """Return the processor's counters; None where there are none, or not for this user."""
    zones = {}
    for folder in matches(root, "intel-rapl:*"):
        name = line(folder / "name")
        if name and number(line(folder / "energy_uj")) is not None:
            parent = folder.name.rpartition(":")[0]
            package = line(root / parent / "name") if parent != "intel-rapl" else ""
            zones[f"{package}:{name}" if package else name] = folder
    return Rapl(zones) if any(_counts(name) for name in zones) else None


def _counts(name: str) -> bool:
    """Whether a zone is no part of another: a package, or memory, which is not in its package."""
    return name.endswith(":dram") or (name.startswith("package") and ":" not in name)
