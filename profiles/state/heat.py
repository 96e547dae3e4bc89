"""Temperatures, and those at which the kernel begins to slow the machine down.

Thermal zones (Documentation/driver-api/thermal/sysfs-api) and, for processors that have none of
their own there, hardware monitors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from graphopt.profiles.reading import line, matches, number, spelled

_MOST = 32
_MONITORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
# What no sensor of a machine that runs can tell: a disabled one does.
_BELIEVED = (-40.0, 150.0)
_LIMITS = (40.0, 130.0)


def heat_state(root: Path = Path("/")) -> dict[str, str]:
    """Return ``temp_c_ZONE`` and ``temp_limit_c_ZONE``, in degrees Celsius; never raises."""
    rows = []
    for zone in matches(root / "sys/class/thermal", "thermal_zone*", _MOST):
        trips = [
            line(zone / f"trip_point_{n}_temp")
            for n in range(12)
            if line(zone / f"trip_point_{n}_type") in ("passive", "hot")
        ]
        rows.append((line(zone / "type"), line(zone / "temp"), trips))
    for monitor in matches(root / "sys/class/hwmon", "hwmon*", _MOST):
        name = line(monitor / "name")
        if name in _MONITORS:
            rows.append((name, line(monitor / "temp1_input"), [line(monitor / "temp1_max")]))
    return zones(rows)


def zones(rows: Iterable[tuple[str, str, list[str]]]) -> dict[str, str]:
    """Read rows of name, millidegrees, and millidegrees of the points where it is slowed down.

    Of zones with one name the hottest counts; what no machine can have is left out.
    """
    hottest: dict[str, float] = {}
    limits: dict[str, float] = {}
    for name, now, trips in rows:
        key = re.sub(r"[^a-z0-9]+", "_", name.lower()[:32]).strip("_")
        value = number(now)
        if not key or value is None or not _BELIEVED[0] <= value / 1000 <= _BELIEVED[1]:
            continue
        hottest[key] = max(hottest.get(key, -273.0), value / 1000)
        for trip in trips:
            at = number(trip)
            if at is not None and _LIMITS[0] <= at / 1000 <= _LIMITS[1]:
                limits[key] = min(limits.get(key, 1000.0), at / 1000)
    found = {f"temp_c_{key}": spelled(value) for key, value in hottest.items()}
    found.update({f"temp_limit_c_{key}": spelled(value) for key, value in limits.items()})
    return found
