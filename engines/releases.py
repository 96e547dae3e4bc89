"""What each line of TensorRT takes, where it cannot be asked: for files made beforehand.

Where a TensorRT is at hand its module or its ``trtexec --help`` is asked instead.

Sources. Opsets: ``docs/operators.md`` of onnx-tensorrt at each release (8.5 and 8.6: 17, 10.0: 20,
10.15: 24) and its changelog; for 11 NVIDIA's *ONNX Opset Guide* says 25 of all 11.x, while the
notes of NVIDIA/TensorRT 11.5 say that 25 came with 11.5: the lower one is taken before. Int8
initializers: TensorRT 8 says "invalid weights type of Int8" (microsoft/onnxruntime#11535); the
*Developer Guide* of 10 names pre-quantized weights. Typing and calibrators: the API reference of
each. DLA: *Working with DLA*, TensorRT 11.4.1: "10.7 was the last 10.x release that supported
DLA", "unavailable in 11.0 through 11.3", 11.4.1 on Jetson AGX Orin with JetPack 7.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import UsageError
from graphopt.profiles.device import Version, version_of

__all__ = [
    "DLA",
    "RELEASES",
    "Release",
    "Version",
    "has_dla",
    "parse_release",
    "release_of",
    "releases_between",
    "spell_version",
    "spell_whole",
]


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

    @property
    def fp16_scales(self) -> bool:
        """Whether Q/DQ may have fp16 scales: ONNX has them from opset 19 on."""
        return self.max_opset >= 19

    @property
    def int4_weights(self) -> bool:
        """Whether it takes INT4 and blocks of weights: ONNX has both from opset 21 on."""
        return self.max_opset >= 21


RELEASES: tuple[Release, ...] = (
    Release((8, 5, 0), 17, False, True, False, True),
    Release((8, 6, 0), 17, False, True, False, True),
    Release((10, 0, 0), 20, True, True, True, True),
    Release((10, 9, 0), 22, True, True, True, True),
    Release((10, 13, 0), 24, True, True, True, True),
    Release((11, 0, 0), 24, True, False, True, False),
    Release((11, 5, 0), 25, True, False, True, False),
)
"""Oldest first. 9.x, for some servers only, is taken for 8.6: it takes all that 8.6 takes."""

DLA: tuple[tuple[Version, Version | None], ...] = (((8, 5, 0), (10, 7, 999)), ((11, 4, 1), None))
"""First and last version that builds for deep-learning accelerators; None: still does."""


def release_of(version: Version) -> Release:
    """Return the line a version belongs to.

    Raises:
        UsageError: it is older than all that graphopt knows.
    """
    known = [release for release in RELEASES if release.version <= version]
    if not known:
        raise UsageError(
            f"TensorRT {spell_version(version)} is older than graphopt builds for: "
            f"{RELEASES[0].name} and newer"
        )
    return known[-1]


def releases_between(oldest: Version | None, newest: Version | None) -> tuple[Release, ...]:
    """Return the lines with a version in [oldest, newest], oldest first; None leaves a side open.

    Of what is older than all that graphopt knows, nothing is known: that part is left out.
    """
    found = []
    for i, release in enumerate(RELEASES):
        following = RELEASES[i + 1].version if i + 1 < len(RELEASES) else None
        ends_before = oldest is not None and following is not None and following <= oldest
        starts_after = newest is not None and release.version > newest
        if not ends_before and not starts_after:
            found.append(release)
    return tuple(found)


def has_dla(version: Version) -> bool:
    """Whether this version builds for the deep-learning accelerators of a Jetson."""
    return any(first <= version and (last is None or version <= last) for first, last in DLA)


def spell_version(version: Version) -> str:
    """Return ``8.5.2``; ``10.3`` where the patch is 0."""
    return ".".join(str(part) for part in (version if version[2] else version[:2]))


def spell_whole(version: Version) -> str:
    """Return all three numbers: ``10.3.0``, as TensorRT's own packages are called."""
    return ".".join(str(part) for part in version)


def parse_release(text: str) -> Version:
    """Return major, minor and patch of ``8.5.2``, ``8.5.2.2``, ``10.3`` or ``11``.

    Raises:
        UsageError: it is no version.
    """
    try:
        return version_of(text)
    except ValueError:
        raise UsageError(f"'{text}' is not a version of TensorRT: write it like 8.5.2") from None
