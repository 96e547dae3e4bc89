"""``file.py:function``: samples or batches from the user's own code."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
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
from graphopt.errors import DataError, GraphoptError
from graphopt.graph import Array
from graphopt.registry import did_you_mean
from graphopt.wording import one_line

_END = object()


@dataclass(frozen=True, slots=True)
class Function:
    """A :class:`~graphopt.data.samples.Source` over a generator, run anew for each pass.

    Its samples cannot be reached out of order, so a limit takes the first ones. One pass is
    made at the start: it counts, checks and hashes, and keeps none of the samples.
    """

    spec: str
    call: Callable[[], Any]
    inputs: Mapping[str, InputSpec]
    names: tuple[str, ...]
    labels: Array | None
    hashes: tuple[bytes, ...]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    kind: str = "function"
    in_order: bool = True

    @classmethod
    def of(cls, spec: str, inputs: Mapping[str, InputSpec], limit: int | None) -> Function:
        """Import the file, find the function, and go through what it yields once.

        Args:
            spec: ``path/to/file.py:function``; the function takes no arguments.
            inputs: what the model takes.
            limit: take no more samples than this; None goes on until the function ends.

        Raises:
            DataError: no such file or function, it fails, or yields something else.
        """
        call = load_function(spec)
        hashes: list[bytes] = []
        labels: list[int | None] = []
        for sample, label in _samples(spec, call, inputs):
            hashes.append(hash_sample(sample))
            labels.append(label)
            if limit is not None and len(hashes) >= limit:
                break
        known = [label for label in labels if label is not None]
        if known and len(known) < len(labels):
            raise DataError(
                f"{spec}: sample {labels.index(None)} has no label, but others have: "
                "give all or none"
            )
        note = f"the first {limit} samples the function yields" if len(hashes) == limit else ""
        return cls(
            spec,
            call,
            inputs,
            tuple(f"sample {i}" for i in range(len(hashes))),
            np.array(known, dtype=np.int64) if known else None,
            tuple(hashes),
            (note,) if note else (),
        )

    def read(self, indices: Sequence[int]) -> Iterator[Sample]:
        """Run the function and yield these samples.

        Raises:
            DataError: it yields fewer, or others, than the first time.
        """
        wanted = iter(indices)
        due = next(wanted, None)
        if due is None:
            return
        for i, (sample, _) in enumerate(_samples(self.spec, self.call, self.inputs)):
            if i < due:
                continue
            if hash_sample(sample) != self.hashes[i]:
                raise DataError(
                    f"{self.spec}: sample {i} is not what it was the first time: the function "
                    "must yield the same samples each time it is called (seed its generator)"
                )
            yield sample
            due = next(wanted, None)
            if due is None:
                return
        raise DataError(
            f"{self.spec}: {len(self.hashes)} samples the first time, fewer now: the function "
            "must yield the same samples each time it is called"
        )

    def digests(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Return what the first pass hashed."""
        return (self.hashes[i] for i in indices)


def is_function(spec: str) -> bool:
    """Whether a SPEC names a function in a Python file."""
    path, colon, _ = spec.rpartition(":")
    return bool(colon) and path.endswith(".py")


