"""The state of a machine right before and after what is measured there, told by the job itself.

Asked from here it would come late, and disturb whoever measures there meanwhile: the job has the
device for itself.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from graphopt.engines.remote.probe import parse, telling
from graphopt.profiles.reading import number, spelled
from graphopt.profiles.state import jetson
from graphopt.profiles.state.heat import zones
from graphopt.profiles.state.nvidia import COUNTERS, FIELDS, parse_fields, parse_slowdown
from graphopt.wording import one_line

SCRIPT, BEFORE, AFTER = "state.sh", "state-before.txt", "state-after.txt"
"""Files in a job's folder: what asks, and what was told."""

_MARK = "graphopt-state"
_MOST_BYTES = 1 << 20


def write_script(folder: Path) -> Path:
    """Write the script that asks into a folder here, to be an input of a job; return its path."""
    path = folder / SCRIPT
    path.write_text(telling("state.sh"), encoding="utf-8")
    return path


def asking(out: str) -> str:
    """Return a line of sh that has the script tell the state into a file; it never fails."""
    names = [name for group in FIELDS.values() for name in group] + list(COUNTERS.values())
    words = shlex.join(["sh", f"./{SCRIPT}", _MARK, ",".join(names)])
    return f"{words} >{shlex.quote(out)} 2>/dev/null || :"


def read_file(path: Path) -> dict[str, str]:
    """Return the state that a file from there tells; empty where it tells none. Never raises."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return {}
    return read_state(parse(text, _MARK) or {})


def read_state(values: Mapping[str, str]) -> dict[str, str]:
    """Return the state in values by key, with the keys of ``graphopt.profiles.state``."""
    found: dict[str, str] = {}
    for key in ("kernel", "system"):
        if told := one_line(values.get(key, ""), 80):
            found[key] = told
    for key, text in (
        ("cores", values.get("cores", "")),
        ("load_1m", values.get("load", "").partition(" ")[0]),
    ):
        value = number(text)
        if value is not None and value >= 0:
            found[key] = spelled(value, 2)
    if told := one_line(values.get("cpu", "").partition(":")[2], 120):
        found["cpu"] = told
    if told := ", ".join(re.findall(r"(?m)^[a-z_]{1,20}$", values.get("governor", ""))[:8]):
        found["governor"] = told
    rows = [row.split() for row in values.get("zones", "").splitlines()[:32]]
    found.update(zones((r[0], r[1], r[2:12]) for r in rows if len(r) > 1))
    fields = tuple(values.get("gpu-fields", "").split(","))
    found.update(parse_fields(values.get("gpu-row", ""), fields))
    found.update(parse_slowdown(values.get("gpu-heat", "")))
    found.update(_jetson(values))
    return dict(sorted(found.items()))


def _jetson(values: Mapping[str, str]) -> dict[str, str]:
    release = jetson.l4t(values.get("l4t", ""))
    if not release and not re.search(r"nvidia,tegra\d{3}", values.get("compatible", ""), re.ASCII):
        return {}
    found = {"power_mode": "unknown", "clocks_fixed": "unknown"}
    clocks = values.get("gpu-clocks", "").split()
    if len(clocks) == 3:
        found.update(jetson.gpu_clocks(*clocks))
    if board := one_line(values.get("board", ""), 100):
        found["board"] = found["gpu"] = board
    if release:
        found["l4t"] = release
    if mode := jetson.power_mode(values.get("power-mode", "")):
        found["power_mode"] = mode
    fixed = jetson.clocks_fixed(values.get("clocks", ""))
    if fixed is not None:
        found["clocks_fixed"] = "yes" if fixed else "no"
    return found
