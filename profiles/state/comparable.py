"""Which facts of two measurements must agree, so that their times may be compared.

What each key is and why it counts: docs/machine-state.md. Temperatures, loads and the clock of the
moment are not among them: they vary from one minute to the next, and interleaving takes care of
them on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping

ALWAYS: dict[str, str] = {
    "system": "system",
    "cpu": "processor",
    "cores": "cores",
    "cpu_quota": "container's quota of cores",
    "memory_limit_gb": "container's memory (GB)",
    "hypervisor": "hypervisor",
    "smt": "SMT",
    "governor": "governor",
    "energy_preference": "energy preference",
    "turbo": "turbo",
    "cpu_max_mhz": "processor's highest clock (MHz)",
    "board": "board",
    "l4t": "L4T",
    "power_mode": "power mode",
    "clocks_fixed": "clocks held",
    "engine": "engine",
    "engine_version": "engine's version",
    "onnxruntime": "ONNX Runtime",
    "provider": "execution provider",
    "threads": "threads",
    "streams": "streams",
    "clock": "clock",
    "cuda_graph": "CUDA graph",
}
"""Key -> what a person calls it; compared whatever ran."""

OF_GPU: dict[str, str] = {
    "gpu": "GPU",
    "driver": "driver",
    "cuda": "CUDA",
    "jetpack": "JetPack",
    "gpu_power_limit_w": "GPU's power limit (W)",
    "gpu_app_sm_mhz": "GPU's application clock (MHz)",
    "gpu_app_mem_mhz": "GPU memory's application clock (MHz)",
    "gpu_max_sm_mhz": "GPU's highest clock (MHz)",
    "gpu_mig": "MIG",
    "gpu_ecc": "ECC",
}
"""The same, compared unless it ran on the processor alone."""

VARIABLES: dict[str, str] = {
    "env_LD_PRELOAD": "LD_PRELOAD",
    "env_MALLOC_ARENA_MAX": "MALLOC_ARENA_MAX",
    "env_MALLOC_CONF": "MALLOC_CONF",
}
"""Variables of the environment that change how fast ONNX Runtime's kernels run."""

VARIABLES_OF_GPU: dict[str, str] = {
    "env_CUDA_DEVICE_MAX_CONNECTIONS": "CUDA_DEVICE_MAX_CONNECTIONS",
    "env_CUDA_LAUNCH_BLOCKING": "CUDA_LAUNCH_BLOCKING",
    "env_NVIDIA_TF32_OVERRIDE": "NVIDIA_TF32_OVERRIDE",
}
"""The same for CUDA."""

_ON_PROCESSOR = ("onnxruntime",)
_NOT_PROCESSOR = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


def fingerprint(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the facts that must agree; of a fingerprint, itself.

    Args:
        environment: what was recorded of a measurement, or of a machine
            (:func:`~graphopt.profiles.state.read_state`).
    """
    known = ALWAYS | VARIABLES
    if not _on_processor(environment):
        known = known | OF_GPU | VARIABLES_OF_GPU
    # TensorRT does not use ONNX Runtime.
    if environment.get("engine", "onnxruntime") not in _ON_PROCESSOR:
        known.pop("onnxruntime")
    return {key: str(value) for key, value in sorted(environment.items()) if key in known}


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """Return a line for each fact that keeps two measurements from being compared.

    Args:
        a: environment or fingerprint of the one measured before: "there" in the lines.
        b: of the one measured now: "here".

    Returns:
        ``["driver: 535.54 there, 550.90 here"]``; empty where they may be compared.
    """
    there, here = fingerprint(a), fingerprint(b)
    names = ALWAYS | OF_GPU | VARIABLES | VARIABLES_OF_GPU
    return [
        f"{name}: {there.get(key, 'not told')} there, {here.get(key, 'not told')} here"
        for key, name in names.items()
        if there.get(key) != here.get(key)
    ]


def _on_processor(environment: Mapping[str, str]) -> bool:
    if environment.get("engine") not in _ON_PROCESSOR:
        return False
    return not any(name in environment.get("provider", "") for name in _NOT_PROCESSOR)
