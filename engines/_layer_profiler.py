"""The time of each layer, told by TensorRT's profiler (``IProfiler``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.errors import EnvironmentProblem
from graphopt.profiles.layer_times import LayerTimes, of_runs

if TYPE_CHECKING:
    from graphopt.engines._session import EngineSession
    from graphopt.model import Feeds

SOURCE = "TensorRT's profiler"
_WARM = 3


def layer_times(trt: Any, session: EngineSession, feeds: Feeds, runs: int) -> LayerTimes:
    """Run an engine with a profiler; return the median time of each layer.

    Args:
        trt: the module, ``tensorrt`` or ``tensorrt_rtx``.
        session: whose context gets the profiler, for good.
        feeds: one batch.
        runs: how many are kept.

    Raises:
        EnvironmentProblem: the profiler told nothing.
    """
    found: list[dict[tuple[str, int], float]] = []
    seen: dict[str, int] = {}

    class Collecting(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            # TensorRT requires this very call, not super().
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            # Names need not be unique: the n-th of a name in a run is one layer.
            seen[layer_name] = seen.get(layer_name, 0) + 1
            found[-1][layer_name, seen[layer_name]] = float(ms)

    profiler = Collecting()
    run = session.profiled(profiler, feeds)
    for _ in range(_WARM + runs):
        seen.clear()
        found.append({})
        run()
    kept = found[_WARM:]
    named = {key: (key[0], "") for each in kept for key in each}
    if not named:
        raise EnvironmentProblem("TensorRT's profiler told no layers: it cannot tell their times")
    return LayerTimes(
        of_runs(kept, named),
        SOURCE,
        "measured in a pass of its own, without a CUDA graph; one layer waits for the other",
    )
