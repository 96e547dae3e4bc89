"""What `graphopt estimate` was fitted to: MLPerf results, the constants, and the errors left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from graphopt.profiles.device import load_device
from graphopt.toml import load_toml

FILE = "anchors.toml"
OFFLINE_BATCH = 128
"""Offline is throughput without a limit on latency: that of this batch is compared."""
AMPERE = (8, 0)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A published result of INT8 by TensorRT, of MLPerf Inference, closed division.

    Attributes:
        device: a profile of ours.
        model: ``resnet50`` or ``ssd_mobilenet``, of ``tools/shapes.py``.
        scenario: ``Offline`` or ``SingleStream``.
        round: of MLPerf Inference: ``v3.1``; empty where that was not kept.
        source: where it was published; empty likewise.
        ms: of one batch; for Offline, what its throughput makes that.
        quantile: what ``ms`` is: ``p50``, ``p90`` or, for a throughput, ``mean``.
        dla_tops: INT8 TOPS of accelerators that ran beside the GPU: Offline used the DLA as well.
    """

    device: str
    model: str
    scenario: str
    round: str
    source: str
    ms: float
    quantile: str
    dla_tops: float = 0.0

    @property
    def name(self) -> str:
        """What it goes by: ``t4 resnet50 Offline``."""
        return f"{self.device} {self.model} {self.scenario}"

    @property
    def batch(self) -> int:
        """Images at a time."""
        return OFFLINE_BATCH if self.scenario == "Offline" else 1


@dataclass(frozen=True, slots=True)
class Constants:
    """What makes times of peaks.

    Attributes:
        compute: the share of the peak that a kernel with enough to do attains.
        bandwidth: bytes that kernels move over bytes that the memory could have moved; above 1,
            because much of what a kernel reads is in the cache still.
        launch_us: what any kernel takes, in microseconds, on an SM of Ampere or later.
        launch_us_before: the same before Ampere.
    """

    compute: float
    bandwidth: float
    launch_us: float
    launch_us_before: float

    def launch(self, sm: tuple[int, int] | None) -> float:
        """Return the microseconds for a compute capability; an unknown one counts as new."""
        return self.launch_us_before if sm is not None and sm < AMPERE else self.launch_us


@dataclass(frozen=True, slots=True)
class Fit:
    """The constants, and how far they are off.

    Attributes:
        constants: fitted to all anchors.
        date: when.
        command: that made them.
        errors: anchor -> estimated over published time, less one.
        left_out: the same, each device estimated by constants fitted to the others alone.
    """

    constants: Constants
    date: str
    command: str
    errors: Mapping[str, float]
    left_out: Mapping[str, float]

    def knows(self, device: str) -> bool:
        """Whether a device has anchors; all were run without a limit on power."""
        return any(name.split()[0] == device.removesuffix(":MAXN") for name in self.errors)

    def band(self, device: str) -> tuple[float, float]:
        """Return what an estimate is multiplied by to get the ends of its error band.

        For a device with anchors these are the worst errors at any anchor, for another one the
        worst at a device that was left out.
        """
        errors = list((self.errors if self.knows(device) else self.left_out).values())
        return 1 / (1 + max([*errors, 0.0])), 1 / (1 + min([*errors, 0.0]))


@lru_cache(maxsize=1)
def _raw() -> dict[str, Any]:
    with resources.as_file(resources.files("graphopt.profiles.roofline").joinpath(FILE)) as path:
        return load_toml(path)


def anchors() -> tuple[Anchor, ...]:
    """Return every reference point."""
    raw = _raw()
    return tuple(_anchor(point, raw["source"]) for point in raw["points"])


def fit() -> Fit:
    """Return the constants in use."""
    raw = _raw()["fit"]
    return Fit(
        Constants(**{k: float(v) for k, v in raw["constants"].items()}),
        str(raw["date"]),
        str(raw["command"]),
        dict(raw["errors"]),
        dict(raw["left_out"]),
    )


def devices_of(points: Iterable[Anchor]) -> list[str]:
    """Return the devices of anchors, each once, in order."""
    return list(dict.fromkeys(point.device for point in points))


def _anchor(raw: Mapping[str, Any], source: str) -> Anchor:
    offline = raw["scenario"] == "Offline"
    rate = raw.get("images_per_second")
    return Anchor(
        raw["device"],
        raw["model"],
        raw["scenario"],
        raw.get("round", ""),
        source.format(round=raw["round"]) if "round" in raw else "",
        OFFLINE_BATCH / rate * 1e3 if rate else raw["ms"],
        "mean" if rate else raw["quantile"],
        load_device(raw["device"]).dla_peaks.get("int8", 0.0) if offline else 0.0,
    )
