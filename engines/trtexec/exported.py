"""The values trtexec exports, read as what they are: a file from another machine.

``--exportOutput`` writes one record an output (``exportJSONOutput`` in sampleReporting.cpp, alike
from 8.5 to 11): its name, not escaped; its dimensions, ``"1x10"``; and its values of the last run
in row-major order, in C++'s words: six significant digits, ``nan`` and ``-inf`` bare. So it looks
like JSON and is not, and is read here by its own grammar. The kind of number is not told: 8.5
writes int8 as characters, which are refused here, and bool as 0 and 1 as all do.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphopt.engines.trtexec.output import refuse
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.graph import Array

DIGITS = 6
"""Significant digits of a value: what C++ writes unless told otherwise."""
_MOST_OUTPUTS = 10_000
_MOST_NAME = 4096
_MOST_AXES = 32
_OPENED = re.compile(r'\s*[\[,]?\s*\{\s*"name"\s*:\s*"')
_DIMENSIONS = re.compile(r'"\s*,\s*"dimensions"\s*:\s*"([^"]{0,1024})"\s*,\s*"values"\s*:\s*\[')
_CLOSED = re.compile(r"\s*\}")
_ENDED = re.compile(r"\s*\]\s*\Z")
_NUMBERS = re.compile(r"[-+0-9.eEnaif,\s]*")
_SIZES = re.compile(r"\(?\s*(?:\d{1,12}\s*(?:[x,]\s*\d{1,12}\s*)*)?\)?")
_ABSENT = re.compile(r"\s*\[\s*\]\s*\Z")


def read_values(text: str, path: str | os.PathLike[str]) -> dict[str, Array]:
    """Return output name -> its values: float64, of the shape that is told.

    Args:
        text: what one run exported; its length is for the caller to bound.
        path: of the file it is from, for messages.

    Raises:
        EnvironmentProblem: it is no such text, is cut short, or contradicts itself.
    """
    found: dict[str, Array] = {}
    if _ABSENT.match(text):
        refuse(path, "it holds no outputs")
    at = 0
    while not (found and _ENDED.match(text, at)):
        opened = _OPENED.match(text, at)
        if opened is None:
            refuse(path, "it is cut short" if found or not text.strip() else "it holds no outputs")
        # Names are not escaped: one ends where its dimensions begin.
        told = _DIMENSIONS.search(text, opened.end(), opened.end() + _MOST_NAME + 2048)
        if told is None:
            refuse(path, "an output without dimensions and values, or it is cut short")
        name = text[opened.end() : told.start()]
        end = text.find("]", told.end())
        closed = _CLOSED.match(text, end + 1) if end >= 0 else None
        if closed is None:
            refuse(path, f"the values of output '{one_line(name, 80)}' are cut short")
        if name in found or len(found) >= _MOST_OUTPUTS:
            refuse(path, f"output '{one_line(name, 80)}' is in it twice, or one of too many")
        found[name] = _array(path, name, told[1], text[told.end() : end])
        at = closed.end()
    return found


def _array(path: str | os.PathLike[str], name: str, sizes: str, numbers: str) -> Array:
    shown = f"output '{one_line(name, 80)}'"
    shape = _shape(path, shown, sizes)
    if not _NUMBERS.fullmatch(numbers):
        refuse(path, f"{shown} holds what are no numbers (8.5 cannot write int8)")
    words = numbers.split(",") if numbers.strip() else []
    if len(words) != math.prod(shape):
        refuse(path, f"{shown} has {len(words):,} values and the dimensions {sizes[:80]}")
    try:
        return np.fromiter(map(float, words), np.float64, len(words)).reshape(shape)
    except ValueError:
        refuse(path, f"{shown} holds what are no numbers")


def _shape(path: str | os.PathLike[str], shown: str, sizes: str) -> tuple[int, ...]:
    if not _SIZES.fullmatch(sizes):
        refuse(path, f"{shown} has the dimensions {one_line(sizes, 40)}: they depend on the data")
    shape = tuple(int(size) for size in re.findall(r"\d+", sizes))
    if len(shape) > _MOST_AXES:
        refuse(path, f"{shown} has {len(shape)} dimensions")
    return shape


def read_parts(path: str | os.PathLike[str], count: int, most_bytes: int) -> list[tuple[int, int]]:
    """Return where each run's export begins in a file of many, and how long it is.

    Before each stands a line with its number, counted from 0, and its length in bytes.

    Args:
        path: the file.
        count: of runs there are.
        most_bytes: of one run.

    Raises:
        EnvironmentProblem: the file is not that.
    """
    path, parts = Path(path), []
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            for number in range(count):
                line = stream.readline(64)
                told = re.fullmatch(rb"(\d{1,9}) (\d{1,12})\n", line)
                if told is None or int(told[1]) != number:
                    refuse(path, f"it does not go on with run {number + 1} of {count}")
                length = int(told[2])
                if length > most_bytes:
                    refuse(path, f"{length:,} bytes of one run are more than {most_bytes:,}")
                parts.append((stream.tell(), length))
                stream.seek(length, os.SEEK_CUR)
    except OSError as problem:
        refuse(path, problem.strerror or str(problem))
    if size != sum(parts[-1]) if parts else size:
        refuse(path, "it is cut short")
    return parts


def read_part(path: str | os.PathLike[str], part: tuple[int, int]) -> str:
    """Return the text of one run in a file of many; bytes that are no UTF-8 are replaced."""
    with Path(path).open("rb") as stream:
        stream.seek(part[0])
        return stream.read(part[1]).decode("utf-8", errors="replace")
