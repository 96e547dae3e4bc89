"""The files the stand-in trtexec writes, in the formats of its version."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

Version = tuple[int, int, int]
_HEADER = struct.Struct("<4sI8xQ4s")


class NotAnEngine(Exception):
    """The file cannot be deserialized; args: what TensorRT says."""


def engine_bytes(version: Version, build: int, facts: dict[str, Any]) -> bytes:
    """``ftrt``, zero, the length, the version, then the facts, padded as weights would."""
    body = json.dumps(facts, sort_keys=True).encode()
    body += b"\0" * (4096 - len(body) % 4096)
    size = _HEADER.size + len(body)
    return _HEADER.pack(b"ftrt", 0, size, bytes([*version, build])) + body


def read_engine(path: Path, version: Version, build: int, sm: str) -> dict[str, Any]:
    data = path.read_bytes()
    if len(data) < _HEADER.size or data[:4] != b"ftrt":
        raise NotAnEngine(
            "Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG "
            "failed.Magic tag does not match)"
        )
    _, _, size, packed = _HEADER.unpack(data[: _HEADER.size])
    here, there = ".".join(map(str, (*version, build))), ".".join(map(str, packed))
    if there != here:
        raise NotAnEngine(
            "The engine plan file is not compatible with this version of TensorRT, expecting "
            f"library version {here} got {there}, please rebuild."
        )
    if size != len(data):
        raise NotAnEngine(
            "Error Code 1: Serialization (Serialization assertion "
            "sizeRead == static_cast<uint64_t>(mEnd - mCurrent) failed.Size specified in header "
            "does not match archive size)"
        )
    facts: dict[str, Any] = json.loads(data[_HEADER.size :].rstrip(b"\0"))
    if facts["sm"] != sm:
        raise NotAnEngine(
            "The engine plan file is generated on an incompatible device, expecting compute "
            f"{sm} got compute {facts['sm']}, please rebuild."
        )
    return facts


def traces(
    mean_ms: float, runs: int, warmup_ms: float, *, transfers: bool, seed: str
) -> list[dict[str, float]]:
    """Return one record a run, as they lie in exportTimes, from a seed."""
    chance = random.Random(seed)
    at, found = warmup_ms, []
    for _ in range(runs):
        compute = mean_ms * (1 + abs(chance.gauss(0, 0.01)))
        h2d = 0.1 * mean_ms if transfers else 0.0
        start = at
        found.append(
            {
                "startEnqMs": start - 0.02,
                "endEnqMs": start - 0.005,
                "startH2dMs": start,
                "endH2dMs": start + h2d,
                "startComputeMs": start + h2d,
                "endComputeMs": start + h2d + compute,
                "startD2hMs": start + h2d + compute,
                "endD2hMs": start + 2 * h2d + compute,
                "h2dMs": h2d,
                "computeMs": compute,
                "d2hMs": h2d,
                "latencyMs": 2 * h2d + compute,
            }
        )
        at = start + 2 * h2d + compute
    return found


def _short(value: float) -> str:
    """A float as C++ streams write it: six digits."""
    return f"{value:.6g}"


def times_text(found: list[dict[str, float]]) -> str:
    """The separator becomes a comma after the first record has begun, as in the real file."""
    rows = [
        "{ " + ", ".join(f'"{k}" : {_short(v)}' for k, v in row.items()) + " }" for row in found
    ]
    return "[\n  " + "\n, ".join(rows) + "\n]\n"


def profile_text(layers: list[dict[str, Any]], runs: int, mean_ms: float) -> str:
    total = sum(layer["share"] for layer in layers) or 1.0
    rows = [f'[\n  {{ "count" : {runs} }}\n']
    for layer in layers:
        average = mean_ms * layer["share"] / total
        rows.append(
            f', {{ "name" : "{layer["name"]}", "timeMs" : {_short(average * runs)}, '
            f'"averageMs" : {_short(average)}, "medianMs" : {_short(average)}, '
            f'"percentage" : {_short(100 * layer["share"] / total)} }}\n'
        )
    return "".join(rows) + "]\n"


def layers_text(facts: dict[str, Any], version: Version) -> str:
    """Names only, or objects where the engine was built with detailed verbosity."""
    detailed = facts["verbosity"] == "detailed"
    if version >= (11, 0, 0):
        document: dict[str, Any] = {
            "ProfilingVerbosity": "DETAILED" if detailed else "LAYER_NAMES_ONLY",
            "Layers": [_layer_11(each) if detailed else each["name"] for each in facts["layers"]],
            "I/O Tensors": [_io(name, "INPUT", shape) for name, shape in facts["inputs"].items()]
            + [_io(name, "OUTPUT", [-1]) for name in facts["outputs"]],
        }
        return json.dumps(document, indent=2)
    parts = [
        json.dumps(_layer(layer), indent=2) if detailed else json.dumps(layer["name"])
        for layer in facts["layers"]
    ]
    bindings = [json.dumps(name) for name in [*facts["inputs"], *facts["outputs"]]]
    return (
        '{"Layers": [' + "\n,".join(parts) + '\n],\n"Bindings": [' + "\n,".join(bindings) + "\n]}\n"
    )


def _io(name: str, mode: str, shape: list[int]) -> dict[str, Any]:
    return {
        "Name": name,
        "IOMode": mode,
        "DataType": "FP32",
        "Dimensions": shape,
        "Location": "DEVICE",
    }


def _tensor(name: str, int8: bool) -> dict[str, Any]:
    return {
        "Name": name,
        "Location": "Device",
        "Dimensions": [1],
        "Format/Datatype": "Row major Int8 format" if int8 else "Row major linear FP32",
    }


def _layer(layer: dict[str, Any]) -> dict[str, Any]:
    return {
        "Name": layer["name"],
        "LayerType": layer["kind"],
        "Inputs": [_tensor(name, layer["int8"]) for name in layer["inputs"]],
        "Outputs": [_tensor(name, layer["int8"]) for name in layer["outputs"]],
        "ParameterType": layer["op"],
        "TacticName": "sm75_xmma_int8" if layer["int8"] else "sm75_xmma_fp32",
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: {layer['name'].split(' + ')[0]}]",
    }


def _layer_11(layer: dict[str, Any]) -> dict[str, Any]:
    dtype = "INT8" if layer["int8"] else "FP32"
    return {
        **_layer(layer),
        "Inputs": [
            {"Name": name, "Dimensions": [1], "Format": "LINEAR", "DataType": dtype}
            for name in layer["inputs"]
        ],
        "Outputs": [
            {"Name": name, "Dimensions": [1], "Format": "LINEAR", "DataType": dtype}
            for name in layer["outputs"]
        ],
    }


def summary(found: list[dict[str, float]], percentiles: list[float]) -> list[str]:
    """Return the lines of the performance summary."""
    wall = found[-1]["endD2hMs"] - found[0]["startH2dMs"]
    columns = {
        "Latency": [row["latencyMs"] for row in found],
        "Enqueue Time": [row["endEnqMs"] - row["startEnqMs"] for row in found],
        "H2D Latency": [row["h2dMs"] for row in found],
        "GPU Compute Time": [row["computeMs"] for row in found],
        "D2H Latency": [row["d2hMs"] for row in found],
    }
    lines = [
        "",
        "=== Performance summary ===",
        f"Throughput: {_short(1000 * len(found) / wall)} qps",
    ]
    for name, values in columns.items():
        ordered = sorted(values)
        text = (
            f"{name}: min = {_short(ordered[0])} ms, max = {_short(ordered[-1])} ms, "
            f"mean = {_short(sum(ordered) / len(ordered))} ms, "
            f"median = {_short(ordered[len(ordered) // 2])} ms"
        )
        for p in percentiles:
            at = max(len(ordered) - 1 - int((1 - p / 100) * len(ordered)), 0)
            text += f", percentile({p:g}%) = {_short(ordered[at])} ms"
        lines.append(text)
    compute = sum(columns["GPU Compute Time"])
    return [
        *lines,
        f"Total Host Walltime: {_short(wall / 1000)} s",
        f"Total GPU Compute Time: {_short(compute / 1000)} s",
        "Explanations of the performance metrics are printed in the verbose logs.",
        "",
    ]
