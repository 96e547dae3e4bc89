"""What trtexec tells of an engine's layers: how long each took, and what it became.

``--exportProfile`` writes ``[{"count": N}, {"name", "timeMs", "averageMs", "medianMs",
"percentage"}, …]`` and does not escape the names, so a quote in one breaks the JSON: its lines are
then read one by one. ``--exportLayerInfo`` writes ``{"Layers": […]}``, with names alone unless the
engine was built with detailed profiling verbosity; beside it ``"Bindings"`` (names) up to 10 and
``"I/O Tensors"`` (objects) in 11.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphopt.engines.trtexec.output import read_bounded, read_json, refuse
from graphopt.errors import EnvironmentProblem

_MOST_BYTES = 64 << 20
_MOST_LAYERS = 100_000
_NUMBER = r"(-?[\d.]+(?:[eE][+-]?\d+)?)"
_ROW = re.compile(
    rf'^, \{{ "name" : "(.*)", "timeMs" : {_NUMBER}(?:, "averageMs" : {_NUMBER})?'
    rf'(?:, "medianMs" : {_NUMBER})?, "percentage" : {_NUMBER} \}}$'
)
_COUNT = re.compile(r'^\[?\s*\{ "count" : (\d{1,9}) \}$')


@dataclass(frozen=True, slots=True)
class LayerTime:
    """The time of one layer of an engine, over all runs; ``median_ms`` None where not told."""

    name: str
    total_ms: float
    average_ms: float
    median_ms: float | None
    percent: float


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """The times of all layers, in the order they run."""

    runs: int
    layers: tuple[LayerTime, ...]


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name: the nodes fused into it, joined by `` + ``.
        kind: such as ``"CaskConvolution"``; "" where only names were exported.
        inputs: tensor name -> format and type as told, such as ``"Row major Int8 format"``.
        outputs: likewise.
        details: everything told of it, for a reader.
    """

    name: str
    kind: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineLayers:
    """What an engine consists of; ``tensors`` names its inputs and outputs."""

    layers: tuple[EngineLayer, ...]
    tensors: tuple[str, ...]
    detailed: bool


def read_layer_times(path: str | os.PathLike[str]) -> LayerTimes:
    """Read what ``--exportProfile`` wrote.

    Raises:
        EnvironmentProblem: it is no such file, is cut short, or holds what no time can be.
    """
    try:
        raw = read_json(path, _MOST_BYTES)
    except EnvironmentProblem:
        raw = _rows(read_bounded(path, _MOST_BYTES))
        if raw is None:
            raise
    if not isinstance(raw, list) or not raw or not isinstance(raw[0], dict):
        refuse(path, "it holds no layers")
    if len(raw) > _MOST_LAYERS:
        refuse(path, f"{len(raw):,} layers are more than can be true")
    runs = raw[0].get("count")
    if isinstance(runs, bool) or not isinstance(runs, int) or runs < 0:
        refuse(path, "it does not say how many runs there were")
    return LayerTimes(runs, tuple(_layer_time(path, row, runs) for row in raw[1:]))


def read_layers(path: str | os.PathLike[str]) -> EngineLayers:
    """Read what ``--exportLayerInfo`` wrote.

    Raises:
        EnvironmentProblem: it is no such file, or is cut short.
    """
    raw = read_json(path, _MOST_BYTES)
    if not isinstance(raw, dict) or not isinstance(raw.get("Layers"), list):
        refuse(path, "it holds no layers")
    listed = raw["Layers"]
    if len(listed) > _MOST_LAYERS:
        refuse(path, f"{len(listed):,} layers are more than can be true")
    tensors = raw.get("Bindings", raw.get("I/O Tensors", []))
    if not isinstance(tensors, list):
        refuse(path, "its inputs and outputs are no list")
    return EngineLayers(
        layers=tuple(_engine_layer(path, each) for each in listed),
        tensors=tuple(_name(path, each) for each in tensors),
        detailed=any(isinstance(each, dict) for each in listed),
    )


def _rows(text: str) -> list[dict[str, Any]] | None:
    """Read the lines of a profile whose names break the JSON; None if it is none, or cut short."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) < 3 or lines[0] != "[" or lines[-1] != "]":
        return None
    count = _COUNT.match(lines[1])
    matches = [_ROW.match(line) for line in lines[2:-1]]
    if count is None or not all(matches):
        return None
    rows: list[dict[str, Any]] = [{"count": int(count[1])}]
    keys = ("timeMs", "averageMs", "medianMs", "percentage")
    for match in matches:
        assert match is not None
        try:
            told = {
                key: float(value)
                for key, value in zip(keys, match.groups()[1:], strict=True)
                if value is not None
            }
        except ValueError:
            return None
        rows.append({"name": match[1], **told})
    return rows


def _layer_time(path: str | os.PathLike[str], row: Any, runs: int) -> LayerTime:
    total = _number(path, row, "timeMs")
    average = row.get("averageMs")
    return LayerTime(
        name=_name(path, {"Name": row.get("name")}),
        total_ms=total,
        average_ms=total / max(runs, 1) if average is None else _number(path, row, "averageMs"),
        median_ms=None if row.get("medianMs") is None else _number(path, row, "medianMs"),
        percent=_number(path, row, "percentage"),
    )


def _number(path: str | os.PathLike[str], row: Any, key: str) -> float:
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(path, f"a layer without a {key}")
    if not 0 <= value < math.inf:
        refuse(path, f"a {key} of a layer is no time")
    return float(value)


def _engine_layer(path: str | os.PathLike[str], told: Any) -> EngineLayer:
    name = _name(path, told)
    if isinstance(told, str):
        return EngineLayer(name)
    kind = told.get("LayerType", "")
    return EngineLayer(
        name=name,
        kind=kind if isinstance(kind, str) else "",
        inputs=_tensors(path, told.get("Inputs", [])),
        outputs=_tensors(path, told.get("Outputs", [])),
        details=dict(told),
    )


def _tensors(path: str | os.PathLike[str], listed: Any) -> dict[str, str]:
    if not isinstance(listed, list):
        refuse(path, "the tensors of a layer are no list")
    return {_name(path, each): _format(each) for each in listed}


def _format(told: Any) -> str:
    if not isinstance(told, dict):
        return ""
    # Up to 10 one text; in 11 a format and a type, spelt DataType or Datatype.
    whole = told.get("Format/Datatype")
    if isinstance(whole, str):
        return whole
    parts = [told.get("Format"), told.get("DataType", told.get("Datatype"))]
    return " ".join(part for part in parts if isinstance(part, str))


def _name(path: str | os.PathLike[str], told: Any) -> str:
    name = told if isinstance(told, str) else told.get("Name") if isinstance(told, dict) else None
    if not isinstance(name, str):
        refuse(path, "a layer or tensor without a name")
    return name
