"""Calibration and evaluation data through one SPEC; see docs/data.md.

=========================  =====================================================================
``folder/`` of images      sub-folders, sorted, are class indices; needs a :class:`Preprocess`
``file.npz``, ``.npy``     arrays named like the inputs, the batch along axis 0
``folder/`` of those       each file a sample or a batch, told by its rank
``file.py:function``       yields ``{input: array}``, an array, or ``(either, labels)``
=========================  =====================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data import arrays, images
from graphopt.data.functions import Function, is_function
from graphopt.data.preprocess import EXAMPLES as PREPROCESSING
from graphopt.data.preprocess import Preprocess
from graphopt.data.samples import (
    InputSpec,
    Sample,
    Source,
    choose,
    fixed_batch,
    hash_sample,
    specs,
)
from graphopt.errors import DataError, UsageError
from graphopt.graph import Array
from graphopt.model import Feeds, Inputs
from graphopt.registry import did_you_mean
from graphopt.wording import spell

EXAMPLES = """\
  --data images/ --preprocess imagenet     a folder of images; sub-folders are labels
  --data images/ --preprocess mine.toml    the same, with your own preprocessing
  --data samples.npz                       arrays named like the inputs, a batch along axis 0
  --data arrays/                           a folder of .npz or .npy, each a sample or a batch
  --data loader.py:batches                 a function that yields {input name: array}"""

# Samples looked at for the echo.
PEEK = 16


@dataclass(frozen=True)
class Dataset:
    """Samples that fit a model's inputs, read again for each pass and never all in memory.

    Attributes:
        spec: where they come from, as it was asked for.
        source: reads them.
        inputs: input name -> what the model takes.
        indices: which of the source's samples, ascending.
        preprocess: how images become samples, its size settled; None for arrays.
        notes: what the user should know, one line each.
        synthetic: whether the samples are made up; accuracy then means nothing.
    """

    spec: str
    source: Source
    inputs: Mapping[str, InputSpec]
    indices: tuple[int, ...]
    preprocess: Preprocess | None = None
    notes: tuple[str, ...] = ()
    synthetic: bool = False

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.indices)

    @property
    def names(self) -> tuple[str, ...]:
        """One name a sample, in the order of :meth:`batches`."""
        return tuple(self.source.names[i] for i in self.indices)

    @property
    def labels(self) -> Array | None:
        """Class indices, int64 of shape (len,), in the order of :meth:`batches`; or None."""
        labels = self.source.labels
        return None if labels is None else labels[list(self.indices)]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index, where the source has them."""
        return self.source.classes

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the model fixes, or None where it is free."""
        return fixed_batch(self.inputs.values())

    def batch_size(self, wanted: int) -> int:
        """Return the batch size to use: the model's where that is fixed, else ``wanted``."""
        return self.fixed_batch or wanted

    def at_most(self, count: int) -> Dataset:
        """Return ``count`` of the samples, evenly spread, or all: whole batches where fixed."""
        fixed = self.fixed_batch or 1
        count = max(fixed, count - count % fixed)
        if len(self) <= count:
            return self
        chosen = tuple(self.indices[i * len(self) // count] for i in range(count))
        return replace(self, indices=chosen)

    def batches(self, size: int) -> Iterator[Feeds]:
        """Yield every sample once, in batches of ``size`` (of the model's where that is fixed).

        The last batch may be smaller, and so is one before a sample of another shape, where
        the model leaves height and width free.

        Raises:
            UsageError: ``size`` is not positive.
            DataError: a sample is broken, has NaN, or does not fit.
        """
        size = self.batch_size(size)
        if size < 1:
            raise UsageError(f"a batch holds at least one sample, not {size}")
        pending: list[Sample] = []
        for sample in self.source.read(self.indices):
            if pending and (len(pending) == size or not _alike(pending[0], sample)):
                yield self._stack(pending)
                pending = []
            pending.append(sample)
        if pending:
            yield self._stack(pending)

    def _stack(self, samples: list[Sample]) -> Feeds:
        fixed = self.fixed_batch
        if fixed is not None and len(samples) != fixed:
            raise DataError(
                f"the model's batch is fixed at {fixed}, but samples of {self.spec} differ in "
                "shape and cannot be put together: give samples of one size"
            )
        return {name: np.stack([s[name] for s in samples]) for name in self.inputs}

    @cached_property
    def sample_digests(self) -> tuple[bytes, ...]:
        """A digest of the content of each sample, in the order of :meth:`batches`."""
        return tuple(self.source.digests(self.indices))

    @cached_property
    def preprocess_digest(self) -> str:
        """SHA-256 of how images become samples, in hex; of nothing for arrays."""
        return hashlib.sha256(self._how()).hexdigest()

    def _how(self) -> bytes:
        how = {} if self.preprocess is None else self.preprocess.to_json()
        how.pop("name", None)
        return json.dumps(how, sort_keys=True).encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content and label of each sample, in hex.

        It does not depend on names, on where the data lies, or on order, and it does depend on
        the preprocessing: the same digest means the same samples are fed.
        """
        labels = self.labels
        entries = sorted(
            content + (b"" if labels is None else f" {labels[i]}".encode())
            for i, content in enumerate(self.sample_digests)
        )
        digest = hashlib.sha256(self._how())
        for entry in entries:
            digest.update(hashlib.sha256(entry).digest())
        return digest.hexdigest()

    def ranges(self) -> dict[str, dict[str, Any]]:
        """Return shape, dtype, min, mean and max of each input over up to 16 samples."""
        step = 1 if self.source.in_order else max(1, len(self) // PEEK)
        found: dict[str, dict[str, Any]] = {}
        sums: dict[str, list[float]] = {}
        for sample in self.source.read(self.indices[::step][:PEEK]):
            for name, array in sample.items():
                if not array.size:
                    continue
                low, high = float(array.min()), float(array.max())
                old = found.get(name)
                shape = list(array.shape)
                if old is None:
                    found[name] = {
                        "dtype": str(array.dtype),
                        "shape": shape,
                        "min": low,
                        "max": high,
                    }
                else:
                    old["shape"] = shape if old["shape"] == shape else ["varies"]
                    old["min"], old["max"] = min(old["min"], low), max(old["max"], high)
                sums.setdefault(name, []).append(float(array.mean(dtype=np.float64)))
        for name, means in sums.items():
            found[name]["mean"] = sum(means) / len(means)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what was read, for reports and sidecars."""
        return {
            "spec": self.spec,
            "kind": self.source.kind,
            "samples": len(self),
            "classes": len(self.classes),
            "labels": self.labels is not None,
            "inputs": self.ranges(),
            "preprocess": None if self.preprocess is None else self.preprocess.to_json(),
            "digest": self.digest,
            "synthetic": self.synthetic,
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """Return one line on what was read: count, shapes, dtypes, ranges, and the notes."""
        marks = "SYNTHETIC: " if self.synthetic else ""
        labels = f", {len(self.classes)} classes" if self.classes else ""
        if not self.classes and self.labels is not None:
            labels = ", labelled"
        parts = [f"{marks}{len(self)} samples from {self.spec} ({self.source.kind}{labels})"]
        for name, r in self.ranges().items():
            told = f"{r['min']:.4g} to {r['max']:.4g}, mean {r['mean']:.4g}"
            parts.append(f"{name} {spell(r['shape'])} {r['dtype']}, {told}")
        if self.preprocess is not None:
            parts.append(f"preprocessing {self.preprocess}")
        return "; ".join([*parts, *self.notes])


def open_data(
    spec: str,
    inputs: Inputs,
    *,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Open what a SPEC names, for a model with these inputs.

    Args:
        spec: see the module's text.
        inputs: input name -> (dtype, shape with the batch first), as ``Model.inputs()`` gives.
        preprocess: how images become samples; images are refused without it.
        limit: at most so many samples: a choice by ``seed``, balanced over classes, that does
            not depend on the order on disk. A function's first ones.
        seed: decides the choice.

    Raises:
        DataError: nothing is there, it is broken, or it does not fit the model.
        UsageError: ``limit`` is not positive.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"at least one sample is needed, not {limit}")
    if not inputs:
        raise DataError("the model has no inputs: there is nothing to feed")
    known = specs(inputs)
    source = _source(spec, known, preprocess, limit)
    if not source.names:
        raise DataError(f"{spec} holds no samples")
    count = len(source.names) if limit is None else min(limit, len(source.names))
    notes = list(source.notes)
    fixed = fixed_batch(known.values()) or 1
    if count < fixed:
        raise DataError(
            f"the model's batch is fixed at {fixed}, and {spec} gives {count} samples: give more"
        )
    if count % fixed:
        # Padding would count the repeated samples twice.
        notes.append(f"{count % fixed} left out: the model's batch is fixed at {fixed}")
        count -= count % fixed
    settled = source.preprocess if isinstance(source, images.ImageFolder) else None
    if settled is not None:
        notes += settled.notes()
    elif preprocess is not None:
        notes.append("preprocessing is for images: these are fed as they are")
    if source.in_order:
        indices = list(range(count))
    else:
        indices = choose(source.names, source.labels, count, seed)
    return Dataset(spec, source, known, tuple(indices), settled, tuple(notes))


def _source(
    spec: str, inputs: Mapping[str, InputSpec], preprocess: Preprocess | None, limit: int | None
) -> Source:
    if is_function(spec):
        return Function.of(spec, inputs, limit)
    path = Path(spec)
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists() raises for a name too long
        raise DataError(f"no such file or folder: {spec}", hint=EXAMPLES)
    if path.is_dir():
        return _folder(path, inputs, preprocess)
    if path.suffix.lower() in arrays.SUFFIXES:
        return arrays.ArrayFiles.of(path, (), inputs, f"{path.suffix.lower()[1:]} file")
    if path.suffix.lower() in images.SUFFIXES:
        raise DataError(f"{spec} is one image: name the folder it lies in")
    if path.suffix.lower() == ".py":
        raise DataError(f"{spec}: name the function too, as in {spec}:samples")
    raise DataError(f"{spec} is not a kind of data known here", hint=EXAMPLES)


def _folder(path: Path, inputs: Mapping[str, InputSpec], preprocess: Preprocess | None) -> Source:
    listing = images.list_folder(path, images.SUFFIXES | arrays.SUFFIXES)
    stored = [f for f in listing.files if Path(f).suffix.lower() in arrays.SUFFIXES]
    if not listing.files:
        others = f"; {listing.ignored} other files are in it" if listing.ignored else ""
        raise DataError(
            f"{path} holds no images ({' '.join(sorted(images.SUFFIXES))}) and no arrays "
            f"(.npz .npy){others}"
        )
    if stored and len(stored) < len(listing.files):
        raise DataError(
            f"{path} holds {len(listing.files) - len(stored)} images and {len(stored)} array "
            "files: name a folder with one kind"
        )
    if stored:
        return arrays.ArrayFiles.of(path, stored, inputs, "folder of arrays")
    if len(inputs) != 1:
        raise DataError(
            f"images feed models with one input, and this one takes {', '.join(inputs)}: "
            "give .npz files or file.py:function"
        )
    if preprocess is None:
        raise DataError(
            f"{path} holds images: name the preprocessing the model was trained with, "
            "--preprocess imagenet, cifar or a TOML file",
            hint=PREPROCESSING,
        )
    (spec,) = inputs.values()
    return images.ImageFolder.of(path, listing, spec, preprocess.for_input(spec.name, spec.shape))


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A :class:`graphopt.data.samples.Source` of made-up samples, each from its own seed."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, Any]
    count: int
    seed: int
    labels: Array | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kind: str = "normal noise"
    in_order: bool = False

    @property
    def names(self) -> Sequence[str]:
        """``synthetic 0`` and so on."""
        return [f"synthetic {i}" for i in range(self.count)]

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        """Draw N(0, 1) for floats, and 0 or 1 for integers and booleans."""
        for index in indices:
            rng = np.random.default_rng([self.seed, index])
            sample: Sample = {}
            for name, shape in self.shapes.items():
                kind = np.dtype(self.dtypes[name])
                draw = rng.integers(0, 2, shape) if kind.kind in "iub" else rng.normal(size=shape)
                sample[name] = np.asarray(draw).astype(kind)
            yield sample

    def digests(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Hash the values."""
        return map(hash_sample, self.read(indices))


def synthetic(
    inputs: Inputs,
    count: int,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Dataset:
    """Make samples up: for latency only; accuracy and INT8 ranges from them mean nothing.

    Args:
        inputs: input name -> (dtype, shape with the batch first).
        count: how many; rounded up to whole batches where the model fixes the batch.
        seed: the same seed gives the same samples.
        shapes: input name -> full shape, for inputs with free dimensions besides the batch.

    Raises:
        UsageError: a free dimension has no size.
    """
    known = specs(inputs)
    if not known or count < 1:
        raise UsageError(f"cannot make up {count} samples for {len(known)} inputs")
    given = {name: tuple(int(d) for d in shape) for name, shape in (shapes or {}).items()}
    for name in given:
        if name not in known:
            raise UsageError(
                f"--opt-shapes: '{name}' is no input of the model{did_you_mean(name, known)}; "
                f"its inputs: {', '.join(known)}"
            )
    sizes: dict[str, tuple[int, ...]] = {}
    for name, spec in known.items():
        row = given[name][1:] if name in given else spec.shape[1:]
        if (not spec.shape and name not in given) or not all(isinstance(d, int) for d in row):
            raise UsageError(
                f"input '{name}' is {spec.wants}: give its size, --opt-shapes {name}:…"
            )
        sizes[name] = tuple(int(d) for d in row if isinstance(d, int))
        spec.batch(np.broadcast_to(np.float32(0), (1, *sizes[name])), "--opt-shapes")
    fixed = fixed_batch(known.values()) or 1
    count = -(-count // fixed) * fixed
    dtypes = {n: np.float32 if s.dtype is None else s.dtype for n, s in known.items()}
    source = Synthetic(sizes, dtypes, count, seed)
    return Dataset("--synthetic", source, known, tuple(range(count)), synthetic=True)


def _alike(a: Sample, b: Sample) -> bool:
    return all(a[name].shape == b[name].shape for name in a)
