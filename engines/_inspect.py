"""Layer information: what TensorRT's inspector tells of an engine; runs in the child process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_layers(trt: Any, data: Any, path: Path, dla: int | None) -> str | None:
    """Write what the inspector says of an engine (JSON); return why it cannot, in one line.

    The engine was built with detailed profiling verbosity, Polygraphy's default. Layers of the
    first optimization profile are told.

    Args:
        trt: the module.
        data: the serialized engine.
        path: the file to write.
        dla: the core it was built for.

    Raises:
        OSError: the file cannot be written.
    """
    from polygraphy.backend.trt.util import get_trt_logger

    from graphopt.wording import one_line

    try:
        runtime = trt.Runtime(get_trt_logger())
        if dla is not None:
            runtime.DLA_core = dla
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            return "no layer information: the engine cannot be loaded here"
        told = engine.create_engine_inspector().get_engine_information(
            trt.LayerInformationFormat.JSON
        )
        layers = json.loads(told)
    except Exception as problem:  # noqa: BLE001 - the engine is built; this is beside it
        return f"no layer information: {one_line(problem)}"
    path.write_text(json.dumps(layers, indent=1) + "\n", encoding="utf-8")
    return None
