from __future__ import annotations

import json

import numpy as np
import pytest
from engine_models import HOST, convnet, parsed

from graphopt.engines import BuildOptions
from graphopt.engines._ort_layers import of_events, read_events
from graphopt.engines.onnxruntime import OnnxRuntime
from graphopt.errors import EnvironmentProblem, UsageError

FEEDS = {"x": np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)}


def run(ts):
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": 100}


def node(name, op, ts, dur, index=0):
    args = {"op_name": op, "node_index": str(index)}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def test_the_median_of_each_node_over_the_runs():
    events = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 9}]
    for turn, (conv, relu) in enumerate([(900, 900), (20, 5), (40, 6), (30, 7)]):
        at = 1000 * (turn + 1)
        events += [node("c", "Conv", at + 1, conv, 0), node("", "Relu", at + 950, relu, 1), run(at)]
        events.append({"cat": "Node", "name": "c_fence_before", "ts": at, "dur": 3})
    layers = of_events(events, skip=1).layers
    assert [(e.name, e.op, e.median_ms, e.count) for e in layers] == [
        ("c", "Conv", 0.030, 3),
        ("Relu 1", "Relu", 0.006, 3),
    ]
    assert sum(e.share for e in layers) == pytest.approx(1)


def test_a_node_with_a_graph_has_its_own_time_alone():
    events = []
    for at in (0, 1000):
        events += [
            run(at),
            node("loop", "Loop", at + 10, 100, 5),
            node("after", "Add", at + 110, 7),
        ]
        # The body runs three times, and holds an If with a body.
        for turn in range(3):
            start = at + 12 + 30 * turn
            events.append(node("choice", "If", start, 20, 1))
            events.append(node("inner", "Mul", start + 2, 15, 0))
    found = {e.name: e.median_ms for e in of_events(events).layers}
    assert found == pytest.approx({"loop": 0.040, "choice": 0.015, "inner": 0.045, "after": 0.007})


@pytest.mark.parametrize("text", ["", "{}", "[1", "nothing"])
def test_what_is_no_profile_is_told(text, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(EnvironmentProblem, match="ONNX Runtime's profile"):
        read_events(path)
    with pytest.raises(EnvironmentProblem, match="no runs"):
        of_events([run(0)], skip=0)
    with pytest.raises(EnvironmentProblem, match="no runs"):
        of_events([run(0), node("c", "Conv", 1, 1)], skip=1)


def opened(model, tmp_path, **how):
    path = OnnxRuntime().build(model, tmp_path / "m.ort.onnx", BuildOptions(HOST)).path
    return OnnxRuntime().open(path, **how)


def test_every_node_of_the_optimized_graph_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(convnet(), tmp_path, threads=1) as session:
        times = session.layer_times(FEEDS)
    assert [p.name for p in tmp_path.iterdir()] == ["m.ort.onnx"]
    assert sum(e.op in ("Conv", "FusedConv", "Gemm") for e in times.layers) == 3
    assert {e.count for e in times.layers} == {100}
    assert sum(e.share for e in times.layers) == pytest.approx(1)
    assert json.dumps(times.to_json())


def test_nodes_of_a_body_are_told_once(tmp_path):
    model = parsed(
        "g (float[64, 64] x, int64 n) => (float[64, 64] y) <bool go = {1}> {\n"
        "  y = Loop(n, go, x) <body = b (int64 i, bool c, float[64, 64] a) =>\n"
        "    (bool d, float[64, 64] z) { d = Identity(c)\n  z = MatMul(a, a) }>\n}"
    )
    feeds = {"x": np.eye(64, dtype=np.float32), "n": np.array(5)}
    with opened(model, tmp_path, threads=1) as session:
        times = session.layer_times(feeds)
    ops = [e.op for e in times.layers]
    assert ops.count("Loop") == 1
    assert ops.count("MatMul") == 1


def test_a_timer_runs_the_batch_it_was_made_for_on_its_streams(tmp_path):
    with opened(convnet(), tmp_path, threads=1) as session:
        timer = session.timer(FEEDS, streams=3)
        assert (timer.batch, timer.streams) == (4, 3)
        assert timer.environment["threads"] == "1"
        assert timer.environment["streams"] == "3"
        assert len(timer.burst(0, 2).samples_ms) == 6
        with pytest.raises(UsageError, match="must have the shape"):
            session.timer({"x": FEEDS["x"][:, :2]})


def test_a_run_that_stops_while_it_is_timed_is_told(tmp_path, monkeypatch):
    with opened(convnet(), tmp_path) as session:
        timer = session.timer(FEEDS)

        class Broken:
            def run(self, *_):
                raise RuntimeError("Failed to allocate memory for requested buffer of size 8")

            def get_session_options(self):
                return session_options

        session_options = session._session.get_session_options()
        monkeypatch.setattr(session, "_session", Broken())
        with pytest.raises(UsageError, match="could not run these inputs: Failed to allocate"):
            session.timer(FEEDS)
        assert timer.burst(0, 1).samples_ms[0] > 0
