"""A Jetson: its release, power mode, and whether its clocks are held.

``nvpmodel -q`` and ``jetson_clocks --show`` are NVIDIA's; the second wants root, so the GPU's
clocks are read from devfreq as well, which everybody may.
"""

from __future__ import annotations

import re
from pathlib import Path

from graphopt.profiles.reading import ask, file_text, line, matches, number, spelled

# GPUs of the Jetsons in devfreq: 57000000.gpu, 17000000.gp10b, .gv11b, .ga10b, 17000000.gpu.
_GPU = re.compile(r"\.(gpu|gm20b|gp10b|gv11b|ga10b)$|^gpu[-.]")


def jetson_state(root: Path = Path("/")) -> dict[str, str]:
    """Return the state of a Jetson; empty on another machine. Never raises."""
    release = l4t(file_text(root / "etc/nv_tegra_release", 4096))
    compatible = file_text(root / "proc/device-tree/compatible", 4096)
    if not release and not re.search(r"nvidia,tegra\d{3}", compatible, re.ASCII):
        return {}
    found = {"power_mode": "unknown", "clocks_fixed": "unknown"}
    found.update(_gpu_clocks(root))
    board = line(root / "proc/device-tree/model")
    if board:
        found["board"] = board
        found["gpu"] = board  # nvidia-smi calls it "Orin (nvgpu)", or is not there
    if release:
        found["l4t"] = release
    mode = power_mode(ask("nvpmodel", "-q").text)
    if mode:
        found["power_mode"] = mode
    fixed = clocks_fixed(ask("jetson_clocks", "--show").text)
    if fixed is not None:
        found["clocks_fixed"] = "yes" if fixed else "no"
    return found


def l4t(text: str) -> str:
    """Return the release in /etc/nv_tegra_release: ``"35.4.1"``; empty: it is none."""
    found = re.search(r"R(\d{1,3}) \(release\), REVISION: (\d[\d.]{0,9})", text, re.ASCII)
    return f"{found[1]}.{found[2]}" if found else ""


def power_mode(text: str) -> str:
    """Return the mode in what ``nvpmodel -q`` prints: ``"MAXN"``, ``"MODE_30W_ALL"``."""
    found = re.search(r"Power Mode: *(\w{1,40})", text, re.ASCII)
    return found[1] if found else ""


def clocks_fixed(text: str) -> bool | None:
    """Whether ``jetson_clocks --show`` tells a GPU clock that cannot vary; None: it tells none."""
    found = re.search(r"GPU MinFreq=(\d{1,15}) MaxFreq=(\d{1,15})", text, re.ASCII)
    return None if found is None else int(found[1]) == int(found[2])


def _gpu_clocks(root: Path) -> dict[str, str]:
    for folder in matches(root / "sys/class/devfreq", "*"):
        if not _GPU.search(folder.name):
            continue
        least, most, now = (line(folder / f"{name}_freq") for name in ("min", "max", "cur"))
        return gpu_clocks(least, most, now)
    return {}


def gpu_clocks(least: str, most: str, now: str) -> dict[str, str]:
    """Read the lowest, highest and present clock of devfreq, in Hz; what is none is left out."""
    low, high, at = (number(text) for text in (least, most, now))
    found = {}
    if at is not None and at >= 0:
        found["gpu_sm_mhz"] = spelled(at / 1e6)
    if high is not None and high >= 0:
        found["gpu_max_sm_mhz"] = spelled(high / 1e6)
        if low is not None:
            found["clocks_fixed"] = "yes" if low == high else "no"
    return found
