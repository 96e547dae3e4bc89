"""The process that speaks to TensorRT: parse, and build where an engine is asked for.

A process can speak TensorRT or TensorRT-RTX, not both, and their libraries print, and sometimes
crash; so each job has a process of its own, started by :mod:`graphopt.engines._builder`. It reads
a job (JSON) and writes a result (JSON); everything printed goes to the parent's log file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TypedDict

from graphopt.engines._int8 import Int8

RTX = "tensorrt-rtx"
LAYERS = ".layers.json"
_ADDR_NO_RANDOMIZE = 0x0040000  # <linux/personality.h>


class _Optional(TypedDict, total=False):
    walk: bool


class Job(_Optional):
    """What to do. Paths are absolute.

    ``engine`` is None to parse only; with ``walk`` the facts hold the parsed ``network`` too;
    ``profiles`` hold ``{"min", "opt", "max"}`` by input name; ``targets`` are compute capabilities
    (TensorRT-RTX), None for its portable default; ``timing_cache`` is None for the one that goes
    with this version and ``gpu``, the GPU's name; ``calibration_shapes`` is the shape of the
    batches of ``int8``. The others are as in ``BuildOptions``.
    """

    runtime: str
    onnx: str
    engine: str | None
    result: str
    profiles: list[dict[str, dict[str, list[int]]]]
    targets: list[list[int]] | None
    quantized: bool
    half: bool
    int8: Int8 | None
    calibration_shapes: dict[str, list[int]] | None
    fp16: bool
    dla: int | None
    gpu_fallback: bool
    sparse: bool
    level: int | None
    workspace_bytes: int | None
    timing_cache: str | None
    gpu: str


class ParserError(TypedDict):
    """One thing the ONNX parser refuses; ``index`` is the node's place in the file, or -1."""

    index: int
    node: str
    operator: str
    message: str


class Result(TypedDict, total=False):
    """What came of a job.

    ``outcome`` is "ok", "refused" (by the parser), "unable" (this version or machine has not what
    is asked for), "failed", "environment" or "output".
    """

    outcome: str
    version: str
    errors: list[ParserError]
    message: str
    errno: int
    facts: dict[str, Any]


def settle() -> None:
    """Start this process again without address randomization, where the system allows it.

    TensorRT-RTX numbers some kernels in an order that depends on addresses: with them fixed, the
    same model gives the same engine byte for byte. Does nothing but on Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    personality = ctypes.CDLL(None).personality
    personality.argtypes, personality.restype = [ctypes.c_ulong], ctypes.c_int
    current = personality(0xFFFFFFFF)
    if current == -1 or current & _ADDR_NO_RANDOMIZE:
        return
    # Containers may forbid it; then the engine is as good, and not as repeatable.
    if personality(current | _ADDR_NO_RANDOMIZE) != -1:
        os.execv(sys.executable, sys.orig_argv)


def main(job_file: str) -> None:
    """Carry out the job in this file; the result file is written whatever happens."""
    from graphopt.engines._config import Unable

    job: Job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    result: Result
    try:
        result = _work(job)
    except Unable as problem:
        result = {"outcome": "unable", "message": str(problem)}
    except OSError as problem:
        result = {"outcome": "output", "errno": problem.errno or 0, "message": str(problem)}
    except Exception as problem:  # noqa: BLE001 - the parent turns it into one line
        # Polygraphy raises when TensorRT returned nothing; TensorRT's own words are in the log.
        result = {"outcome": "failed", "message": f"{type(problem).__name__}: {problem}"}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


def _work(job: Job) -> Result:
    # Both must be set before Polygraphy is imported.
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if job["runtime"] == RTX else "0"
    os.environ["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"
    try:
        if job["runtime"] == RTX:
            import tensorrt_rtx as trt
        else:
            import tensorrt as trt
        from polygraphy.backend.trt import CreateNetwork
        from polygraphy.backend.trt.util import get_trt_logger
    except (ImportError, OSError, RuntimeError) as problem:
        return {"outcome": "environment", "message": f"{type(problem).__name__}: {problem}"}
    from graphopt.engines._config import cannot, cannot_use
    from graphopt.engines._features import features, typing_for

    version, known = str(trt.__version__), features(trt)
    unknown = [t for t in job["targets"] or [] if not hasattr(trt.ComputeCapability, _sm_name(t))]
    if unknown:
        names = ", ".join(_sm_name(t) for t in unknown)
        return {"outcome": "environment", "message": f"version {version} cannot target {names}"}
    reason = cannot(job, trt, known)
    if reason:
        return {"outcome": "unable", "version": version, "message": reason}
    typing = typing_for(
        known,
        quantized=job["quantized"],
        half=job["half"] or job["fp16"],
        weak=job["int8"] is not None or job["fp16"] or job["dla"] is not None,
        implicit=job["int8"] is not None,
    )
    builder, network = CreateNetwork(strongly_typed=typing.strong)()
    reason = cannot_use(job, builder)
    if reason:
        return {"outcome": "unable", "version": version, "message": reason}
    logger = get_trt_logger()
    trt.init_libnvinfer_plugins(logger, "")
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(job["onnx"])
    errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
    if errors or not parsed:
        return {"outcome": "refused", "version": version, "errors": errors}
    facts: dict[str, Any] = {
        "layers": int(network.num_layers),
        "typing": "strong" if typing.strong else "weak",
        "builder_flags": [name for name in ("int8", "fp16") if getattr(typing, name)],
    }
    if job.get("walk"):
        from graphopt.engines._walk import walk

        facts["network"] = walk(trt, network)
    if job["engine"] is not None:
        # The parser holds the weights the network points to: it must outlive the build.
        facts.update(_build(job, trt, (builder, network, parser), typing, known))
        facts["tf32"] = True
    return {"outcome": "ok", "version": version, "errors": [], "facts": facts}


def _build(job: Job, trt: Any, network: Any, typing: Any, known: Any) -> dict[str, Any]:
    from polygraphy.backend.trt import EngineBytesFromNetwork

    from graphopt.engines._config import Configuration
    from graphopt.engines._inspect import write_layers

    assert job["engine"] is not None
    configuration = Configuration(job, trt, typing)
    facts: dict[str, Any] = {}
    try:
        data = EngineBytesFromNetwork(network, configuration)()
    finally:
        # What the calibrator ran into is the cause of what TensorRT says about it.
        problem = configuration.close()
        if problem is not None:
            raise problem
    facts.update(configuration.finish())
    with Path(job["engine"]).open("wb") as stream:
        stream.write(data)
    if known.inspector and job["runtime"] != RTX:
        layers = Path(job["engine"] + LAYERS)
        note = write_layers(trt, data, layers, job["dla"])
        if note is None:
            facts["layer_information"] = layers.name
        else:
            configuration.notes.append(note)
    facts["notes"] = configuration.notes
    return facts


def _sm_name(target: list[int]) -> str:
    return f"SM{target[0]}{target[1]}"


def _parser_error(error: Any) -> ParserError:
    # TensorRT 8.5's errors know the node by number only.
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return {
        "index": int(error.node()),
        "node": str(name),
        "operator": str(operator),
        "message": str(error.desc()),
    }
