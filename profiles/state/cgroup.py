"""What a container may use: quota of processors, memory. Control groups, versions 1 and 2.

The groups' names are not recorded: they hold a container's id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from graphopt.profiles.reading import file_text, line, number, spelled

_GROUPS = "sys/fs/cgroup"
# Version 1 says "no limit" by a number near 2^63.
_NO_LIMIT = 2.0**60


def cgroup_state(root: Path = Path("/")) -> dict[str, str]:
    """Return ``cpu_quota`` (cores), ``memory_limit_gb``, and how often the quota paused it.

    The tightest limit of the group and of all above it; what is not limited is left out.
    """
    places = _places(file_text(root / "proc/self/cgroup", 1 << 14))
    found = {}
    quotas = [q for f in _folders(root, places, "cpu") if (q := _quota(f)) is not None]
    if quotas:
        found["cpu_quota"] = spelled(min(quotas), 2)
    limits = [
        v
        for folder in _folders(root, places, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (v := number(line(folder / name))) is not None and 0 < v < _NO_LIMIT
    ]
    if limits:
        found["memory_limit_gb"] = spelled(min(limits) / 1e9, 2)
    if quotas:
        paused = [_paused(f) for f in _folders(root, places, "cpu")]
        found["counter_quota_paused"] = spelled(max([p for p in paused if p is not None] or [0.0]))
    return found


def _places(text: str) -> dict[str, str]:
    """Return controller -> path in /proc/self/cgroup; the one of version 2 has no name."""
    places: dict[str, str] = {}
    for row in text.splitlines()[:64]:
        parts = row.split(":", 2)
        if len(parts) == 3 and parts[2].startswith("/") and ".." not in parts[2]:
            for name in parts[1].split(","):
                places.setdefault(name, parts[2])
    return places


def _folders(root: Path, places: dict[str, str], controller: str) -> Iterator[Path]:
    """Yield the group's folder and those above it, as far as they are to be seen from here."""
    top = root / _GROUPS
    homes = []
    if "" in places:
        homes += [(top, places[""]), (top / "unified", places[""])]
    if controller in places:
        homes += [(top / controller, places[controller])]
        homes += [(top / f"{controller},{controller}acct", places[controller])]
    for home, path in homes:
        below = PurePosixPath(path.lstrip("/"))
        # In a container the path may be told as the host sees it: then only the top is there.
        for each in (below, *below.parents):
            yield home / each


def _quota(folder: Path) -> float | None:
    """Return the cores' worth of time a group may use in each period."""
    allowed, _, period = line(folder / "cpu.max").partition(" ")
    if not allowed:
        allowed = line(folder / "cpu.cfs_quota_us")
        period = line(folder / "cpu.cfs_period_us")
    most, each = number(allowed), number(period)
    if most is None or each is None or most <= 0 or each <= 0:
        return None
    return most / each


def _paused(folder: Path) -> float | None:
    for row in file_text(folder / "cpu.stat", 4096).splitlines():
        name, _, value = row.partition(" ")
        if name == "nr_throttled":
            return number(value)
    return None
