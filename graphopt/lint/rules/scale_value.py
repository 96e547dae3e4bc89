"""Scales that are no scales, or as good as none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.lint.context import Context
from graphopt.lint.finding import ERROR, WARNING, Finding

_TINY = float(np.finfo(np.float32).tiny)
# 127 of these steps reach beyond what float16 holds, and no activation of a sane network.
_HUGE = 65504.0


def check(context: Context) -> Iterator[Finding]:
    """Refuse what the parser refuses (scales not > 0, NaN); warn of denormal and huge ones."""
    bad, tiny, huge, unknown = [], [], [], []
    for layer in context.network.quantizers():
        assert layer.quant is not None
        scales = layer.quant.scales
        if scales is None:
            unknown.append(layer.name)
        elif not np.isfinite(scales).all() or not (scales > 0).all():
            bad.append(layer.name)
        elif (scales < _TINY).any():
            tiny.append(layer.name)
        elif (scales > _HUGE).any():
            huge.append(layer.name)
    for where, severity, what, advice in (
        (bad, ERROR, "scales that are zero, negative, NaN or infinite", "calibrate again: a dead "
         "channel needs some scale > 0, and NaN in the data is a fault of the data"),
        (unknown, ERROR, "scales that are computed at run time; TensorRT needs constants",
         "fold the constants of the model, or export static quantization"),
        (tiny, WARNING, "denormal scales: whatever they stand for is flushed to zero or saturates",
         "a tensor that is always zero needs no Q/DQ: prune it, or leave its layer in float"),
        (huge, WARNING, f"scales above {_HUGE:g}", "look at the data: calibrated on raw pixels or "
         "on outliers?"),
    ):  # fmt: skip
        if where:
            yield Finding("scale-value", severity, tuple(where), f"{len(where)} Q/DQ with {what}",
                          advice)  # fmt: skip
