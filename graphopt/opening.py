"""Opening any artifact by what the file is: an ONNX model, or an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from graphopt.data import Dataset, synthetic
from graphopt.engines import ENGINES, Session
from graphopt.engines.header import identify, is_engine
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.model import Model


@contextmanager
def opened(path: Path) -> Iterator[Session]:
    """Open a model on ONNX Runtime, or an engine on its own runtime.

    Raises:
        UsageError: no such file.
        EnvironmentProblem: an engine, and this machine cannot run it.
        UnsupportedModelError: the runtime refuses it.
    """
    if not path.exists():
        raise UsageError(f"no such file: {path}")
    name = identify(path).kind if is_engine(path) else "onnxruntime"
    engine = ENGINES.load(name)()
    why = engine.missing() or engine.cannot_run()
    if why:
        raise EnvironmentProblem(f"{path.name} cannot be run here: {why}")
    if name == "onnxruntime":
        Model.load(path)  # says in one line what is wrong with the file
    with engine.open(path) as session:
        yield session


def made_up(path: Path, batch: int, shapes: Mapping[str, tuple[int, ...]], seed: int) -> Dataset:
    """Return one random batch for a model, for timing.

    Raises:
        UsageError: a dynamic dimension other than the batch has no size.
    """
    inputs = Model.load(path).inputs()
    for name, (_, shape) in inputs.items():
        open_dims = [d for d in shape[1:] if not isinstance(d, int)]
        if open_dims and name not in shapes:
            spelled = "x".join(str(d) for d in shape)
            raise UsageError(f"input '{name}' is {spelled}: give --opt-shapes {name}:… or --data")
    return synthetic(inputs, batch, seed=seed, shapes=shapes)
