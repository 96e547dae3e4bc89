"""The times trtexec exports, read as what they are: a file from another machine.

``--exportTimes`` writes a list of one record a run (``exportJSONTrace`` in sampleReporting.cpp,
alike from 8.5 to 11). The times of single runs are in there; the log has summaries only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from graphopt.errors import EnvironmentProblem
from graphopt.profiles import LatencyProfile
from graphopt.wording import one_line

_MOST_BYTES = 256 << 20
_MOST_RUNS = 1_000_000
_COMPUTE = "computeMs"
_OTHERS = ("h2dMs", "d2hMs", "latencyMs")


@dataclass(frozen=True, slots=True)
class Times:
    """What one run of trtexec measured.

    Attributes:
        latency: GPU compute time of each run: copies and waiting left out.
        columns: the other times of each run, in ms: ``h2dMs``, ``d2hMs``, ``latencyMs`` and
            ``enqueueMs``, the host's time to launch it.
    """

    latency: LatencyProfile
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def read_times(
    path: str | os.PathLike[str],
    *,
    batch: int = 1,
    environment: Mapping[str, str] | None = None,
    streams: int = 1,
) -> Times:
    """Read what ``--exportTimes`` wrote.

    Args:
        path: the file.
        batch: items in one run: trtexec counts runs only.
        environment: what it was measured on.
        streams: runs that were in flight at a time: the time on the clock is then that from the
            first launch to the last end.

    Raises:
        EnvironmentProblem: it is no such file, is cut short, or holds what no time can be.
    """
    raw = read_json(path)
    if not isinstance(raw, list) or not raw:
        refuse(path, "it holds no runs")
    if len(raw) > _MOST_RUNS:
        refuse(path, f"{len(raw):,} runs are more than can be true")
    compute = tuple(_time(path, row, _COMPUTE) for row in raw)
    columns = {name: tuple(_time(path, row, name) for row in raw) for name in _OTHERS}
    columns["enqueueMs"] = tuple(
        max(0.0, _finite(path, row, "endEnqMs") - _finite(path, row, "startEnqMs")) for row in raw
    )
    wall = None
    if streams > 1:
        begun = min(_finite(path, row, "startEnqMs") for row in raw)
        wall = max(0.0, max(_finite(path, row, "endComputeMs") for row in raw) - begun)
    latency = LatencyProfile(compute, batch, dict(environment or {}), streams=streams, wall_ms=wall)
    return Times(latency, columns)


def read_json(path: str | os.PathLike[str], most_bytes: int = _MOST_BYTES) -> Any:
    """Return the JSON in a file from a device; NaN, infinities and control characters in names.

    trtexec does not escape names, so control characters are let through, and NaN is not.

    Raises:
        EnvironmentProblem: it cannot be read, is too long, or is no JSON.
    """
    try:
        return json.loads(
            read_bounded(path, most_bytes), strict=False, parse_constant=lambda _: _not_a_number()
        )
    except RecursionError:
        refuse(path, "it is nested too deeply")
    except ValueError as problem:
        refuse(path, f"it is no JSON: {one_line(problem, 120)}")


def read_bounded(path: str | os.PathLike[str], most_bytes: int = _MOST_BYTES) -> str:
    """Return the text of a file from a device; bytes that are no UTF-8 are replaced.

    Raises:
        EnvironmentProblem: it cannot be read, or is too long.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(most_bytes + 1)
    except OSError as problem:
        raise EnvironmentProblem(
            f"trtexec left no {path.name}: {problem.strerror or problem}"
        ) from problem
    if len(data) > most_bytes:
        refuse(path, f"it is longer than {most_bytes:,} bytes")
    return data.decode("utf-8", errors="replace")


def refuse(path: str | os.PathLike[str], why: str) -> NoReturn:
    """Raise the one line about a file that is not what trtexec writes."""
    raise EnvironmentProblem(f"{Path(path).name} is not what trtexec writes: {why}")


def _not_a_number() -> NoReturn:
    raise ValueError("a number in it is not finite")


def _finite(path: str | os.PathLike[str], row: Any, key: str) -> float:
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(path, f"a run without a {key}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        refuse(path, f"a {key} is not finite")
    return number


def _time(path: str | os.PathLike[str], row: Any, key: str) -> float:
    number = _finite(path, row, key)
    if number < 0:
        refuse(path, f"a {key} of {number:g} ms is below zero")
    return number
