"""TensorRT's INT8 calibrators, fed from ranges that are known or from batches on the GPU.

Runs in the child process. TensorRT 8 to 10 only: 11 has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

ENTROPY, MINMAX = "entropy", "minmax"
# What each class calls itself in a cache's header.
ALGORITHMS = {ENTROPY: "EntropyCalibration2", MINMAX: "MinMaxCalibration"}
_CLASSES = {ENTROPY: "IInt8EntropyCalibrator2", MINMAX: "IInt8MinMaxCalibrator"}


class Int8(TypedDict):
    """Where implicit INT8 has its ranges from: one of the two is not None.

    ``cache`` is a file of a cache whose header does not matter; ``batches`` are ``.npz`` files of
    feeds, in order; ``method`` is a key of ``ALGORITHMS``; ``save`` is where to leave the cache
    that TensorRT made of batches.
    """

    method: str
    cache: str | None
    batches: list[str] | None
    save: str


class Calibration:
    """A calibrator with what became of it.

    Attributes:
        calibrator: for ``IBuilderConfig.int8_calibrator``.
        problem: what went wrong on the GPU; TensorRT swallows exceptions and takes them for the
            end of the data.
    """

    def __init__(self, trt: Any, wanted: Int8, names: Sequence[str]) -> None:
        """Make the calibrator of this module's class, for a network with these inputs."""
        self.problem: Exception | None = None
        self.written: bytes | None = None
        batches = [Path(file) for file in wanted["batches"] or ()]
        cache = None
        if wanted["cache"] is not None:
            cache = _headed(wanted["cache"], str(trt.__version__), ALGORITHMS[wanted["method"]])
        self._feeder = _Feeder(batches, names) if batches else None
        self.calibrator = _calibrator(trt, _CLASSES[wanted["method"]], cache, self)

    def next_batch(self, names: Sequence[str]) -> list[int] | None:
        """Return the addresses of the next batch's inputs on the GPU, or None at the end."""
        if self._feeder is None:
            # TensorRT asks for data only where it does not take the cache.
            self.problem = self.problem or ValueError("TensorRT did not take the calibration cache")
            return None
        try:
            return self._feeder.next(names)
        except Exception as problem:  # noqa: BLE001 - told by the worker, after the build
            self.problem = problem
            return None

    def close(self) -> None:
        """Give the GPU's memory back."""
        if self._feeder is not None:
            self._feeder.close()


def _headed(path: str, version: str, algorithm: str) -> bytes:
    """Return a cache's bytes under the header that this TensorRT and calibrator expect."""
    from graphopt.calibrators.cache import header_of

    _, _, scales = Path(path).read_bytes().partition(b"\n")
    return f"{header_of(version, algorithm)}\n".encode() + scales


def _calibrator(trt: Any, name: str, cache: bytes | None, owner: Calibration) -> Any:
    base: Any = getattr(trt, name)

    class Fed(base):  # type: ignore[misc]
        def __init__(self) -> None:
            # TensorRT requires this very call, not super().
            base.__init__(self)

        def get_batch_size(self) -> int:
            # Of implicit batches only, which no network here has.
            return 1

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            return owner.next_batch(names)

        def read_calibration_cache(self) -> bytes | None:
            return cache

        def write_calibration_cache(self, made: Any) -> None:
            owner.written = bytes(made)

    return Fed()


class _Feeder:
    """Copies one batch after the other to the same place on the GPU."""

    def __init__(self, files: Sequence[Path], names: Sequence[str]) -> None:
        from contextlib import ExitStack

        from graphopt.engines.cuda import open_cuda

        self._files = list(files)
        self._names = list(names)
        self._stack = ExitStack()
        self._cuda = self._stack.enter_context(open_cuda())
        self._stream = self._cuda.stream()
        self._addresses: dict[str, tuple[int, int]] = {}

    def next(self, names: Sequence[str]) -> list[int] | None:
        import numpy as np

        if not self._files:
            return None
        with np.load(self._files.pop(0), allow_pickle=False) as archive:
            arrays = [np.ascontiguousarray(archive[f"arr_{self._names.index(n)}"]) for n in names]
        found: list[int] = []
        for name, array in zip(names, arrays, strict=True):
            address, size = self._addresses.get(name, (0, 0))
            if size < array.nbytes:
                if address:
                    self._cuda.free(address)
                address = self._cuda.allocate(max(array.nbytes, 1))
                self._addresses[name] = (address, array.nbytes)
            self._cuda.to_device(address, array, self._stream)
            found.append(address)
        # The arrays must outlive the copies, and TensorRT reads from a stream of its own.
        self._cuda.synchronize(self._stream)
        return found

    def close(self) -> None:
        self._stack.close()
