"""ONNX Runtime sessions: the one place that opens them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from graphopt.errors import UnsupportedModelError
from graphopt.graph import is_constant, remove_dead
from graphopt.machine import cpu_count
from graphopt.model import Model
from graphopt.wording import one_line

ort.set_default_logger_severity(4)
ort.disable_telemetry_events()  # a tool in a pipeline reports to nobody

# Smaller constants may be shapes and axes, which ONNX Runtime must see to infer shapes.
APART_ELEMENTS = 1024
_NATIVE = tuple(np.dtype(t) for t in "?bBhHiIlLqQefd")


def session_options(*, threads: int | None = None, optimize: bool = True) -> Any:
    """Return options for a quiet, optimized session on ``threads`` cores (default: all)."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or cpu_count()
    options.inter_op_num_threads = 1
    # Spinning threads take the cores that NumPy needs between two runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return options


def timing_options(threads: int | None = None, *, optimize: bool = True) -> Any:
    """Return options of a session that is timed, perhaps beside others.

    Threads spin while a run lasts, as they do in production, and stop when it ends: else those of
    the models whose turn it is not would take the cores. Measured on two cores, a model against
    itself, both threads, half-width of the interval of 8 openings: 9 to 28 % spinning, 2 to 5 %
    without spinning (and runs take 1.8 times as long), 0.4 to 0.8 % like this.

    Args:
        threads: cores to use; all by default.
        optimize: run ONNX Runtime's graph optimizations.
    """
    options = session_options(threads=threads, optimize=optimize)
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


@contextmanager
def open_session(
    model: Model | str | os.PathLike[str],
    *,
    extra_outputs: Sequence[str] = (),
    only: bool = False,
    threads: int | None = None,
    optimize: bool = True,
    options: Any = None,
) -> Iterator[Any]:
    """Open an ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        model: a model, or the path of an ONNX file.
        extra_outputs: names of inner tensors to return too, after the graph's own outputs.
        only: return ``extra_outputs`` alone, and run no more than they need.
        threads: cores to use; all by default.
        optimize: run ONNX Runtime's graph optimizations.
        options: SessionOptions to use instead of the ones made from ``threads`` and ``optimize``.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses the model.
    """
    options = options or session_options(threads=threads, optimize=optimize)
    weights: dict[str, Any] = {}
    source: Any = str(model)
    if isinstance(model, Model):
        model = model.clone()
        tensors = model.graph.tensors()
        if only:
            model.graph.outputs = []
        own = {t.name for t in model.graph.outputs}
        model.graph.outputs += [tensors[n] for n in extra_outputs if n not in own]
        if only:
            remove_dead(model.graph)
        source, weights = _apart(model)
        options.add_external_initializers(list(weights), list(weights.values()))
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise UnsupportedModelError(
            f"ONNX Runtime refuses the model: {one_line(problem)}"
        ) from problem
    del source
    yield session
    weights.clear()  # Until here: the session may read them where they lie.


def _apart(model: Model) -> tuple[bytes, dict[str, Any]]:
    """Take the large weights out of ``model``; return it serialized, and the weights by name.

    ONNX Runtime reads them where they lie. Serializing would copy them three times, take longer
    than opening the session, and stop at 2 GiB.
    """
    weights, declared = {}, []
    outputs = {t.name for t in model.graph.outputs}
    for name, tensor in model.graph.tensors().items():
        if not is_constant(tensor) or name in outputs or tensor.dtype not in _NATIVE:
            continue
        if math.prod(tensor.shape) < APART_ELEMENTS:
            continue
        values = np.ascontiguousarray(tensor.values)
        kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        proto = onnx.TensorProto(name=name, dims=values.shape, data_type=kind)
        proto.data_location = onnx.TensorProto.EXTERNAL
        proto.external_data.add(key="location", value="memory")
        weights[name] = ort.OrtValue.ortvalue_from_numpy(values)
        declared.append(proto)
        tensor.to_variable(tensor.dtype, tensor.shape)
    proto = model.to_onnx()
    proto.graph.initializer.extend(declared)
    return proto.SerializeToString(), weights
