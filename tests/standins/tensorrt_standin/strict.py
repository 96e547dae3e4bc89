"""What makes the stand-in strict: classes with a version's names, enumerations like pybind11's."""

from __future__ import annotations

import enum
from typing import Any


class PyEnum(enum.Enum):
    """An enumeration of pybind11's: it has a name and a number, and is none."""

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def enumeration(kind: str, names: tuple[str, ...]) -> Any:
    return PyEnum(kind, {name: number for number, name in enumerate(names)})  # type: ignore[call-overload]


class Strict:
    """An instance takes no attribute but those of its class; a Python subclass's may."""

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(type(self), "_bound", False) and not name.startswith("_"):
            found = getattr(type(self), name, None)
            if not isinstance(found, property) or found.fset is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


class _Missing:
    """A name that is documented, and that the stand-in does not do."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        raise NotImplementedError(f"the stand-in does not do {owner.__name__}.{self._name}")


def bind(kind: str, names: tuple[str, ...], made: type, **constants: Any) -> Any:
    """Return a class of what ``made`` does of these names, and nothing else that is public."""
    kept = {n: v for n, v in vars(made).items() if n.startswith("_") and n != "__dict__"}
    kept.pop("__weakref__", None)
    for name in names:
        kept[name] = vars(made).get(name, _Missing(name))
    return type(kind, made.__bases__, {**kept, **constants, "_bound": True})


def stored(name: str, default: Any = None) -> property:
    """Return a property that only keeps what it was set to."""
    key = f"_{name}"

    def read(self: Any) -> Any:
        return getattr(self, key, default)

    def write(self: Any, value: Any) -> None:
        object.__setattr__(self, key, value)

    return property(read, write)
