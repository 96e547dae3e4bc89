"""What a meter told beside a run on a device, read from the file that ``power.sh`` writes there.

Times are the device's own (``/proc/uptime``, in hundredths of a second), so no clocks are compared.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from graphopt.errors import EnvironmentProblem
from graphopt.profiles.power import PowerResult, summarize
from graphopt.profiles.power.meters import (
    INTERVAL_S,
    NVIDIA_FIELDS,
    Reading,
    read_nvidia,
    read_tegrastats,
)
from graphopt.profiles.reading import number

SCRIPT, READINGS = "power.sh", "power.txt"
NO_METER = 90
"""Exit status of the script where nothing tells power."""

_MOST_BYTES = 64 << 20
_LAG_S = 0.3


@dataclass(frozen=True, slots=True)
class Told:
    """What the file holds.

    Attributes:
        source: the meter.
        readings: in the order of time; their ``at`` is the device's uptime.
        marks: what happened -> when, the last time.
        settle_s: for how long the meter lags.
    """

    source: str
    readings: tuple[Reading, ...]
    marks: Mapping[str, float]
    settle_s: float


def write_script(folder: Path) -> Path:
    """Write the script into a folder here, to be an input of a job; return its path."""
    text = resources.files(__package__).joinpath(SCRIPT).read_text(encoding="utf-8")
    path = folder / SCRIPT
    path.write_text(text, encoding="utf-8")
    return path


def metered(program: str, words: tuple[str, ...], idle_s: float) -> str:
    """Return a line of sh that runs a command with a meter beside it."""
    every = str(round(1000 * INTERVAL_S))
    return shlex.join(["sh", f"./{SCRIPT}", every, f"{idle_s:g}", program, *words])


def read_told(path: Path) -> Told:
    """Read the file; lines that are none of ours, or tell no power, are passed over.

    Raises:
        EnvironmentProblem: it cannot be read, is too long, or names no meter.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as problem:
        raise EnvironmentProblem(
            f"no readings of power came back: {problem.strerror or problem}"
        ) from problem
    if len(data) > _MOST_BYTES:
        raise EnvironmentProblem(f"{path.name} is longer than {_MOST_BYTES:,} bytes")
    return parse(data.decode(errors="replace"))


def parse(text: str) -> Told:
    """Read the text of the file.

    Raises:
        EnvironmentProblem: it names no meter.
    """
    marks: dict[str, float] = {}
    readings: list[Reading] = []
    source, read, last = "", read_tegrastats, 0.0
    for row in text.splitlines():
        stamp, _, rest = row.partition(" ")
        at = number(stamp)
        if at is None or at < last:  # not ours: uptime goes one way
            continue
        last = at
        if rest.startswith("=meter "):
            source = rest[7:]
            read = read_tegrastats if source == "tegrastats" else read_nvidia
        elif rest.startswith("="):
            marks[rest[1:40]] = at
        else:
            told = read(rest)
            if told is not None:
                readings.append(Reading(at, *told))
    field = source.rpartition(" ")[2]
    if source != "tegrastats" and field not in NVIDIA_FIELDS:
        raise EnvironmentProblem(f"{READINGS} is not what graphopt's script writes: no meter")
    return Told(source, tuple(readings), marks, NVIDIA_FIELDS.get(field, _LAG_S))


def result(told: Told, *, runs_per_s: float, batch: int) -> PowerResult:
    """Return what the readings tell of the run.

    Args:
        told: the file.
        runs_per_s: how often it ran each second, as trtexec measured.
        batch: items in one run.

    Raises:
        EnvironmentProblem: the run was not seen to begin and end, or no reading came meanwhile.
    """
    marks = told.marks
    if not {"idle", "load", "begin", "end"} <= set(marks):
        raise EnvironmentProblem(
            f"the log of trtexec does not tell when it ran, so {told.source} tells nothing of it"
        )
    if not math.isfinite(runs_per_s) or runs_per_s <= 0:
        raise EnvironmentProblem("trtexec does not tell how often it ran")
    idle = (min(marks["idle"] + told.settle_s, marks["load"]), marks["load"])
    begin, end = marks["begin"] + told.settle_s, marks["end"]
    return summarize(
        told.readings,
        idle=idle,
        load=(begin, end),
        runs=runs_per_s * max(end - begin, 0.0),
        batch=batch,
        source=told.source,
        interval_s=INTERVAL_S,
    )
