"""Arrays: an ``.npz`` or ``.npy`` file, or a folder of them, each a sample or a batch."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data.samples import (
    LABEL_NAMES,
    InputSpec,
    Sample,
    hash_sample,
    match_names,
    read_labels,
)
from graphopt.errors import DataError
from graphopt.graph import Array
from graphopt.wording import one_line

SUFFIXES = frozenset({".npz", ".npy"})
# What NumPy lets through on damaged files; it tokenizes the header as Python.
_BROKEN = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    SyntaxError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Part:
    """One file: how many samples it holds, their labels, and which of its arrays feed what."""

    path: Path
    count: int
    labels: Array | None
    arrays: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ArrayFiles:
    """A :class:`graphopt.data.samples.Source` over array files; one file is held at a time."""

    parts: tuple[Part, ...]
    inputs: Mapping[str, InputSpec]
    names: tuple[str, ...]
    labels: Array | None
    kind: str
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    in_order: bool = False

    @classmethod
    def of(
        cls, root: Path, files: Sequence[str], inputs: Mapping[str, InputSpec], kind: str
    ) -> ArrayFiles:
        """Look into each file: names, shapes and dtypes are checked before anything runs.

        Args:
            root: the folder, or the file itself with ``files`` empty.
            files: paths in the folder, sorted.
            inputs: what the model takes.
            kind: for the echo.

        Raises:
            DataError: a file is broken, or holds something else than the model takes.
        """
        notes: list[str] = []
        parts = [_look(root / f, inputs, notes) for f in files] or [_look(root, inputs, notes)]
        labelled = [p for p in parts if p.labels is not None]
        if labelled and len(labelled) < len(parts):
            odd = next(p.path for p in parts if p.labels is None)
            raise DataError(
                f"{odd} has no labels, but {labelled[0].path.name} has: give all or none"
            )
        names = [
            f"{p.path.relative_to(root).as_posix() if files else p.path.name}[{i}]"
            for p in parts
            for i in range(p.count)
        ]
        labels = [p.labels for p in labelled if p.labels is not None]
        return cls(
            tuple(parts),
            inputs,
            tuple(names),
            np.concatenate(labels) if labels else None,
            kind,
            tuple(dict.fromkeys(notes)),
        )

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        """Yield rows; a file is opened when its first row is due and dropped after its last."""
        start = taken = 0
        for part in self.parts:
            first, taken = taken, bisect_left(indices, start + part.count, lo=taken)
            start += part.count
            if first == taken:
                continue
            arrays = _load(part, self.inputs)
            for index in indices[first:taken]:
                row = index - start + part.count
                where = f"{part.path}[{row}]"
                yield {n: self.inputs[n].convert(a[row], where) for n, a in arrays.items()}

    def digests(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Hash the values as they are fed."""
        return map(hash_sample, self.read(indices))


def _look(path: Path, inputs: Mapping[str, InputSpec], notes: list[str]) -> Part:
    """Check one file's arrays against the model, one array in memory at a time."""
    if path.suffix.lower() == ".npy":
        if len(inputs) != 1:
            raise DataError(
                f"{path} is one array, but the model takes {', '.join(inputs)}: "
                "give .npz files with an array for each"
            )
        (spec,) = inputs.values()
        array = _checked(_map(path), spec, path)
        return Part(path, len(array), None, {spec.name: ""})
    with _archive(path) as archive:
        pairs, unused = match_names(archive.files, inputs, str(path))
        if unused:
            notes.append(f"arrays that no input takes were passed over: {', '.join(unused)}")
        counts = {
            n: len(_checked(_member(archive, a, path), inputs[n], path)) for n, a in pairs.items()
        }
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise DataError(f"{path}: arrays hold different numbers of samples: {told}")
        count = next(iter(counts.values()))
        used = set(pairs.values())
        label = next((n for n in LABEL_NAMES if n in archive.files and n not in used), None)
        labels = None
        if label is not None:
            labels = read_labels(_member(archive, label, path), count, f"{path}: '{label}'")
    return Part(path, count, labels, pairs)


def _checked(array: Array, spec: InputSpec, path: Path) -> Array:
    """Check shape and dtype by the first row; values are checked row by row when read."""
    batch = spec.batch(array, str(path))
    if len(batch):
        spec.convert(np.zeros_like(batch[:0]), str(path))
    return batch


def _load(part: Part, inputs: Mapping[str, InputSpec]) -> dict[str, Array]:
    where = str(part.path)
    if part.path.suffix.lower() == ".npy":
        (spec,) = inputs.values()
        return {spec.name: spec.batch(_map(part.path), where)}
    with _archive(part.path) as archive:
        return {
            name: inputs[name].batch(_member(archive, key, part.path), where)
            for name, key in part.arrays.items()
        }


def _map(path: Path) -> Array:
    """Map an ``.npy`` file into memory; pages are read when used."""
    try:
        with path.open("rb") as stream:
            magic = stream.read(6)
        if magic != b"\x93NUMPY":
            raise ValueError("it does not begin as numpy.save writes it")
        return np.asarray(np.load(path, mmap_mode="r"))
    except PermissionError as problem:
        raise DataError(f"may not read {path}: {problem.strerror}") from problem
    except _BROKEN as problem:
        raise DataError(_broken(path, problem)) from problem


@contextmanager
def _archive(path: Path) -> Iterator[Any]:
    """Open an ``.npz`` file. The stream is ours to close: numpy leaves it open on a bad one."""
    try:
        stream = path.open("rb")
    except OSError as problem:
        raise DataError(f"may not read {path}: {problem.strerror}") from problem
    with stream:
        try:
            archive = np.load(stream)
        except _BROKEN as problem:
            raise DataError(_broken(path, problem)) from problem
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path} is one array, not an archive: name it .npy")
        with archive:
            yield archive


def _member(archive: Any, name: str, path: Path) -> Array:
    try:
        return np.asarray(archive[name])
    except _BROKEN as problem:
        raise DataError(_broken(path, problem, name)) from problem


def _broken(path: Path, problem: BaseException, name: str = "") -> str:
    what = f"array '{name}' in {path}" if name else f"{path}"
    if "allow_pickle" in str(problem):
        return f"{what} holds Python objects or is no NumPy file: save plain numeric arrays"
    return f"{what} is broken or no NumPy file: {one_line(problem, 120)}"
