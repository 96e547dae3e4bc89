"""What every source of samples shares: checks against the model's inputs, order, digests.

A *sample* is one row of every input, without the batch axis.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from graphopt.errors import DataError
from graphopt.graph import Array, Shape
from graphopt.model import Inputs
from graphopt.registry import did_you_mean
from graphopt.wording import spell

Sample: TypeAlias = "dict[str, Array]"
LABEL_NAMES = ("labels", "label", "y")


class Source(Protocol):
    """Where samples come from; they are numbered from 0 in an order the disk has no part in."""

    @property
    def kind(self) -> str:
        """What it is, for the echo: ``"image folder"``."""

    @property
    def names(self) -> Sequence[str]:
        """One name a sample, for messages and for choosing; the same wherever the data lies."""

    @property
    def labels(self) -> Array | None:
        """Class indices, int64 of shape (samples,), or None."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names where the source has them."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one line each."""

    @property
    def in_order(self) -> bool:
        """Whether samples can only be read from the first on (a generator)."""

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        """Yield these samples; ``indices`` ascend.

        Raises:
            DataError: a sample is broken or does not fit the model; the message names it.
        """

    def digests(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield a digest of the content of each of these samples."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of the model, and what may be fed to it.

    Attributes:
        name: the input's name.
        dtype: NumPy dtype, or None where the model does not say.
        shape: dimensions with the batch first: numbers, names, or None; ``()`` if unknown.
    """

    name: str
    dtype: Any
    shape: Shape

    @property
    def wants(self) -> str:
        """Shape and dtype for messages: ``batchx3x32x32 float32``."""
        spelled = spell(self.shape) if self.shape else "any shape"
        return f"{spelled} {self.dtype}" if self.dtype is not None else spelled

    def batch(self, array: Array, where: str) -> Array:
        """Return ``array`` with a batch axis, checked against the shape; one sample gains it.

        Whether it is a sample or a batch is told by the rank: the model's, or one less.

        Raises:
            DataError: another rank, or a dimension the model fixes differs.
        """
        if self.shape and array.ndim == len(self.shape) - 1:
            array = array[None]
        fits = not self.shape or (
            array.ndim == len(self.shape)
            and all(
                not isinstance(want, int) or want == have
                for want, have in zip(self.shape[1:], array.shape[1:], strict=True)
            )
        )
        if not fits or array.ndim == 0:
            raise DataError(
                f"{where}: '{self.name}' is {spell(array.shape)}, but the model takes {self.wants}"
            )
        return array

    def convert(self, array: Array, where: str) -> Array:
        """Return ``array`` in the model's dtype, refusing conversions that change what is meant.

        Between float widths, and between integers where every value fits. Integers are never
        turned into floats: raw pixels fed to a network trained on scaled ones run without a
        complaint and calibrate it wrongly.

        Raises:
            DataError: such a conversion, or NaN, or an infinity.
        """
        want = None if self.dtype is None else np.dtype(self.dtype)
        if want is not None and array.dtype != want:
            floats = _is_float(array.dtype) and _is_float(want)
            integers = array.dtype.kind in "iu" and want.kind in "iu"
            if not floats and not integers:
                raise DataError(self._refusal(array, want, where))
            with np.errstate(over="ignore"):  # Told below, as an infinity.
                converted = array.astype(want)
            if integers and not np.array_equal(converted, array):
                raise DataError(f"{where}: '{self.name}' has values that {want} cannot hold")
            if floats and np.isfinite(array).all() and not np.isfinite(converted).all():
                raise DataError(f"{where}: '{self.name}' has values too large for {want}")
            array = converted
        if _is_float(array.dtype) and not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise DataError(
                f"{where}: '{self.name}' has {count} NaN or infinite of {array.size} values: "
                "repair or remove the sample"
            )
        return np.ascontiguousarray(array)

    def _refusal(self, array: Array, want: Any, where: str) -> str:
        text = f"{where}: '{self.name}' is {array.dtype}, but the model takes {want}"
        if array.dtype.kind in "iu" and _is_float(want):
            return f"{text}: convert and scale it as training did, e.g. x.astype('float32') / 255"
        return f"{text}: convert it"


