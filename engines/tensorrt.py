"""TensorRT 8.5 to 11, on the GPU that the engine is for.

Precision is what the graph holds (Q/DQ, fp16 casts): strong typing where TensorRT has it (10 and
newer), else the flags that allow as much and no more. Implicit INT8, FP16 as TensorRT sees fit and
a DLA are weakly typed, where that exists (8 to 10).

Not run where this was written (no GPU): it was run over stand-ins of the module that have each
version's names and no other (``tests/standins``), and shares all but the configuration with
TensorRT-RTX, which was run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from graphopt.engines._builder import Builder
from graphopt.engines.select import not_installed
from graphopt.machine import installed, installed_version

if TYPE_CHECKING:
    from graphopt.profiles import DeviceProfile

_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
INSTALL = 'pip install "graphopt[tensorrt]"'
_NO_GPU = "TensorRT builds on the GPU that the engine is for, and there is none here"


class TensorRT(Builder):
    """Builds through Polygraphy, in a process of its own."""

    name: ClassVar[str] = "tensorrt"
    title: ClassVar[str] = "TensorRT"
    module: ClassVar[str] = "tensorrt"
    takes: ClassVar[frozenset[str]] = frozenset(
        {
            "more_shapes",
            "implicit",
            "calibration",
            "fp16",
            "dla",
            "gpu_fallback",
            "sparse",
            "level",
            "workspace_bytes",
            "timing_cache",
            "time_limit_s",
        }
    )

    def missing(self) -> str | None:
        """Return the command that installs it, or that there is no GPU to build on."""
        from graphopt.profiles.host import gpus

        absent = [m for m in ("tensorrt", "polygraphy") if not installed(m)]
        gpu = bool(gpus())
        if absent:
            where = "" if gpu else ", on a machine with an NVIDIA GPU (there is none here)"
            return not_installed(absent, INSTALL + where)
        return None if gpu else _NO_GPU

    def cannot_build(self, device: DeviceProfile, _precision: str, /) -> str | None:
        """Return why this machine's GPU cannot build for the device."""
        from graphopt.profiles.host import gpus

        here = gpus()
        if not here:
            return _NO_GPU
        card = here[0]
        if device.sm and card.sm and device.sm != card.sm:
            return (
                f"a TensorRT engine runs on the kind of GPU it was built on: this is {card.name} "
                f"({card.sm[0]}.{card.sm[1]}), not {device.title or device.name} "
                f"({device.sm[0]}.{device.sm[1]}); build on that device, or with --device host"
            )
        return None

    def version(self) -> str | None:
        """Return the version installed; nothing is imported."""
        return installed_version(*_DISTRIBUTIONS)

    def gpu(self) -> str:
        """Return the name of the first GPU, which is the one that it builds on."""
        from graphopt.profiles.host import gpus

        cards = gpus()
        return cards[0].name if cards else ""

    def targets(self, _device: DeviceProfile, /) -> list[list[int]] | None:
        """Return None: TensorRT builds for the GPU it runs on."""
        return None
