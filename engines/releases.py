"""What each line of TensorRT takes, where it cannot be asked: for files made beforehand.

Where a TensorRT is at hand its module or its ``trtexec --help`` is asked instead.
Sources: the support matrix and release notes of each version, and the ONNX parser's operators.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.errors import UsageError

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Release:
    """One line of TensorRT, from ``version`` up to the next one's.

    Attributes:
        version: the first of the line: major, minor, patch.
        max_opset: the newest ONNX opset its parser takes.
        int8_weights: int8 initializers may feed DequantizeLinear; before 10, weights are fp32
            behind Q and DQ.
        implicit: it has INT8 calibrators, and reads calibration caches.
        strong_typing: networks can be strongly typed.
        weak_typing: networks can be weakly typed, with precision flags.
    """

    version: Version
    max_opset: int
    int8_weights: bool
    implicit: bool
    strong_typing: bool
    weak_typing: bool

    @property
    def name(self) -> str:
        """Major and minor: ``"8.5"``."""
        return f"{self.version[0]}.{self.version[1]}"


RELEASES: tuple[Release, ...] = (
    Release((8, 5, 0), 17, False, True, False, True),
    Release((8, 6, 0), 17, False, True, False, True),
    Release((10, 0, 0), 20, True, True, True, True),
    Release((10, 9, 0), 22, True, True, True, True),
    Release((10, 13, 0), 24, True, True, True, True),
    Release((11, 0, 0), 25, True, False, True, False),
)
"""Oldest first."""


def release_of(version: Version) -> Release:
    """Return the line a version belongs to.

    Raises:
        UsageError: it is older than all that graphopt knows.
    """
    known = [release for release in RELEASES if release.version <= version]
    if not known:
        raise UsageError(
            f"TensorRT {'.'.join(map(str, version))} is older than graphopt builds for: "
            f"{RELEASES[0].name} and newer"
        )
    return known[-1]


def parse_release(text: str) -> Version:
    """Return major, minor and patch of ``8.5.2``, ``8.5.2.2``, ``10.3`` or ``11``.

    Raises:
        UsageError: it is no version.
    """
    match = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,2}))?(?:\.(\d{1,3}))?(?:\.\d+)*", text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a version of TensorRT: write it like 8.5.2")
    return int(match[1]), int(match[2] or 0), int(match[3] or 0)
