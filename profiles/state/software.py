"""The software a measurement ran with, and the variables that change how fast it runs."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping

from graphopt.machine import installed_version

VARIABLES = (
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "GOMP_CPU_AFFINITY",
    "GOMP_SPINCOUNT",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "KMP_SETTINGS",
    "MALLOC_ARENA_MAX",
    "MALLOC_CONF",
    "MKL_DYNAMIC",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "OPENBLAS_NUM_THREADS",
)
"""Variables that change timing, recorded as ``env_NAME`` where they are set."""


def software_state(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return versions, and the variables of ``VARIABLES`` that are set; never raises."""
    given = os.environ if variables is None else variables
    found = {
        "graphopt": installed_version("graphopt") or "unknown",
        "numpy": installed_version("numpy") or "none",
        "onnxruntime": installed_version("onnxruntime", "onnxruntime-gpu") or "none",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in VARIABLES:
        if given.get(name):
            found[f"env_{name}"] = _plain(given[name])
    if given.get("LD_PRELOAD"):
        # An allocator, most often; where it lies is nobody's business.
        names = [part.rpartition("/")[2] for part in re.split(r"[ :]+", given["LD_PRELOAD"])]
        found["env_LD_PRELOAD"] = _plain(" ".join(sorted(filter(None, names))))
    return found


def _plain(value: str) -> str:
    """Return what such a variable may hold; anything else, a path say, is only told to be set."""
    return value if re.fullmatch(r"[A-Za-z0-9_.,:;{}()*=+ -]{1,120}", value) else "set"
