"""One float model in INT8 as different tools make it, for ONNX Runtime's CPU provider."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import collect
from graphopt.calibrators.minmax import MinMax
from graphopt.dialects import DIALECTS
from graphopt.model import Model
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.passes.prune_channels import PruneChannels
from graphopt.wording import one_line

HERE = Path(__file__).parent
Feeds = dict[str, np.ndarray]
# Widths that integer kernels like: what graphopt chooses for this device.
ALIGN = 8


@dataclass(slots=True)
class Variants:
    """Makes the variants of one model; what fails is remembered, not raised.

    Attributes:
        model: float, BatchNorm folded.
        samples: what everyone calibrates on.
        scratch: where other tools read and write.
        onnxsim: an interpreter that has onnxsim, or empty.
        failed: variant -> why there is none.
    """

    model: Model
    samples: list[Feeds]
    scratch: Path
    onnxsim: str = ""
    failed: dict[str, str] = field(default_factory=dict)

    def all(self) -> Iterator[tuple[str, Model]]:
        """Yield name and model of each; ``fp32`` is the first."""
        yield "fp32", self.model
        yield "graphopt INT8", self._quantized(self.model, "onnxruntime")
        for percent in (30, 50):
            pruned = PruneChannels(percent / 100, align=ALIGN)(self.model).model
            if percent == 50:
                yield f"graphopt pruned {percent} %, fp32", pruned
            yield f"graphopt pruned {percent} %, INT8", self._quantized(pruned, "onnxruntime")
        yield "graphopt INT8, TensorRT's dialect", self._quantized(self.model, "tensorrt")
        for kind, prepared in (("U8S8", True), ("U8S8", False), ("S8S8", True), ("S8S8", False)):
            name = f"ORT {kind}" + (", quant_pre_process" if prepared else "")
            if (made := self._tried(name, lambda k=kind, p=prepared: self._ort(k, p))) is not None:
                yield name, made
        if self.onnxsim:
            made = self._tried("onnxsim INT8", self._onnxsim)
            if made is not None:
                yield "onnxsim INT8", made

    def _quantized(self, model: Model, dialect: str) -> Model:
        wanted = DIALECTS.load(dialect)().wanted(model, frozenset())
        collected = collect(model, self.samples, wanted)
        table = calibrate(collected, MinMax(), method="minmax", model_digest=model.digest())
        return InsertQDQ(dialect, table)(model).model

    def _tried(self, name: str, make: Callable[[], Model]) -> Model | None:
        try:
            return make()
        except Exception as problem:  # noqa: BLE001 - another tool's faults are a line in the page
            self.failed[name] = one_line(problem)
            return None

    def _given(self) -> Path:
        path = self.scratch / "fp32.onnx"
        if not path.exists():
            self.model.save(path)
        return path

    def _ort(self, kind: str, prepared: bool) -> Model:
        """Quantize with ONNX Runtime: QDQ, MinMax, int8 weights per channel."""
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        samples = self.samples

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.left = iter(samples)

            def get_next(self) -> Feeds | None:
                return next(self.left, None)

        source, out = self._given(), self.scratch / "ort.onnx"
        if prepared:
            ready = self.scratch / "ready.onnx"
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            source = ready
        quantize_static(
            str(source),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8 if kind == "U8S8" else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return Model.load(out)

    def _onnxsim(self) -> Model:
        data, out = self.scratch / "samples.npz", self.scratch / "onnxsim.onnx"
        names = self.samples[0]
        arrays: Any = {n: np.concatenate([s[n] for s in self.samples]) for n in names}
        np.savez(data, **arrays)
        words: list[Any] = [self.onnxsim, HERE / "peer_quantize.py", "onnxsim", self._given(), out]
        words += ["--method", "minmax", "--data", data]
        done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
        json.loads(done.stdout.strip().splitlines()[-1])
        return Model.load(out)
