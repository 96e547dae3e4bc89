"""Quantize a model to INT8 with another tool, the way its users do; run by its interpreter.

    PYTHON tools/peer_quantize.py modelopt MODEL OUT --method entropy --data FILE.npz

Prints the versions of what did it, as JSON. Knows nothing of graphopt.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

BATCH = 16
Arrays = dict[str, np.ndarray]


def batches(samples: Arrays, size: int = BATCH) -> list[Arrays]:
    """Cut samples into batches."""
    count = len(next(iter(samples.values())))
    return [{n: a[i : i + size] for n, a in samples.items()} for i in range(0, count, size)]


def modelopt(model: str, out: str, method: str, samples: Arrays, fixed: bool) -> None:
    """``method`` is max or entropy."""
    from modelopt.onnx.quantization import quantize

    del fixed  # its calibrator runs batches of the model's own size
    quantize(
        model,
        quantize_mode="int8",
        calibration_data=samples,
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=out,
        log_level="ERROR",
    )


def onnxsim(model: str, out: str, method: str, samples: Arrays, fixed: bool) -> None:
    """``method`` is minmax, entropy, mse, percentile or auto; ``+`` adds CLE and bias."""
    import onnxsim as tool

    base, _, more = method.partition("+")
    data = batches(samples, 1 if fixed else BATCH)
    dense, checked = tool.simplify(onnx.load(model))
    if not checked:
        raise SystemExit("onnxsim's own check of its simplified model failed")
    if more:
        dense = tool.cross_layer_equalize(dense)
    result = tool.quantize_static(dense, calibration_data=data, method=base)
    if more:
        result = tool.correct_bias(dense, result, calibration_data=data)
    onnx.save(result, out)


def onnxruntime(model: str, out: str, method: str, samples: Arrays, fixed: bool) -> None:
    """``method`` is MinMax, Entropy or Percentile, then the activations' type: MinMax-uint8."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.stream = iter(batches(samples, 1 if fixed else BATCH))

        def get_next(self) -> Arrays | None:
            return next(self.stream, None)

    name, _, kind = method.partition("-")
    with tempfile.TemporaryDirectory() as scratch:
        ready = str(Path(scratch) / "ready.onnx")
        quant_pre_process(model, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            out,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8 if kind == "uint8" else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[name],
            extra_options={} if kind == "uint8" else {"ActivationSymmetric": True},
        )


TOOLS: dict[str, tuple[Callable[..., None], str]] = {
    "modelopt": (modelopt, "nvidia-modelopt"),
    "onnxsim": (onnxsim, "onnxsim"),
    "onnxruntime": (onnxruntime, "onnx"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", choices=sorted(TOOLS))
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--method", required=True)
    parser.add_argument("--data", required=True)
    args = parser.parse_args()
    work, package = TOOLS[args.tool]
    samples: Any = dict(np.load(args.data))
    first = onnx.load(args.model, load_external_data=False).graph.input[0]
    fixed = first.type.tensor_type.shape.dim[0].dim_value == 1
    work(args.model, args.out, args.method, samples, fixed)
    import onnxruntime as runtime

    versions = {name: importlib.metadata.version(name) for name in sorted({package, "onnx"})}
    print(json.dumps({**versions, "onnxruntime": runtime.__version__}))


if __name__ == "__main__":
    main()
