"""Devices: what is known of a target, from our TOML files or a user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from graphopt.errors import UsageError
from graphopt.registry import did_you_mean
from graphopt.toml import load_toml

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
class DeviceProfile:
    """What is known of a device. None and empty mean "not known", never zero.

    Attributes:
        name: a short stable word, also the name of the file: ``"t4"``.
        title: what a person calls it.
        sm: CUDA compute capability, ``(7, 5)``; None for a device without an NVIDIA GPU.
        memory_gb: memory the model can use, in GB (10^9 bytes).
        bandwidth_gbs: peak memory bandwidth, in GB/s.
        peaks: precision -> peak of the GPU alone, dense: TOPS for int8, TFLOPS for the others.
        precisions: what it computes in hardware: of ``int8``, ``fp16``, ``fp32``.
        channel_multiple: precision -> channel counts that waste nothing are multiples of this.
        max_opset: the newest ONNX opset that the newest TensorRT for this device parses.
        tensorrt: the TensorRT versions that support it, for people to read.
        tensorrt_versions: the oldest and the newest of them; the oldest alone where newer ones
            will come; empty where nothing is known.
        dla: how many deep-learning accelerators (DLA) it has.
        dla_explicit: whether its DLA takes Q/DQ, with the TensorRT that has no other INT8.
        sparsity: whether kernels for 2:4 sparse weights run on its GPU; None: told by ``sm``.
        notes: lines for people to read.
        sources: figure (``"memory_gb"``, ``"peaks.int8"``) -> where it comes from.
    """

    name: str
    title: str = ""
    sm: tuple[int, int] | None = None
    memory_gb: float | None = None
    bandwidth_gbs: float | None = None
    peaks: Mapping[str, float] = field(default_factory=dict)
    precisions: tuple[str, ...] = ("fp32",)
    channel_multiple: Mapping[str, int] = field(default_factory=dict)
    max_opset: int | None = None
    tensorrt: str = ""
    tensorrt_versions: tuple[Version, ...] = ()
    dla: int = 0
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

    def unverified(self) -> tuple[str, ...]:
        """Return the figures nobody has checked: whose source says "from memory"."""
        return tuple(sorted(k for k, v in self.sources.items() if v.startswith("from memory")))

    def to_json(self) -> dict[str, Any]:
        """Return the profile as plain values."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
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

    Raises:
        UsageError: there is no such device or file, or the file is wrong.
    """
    text = str(name_or_path)
    if text.lower().endswith(".toml") or "/" in text or "\\" in text:
        return _read(Path(text), where=text)
    name = text.strip().lower().replace("_", "-").replace(" ", "-")
    name = ALIASES.get(name, name)
    if name == "host":
        from graphopt.profiles.host import host

        return host()
    known = devices()
    if name not in known:
        raise UsageError(
            f"unknown device '{text}'{did_you_mean(name, [*known, *ALIASES])}; "
            f"known: {', '.join(known)}, or a .toml file of your own"
        )
    with resources.as_file(_folder().joinpath(f"{name}.toml")) as file:
        return _read(file, where=file.name)


def _folder() -> Any:
    return resources.files("graphopt.profiles")


def _read(path: Path, *, where: str) -> DeviceProfile:
    raw = load_toml(path)
    for key in raw:
        if key not in _READERS:
            raise UsageError(f"{where}: unknown key '{key}'{did_you_mean(key, _READERS)}")
    if "name" not in raw:
        raise UsageError(f"{where}: the key 'name' is missing")
    values = {}
    for key, value in raw.items():
        try:
            values[key] = _READERS[key](value)
        except ValueError as problem:
            raise UsageError(f"{where}: '{key}' {problem}") from problem
    device = DeviceProfile(**values)
    if device.dla_explicit and not device.dla:
        raise UsageError(f"{where}: 'dla_explicit' is of a DLA, and 'dla' says there is none")
    figures = _figures(device)
    for key in device.sources:
        if key not in figures:
            raise UsageError(
                f"{where}: 'sources' names '{key}', of which the file says nothing"
                f"{did_you_mean(key, figures)}"
            )
    return device


def _figures(device: DeviceProfile) -> list[str]:
    """Return every key of ``sources`` that would name something the profile states."""
    found = []
    for item in fields(device):
        value = getattr(device, item.name)
        if item.name in ("name", "sources") or value in (None, "", (), {}):
            continue
        found += [f"{item.name}.{k}" for k in value] if isinstance(value, Mapping) else [item.name]
    return found


def version_of(text: str) -> Version:
    """Return major, minor and patch of ``8.5.2``, ``8.5.2.2``, ``10.3`` or ``11``.

    Raises:
        ValueError: it is no version.
    """
    match = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,2}))?(?:\.(\d{1,3}))?(?:\.\d+)*", text.strip(), re.A)
    if match is None:
        raise ValueError(f"'{text}' is not a version")
    return int(match[1]), int(match[2] or 0), int(match[3] or 0)


def _versions(value: Any) -> tuple[Version, ...]:
    texts = _list(value)
    try:
        found = tuple(version_of(text) for text in texts)
    except ValueError:
        found = ()
    if len(found) not in (1, 2) or list(found) != sorted(found):
        raise ValueError(
            'must be the oldest and the newest version of TensorRT, such as ["8.5.2", "10.7"], or '
            f"the oldest alone, not {value!r}"
        )
    return found


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\n" in value:
        raise ValueError(f"must be a line of text, not {value!r}")
    return value


def _name(value: Any) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", _string(value)):
        raise ValueError(f"must be of lower-case letters, digits, '-' and '.', not {value!r}")
    return str(value)


def _positive(value: Any) -> float:
    # bool is an int to Python, and TOML writes inf and nan.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError(f"must be a number above 0, not {value!r}")
    return float(value)


def _count(value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"must be a whole number of at least {least}, not {value!r}")
    return value


def _sm(value: Any) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,2})\.(\d)", value) if isinstance(value, str) else None
    if not match:
        raise ValueError(f'must be a compute capability such as "7.5", not {value!r}')
    return int(match[1]), int(match[2])


def _list(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of texts, not {value!r}")
    return tuple(_string(v) for v in value)


def _precision(value: str) -> str:
    if value not in PRECISIONS:
        raise ValueError(
            f"names the unknown precision '{value}'{did_you_mean(value, PRECISIONS)}; "
            f"known: {', '.join(PRECISIONS)}"
        )
    return value


def _precisions(value: Any) -> tuple[str, ...]:
    found = tuple(_precision(v) for v in _list(value))
    if not found:
        raise ValueError("must name at least one precision")
    return found


def _by_precision(read: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    def table(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"must be a table by precision, not {value!r}")
        return {_precision(key): read(each) for key, each in value.items()}

    return table


def _sources(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {value!r}")
    for key, each in value.items():
        if not isinstance(each, str):
            raise ValueError(f"'{key}' must be a text; write dotted names in quotes: \"{key}.x\"")
    return {key: _string(each) for key, each in value.items()}


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "name": _name,
    "title": _string,
    "sm": _sm,
    "memory_gb": _positive,
    "bandwidth_gbs": _positive,
    "peaks": _by_precision(_positive),
    "precisions": _precisions,
    "channel_multiple": _by_precision(lambda value: _count(value, 1)),
    "max_opset": lambda value: _count(value, 7),
    "tensorrt": _string,
    "tensorrt_versions": _versions,
    "dla": _count,
    "dla_explicit": _flag,
    "sparsity": _flag,
    "notes": _list,
    "sources": _sources,
}
