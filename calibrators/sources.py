"""Any calibration table, whatever wrote it: ours, TensorRT's cache, ONNX Runtime's tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.calibrators.cache import LEVELS, CacheHeader, read_cache
from graphopt.calibrators.choose import choose_again
from graphopt.calibrators.ort_tables import from_flatbuffers, from_json, from_text, loads
from graphopt.calibrators.table import KIND
from graphopt.errors import UsageError
from graphopt.graph import is_constant
from graphopt.model import Model
from graphopt.registry import did_you_mean
from graphopt.wording import counted

OURS, TENSORRT, ONNXRUNTIME = "graphopt", "TensorRT", "ONNX Runtime"
MOST_BYTES = 1 << 30
"""A table takes kilobytes a tensor; what is larger is another file, named by mistake."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A table from a file.

    Attributes:
        table: the ranges; of another program's table ``amax`` alone is measured, unless it gives
            both ends.
        origin: whose table it was: ``graphopt``, ``TensorRT`` or ``ONNX Runtime``.
        warnings: what the user should know, one line each.
    """

    table: CalibrationTable
    origin: str
    warnings: tuple[str, ...] = ()


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like a calibration table, and not like a model or an engine."""
    if Path(path).suffix in (".cache", ".flatbuffers"):
        return True
    try:
        with Path(path).open("rb") as file:
            start = file.read(64).lstrip()
    except OSError:
        return False
    return start.startswith((b"TRT-", b"{"))


def load_table(
    path: str | os.PathLike[str],
    model: Model | None = None,
    *,
    wanted: Sequence[str] = (),
    calibrator: str = "",
) -> Loaded:
    """Read a calibration table and check that it belongs to a model.

    Args:
        path: the file; what it is shows in its content.
        model: the model whose tensors it should name; not checked without one.
        wanted: names of the tensors that must be in it: those the dialect asks for.
        calibrator: choose the ranges anew by this rule, from the histograms in the file.

    Raises:
        UsageError: there is no such file or it is no table, it names nothing of the model, lacks
            a tensor that is wanted, or has no histograms where another calibrator is asked for.
    """
    table, origin = _read(path)
    if calibrator:
        table = choose_again(table, calibrator, str(path))
    warnings = [] if model is None else _check(table, origin, model, wanted, str(path))
    return Loaded(table, origin, tuple(warnings))


def _read(path: str | os.PathLike[str]) -> tuple[CalibrationTable, str]:
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} is no calibration table: it has more than 1 GB")
        data = Path(path).read_bytes()
    except FileNotFoundError as problem:
        raise UsageError(f"no such file: {path}") from problem
    except OSError as problem:
        raise UsageError(f"cannot read {path}: {problem.strerror or problem}") from problem
    where = str(path)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if CacheHeader.parse(text.partition("\n")[0].removesuffix("\r")) is not None:
        header, scales = read_cache(path)
        ranges = {name: _of_scale(scale, name, where) for name, scale in scales.items()}
        return _foreign(ranges, f"{TENSORRT} {header}"), TENSORRT
    raw = loads(text) if text.lstrip().startswith("{") else None
    if isinstance(raw, dict) and raw.get("kind") == KIND:
        return CalibrationTable.from_json(raw, where), OURS
    found = from_json(raw, where)
    if found is None and raw is None:
        found = (from_text(text, where) if text else None) or from_flatbuffers(data, where)
    if found is None:
        raise UsageError(
            f"{path} is no calibration table: neither graphopt's, nor TensorRT's cache, nor one of "
            "ONNX Runtime's"
        )
    return _foreign(found, ONNXRUNTIME), ONNXRUNTIME


def _of_scale(scale: float, name: str, where: str) -> TensorRange:
    amax = scale * LEVELS
    try:
        return TensorRange(amax, -amax, amax)
    except ValueError as problem:
        raise UsageError(f"{where}: tensor {name[:60]!r}: {problem}") from problem


def _foreign(ranges: Mapping[str, TensorRange], method: str) -> CalibrationTable:
    return CalibrationTable(dict(sorted(ranges.items())), method, "")


def _check(
    table: CalibrationTable, origin: str, model: Model, wanted: Sequence[str], where: str
) -> list[str]:
    """Return warnings.

    Raises:
        UsageError: the table belongs to another model.
    """
    tensors = {n for n, t in model.graph.tensors().items() if not is_constant(t)}
    strangers = sorted(name for name in table.ranges if name not in tensors)
    if table.ranges and len(strangers) == len(table.ranges):
        raise UsageError(
            f"{where} belongs to another model: of its {counted(len(table.ranges), 'tensor')} "
            f"none is in this one, such as '{strangers[0]}'; calibrate this model"
        )
    missing = [name for name in wanted if name not in table.ranges]
    if missing:
        near = did_you_mean(missing[0], strangers)
        raise UsageError(
            f"{where} has no range for {len(missing)} of {counted(len(set(wanted)), 'tensor')} "
            f"to be quantized, such as '{missing[0]}'{near}: it belongs to another model, or to "
            "this one before it was changed; calibrate this model"
        )
    warnings = []
    if strangers:
        warnings.append(
            f"{where}: {len(strangers)} of {len(table.ranges)} tensors are not in this model, "
            f"such as '{strangers[0]}', and are ignored"
        )
    if origin == OURS and table.model_digest != model.digest():
        warnings.append(
            f"{where} was made for another version of this model (digest "
            f"{table.model_digest[:12]}, this one {model.digest()[:12]}): the names fit, whether "
            "the ranges do nobody checked"
        )
    elif origin != OURS:
        warnings.append(f"{where} is {origin}'s: it does not say which model it belongs to")
    return warnings


def only(table: CalibrationTable, names: Sequence[str]) -> CalibrationTable:
    """Return the table with the tensors of these names alone; those it lacks stay lacking."""
    kept = frozenset(names)
    counts = table.counts
    if counts is not None:
        counts = replace(
            counts,
            histograms={n: h for n, h in counts.histograms.items() if n in kept},
            gains={n: g for n, g in counts.gains.items() if n in kept},
        )
    ranges = {name: r for name, r in table.ranges.items() if name in kept}
    return replace(table, ranges=ranges, counts=counts)
