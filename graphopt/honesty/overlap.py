"""Samples that are there twice: in both sets, or in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.data import Dataset
from graphopt.data.images import ImageFolder
from graphopt.data.samples import hash_sample


@dataclass(frozen=True, slots=True)
class Shared:
    """How many samples of one set are in another.

    Attributes:
        count: samples of the one that are in the other too.
        of: how many the one has.
        example: name of the first of them; empty where there is none.
    """

    count: int
    of: int
    example: str = ""

    @property
    def share(self) -> float:
        """As a fraction."""
        return self.count / self.of if self.of else 0.0


def overlap(a: Dataset, b: Dataset) -> int:
    """Return how many samples of ``b`` are in ``a`` too; labels do not matter.

    See :func:`shared`.
    """
    return shared(a, b).count


def shared(a: Dataset, b: Dataset) -> Shared:
    """Find the samples of ``b`` that are in ``a`` too.

    Both are read once, one sample in memory at a time, beside 32 bytes for each of ``a``. Images
    are the same where their files are the same byte by byte; otherwise samples are the same where
    exactly the same values are fed. An image that was encoded or scaled anew is not recognised.

    Args:
        a: the smaller one.
        b: the other one.

    Raises:
        DataError: a sample is broken.
    """
    files = isinstance(a.source, ImageFolder) and isinstance(b.source, ImageFolder)
    known = set(_digests(a, files=files))
    count, example = 0, ""
    for name, digest in zip(b.names, _digests(b, files=files), strict=True):
        if digest in known:
            count, example = count + 1, example or name
    return Shared(count, len(b), example)


def repeated(data: Dataset) -> Shared:
    """Find the samples that are the same as one before them.

    Raises:
        DataError: a sample is broken.
    """
    seen: set[bytes] = set()
    count, example = 0, ""
    files = isinstance(data.source, ImageFolder)
    for name, digest in zip(data.names, _digests(data, files=files), strict=True):
        if digest in seen:
            count, example = count + 1, example or name
        seen.add(digest)
    return Shared(count, len(data), example)


def _digests(data: Dataset, *, files: bool) -> Iterator[bytes]:
    """Yield a digest of each sample: of its file, or of the values that are fed."""
    if files:
        return iter(data.source.digests(data.indices))
    return map(hash_sample, data.source.read(data.indices))


def check_apart(calibration: Dataset, evaluation: Dataset) -> list[str]:
    """Return one line where samples to judge on are among those to calibrate on.

    None for made-up data, and none where both are one set: that is told elsewhere.
    """
    if calibration.synthetic or evaluation.synthetic or calibration.digest == evaluation.digest:
        return []
    found = shared(calibration, evaluation)
    if not found.count:
        return []
    return [
        f"{found.count} of {found.of} evaluation samples ({100 * found.share:.1f} %) are "
        f"calibration samples too, such as {found.example}: the figures are optimistic; keep the "
        "two apart"
    ]


def check_repeated(data: Dataset) -> list[str]:
    """Return one line where a sample is in the calibration data more than once."""
    found = Shared(0, 0) if data.synthetic else repeated(data)
    if not found.count:
        return []
    apart = found.of - found.count
    return [
        f"{found.count} of {found.of} calibration samples ({100 * found.share:.1f} %) repeat one "
        f"before them, such as {found.example}: {apart} different "
        f"{'one sets' if apart == 1 else 'ones set'} the ranges; give others"
    ]
