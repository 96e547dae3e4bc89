"""What a model would take on a device that nobody has here: a roofline, layer by layer.

``layers`` is the work of each layer, ``anchors`` what the constants were fitted to and how far off
they are, ``times`` puts the two together.
"""

from __future__ import annotations

from graphopt.profiles.roofline.times import (
    LABEL,
    Estimate,
    LayerTime,
    Rates,
    check_figures,
    estimate,
    pad,
    rest_of,
    with_accelerators,
)

__all__ = [
    "LABEL",
    "Estimate",
    "LayerTime",
    "Rates",
    "check_figures",
    "estimate",
    "pad",
    "rest_of",
    "with_accelerators",
]
