"""What `bench_calibration.py` measures: one variant, in a process of its own.

    PYTHON tools/calibration_variants.py VARIANT MODEL.onnx SAMPLES.npy --batch 4

Run by the interpreter that has the tool measured: each variant imports what it needs, then the
clock starts, and it stops when the ranges are known, opening the session included. Prints one line
of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

BARE = "inference, optimized"
Batches: TypeAlias = Callable[[], Iterator[dict[str, Any]]]
Work: TypeAlias = Callable[[Path, Batches], int]
"""Does the work on a model, and returns the number of tensors it found the ranges of."""


def bare_inference() -> Work:
    """ONNX Runtime with its defaults: all optimizations, all cores."""
    import onnxruntime as ort

    def work(model: Path, batches: Batches) -> int:
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        for feeds in batches():
            session.run(None, feeds)
        return 0

    return work


def graphopt(method: str, *, every: bool = False, exact: bool = False) -> Work:
    """``method`` is a calibrator, ``all`` for each of them from one pass, or ``extremes``."""
    from graphopt.calibrators import CALIBRATORS
    from graphopt.calibrators.choose import calibrate
    from graphopt.calibrators.collect import POSITIONS, collect
    from graphopt.calibrators.readers import patch_gains
    from graphopt.model import Model
    from graphopt.quantize import activations, wanted_tensors

    names = {"all": list(CALIBRATORS.names()), "extremes": ["minmax"]}.get(method, [method])
    rules = {name: CALIBRATORS.load(name)() for name in names}

    def work(path: Path, batches: Batches) -> int:
        model = Model.load(path)
        tensors = activations(model) if every else wanted_tensors(model, ())
        collected = collect(
            model,
            batches(),
            tensors,
            counts=method != "extremes",
            positions=None if exact else POSITIONS,
        )
        gains = patch_gains(model)
        for name, rule in rules.items():
            table = calibrate(collected, rule, method=name, model_digest="", gains=gains)
        return len(table.ranges)

    return work


def onnxruntime(method: str, **options: Any) -> Work:
    """What `quantize_static` passes by default."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    def work(model: Path, batches: Batches) -> int:
        with tempfile.TemporaryDirectory() as scratch:
            calibrator = create_calibrator(
                model,
                list({*QLinearOpsRegistry, *QDQRegistry}),
                augmented_model_path=str(Path(scratch) / "augmented.onnx"),
                calibrate_method=CalibrationMethod[method],
                extra_options=options,
            )
            calibrator.collect_data(_reader(batches))
            return len(calibrator.compute_data().keys())

    return work


def modelopt(method: str) -> Work:
    """Quantization as a whole: ModelOpt has no calibration by itself."""
    from modelopt.onnx.quantization import quantize

    def work(model: Path, batches: Batches) -> int:
        import onnx

        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out.onnx"
            quantize(
                str(model),
                quantize_mode="int8",
                calibration_data_reader=_reader(batches),
                calibration_method=method,
                calibration_eps=["cpu"],
                high_precision_dtype="fp32",
                output_path=str(out),
                log_level="ERROR",
            )
            graph = onnx.load(out).graph
        weights = {t.name for t in graph.initializer}
        quantized = {n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
        return len(quantized - weights)

    return work


def _reader(batches: Batches) -> Any:
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

        def get_first(self) -> dict[str, Any]:
            return next(batches())

        def rewind(self) -> None:
            self.left = batches()

    return Reader()


def variant(name: str) -> Work:
    """Return the work of a variant, imports done."""
    if name == BARE:
        return bare_inference()
    tool, method, *rest = name.split(" ", 2)
    more = rest[0] if rest else ""
    if tool == "graphopt":
        return graphopt(method, every="every tensor" in more, exact="every value" in more)
    if tool == "onnxruntime":
        # With its default of 128 bins the search has one candidate, and Entropy is MinMax.
        return onnxruntime(method, **({"num_bins": 2048} if more == "2048 bins" else {}))
    if tool == "modelopt":
        return modelopt(method)
    raise SystemExit(f"no variant '{name}'")


def peak_mb() -> float:
    """Return the peak resident memory of this process, in MB (10**6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # Unlike ru_maxrss it does not begin with the parent's, from before exec.
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Run one variant and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("variant")
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--input", default="input")
    arguments = parser.parse_args()
    samples = np.load(arguments.samples, mmap_mode="r")[: arguments.images]

    def batches() -> Iterator[dict[str, Any]]:
        # In this order a page of the file is read once, and nothing else of it is held.
        for start in range(0, len(samples), arguments.batch):
            yield {arguments.input: np.ascontiguousarray(samples[start : start + arguments.batch])}

    work = variant(arguments.variant)
    wall, cpu = time.perf_counter(), time.process_time()
    tensors = work(arguments.model, batches)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb(), "tensors": tensors}))


if __name__ == "__main__":
    main()