def specs(inputs: Inputs) -> dict[str, InputSpec]:
    """Return what :meth:`graphopt.model.Model.inputs` gives as specifications."""
    return {name: InputSpec(name, dtype, tuple(shape)) for name, (dtype, shape) in inputs.items()}


def fixed_batch(inputs: Iterable[InputSpec]) -> int | None:
    """Return the batch size that the model fixes, or None where it is free.

    Raises:
        DataError: two inputs fix different ones.
    """
    fixed = {s.name: s.shape[0] for s in inputs if s.shape and isinstance(s.shape[0], int)}
    sizes = sorted({int(d) for d in fixed.values()})
    if len(sizes) > 1:
        told = ", ".join(f"{name} {d}" for name, d in fixed.items())
        raise DataError(
            f"the inputs fix different first dimensions ({told}): they cannot be fed in batches"
        )
    return sizes[0] if sizes else None


def match_names(
    given: Sequence[str], inputs: Mapping[str, InputSpec], where: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Pair arrays with inputs: by name, or the only array with the only input.

    Returns:
        Input name -> array name, and the names of arrays that no input takes.

    Raises:
        DataError: an input without an array.
    """
    others = [name for name in given if name not in inputs and name not in LABEL_NAMES]
    missing = [name for name in inputs if name not in given]
    if len(inputs) == 1 and missing and len(others) == 1:
        return {missing[0]: others[0]}, ()
    if missing:
        hints = "".join(did_you_mean(o, missing) for o in others[:1])
        raise DataError(
            f"{where}: no array for input '{missing[0]}'; it has "
            f"{', '.join(given) or 'none'}{hints}, the model takes {', '.join(inputs)}"
        )
    return {name: name for name in inputs}, tuple(others)


def read_labels(array: Any, count: int, where: str) -> Array:
    """Return class indices as int64 of shape (count,).

    Raises:
        DataError: not integers, negative, or of another shape.
    """
    labels = np.asarray(array)
    flat = labels.reshape(-1)
    if labels.ndim > 2 or (labels.ndim == 2 and labels.shape[1] != 1) or len(flat) != count:
        raise DataError(
            f"{where}: labels are {spell(labels.shape)}; give one class index a sample ({count})"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels are {labels.dtype}; give class indices as integers")
    if flat.size and int(flat.min()) < 0:
        raise DataError(f"{where}: label {int(flat.min())} is negative; class indices start at 0")
    return flat.astype(np.int64)


def hash_sample(sample: Mapping[str, Array]) -> bytes:
    """Return the SHA-256 of a sample's names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(sample):
        array = sample[name]
        digest.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.digest()


def choose(names: Sequence[str], labels: Array | None, limit: int | None, seed: int) -> list[int]:
    """Choose ``limit`` samples, the same for the same names and seed; classes in equal numbers.

    Each class is put in an order that a hash of seed and name decides, and classes take turns,
    so counts differ by one at most until a class runs out. Without labels it is one class.
    Hashes rather than NumPy's generators: those may change between versions.
    """
    if limit is None or limit >= len(names):
        return list(range(len(names)))

    def key(index: int) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}\0{names[index]}")).digest()

    order = sorted(range(len(names)), key=key)
    seen: dict[int, int] = {}
    turns: list[tuple[int, int]] = []
    for place, index in enumerate(order):
        label = 0 if labels is None else int(labels[index])
        seen[label] = turn = seen.get(label, -1) + 1
        turns.append((turn, place))
    return sorted(order[place] for _, place in sorted(turns)[:limit])


def _is_float(dtype: Any) -> bool:
    """True for bfloat16 and the float8 types too, which NumPy does not count as floating."""
    kind = np.dtype(dtype)
    return kind.kind == "f" or (kind.kind == "V" and "float" in kind.name)
