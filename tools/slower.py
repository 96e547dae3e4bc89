"""Candidates that are slower by a wanted share: which channels to add is found by measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from widen import spots, widen

from graphopt.graph import name_nodes
from graphopt.model import Feeds, Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.profiles.interleave import Open, local, take_turns
from graphopt.profiles.regression import Round, Verdict, judge
from graphopt.runtime import open_session

# ONNX Runtime lays channels out in blocks of 8 or 16: fewer cost as much.
BLOCK = 16
# Near enough, how often to correct, and openings of each try.
_TOLERANCE, _TRIES, _TRY = 0.0015, 4, 24


@dataclass(frozen=True, slots=True)
class Slower:
    """A candidate.

    Attributes:
        extra: writer of a spot -> channels added; empty: the model itself.
        verdict: how much slower it was in a long measurement, or None.
    """

    extra: Mapping[str, int]
    verdict: Verdict | None


def prepared(path: Path) -> Model:
    """Load a model as the others are made from it: BatchNorm folded, every node named."""
    model = Model.load(path)
    for step in (RaiseOpset(13), Simplify(), FoldBatchNorm()):
        model = step(model).model
    name_nodes(model.graph)
    return model


def random_feeds(model: Model) -> Feeds:
    """Return one random sample."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal([d if isinstance(d, int) else 1 for d in shape]).astype(dtype)
        for name, (dtype, shape) in model.inputs().items()
    }


def opener(path: Path, feeds: Feeds) -> Open:
    """Return what opens a file with ONNX Runtime on one thread, as ``graphopt check`` does."""

    @contextmanager
    def opened() -> Iterator[Callable[[], object]]:
        with open_session(path, threads=1) as session:
            yield lambda: session.run(None, feeds)

    return local(opened)


def measured(base: Path, cand: Path, feeds: Feeds, openings: int) -> Verdict:
    """Measure how much slower ``cand`` is; so many openings, whatever comes of it."""
    rounds: list[Round] = []
    shape = None
    for opening in range(openings):
        pair = (opener(base, feeds), opener(cand, feeds))
        shape, turns = take_turns(pair, opening, shape)
        rounds += [Round(tuple(a), tuple(b), opening) for a, b in turns]
    return judge(rounds)


def find(
    model: Model,
    base: Path,
    wanted: float,
    steps: Mapping[tuple[str, int], float],
    openings: int,
) -> Slower:
    """Find channels that make the model slower by ``wanted``.

    Args:
        model: the baseline.
        base: its file.
        wanted: 0.03 is 3 %.
        steps: (writer, channels) -> what it costs alone, from :func:`costs`.
        openings: of the measurement that counts.
    """
    feeds = random_feeds(model)
    aim, best = wanted, Slower({}, None)
    cand = base.with_name(f"{base.stem}-try.onnx")
    for _ in range(_TRIES):
        extra = _nearest(steps, aim)
        widen(model, extra).save(cand)
        found = Slower(extra, measured(base, cand, feeds, _TRY))
        assert found.verdict is not None
        off = found.verdict.change - wanted
        if best.verdict is None or abs(off) < abs(best.verdict.change - wanted):
            best = found
        if abs(off) <= _TOLERANCE:
            break
        aim -= off
    widen(model, best.extra).save(cand)
    return Slower(best.extra, measured(base, cand, feeds, openings))


def costs(model: Model, base: Path, openings: int) -> dict[tuple[str, int], float]:
    """Measure what one block and two blocks of channels cost at each spot."""
    feeds, found = random_feeds(model), {}
    for spot in spots(model):
        for more in (BLOCK, 2 * BLOCK):
            cand = base.with_name(f"{base.stem}-step.onnx")
            widen(model, {spot.writer: more}).save(cand)
            found[spot.writer, more] = measured(base, cand, feeds, openings).change
    return found


def _nearest(steps: Mapping[tuple[str, int], float], aim: float) -> dict[str, int]:
    """Return the steps, at most four and one a spot, whose costs add up best."""
    best: tuple[float, tuple[tuple[str, int], ...]] = (float("inf"), ())
    for count in range(1, 5):
        for chosen in combinations(sorted(steps), count):
            if len({writer for writer, _ in chosen}) < count:
                continue
            off = abs(sum(steps[step] for step in chosen) - aim)
            if off < best[0] - 1e-4:
                best = (off, chosen)
        if best[0] < 5e-4:
            break
    return dict(best[1])
