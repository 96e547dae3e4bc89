"""The time of each node, by ONNX Runtime's own profiler, in a pass of its own.

Its file (``end_profiling``) is JSON in the form of Chrome's traces: a list of events with ``cat``,
``name``, ``ts`` and ``dur`` in whole microseconds, and ``args``. A run is an event ``model_run``
of the category ``Session``; a node one of the category ``Node`` whose name ends with
``_kernel_time``. Nodes are those of the optimized graph: fused, and named by ONNX Runtime.
"""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import EnvironmentProblem
from graphopt.profiles.layer_times import LayerTimes, of_runs
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.model import Feeds

SOURCE = "ONNX Runtime's profiler"
_END = "_kernel_time"
_CONTAINERS = ("If", "Loop", "Scan")
_EVENTS = 200_000  # ONNX Runtime stops writing at a million
_WARM, _LEAST, _MOST = 3, 5, 100


def layer_times(path: Path, options: Any, feeds: Feeds) -> LayerTimes:
    """Run a model with the profiler on; return the median time of each node.

    Args:
        path: the model.
        options: SessionOptions of the timed session's kind, not used elsewhere.
        feeds: one batch.

    Raises:
        EnvironmentProblem: the profile cannot be written, or is not what is known.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        few = read_events(_profiled(path, options, feeds, Path(folder) / "few", _WARM))
        nodes = max(1, len(few) // _WARM)
        runs = min(_MOST, max(_LEAST, _EVENTS // nodes))
        events = read_events(_profiled(path, options, feeds, Path(folder) / "all", runs + _WARM))
    return of_events(events, skip=_WARM)


def _profiled(path: Path, options: Any, feeds: Feeds, prefix: Path, runs: int) -> Path:
    from graphopt.runtime import open_session

    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    ready = dict(feeds)
    with open_session(path, options=options) as session:
        try:
            for _ in range(runs):
                session.run(None, ready)
        finally:
            written = Path(session.end_profiling())
    return written


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read a profile.

    Raises:
        EnvironmentProblem: there is none, or it is no list of events.
    """
    try:
        events = json.loads(path.read_bytes())
    except (OSError, ValueError) as problem:
        raise EnvironmentProblem(
            f"ONNX Runtime's profile cannot be read: {one_line(problem, 120)}"
        ) from problem
    if not isinstance(events, list):
        raise EnvironmentProblem("ONNX Runtime's profile is no list of events")
    return [event for event in events if isinstance(event, dict)]


def of_events(events: list[dict[str, Any]], *, skip: int = 0) -> LayerTimes:
    """Return the median time of each node over the runs in a profile.

    The time of a node that holds graphs (If, Loop, Scan) is its own: that of the nodes inside is
    taken off, since they are layers too.

    Args:
        events: of a profile.
        skip: so many of the first runs are left out.

    Raises:
        EnvironmentProblem: no run is in it.
    """
    runs = sorted(float(e["ts"]) for e in events if e.get("name") == "model_run")
    nodes = [e for e in events if e.get("cat") == "Node" and str(e.get("name")).endswith(_END)]
    if len(runs) <= skip or not nodes:
        raise EnvironmentProblem("ONNX Runtime's profile holds no runs: it tells no layers")
    # Sub-graphs number their nodes anew, so the name is part of the key.
    times: list[dict[tuple[str, str], float]] = [{} for _ in runs]
    first: dict[tuple[str, str], float] = {}
    ops: dict[tuple[str, str], str] = {}
    nodes.sort(key=lambda e: (float(e["ts"]), -float(e["dur"])))
    for event, own in zip(nodes, _own_times(nodes), strict=True):
        run = bisect_right(runs, float(event["ts"])) - 1
        if run < skip:
            continue
        args = event.get("args") or {}
        key = (str(event["name"]).removesuffix(_END), str(args.get("node_index", "")))
        times[run][key] = times[run].get(key, 0.0) + own / 1000
        first.setdefault(key, float(event["ts"]))
        ops[key] = str(args.get("op_name", ""))
    named = {key: (key[0] or f"{ops[key]} {key[1]}".strip(), ops[key]) for key in first}
    return LayerTimes(
        of_runs(times[skip:], named),
        SOURCE,
        "in whole microseconds, measured in a pass of its own; the profiler slows short nodes",
    )


def _own_times(nodes: list[dict[str, Any]]) -> list[float]:
    """Return each event's time without that of the events inside, in the unit they are in."""
    own = [float(e["dur"]) for e in nodes]
    open_: list[tuple[int, float]] = []  # containers that the present event may lie in
    for index, event in enumerate(nodes):
        end = float(event["ts"]) + float(event["dur"])
        while open_ and open_[-1][1] < end:
            open_.pop()
        if open_:
            own[open_[-1][0]] -= float(event["dur"])
        if (event.get("args") or {}).get("op_name") in _CONTAINERS:
            open_.append((index, end))
    return [max(0.0, each) for each in own]
