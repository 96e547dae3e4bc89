"""What ``tegrastats`` prints on a Jetson: the power of each rail.

A line holds ``NAME now/mean`` in mW, since JetPack 4.6 with the unit (``GPU 467mW/467mW``), since
JetPack 6 with the highest as a third (``VDD_GPU_SOC 3034mW/3049mW/3412mW``). ``RAM 4722/7844MB``
looks alike, so names of rails are looked for and nothing else. Which rails add up to the module:
"Software-Based Power Consumption Modeling" of NVIDIA's Jetson developer guides.
"""

from __future__ import annotations

import re

# Rails through which all power of the module comes, for a Jetson that measures it ...
WHOLE = ("VDD_IN", "POM_5V_IN", "VIN")
# ... and those that add up to it, for one that does not: AGX Orin, AGX Thor, AGX Xavier.
PARTS: tuple[tuple[str, ...], ...] = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)

_NAMES = r"(?:VDD|VIN|POM|VDDQ)_[A-Z0-9_]{1,40}|VIN|GPU|CPU|SOC|CV|VDDRQ|SYS5V"
_RAIL = re.compile(
    rf"(?:^|(?<=\s))({_NAMES}) ([0-9]{{1,9}})(mW|)/[0-9]{{1,9}}\3(?:/[0-9]{{1,9}}\3)?(?=\s|$)",
    re.ASCII,
)
_MOST_CHARACTERS = 8192


def read_rails(text: str) -> dict[str, float]:
    """Return the rails in one line, in W as they are now; empty: the line tells none."""
    rails: dict[str, float] = {}
    for found in _RAIL.finditer(text[:_MOST_CHARACTERS]):
        rails.setdefault(found[1], int(found[2]) / 1000)
    return rails


def total(rails: dict[str, float]) -> float | None:
    """Return the power of the whole module, in W; None where the rails do not tell it.

    A rail that measures the whole counts alone: the others are parts of it.
    """
    for name in WHOLE:
        if name in rails:
            return rails[name]
    for names in PARTS:
        # A rail that is switched off may be missing; the first names the board.
        if names[0] in rails and names[1] in rails:
            return sum(rails.get(name, 0.0) for name in names)
    return None
