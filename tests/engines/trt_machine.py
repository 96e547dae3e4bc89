"""A machine with a stand-in TensorRT, for the tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from graphopt.profiles.host import Gpu

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "standins"))

import cuda_standin
import tensorrt_standin
from tensorrt_standin.names import TABLE, VERSIONS, names_of

__all__ = ["TABLE", "VERSIONS", "cuda_standin", "names_of", "set_up", "tensorrt_standin"]

T4_GPU = Gpu("Tesla T4", (7, 5), 15.8, "550.54")
V8_5, V8_6, V10_0, V10, V11 = VERSIONS
WITH_CALIBRATORS = VERSIONS[:-1]
_OURS = (
    *("tensorrt", "tensorrt._standin", "fake_gpu"),
    *(f"tensorrt._standin.{path.stem}" for path in tensorrt_standin.HERE.glob("[a-z]*.py")),
    *("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.runtime"),
)


def set_up(
    monkeypatch: Any, tmp_path: Path, version: str, *, dla_cores: int = 0, gpu: Gpu = T4_GPU
) -> None:
    """Make this process and its children see TensorRT of this version, PyCUDA and a GPU."""
    folder = tmp_path / f"modules-{version}-{gpu.name}-{dla_cores}".replace(" ", "-")
    if not folder.exists():
        folder.mkdir()
        tensorrt_standin.install(folder, version, gpu=gpu.name, dla_cores=dla_cores)
        cuda_standin.install(folder)
    for name in _OURS:
        # Not there now, and put back as it was at the end.
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("graphopt.profiles.host.gpus", lambda: (gpu,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
