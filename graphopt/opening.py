"""Opening any artifact by what the file is, or by what its sidecar says it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.engines import ENGINES, Session
from graphopt.engines.header import identify, is_engine
from graphopt.engines.safety import check_engine, here
from graphopt.engines.sidecar import read_sidecar, sidecar_path
from graphopt.errors import EnvironmentProblem, UnsupportedModelError, UsageError
from graphopt.graph import is_op
from graphopt.lint.from_onnx import read_onnx
from graphopt.lint.recognize import TENSORRT, recognize
from graphopt.model import Model
from graphopt.wording import spell


@contextmanager
def opened(
    path: Path,
    *,
    faithful: bool = False,
    threads: int | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Session]:
    """Open a model on ONNX Runtime, or an engine on its own runtime.

    What has a sidecar is first checked against it and this machine (``graphopt.engines.safety``).

    Args:
        path: of the file.
        faithful: for values, not for times: compute Q/DQ that is placed for TensorRT as written.
            What ONNX Runtime's optimizer makes of it is nothing that TensorRT does: more layers
            in integers, biases that overflow with fp16 scales, or (opset 21) no model at all.
        threads: that ONNX Runtime may use for one run; all cores by default.
        warn: is told of an engine without a sidecar: loading it is a matter of trust.

    Raises:
        UsageError: no such file, its sidecar names an engine that is not installed, or it is not
            the file that its sidecar tells of.
        EnvironmentProblem: an engine, and this machine cannot run it, or has not the version or
            the GPU that it was built for.
        UnsupportedModelError: the runtime refuses it.
    """
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists() raises for a name too long
        raise UsageError(f"no such file: {path}")
    name = identify(path).kind if is_engine(path) else _named(path)
    engine = ENGINES.load(name)()
    why = engine.missing() or engine.cannot_run()
    if why:
        by_trtexec = "trtexec runs it too: --trtexec PATH, or --host for another machine"
        hint = by_trtexec if name == "tensorrt" else ""
        raise EnvironmentProblem(f"{path.name} cannot be run here: {why}", hint=hint)
    check_engine(path, here(engine), warn=warn)
    options: dict[str, Any] = {}
    if name == "onnxruntime":
        if threads is not None:
            options["threads"] = threads
        model = Model.load(path)
        check_inputs(model)  # says in one line what is wrong with the file
        if faithful and _quantized_for_tensorrt(model):
            options["optimize"] = False
    with engine.open(path, **options) as session:
        yield session


def _quantized_for_tensorrt(model: Model) -> bool:
    """Whether activations are quantized, for TensorRT."""
    if not any(is_op(node, "QuantizeLinear") for node in model.graph.nodes):
        return False
    return recognize(model, read_onnx(model)) == TENSORRT


def check_inputs(model: Model) -> None:
    """Refuse a model that samples cannot be fed to.

    Raises:
        UnsupportedModelError: it has no inputs, or one that is no batch of numbers.
    """
    if not model.graph.inputs:
        raise UnsupportedModelError("the model has no inputs: there is nothing to feed or to time")
    for tensor in model.graph.inputs:
        kind = getattr(tensor, "type", "tensor_type").removesuffix("_type")
        problem = ""
        if kind != "tensor":
            problem = f"is of the type {kind}"
        elif tensor.dtype is not None and np.dtype(tensor.dtype).kind in "OUS":
            problem = "takes text"
        elif tensor.shape is not None and not len(tensor.shape):
            problem = "is a scalar, without a batch axis"
        elif 0 in (tensor.shape or ()):
            problem = f"is {spell(tensor.shape)}, which holds nothing"
        if problem:
            raise UnsupportedModelError(
                f"input '{tensor.name}' {problem}: graphopt feeds batches of numbers"
            )


def _named(path: Path) -> str:
    """Return the engine whose artifact this is; without a sidecar of ours it is a model."""
    try:
        facts = read_sidecar(sidecar_path(path))
    except (UsageError, OSError):
        return "onnxruntime"
    return ENGINES.canonical(str(facts.get("engine", "onnxruntime")))
