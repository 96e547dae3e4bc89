"""Typed reads from files that may hold anything: checked once, bounded, told in one line."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.wording import one_line

LARGEST = 64 << 20
_LONGEST = 2_000


def read_json(path: Path, *, largest: int = LARGEST) -> Any:
    """Return what a JSON file holds.

    Raises:
        UsageError: there is none, it is no plain file, too large, or no JSON.
    """
    try:
        with open(path, "rb", opener=_opened) as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{path} is no plain file")
            data = stream.read(largest + 1)
    except FileNotFoundError as problem:
        raise UsageError(f"no such file: {path}") from problem
    except OSError as problem:
        raise UsageError(f"cannot read {path}: {problem.strerror or problem}") from problem
    if len(data) > largest:
        raise UsageError(f"{path} is larger than {largest >> 20} MiB, which no build writes")
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{path} is not JSON: {one_line(problem, 120)}") from problem


def _opened(path: str, flags: int) -> int:
    # Without this, opening a pipe that lies in the folder would wait for a writer for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class Raw:
    """A JSON object, and where it stands, for messages.

    Args:
        data: plain values.
        where: the file and the place in it.

    Raises:
        UsageError: it is no object.
    """

    __slots__ = ("data", "where")

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise UsageError(f"{where} is not a JSON object")
        self.data: dict[str, Any] = data
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def _wrong(self, key: str, what: str) -> UsageError:
        return UsageError(f"{self.where}: '{one_line(key, 60)}' is not {what}")

    def text(self, key: str, default: str = "") -> str:
        """Return a text in one line, cut where it is beyond reason."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        return one_line(value, _LONGEST)

    def number(self, key: str) -> float | None:
        """Return a finite number, or None where there is none."""
        value = self.data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number")
        try:
            found = float(value)
        except OverflowError as problem:
            raise self._wrong(key, "a number that fits") from problem
        if not math.isfinite(found):
            raise self._wrong(key, "a finite number")
        return found

    def sure(self, key: str) -> float:
        """Return a finite number that must be there."""
        found = self.number(key)
        if found is None:
            raise self._wrong(key, "there")
        return found

    def count(self, key: str) -> int:
        """Return a whole number >= 0; 0 where there is none."""
        value = self.data.get(key)
        if value is None:
            return 0
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise self._wrong(key, "a whole number >= 0")
        return value

    def truth(self, key: str) -> bool:
        """Return whether something is so; False where nothing is said."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return bool(value)

    def inner(self, key: str) -> Raw:
        """Return an object, an empty one where there is none."""
        value = self.data.get(key)
        return Raw({} if value is None else value, f"{self.where}: '{one_line(key, 60)}'")

    def items(self, key: str) -> list[Any]:
        """Return a list, an empty one where there is none."""
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return value

    def objects(self, key: str) -> list[Raw]:
        """Return a list of objects."""
        where = f"{self.where}: '{one_line(key, 60)}'"
        return [Raw(item, f"{where}, item {i}") for i, item in enumerate(self.items(key))]

    def texts(self, key: str) -> list[str]:
        """Return a list of texts, each in one line."""
        values = self.items(key)
        if not all(isinstance(v, str) for v in values):
            raise self._wrong(key, "a list of texts")
        return [one_line(v, _LONGEST) for v in values]

    def numbers(self, key: str) -> dict[str, float]:
        """Return an object of finite numbers; those that are null are left out."""
        inner = self.inner(key)
        found = {name: inner.number(name) for name in inner.data}
        return {one_line(name, 60): value for name, value in found.items() if value is not None}

    def words(self, key: str) -> dict[str, str]:
        """Return an object of texts, sorted by name."""
        inner = self.inner(key)
        return {one_line(name, 60): inner.text(name) for name in sorted(inner.data)}

    def samples(self, key: str) -> list[float]:
        """Return a list of finite numbers >= 0."""
        values = self.items(key)
        found = []
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self._wrong(key, "a list of numbers")
            try:
                number = float(value)
            except OverflowError as problem:
                raise self._wrong(key, "a list of numbers that fit") from problem
            if not math.isfinite(number) or not 0 <= number < 1e15:
                raise self._wrong(key, "a list of finite numbers >= 0")
            found.append(number)
        return found
