"""What the tools of another machine print, read into plain values; anything odd reads as unknown.

None of these raises, whatever the text.
"""

from __future__ import annotations

import math
import re

from graphopt.engines.releases import Version
from graphopt.engines.trtexec.features import banner_version
from graphopt.profiles.host import Gpu, read_gpus
from graphopt.profiles.state.jetson import clocks_fixed, l4t, power_mode
from graphopt.wording import one_line

CHIPS: dict[str, tuple[int, int]] = {
    "tegra210": (5, 3),
    "tegra186": (6, 2),
    "tegra194": (7, 2),
    "tegra234": (8, 7),
}
"""Chip of a Jetson -> the compute capability of its GPU."""

_MOST_GPUS = 64
_MOST_JOBS = 32
_INSTALLERS = {"apt": ("debian", "ubuntu"), "dnf": ("rhel", "fedora", "centos", "rocky")}


def first(pattern: str, text: str) -> str:
    """Return the first group of the first match, or an empty string."""
    found = re.search(pattern, text, re.ASCII)
    return found[1] if found else ""


def whole(text: str) -> int | None:
    """Return a whole number of at most 15 digits, or None."""
    return int(text) if re.fullmatch(r"\d{1,15}", text, re.ASCII) else None


def real(text: str) -> float | None:
    """Return a number of at least 0, or None."""
    if not re.fullmatch(r"\d{1,15}(\.\d{1,15})?", text, re.ASCII):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def gpus(table: str) -> tuple[Gpu, ...]:
    """Read the rows of nvidia-smi."""
    return tuple(
        Gpu(one_line(g.name, 100), g.sm, g.memory_gb, one_line(g.driver, 40))
        for g in read_gpus(table)[:_MOST_GPUS]
    )


def jobs(table: str) -> tuple[str, ...]:
    """Read the rows of nvidia-smi's compute processes: ``"python3 (pid 812, 1024 MiB)"``."""
    found = []
    for row in table.splitlines()[:_MOST_JOBS]:
        number, _, rest = row.partition(",")
        name, comma, used = rest.rpartition(",")  # a name may hold commas
        if comma and whole(number.strip()) is not None:
            size = "" if whole(used.strip()) is None else f", {used.strip()} MiB"
            found.append(f"{one_line(name, 100)} (pid {number.strip()}{size})")
    return tuple(found)


def tensorrt(values: dict[str, str]) -> Version | None:
    """Return the version of TensorRT: as trtexec says, else the libraries, else the headers."""
    said = banner_version(values.get("help", ""))
    if said is not None:
        return said
    texts = [
        first(r"libnvinfer\.so\.(\d{1,2}\.\d{1,2}\.\d{1,3})", values.get("libraries", "")),
        package(values.get("packages", ""), r"libnvinfer\d*"),
    ]
    header = values.get("header", "")
    texts.append(
        ".".join(
            first(rf"(?:NV_TENSORRT|TRT)_{part}(?:_ENTERPRISE)? +(\d{{1,3}})\b", header)
            for part in ("MAJOR", "MINOR", "PATCH")
        )
    )
    for text in texts:
        found = re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{1,3})(?:\.\d+)*", text, re.ASCII)
        if found:
            return int(found[1]), int(found[2]), int(found[3])
    return None


def package(table: str, name: str) -> str:
    """Return the version of an installed package without its revision: ``"8.5.2"``.

    Args:
        table: rows of status (``ii`` where installed), name and version.
        name: a pattern the whole name matches.
    """
    return first(rf"(?m)^ii +{name}(?::\w+)? (?:\d+:)?(\d[\d.]{{0,30}})", table).rstrip(".")


def cuda(file: str, nvcc: str) -> str:
    """Return the version of the toolkit, of version.json, version.txt or nvcc: ``"11.4.19"``."""
    number = r"(\d{1,3}\.\d{1,3}(?:\.\d{1,5})?)"
    return (
        first(rf'"cuda" *: *\{{[^{{}}]{{0,300}}"version" *: *"{number}"', file)
        or first(rf"CUDA Version {number}", file)
        or first(rf"release \d+\.\d+, V{number}", nvcc)
    )


def free_bytes(text: str) -> int | None:
    """Return the bytes that ``df -P -k`` tells are free."""
    # Names of file systems and folders may hold anything: the numbers in the middle are looked for.
    rows = text.strip().splitlines()[1:]
    blocks = first(r" \d{1,15} +\d{1,15} +(\d{1,15}) +\d{1,3}% ", rows[0] + " ") if rows else ""
    return int(blocks) * 1024 if blocks else None


def memory(text: str) -> tuple[int | None, int | None]:
    """Return the bytes of memory in /proc/meminfo: in all, and available."""
    total, free = (
        whole(first(rf"(?m)^{key}: *(\d{{1,15}}) kB", text)) for key in ("MemTotal", "MemAvailable")
    )
    return (
        None if total is None else total * 1024,
        None if free is None else free * 1024,
    )


def distribution(text: str) -> str:
    """Return the name in /etc/os-release: ``"Ubuntu 22.04.4 LTS"``."""
    return one_line(first(r'(?m)^PRETTY_NAME="?([^"\n]{1,100})', text), 100)


def package_tool(text: str) -> str:
    """Return what installs packages where /etc/os-release is this: ``"apt"``, ``"dnf"`` or ""."""
    ids = set(" ".join(re.findall(r'(?m)^ID(?:_LIKE)?="?([a-z0-9 ._-]{1,100})', text)).split())
    return next((tool for tool, known in _INSTALLERS.items() if ids & set(known)), "")


__all__ = [
    "CHIPS",
    "clocks_fixed",
    "cuda",
    "distribution",
    "first",
    "free_bytes",
    "gpus",
    "jobs",
    "l4t",
    "memory",
    "package",
    "package_tool",
    "power_mode",
    "real",
    "tensorrt",
    "whole",
]
