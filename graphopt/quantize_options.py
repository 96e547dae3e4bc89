"""The options of quantization: contradictions refused, what is open decided and said."""

from __future__ import annotations

import re
from collections.abc import Mapping

from graphopt.calibrators import CALIBRATORS
from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.engines.target import Target
from graphopt.errors import DataError, UnsupportedModelError, UsageError
from graphopt.passes.fp16_ops import QDQ_OPSET
from graphopt.recipe import Quantize, Recipe
from graphopt.report import Report

DEFAULT_CALIBRATOR = "auto"
BLOCK_OPSET = 21  # the first with int4 and with a block size of DequantizeLinear
# More than twelve digits are a mistake, and need not fit a float.
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(?:([KMGT])(i?))?B?", re.IGNORECASE | re.ASCII)


def label(quantize: Quantize) -> str:
    """Return what the result is called in files and tables: ``int8``, ``int8+fp16``, ``w4``."""
    parts = []
    if quantize.int8:
        parts.append("int8")
    elif quantize.weights is not None:
        parts.append("w4" if quantize.weights == "int4" else "w8")
    if quantize.fp16:
        parts.append("fp16")
    return "+".join(parts) or "fp32"


def parse_size(text: str) -> int:
    """Return the bytes that ``2GB``, ``512 MiB`` or ``1000000`` stand for.

    Raises:
        UsageError: it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    size = 0
    if found is not None:
        base = 1024 if found[3] else 1000
        size = int(float(found[1]) * base ** " KMGT".index((found[2] or " ").upper()))
    if not size:
        raise UsageError(f"'{text}' is no size of memory: write it like 2GB or 512MB")
    return size


def memory_of(recipe: Recipe) -> int | None:
    """Return the bytes calibration may hold; None leaves it to the calibration.

    Raises:
        UsageError: ``--memory`` is no size.
    """
    return None if recipe.data.memory is None else parse_size(recipe.data.memory)


def check_quantization(recipe: Recipe) -> None:
    """Refuse unknown names and contradictions before anything is read.

    Raises:
        UsageError: one line with what is known.
        DataError: samples are needed and none are named.
    """
    wanted = recipe.quantize
    if wanted.calibrator is not None:
        CALIBRATORS.canonical(wanted.calibrator)
    memory_of(recipe)
    if wanted.int8 and wanted.weights is not None:
        raise UsageError(
            f"--int8 quantizes weights and activations, --weights {wanted.weights} weights alone: "
            "choose one"
        )
    if not wanted.int8:
        _refuse_needless(wanted)
    if wanted.block is not None and wanted.weights is None:
        raise UsageError("--block says how many weights share a scale: give --weights int4")
    if wanted.block is not None and wanted.block & (wanted.block - 1):
        raise UsageError(f"--block {wanted.block}: a block has 16, 32, 64, 128 … rows")
    limits = {"--max-drop": recipe.gate.max_drop, "--min-sqnr": recipe.gate.min_sqnr}
    for flag, value in limits.items():
        if value is None:
            continue
        if recipe.data.synthetic:
            raise UsageError(f"{flag} means nothing on made-up data: leave --synthetic out")
        if not (recipe.data.evaluation or recipe.data.calibration):
            raise UsageError(f"{flag} needs samples to measure on: give --eval or --data")
    looking = {
        "--rounding second-order": wanted.rounding == "second-order",
        "--bias-correction": wanted.bias,
        "--equalize": wanted.equalize,
        "--smooth": wanted.smooth,
    }
    for flag, asked in looking.items():
        if asked and not recipe.data.calibration:
            raise DataError(f"{flag} looks at activations: give --data")
    for flag in ("--equalize", "--smooth"):
        if wanted.table is not None and looking[flag]:
            raise UsageError(
                f"{flag} changes ranges, and --calibration brings those of the model without it: "
                "leave one out"
            )


def _refuse_needless(wanted: Quantize) -> None:
    """Refuse options that say how to do what is not asked for."""
    given: dict[str, object] = {
        "--calibrator": wanted.calibrator,
        "--calibration": wanted.table,
        "--bias-correction": wanted.bias,
        "--equalize": wanted.equalize,
        "--smooth": wanted.smooth,
    }
    if wanted.weights is None:
        given["--rounding"] = wanted.rounding
    if wanted.weights is None and not wanted.fp16:
        given["--exclude-nodes"] = wanted.exclude or None
    named = [flag for flag, value in given.items() if value is not None]
    if named:
        raise UsageError(f"{named[0]} is about INT8, which is not asked for: give --int8")


def check_device(recipe: Recipe, target: Target) -> None:
    """Refuse what no TensorRT that could be meant can run.

    Raises:
        UnsupportedModelError: one line that says why, and what to do.
    """
    wanted, name = recipe.quantize, target.device.name
    newest = target.max_opset
    if newest is None:
        return
    if wanted.weights and newest < BLOCK_OPSET:
        raise UnsupportedModelError(
            f"--weights {wanted.weights} needs TensorRT 10 (opset {BLOCK_OPSET}), and TensorRT for "
            f"{name} parses up to opset {newest}: use --int8"
        )
    if wanted.int8 and wanted.fp16 and target.fp16_in_graph and newest < QDQ_OPSET:
        raise UnsupportedModelError(
            f"--fp16 beside --int8 needs opset {QDQ_OPSET} (Q/DQ with fp16 scales), and TensorRT "
            f"for {name} parses up to opset {newest}: leave one of the two out"
        )


def decide_quantization(
    recipe: Recipe,
    calibration: Dataset | None,
    report: Report,
    ui: Console,
    *,
    quantization: str | None = "explicit",
    unrunnable: bool = False,
) -> Mapping[str, object]:
    """Return the ``quantize`` part with what was open decided, each with its reason.

    Args:
        recipe: what was asked for.
        calibration: samples, or None.
        report: takes the decisions.
        ui: says them.
        quantization: how the target wants INT8 told.
        unrunnable: the model does not run here.
    """
    wanted = recipe.quantize
    decided: dict[str, object] = {}
    if not wanted.int8 and wanted.weights is None:
        return decided
    real = calibration is not None and not calibration.synthetic and not unrunnable

    def decide(name: str, value: object, reason: str) -> None:
        decided[name] = value
        report.decide(name, str(value), reason)
        ui.info(f"{name} {value}: {reason}")

    reason = "there is data to weigh errors with" if real else "there is no data to weigh errors"
    if unrunnable:
        reason = "the model does not run here, so errors cannot be weighed"
    if wanted.int8:
        decided["quantization"] = quantization
    implicit = wanted.int8 and quantization == "implicit"
    if wanted.rounding is None and implicit:
        decide("rounding", "nearest", "quantization is implicit, TensorRT rounds the weights")
    elif wanted.rounding is None:
        decide("rounding", "second-order" if real else "nearest", reason)
    if wanted.int8:
        told: dict[tuple[bool, str], list[str]] = {}
        for name, given in (
            ("bias", wanted.bias),
            ("equalize", wanted.equalize),
            ("smooth", wanted.smooth),
        ):
            if given is None:
                kept = name != "bias" and wanted.table is not None
                why = "they would change the ranges that come from a file" if kept else reason
                if name == "bias" and implicit:
                    kept, why = True, "TensorRT chooses the layers of implicit INT8 by itself"
                decided[name] = real and not kept
                report.decide(name, "on" if decided[name] else "off", why)
                told.setdefault((real and not kept, why), []).append(name)
        for (on, why), names in told.items():
            ui.info(f"{', '.join(names)} {'on' if on else 'off'}: {why}")
    if wanted.int8 and (wanted.calibrator or not wanted.table):
        decided["calibrator"] = CALIBRATORS.canonical(wanted.calibrator or DEFAULT_CALIBRATOR)
        if wanted.calibrator is None:
            report.decide("calibrator", DEFAULT_CALIBRATOR, "least error in the layers that read")
    return decided
