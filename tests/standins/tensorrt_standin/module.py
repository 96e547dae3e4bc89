"""Puts a version's names together into a module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from . import build, network, parse, run
from .names import CALIBRATORS, TABLE, VERSIONS, names_of
from .strict import Strict, bind, enumeration

_LAYERS = {
    "IActivationLayer": "type",
    "IConvolutionLayer": "num_groups",
    "IPoolingLayer": "type",
    "IElementWiseLayer": "op",
    "IQuantizeLayer": "axis",
    "IDequantizeLayer": "axis",
    "IConstantLayer": "weights",
}
_ALIASES = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "bool": "BOOL"}


def populate(target: dict[str, Any], *, version: str, gpu: str, dla_cores: int) -> None:
    """Fill a module's globals with the names of one of ``VERSIONS``."""
    assert version in VERSIONS, version
    trt = SimpleNamespace()
    made = {**vars(build), **vars(network), **vars(parse), **vars(run)}
    # Every object of a version finds its module's other classes here.
    home: dict[str, Any] = {"trt": trt, "version": version, "gpu": gpu, "dla_cores": dla_cores}
    # The fake GPU's memory is the host's, and its work is done at once.
    home.update(read_gpu=run.read, gpu_work=run.work)
    for kind in TABLE:
        names = names_of(kind, version)
        if kind == "QuantizationFlag" and version.startswith("11"):
            continue
        value = (
            bind(kind, names, made[kind], _home=home) if kind in made else enumeration(kind, names)
        )
        setattr(trt, kind, value)
    trt.ILogger = type("ILogger", (build.ILogger,), {})
    trt.Logger = type("Logger", (trt.ILogger,), {"__init__": build.logger_init})
    trt.IProfiler = type("IProfiler", (run.IProfiler,), {})
    for name in _LAYERS:
        extra = {_LAYERS[name]: network.LAYER_ATTRIBUTES[_LAYERS[name]]}
        setattr(trt, name, type(name, (trt.ILayer,), {**extra, "_bound": True}))
    if not version.startswith("11"):
        base = type("IInt8Calibrator", (build.Calibrator,), {"_algorithm": ""})
        trt.IInt8Calibrator = base
        for name in CALIBRATORS[1:]:
            algorithm = name.removeprefix("IInt8").replace("Calibrator", "Calibration")
            setattr(trt, name, type(name, (base,), {"_algorithm": algorithm}))
    for alias, name in _ALIASES.items():
        setattr(trt, alias, getattr(trt.DataType, name))
    trt.Weights = np.ndarray
    trt.init_libnvinfer_plugins = lambda logger, namespace: True
    trt.__version__ = version
    trt._home = home
    target.update(vars(trt))


__all__ = ["Strict", "populate"]
