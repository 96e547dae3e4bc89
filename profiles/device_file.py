"""The file of a device: ours and a user's own, read and checked alike.

``graphopt/schemas/device.schema.json`` says the same for editors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.profiles.device import (
    PRECISIONS,
    SCALED_BY,
    DeviceProfile,
    PowerMode,
    Version,
    known_name,
    own_file,
    version_of,
)
from graphopt.registry import did_you_mean
from graphopt.toml import dump_toml, load_toml


def read_device(path: Path, *, where: str) -> DeviceProfile:
    """Read a device.

    Args:
        path: the file.
        where: what messages call it.

    Raises:
        UsageError: no such file, or a key of it is wrong; file, key and what is expected.
    """
    raw = load_toml(path)
    if "extends" in raw:
        raw = _extended(raw, where)
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
    for told in _at_odds(device):
        raise UsageError(f"{where}: {told}")
    return device


def device_toml(device: DeviceProfile) -> str:
    """Return the file that would be read as a device, what is not known left out."""
    plain: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for item in fields(device):
        value = getattr(device, item.name)
        unset = item.default if item.default is not MISSING else {}
        if item.name == "mode" or value == unset:
            continue
        if item.name == "sm":
            value = f"{value[0]}.{value[1]}"
        elif item.name == "tensorrt_versions":
            value = [".".join(str(part) for part in version) for version in value]
        elif item.name == "power_modes":
            value = {k: {**each.to_json(), "name": None} for k, each in value.items()}
        (tables if isinstance(value, Mapping) else plain)[item.name] = value
    return dump_toml({**plain, **tables})


def _extended(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the keys of a file over those of the device of ours that it extends."""
    name = raw["extends"]
    if not isinstance(name, str) or name.endswith(".toml"):
        raise UsageError(f"{where}: 'extends' must be the name of a device, not {name!r}")
    try:
        known = known_name(name)
    except UsageError as problem:
        raise UsageError(f"{where}: 'extends': {problem}") from problem
    if known == "host":
        raise UsageError(f"{where}: 'extends' must name a device with a file, and 'host' has none")
    with resources.as_file(own_file(known)) as file:
        made = load_toml(file)
    own = {key: value for key, value in raw.items() if key != "extends"}
    sources = dict(made.pop("sources"))
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = {**made[key], **value}
            stated = {f"{key}.{each}" for each in value}
        else:
            made[key], stated = value, {key}
        # A figure of one's own does not come from where ours does.
        sources = {k: v for k, v in sources.items() if k not in stated}
    given = own.get("sources", {})
    made["sources"] = {**sources, **given} if isinstance(given, dict) else given
    return made


def _at_odds(device: DeviceProfile) -> Iterator[str]:
    """Yield what does not go together."""
    for key in ("dla_explicit", "dla_mhz", "dla_peaks"):
        if getattr(device, key) and not device.dla:
            yield f"'{key}' is of a DLA, and 'dla' says there is none"
    for name, mode in device.power_modes.items():
        for limit, whole in SCALED_BY.items():
            limited, most = getattr(mode, limit), getattr(device, whole)
            if limited is None:
                continue
            if most is None:
                yield f"'power_modes.{name}.{limit}' is a share of '{whole}', which is missing"
            elif limited > most:
                yield (
                    f"'power_modes.{name}.{limit}' must be at most '{whole}', {most:g}, "
                    f"not {limited:g}"
                )
    figures = figures_of(device)
    for key in device.sources:
        if key not in figures:
            yield (
                f"'sources' names '{key}', of which the file says nothing"
                f"{did_you_mean(key, figures)}"
            )


def figures_of(device: DeviceProfile) -> list[str]:
    """Return every key of ``sources`` that would name something the profile states."""
    found = []
    for item in fields(device):
        value = getattr(device, item.name)
        if item.name in ("name", "sources", "power_modes") or value in (None, "", (), {}):
            continue
        found += [f"{item.name}.{k}" for k in value] if isinstance(value, Mapping) else [item.name]
    return found


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


def _share(value: Any) -> float:
    if _positive(value) > 1:
        raise ValueError(f"must be a share of the peaks, above 0 and at most 1, not {value!r}")
    return float(value)


def _modes(value: Any) -> dict[str, PowerMode]:
    if not isinstance(value, dict):
        raise ValueError(f"must be tables by name, [power_modes.30W], not {value!r}")
    found = {name: _mode(name, each) for name, each in value.items()}
    if len({name.lower() for name in found}) < len(found):
        raise ValueError("has names that differ in case only")
    return found


def _mode(name: str, value: Any) -> PowerMode:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name.lower().endswith(".toml"):
        raise ValueError(f"has the name '{name}': letters, digits, '-', '_' and '.' make one")
    if not isinstance(value, dict):
        raise ValueError(f"must be tables by name, and '{name}' is {value!r}")
    read: dict[str, Any] = {}
    for key, each in value.items():
        if key not in _MODE_READERS:
            known = f"{did_you_mean(key, _MODE_READERS)}; known: {', '.join(_MODE_READERS)}"
            raise ValueError(f"has the unknown key '{name}.{key}'{known}")
        try:
            read[key] = _MODE_READERS[key](each)
        except ValueError as problem:
            raise ValueError(f"has a '{name}.{key}' that {problem}") from problem
    return PowerMode(name, **read)


_MODE_READERS: Mapping[str, Callable[[Any], Any]] = {
    "watts": _positive,
    "cpus": lambda value: _count(value, 1),
    "sms": lambda value: _count(value, 1),
    "gpu_mhz": _positive,
    "memory_mhz": _positive,
    "dla_mhz": _positive,
    "source": _string,
}

_READERS: Mapping[str, Callable[[Any], Any]] = {
    "name": _name,
    "title": _string,
    "sm": _sm,
    "sms": lambda value: _count(value, 1),
    "boost_mhz": _positive,
    "memory_gb": _positive,
    "bandwidth_gbs": _positive,
    "memory_mhz": _positive,
    "power_w": _positive,
    "peaks": _by_precision(_positive),
    "precisions": _precisions,
    "channel_multiple": _by_precision(lambda value: _count(value, 1)),
    "max_opset": lambda value: _count(value, 7),
    "tensorrt": _string,
    "tensorrt_versions": _versions,
    "dla": _count,
    "dla_mhz": _positive,
    "dla_peaks": _by_precision(_positive),
    "power_modes": _modes,
    "efficiency": _share,
    "depthwise": _share,
    "launch_us": _positive,
    "dla_explicit": _flag,
    "sparsity": _flag,
    "notes": _list,
    "sources": _sources,
}
