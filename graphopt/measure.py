"""What it cost: fidelity against the model as given, and latency, before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.engines.feeds import batch_of
from graphopt.machine import cpu_count
from graphopt.model import Feeds, Model
from graphopt.profiles import LatencyProfile, measure
from graphopt.verify import Fidelity, Runner, compare, opened

ROUNDS = 5
SECONDS = 0.25


def fidelity(
    before: Model | Path, after: Model, data: Dataset, ui: Console, *, exact: bool, what: str
) -> Fidelity:
    """Compare two models on the same samples.

    Args:
        before: the reference.
        after: the candidate.
        data: samples, with labels where there are any.
        ui: shows progress.
        exact: run the candidate as written (no rewrites), so that Q/DQ placed for another
            runtime is emulated faithfully instead of being fused the way ONNX Runtime would.
        what: named in the progress line.
    """
    with ExitStack() as stack:
        run_a = stack.enter_context(opened(before))
        run_b = stack.enter_context(opened(after, optimize=not exact))
        advance = stack.enter_context(ui.progress(f"verifying {what}", len(data)))
        return compare(run_a, run_b, data, progress=advance)


def latencies(candidates: Mapping[str, Model | Path], feeds: Feeds) -> dict[str, LatencyProfile]:
    """Time several models on this CPU, interleaved round by round so that drift hits all alike.

    Args:
        candidates: name -> model, timed in this order.
        feeds: one batch, the batch along axis 0.
    """
    batch = batch_of(feeds)
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    with ExitStack() as stack:
        runs = {
            name: _bind(stack.enter_context(opened(model)), feeds)
            for name, model in candidates.items()
        }
        profile: LatencyProfile | None = None
        for turn in range(ROUNDS):
            order = list(runs) if turn % 2 == 0 else list(reversed(runs))
            for name in order:
                profile = measure(
                    runs[name],
                    batch=batch,
                    warmup_s=0.1 if turn == 0 else 0.02,
                    min_s=SECONDS,
                    min_runs=5,
                )
                samples[name].extend(profile.samples_ms)
    environment = {
        **(profile.environment if profile is not None else {}),
        "runtime": "onnxruntime, CPU",
        "threads": str(cpu_count()),
        "interleaved_rounds": str(ROUNDS),
    }
    return {name: LatencyProfile(tuple(s), batch, environment) for name, s in samples.items()}


def _bind(run: Runner, feeds: Feeds) -> Callable[[], object]:
    return lambda: run(feeds)
