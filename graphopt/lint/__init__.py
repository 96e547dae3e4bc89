"""What TensorRT will make of a quantized graph: each Q and DQ accounted for.

::

    model -> neutral network -> accounting -> rules -> Lint
             (from the file,    (flow,        (one file
              or TensorRT's      kernels,      each)
              parsed network)    verdicts)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.registry import Registry

if TYPE_CHECKING:
    from graphopt.lint.finding import Finding
    from graphopt.lint.fusion import Account
    from graphopt.lint.run import Lint

__all__ = ["LINTS", "Account", "Finding", "Lint"]

LINTS = Registry(
    kind="lint",
    table={
        "dialect": "graphopt.lint.rules.dialect:check",
        "opset": "graphopt.lint.rules.opset:check",
        "zero-point": "graphopt.lint.rules.zero_point:check",
        "int32-bias": "graphopt.lint.rules.int32_bias:check",
        "scale-value": "graphopt.lint.rules.scale_value:check",
        "channel-axis": "graphopt.lint.rules.channel_axis:check",
        "three-inputs": "graphopt.lint.rules.three_inputs:check",
        "weight": "graphopt.lint.rules.weight:check",
        "unfused": "graphopt.lint.rules.unfused:check",
        "island": "graphopt.lint.rules.island:check",
        "conversions": "graphopt.lint.rules.conversions:check",
        "concat-scales": "graphopt.lint.rules.concat_scales:check",
        "quantized-twice": "graphopt.lint.rules.quantized_twice:check",
        "copy-scales": "graphopt.lint.rules.copy_scales:check",
        "double": "graphopt.lint.rules.double:check",
        "output": "graphopt.lint.rules.output:check",
        "thin": "graphopt.lint.rules.thin:check",
        "multiple": "graphopt.lint.rules.multiple:check",
        "parsed": "graphopt.lint.rules.parsed:check",
    },
)
"""Rules: ``check(context: Context) -> Iterable[Finding]``, in the order they are told."""
