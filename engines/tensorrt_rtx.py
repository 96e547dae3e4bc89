"""TensorRT-RTX: engines ahead of time, on a machine with no GPU.

The engine is compiled to the end on the GPU that loads it. It is portable between the compute
capabilities it was built for; without a target that is 8.0, 8.6, 8.9, 12.0 and later (NVIDIA's
documentation, "CPU-Only AOT and TensorRT-RTX Engines").
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, ClassVar

from graphopt.engines._builder import Builder
from graphopt.engines.select import not_installed
from graphopt.machine import installed, installed_version

if TYPE_CHECKING:
    from graphopt.profiles import DeviceProfile

TARGETS = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
TURING = (7, 5)
# Wheels of tensorrt-rtx 1.7: CPython 3.9 to 3.14, glibc 2.28 on x86-64, and 64-bit Windows.
_NEWEST_PYTHON = (3, 14)
_DISTRIBUTIONS = ("tensorrt-rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12")
INSTALL = 'pip install "graphopt[rtx]"'


class TensorRTRTX(Builder):
    """Builds through Polygraphy, in a process of its own."""

    name: ClassVar[str] = "tensorrt-rtx"
    title: ClassVar[str] = "TensorRT-RTX"
    module: ClassVar[str] = "tensorrt_rtx"
    takes: ClassVar[frozenset[str]] = frozenset(
        {"more_shapes", "sparse", "level", "workspace_bytes", "time_limit_s"}
    )

    def missing(self) -> str | None:
        """Return the command that installs it, or why there is none for this Python or machine."""
        absent = [m for m in ("tensorrt_rtx", "polygraphy") if not installed(m)]
        if not absent:
            return None
        wheel = no_wheel(
            platform.system(), platform.machine(), sys.version_info[:2], platform.libc_ver()[0]
        )
        if wheel and "tensorrt_rtx" in absent:
            return f"tensorrt-rtx is not installed, and cannot be here: {wheel}"
        return not_installed([name.replace("_", "-") for name in absent], INSTALL)

    def cannot_build(self, device: DeviceProfile, precision: str, /) -> str | None:
        """Return why it cannot build for the device; it needs no GPU here."""
        if device.sm is None:
            return None
        sm = f"{device.sm[0]}.{device.sm[1]}"
        if device.sm not in TARGETS:
            return (
                f"TensorRT-RTX cannot target {device.title or device.name} (compute capability "
                f"{sm}): build with TensorRT on the device itself, from the ONNX model"
            )
        if device.sm == TURING and precision == "int8":
            return (
                f"TensorRT-RTX has no INT8 on Turing ({device.title or device.name}, compute "
                f"capability {sm}): build with TensorRT on a machine that has one, or without "
                "--int8"
            )
        return None

    def version(self) -> str | None:
        """Return the version installed; nothing is imported."""
        return installed_version(*_DISTRIBUTIONS)

    def targets(self, device: DeviceProfile, /) -> list[list[int]] | None:
        """Return the device's compute capability; None, the portable default, where it has none."""
        return [list(device.sm)] if device.sm else None


def no_wheel(system: str, machine: str, python: tuple[int, int], libc: str) -> str | None:
    """Return why NVIDIA publishes no wheel for such a machine, or None where it does."""
    if system not in ("Linux", "Windows"):
        return f"NVIDIA publishes it for Linux and Windows, not for {system}"
    if machine.lower() not in ("x86_64", "amd64"):
        return f"NVIDIA publishes it for x86-64, not for {machine}"
    if system == "Linux" and libc != "glibc":
        return "NVIDIA publishes it for Linux with glibc (2.28 and newer)"
    if python > _NEWEST_PYTHON:
        newest = ".".join(str(part) for part in _NEWEST_PYTHON)
        return f"its wheels end at Python {newest}, and this is {python[0]}.{python[1]}"
    return None