def load_function(spec: str) -> Callable[[], Any]:
    """Import ``file.py`` under a name of its own and return the function.

    The file's folder can be imported from while it loads, as when Python runs it.

    Raises:
        DataError: no such file or function, or the file fails.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file() raises for a name too long
        raise DataError(f"no such file: {file}")
    resolved = path.resolve()
    unique = f"graphopt_data_{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}"
    loader = importlib.util.spec_from_file_location(unique, resolved)
    if loader is None or loader.loader is None:
        raise DataError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(loader)
    sys.modules[unique] = module  # Dataclasses and pickle look their module up.
    sys.path.insert(0, str(resolved.parent))
    try:
        with _told(file):
            loader.loader.exec_module(module)
    except DataError:
        del sys.modules[unique]
        raise
    finally:
        sys.path.remove(str(resolved.parent))
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise DataError(
            f"{file} has no function '{name}'{did_you_mean(name, names)}; "
            f"it has {', '.join(sorted(names)) or 'none'}"
        )
    return function  # type: ignore[no-any-return]


def _samples(
    spec: str, call: Callable[[], Any], inputs: Mapping[str, InputSpec]
) -> Iterator[tuple[Sample, int | None]]:
    """Run the function; split what it yields into checked samples with their labels."""
    with _told(spec):
        items = iter(call())
    count = 0
    while True:
        with _told(spec):
            item = next(items, _END)
        if item is _END:
            return
        yield from _split(item, inputs, f"{spec}: item {count}")
        count += 1


def _split(
    item: Any, inputs: Mapping[str, InputSpec], where: str
) -> Iterator[tuple[Sample, int | None]]:
    labels = None
    if isinstance(item, tuple) and len(item) == 2:
        item, labels = item
    if not isinstance(item, Mapping):
        if len(inputs) != 1:
            raise DataError(
                f"{where} is {type(item).__name__}; the model takes {', '.join(inputs)}: "
                "yield a dict with an array for each"
            )
        item = dict.fromkeys(inputs, item)
    if labels is None:
        key = next((name for name in LABEL_NAMES if name in item and name not in inputs), None)
        labels = None if key is None else item[key]
    pairs, unused = match_names([name for name in item if isinstance(name, str)], inputs, where)
    if unused:
        raise DataError(
            f"{where} has '{unused[0]}'{did_you_mean(unused[0], inputs)}, which no input takes; "
            f"the model takes {', '.join(inputs)}"
        )
    arrays = {}
    for name, key in pairs.items():
        with _told(where):
            array = np.asarray(item[key])
        if array.dtype.kind in "OUSM":
            raise DataError(
                f"{where}: '{name}' is {type(item[key]).__name__}, not an array of numbers"
            )
        arrays[name] = inputs[name].convert(inputs[name].batch(array, where), where)
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {n}" for name, n in counts.items())
        raise DataError(f"{where}: inputs have different numbers of samples: {told}")
    count = next(iter(counts.values()))
    known = None if labels is None else read_labels(labels, count, where)
    for row in range(count):
        label = None if known is None else int(known[row])
        yield {name: array[row] for name, array in arrays.items()}, label


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Run the user's code: whatever it raises becomes one line that says where.

    What it prints goes to standard error, for standard output holds results; the working folder
    stays, for paths given on the command line depend on it.
    """
    try:
        with _printing_apart(), _working_folder(where):
            yield
    except (GraphoptError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as problem:
        # sys.exit() too: a sample that ends the program must not look like success.
        frames = traceback.extract_tb(problem.__traceback__)
        own = (f for f in reversed(frames) if f.filename != __file__ and f.filename[:1] != "<")
        last = next(own, None)
        line = f" ({Path(last.filename).name}, line {last.lineno})" if last else ""
        told = one_line(f"{type(problem).__name__}: {problem}", 200)
        raise DataError(f"{where} failed: {told}{line}") from problem


@contextmanager
def _printing_apart() -> Iterator[None]:
    """Send to standard error what is printed, by Python or by what it calls."""
    with redirect_stdout(sys.stderr):
        try:
            saved = os.dup(1)
        except OSError:  # closed: nothing to keep clean
            yield
            return
        try:
            with suppress(OSError):
                os.dup2(2, 1)
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)


@contextmanager
def _working_folder(where: str) -> Iterator[None]:
    before = _here()
    try:
        yield
    finally:
        moved = before != "" and _here() != before
        if moved:
            os.chdir(before)
    if moved:
        raise DataError(
            f"{where} changes the working folder, which paths on the command line depend on: "
            "use paths relative to __file__ instead of os.chdir"
        )


def _here() -> str:
    with suppress(OSError):  # The folder itself may have been removed.
        return os.getcwd()  # noqa: PTH109 - Path.cwd() normalizes, and this runs for each sample
    return ""
