"""Devices: what is known of a target, from our TOML files or a user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from graphopt.errors import UsageError
from graphopt.registry import did_you_mean

PRECISIONS = ("int8", "fp16", "fp32")
ALIASES = {
    "agx-orin": "jetson-agx-orin",
    "agx-xavier": "jetson-agx-xavier",
    "orin": "jetson-agx-orin",
    "xavier": "jetson-agx-xavier",
}
DEFAULT_MULTIPLE = 8
AMPERE = (8, 0)  # the first with sparse tensor cores

Version: TypeAlias = "tuple[int, int, int]"
"""Of TensorRT: major, minor, patch."""


@dataclass(frozen=True, slots=True)
class PowerMode:
    """What a power mode of a Jetson limits; None: it does not, or that is not known.

    Attributes:
        name: as a person types it: ``"30W"``.
        watts: the budget.
        cpus: cores of the CPU that are on.
        sms: SM that are on.
        gpu_mhz: the highest clock of the GPU.
        memory_mhz: that of the memory.
        dla_mhz: that of the DLA.
        source: where this comes from.
    """

    name: str
    watts: float | None = None
    cpus: int | None = None
    sms: int | None = None
    gpu_mhz: float | None = None
    memory_mhz: float | None = None
    dla_mhz: float | None = None
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, those that are known."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {key: value for key, value in plain.items() if value not in (None, "")}


SCALED_BY = {"sms": "sms", "gpu_mhz": "boost_mhz", "memory_mhz": "memory_mhz", "dla_mhz": "dla_mhz"}
"""What a mode limits -> the figure of the device that it is a share of."""


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What is known of a device. None and empty mean "not known", never zero.

    Attributes:
        name: a short stable word, also the name of the file: ``"t4"``.
        title: what a person calls it.
        sm: CUDA compute capability, ``(7, 5)``; None for a device without an NVIDIA GPU.
        sms: how many streaming multiprocessors (SM) it has.
        boost_mhz: the clock that its peaks are at.
        memory_gb: memory the model can use, in GB (10^9 bytes).
        bandwidth_gbs: peak memory bandwidth, in GB/s.
        memory_mhz: the clock of the memory that this is at.
        power_w: what board or module may draw, in watts.
        peaks: precision -> peak of the GPU alone, dense: TOPS for int8, TFLOPS for the others.
        precisions: what it computes in hardware: of ``int8``, ``fp16``, ``fp32``.
        channel_multiple: precision -> channel counts that waste nothing are multiples of this.
        max_opset: the newest ONNX opset that the newest TensorRT for this device parses.
        tensorrt: the TensorRT versions that support it, for people to read.
        tensorrt_versions: the oldest and the newest of them; the oldest alone where newer ones
            will come; empty where nothing is known.
        dla: how many deep-learning accelerators (DLA) it has.
        dla_mhz: the clock that their peaks are at.
        dla_peaks: precision -> peak of all DLA together, as ``peaks``.
        dla_explicit: whether its DLA takes Q/DQ, with the TensorRT that has no other INT8.
        power_modes: name -> what it limits.
        mode: the power mode that the figures are of; empty for those of the file.
        efficiency: the share of the peaks that kernels attain, where it was measured.
        depthwise: the share of the fp32 peak that depthwise convolutions attain, likewise.
        launch_us: microseconds that any kernel takes, where it was measured.
        sparsity: whether kernels for 2:4 sparse weights run on its GPU; None: told by ``sm``.
        notes: lines for people to read.
        sources: figure (``"memory_gb"``, ``"peaks.int8"``) -> where it comes from.
    """

    name: str
    title: str = ""
    sm: tuple[int, int] | None = None
    sms: int | None = None
    boost_mhz: float | None = None
    memory_gb: float | None = None
    bandwidth_gbs: float | None = None
    memory_mhz: float | None = None
    power_w: float | None = None
    peaks: Mapping[str, float] = field(default_factory=dict)
    precisions: tuple[str, ...] = ("fp32",)
    channel_multiple: Mapping[str, int] = field(default_factory=dict)
    max_opset: int | None = None
    tensorrt: str = ""
    tensorrt_versions: tuple[Version, ...] = ()
    dla: int = 0
    dla_mhz: float | None = None
    dla_peaks: Mapping[str, float] = field(default_factory=dict)
    power_modes: Mapping[str, PowerMode] = field(default_factory=dict)
    mode: str = ""
    efficiency: float | None = None
    depthwise: float | None = None
    launch_us: float | None = None
    dla_explicit: bool = False
    sparsity: bool | None = None
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def multiple(self, precision: str) -> int:
        """Return the channel multiple for a precision; 8 where the file says nothing."""
        return self.channel_multiple.get(precision, DEFAULT_MULTIPLE)

    @property
    def oldest_tensorrt(self) -> Version | None:
        """The oldest TensorRT that supports it, or None where that is not known."""
        return self.tensorrt_versions[0] if self.tensorrt_versions else None

    @property
    def newest_tensorrt(self) -> Version | None:
        """The last TensorRT that supports it, or None where none is the last, or known."""
        return self.tensorrt_versions[1] if len(self.tensorrt_versions) > 1 else None

    @property
    def sparse_kernels(self) -> bool | None:
        """Whether 2:4 sparse weights can be computed faster; None where that is not known."""
        if self.sparsity is None and self.sm is not None:
            return self.sm >= AMPERE
        return self.sparsity

    @property
    def spelled(self) -> str:
        """What ``--device`` takes for it: ``jetson-agx-xavier:30W``."""
        return f"{self.name}:{self.mode}" if self.mode else self.name

    def at(self, mode: str) -> DeviceProfile:
        """Return it in one of its power modes.

        Peaks go with the clock and with the SM that are on, those of the DLA with their clock, the
        bandwidth with that of the memory.

        Args:
            mode: a name out of ``power_modes``, in either case.

        Raises:
            UsageError: it has no such mode, or is in one already.
        """
        if self.mode:
            raise UsageError(f"'{self.name}' is in the power mode {self.mode} already")
        if not self.power_modes:
            raise UsageError(f"'{self.name}' has no power modes: leave ':{mode}' out")
        known = {name.lower(): value for name, value in self.power_modes.items()}
        chosen = known.get(mode.strip().lower())
        if chosen is None:
            raise UsageError(
                f"'{self.name}' has no power mode '{mode}'"
                f"{did_you_mean(mode.upper(), self.power_modes)}; it has "
                f"{', '.join(self.power_modes)}"
            )
        share = {limit: self._share(chosen, limit) for limit in SCALED_BY}
        gpu = share["sms"] * share["gpu_mhz"]
        dla, memory = share["dla_mhz"], share["memory_mhz"]
        return replace(
            self,
            mode=chosen.name,
            sms=chosen.sms or self.sms,
            boost_mhz=chosen.gpu_mhz or self.boost_mhz,
            memory_mhz=chosen.memory_mhz or self.memory_mhz,
            dla_mhz=chosen.dla_mhz or self.dla_mhz,
            power_w=chosen.watts or self.power_w,
            bandwidth_gbs=None if self.bandwidth_gbs is None else self.bandwidth_gbs * memory,
            peaks={key: peak * gpu for key, peak in self.peaks.items()},
            dla_peaks={key: peak * dla for key, peak in self.dla_peaks.items()},
        )

    def _share(self, mode: PowerMode, limit: str) -> float:
        limited, whole = getattr(mode, limit), getattr(self, SCALED_BY[limit])
        return 1.0 if limited is None or whole is None else limited / whole

    def unverified(self) -> tuple[str, ...]:
        """Return the figures nobody has checked: whose source says "from memory"."""
        return tuple(sorted(k for k, v in self.sources.items() if v.startswith("from memory")))

    def to_json(self) -> dict[str, Any]:
        """Return the profile as plain values."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "power_modes":
                value = [each.to_json() for each in value.values()]
            if isinstance(value, Mapping):
                value = dict(sorted(value.items()))
            plain[item.name] = list(value) if isinstance(value, tuple) else value
        return plain


def devices() -> list[str]:
    """Return every known name: this machine first, then our files in alphabetical order."""
    found = [f.name[:-5] for f in _folder().iterdir() if f.name.endswith(".toml")]
    return ["host", *sorted(found)]


def load_device(name_or_path: str | Path) -> DeviceProfile:
    """Return a device by name (``t4``, ``host``) or from a user's own ``.toml`` file.

    Either may be followed by a power mode: ``jetson-agx-xavier:30W``, ``mine.toml:15W``.

    Raises:
        UsageError: there is no such device, file or mode, or the file is wrong.
    """
    text, mode = split_mode(str(name_or_path))
    device = _load(text)
    return device if mode is None else device.at(mode)


def split_mode(text: str) -> tuple[str, str | None]:
    r"""Return a device and its power mode, which is None where none is named.

    ``C:\x.toml`` names a drive and no mode, and an existing file is one whatever it is called.
    """
    device, colon, mode = text.rpartition(":")
    if not colon or not device or is_path(mode):
        return text, None
    if is_path(text):
        try:
            if Path(text).is_file():
                return text, None
        except (OSError, ValueError):  # a name too long, a NUL: what reads it will say so
            pass
    return device, mode


def is_path(text: str) -> bool:
    """Whether a device is named by a file."""
    return text.lower().endswith(".toml") or "/" in text or "\\" in text


def known_name(text: str) -> str:
    """Return the name of a device as its file has it: of ``Xavier``, ``jetson-agx-xavier``.

    Raises:
        UsageError: no device has that name.
    """
    name = text.strip().lower().replace("_", "-").replace(" ", "-")
    name = ALIASES.get(name, name)
    known = devices()
    if name not in known:
        raise UsageError(
            f"unknown device '{text}'{did_you_mean(name, [*known, *ALIASES])}; "
            f"known: {', '.join(known)}, or a .toml file of your own"
        )
    return name


def own_file(name: str) -> Any:
    """Return the file of a device of ours, a traversable resource."""
    return _folder().joinpath(f"{name}.toml")


def _load(text: str) -> DeviceProfile:
    from graphopt.profiles.device_file import read_device

    if is_path(text):
        return read_device(Path(text), where=text)
    name = known_name(text)
    if name == "host":
        from graphopt.profiles.host import host

        return host()
    with resources.as_file(own_file(name)) as file:
        return read_device(file, where=file.name)


def _folder() -> Any:
    return resources.files("graphopt.profiles")


def version_of(text: str) -> Version:
    """Return major, minor and patch of ``8.5.2``, ``8.5.2.2``, ``10.3`` or ``11``.

    Raises:
        ValueError: it is no version.
    """
    match = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,2}))?(?:\.(\d{1,3}))?(?:\.\d+)*", text.strip(), re.A)
    if match is None:
        raise ValueError(f"'{text}' is not a version")
    return int(match[1]), int(match[2] or 0), int(match[3] or 0)
