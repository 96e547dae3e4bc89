"""The benchmark of the gate: candidates that compute the same, and its bookkeeping."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from helpers import SHARED, needs_shared, run

from graphopt.cost import cost
from graphopt.graph import name_nodes
from graphopt.model import Model

TOOLS = Path(__file__).resolve().parents[2] / "tools"

MOBILE = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[N, 3, 12, 12] x) => (float[N, 5, 6, 6] y, float[N, 8, 12, 12] z)
{
  z = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
  a = Conv (z, w1, b1)
  b = Relu (a)
  c = Conv <group = 12, pads = [1, 1, 1, 1], strides = [2, 2]> (b, w2, b2)
  d = Relu (c)
  y = Conv (d, w3)
}
"""

WEIGHTS: list[tuple[Any, ...]] = [
    ("w0", 8, 3, 3, 3),
    ("b0", 8),
    ("w1", 12, 8, 1, 1),
    ("b1", 12),
    ("w2", 12, 1, 3, 3),
    ("b2", 12),
    ("w3", 5, 12, 1, 1),
]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of tools/ by name."""
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module


def mobile() -> Model:
    proto = onnx.parser.parse_model(MOBILE)
    rng = np.random.default_rng(0)
    for name, *shape in WEIGHTS:
        values = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model = Model.from_onnx(proto)
    name_nodes(model.graph)
    return model


def feeds_of(model: Model, rows: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        n: rng.standard_normal([d if isinstance(d, int) else rows for d in s]).astype(np.float32)
        for n, (_, s) in model.inputs().items()
    }


def same(one: Model, other: Model) -> None:
    feeds = feeds_of(one)
    for a, b in zip(run(one, feeds), run(other, feeds), strict=True):
        assert float(np.abs(a - b).max()) <= 1e-5 * float(np.abs(a).max())
    onnx.checker.check_model(other.to_onnx(), full_check=True)


def test_a_wider_model_is_the_same_function(tool: Any) -> None:
    widen = tool("widen")
    model = mobile()
    # What is a graph output keeps its channels, so the first convolution is no spot.
    (spot,) = widen.spots(model)
    assert (spot.channels, len(spot.depthwise)) == (12, 1)
    before = model.digest()
    wider = widen.widen(model, {spot.writer: 5})
    assert model.digest() == before
    same(model, wider)
    nodes = {node.name: node for node in wider.graph.nodes}
    assert nodes[spot.depthwise[0]].attrs["group"] == 17
    assert nodes[spot.reader].inputs[1].shape == (5, 17, 1, 1)
    assert cost(wider, {"x": (1, 3, 12, 12)}).macs > cost(model, {"x": (1, 3, 12, 12)}).macs
    # What was added is computed for something: it is not zero where it is read.
    assert np.abs(nodes[spot.writer].inputs[1].values[12:]).min() > 0


def test_there_is_no_such_spot(tool: Any) -> None:
    with pytest.raises(KeyError):
        tool("widen").widen(mobile(), {"nothing": 1})


@needs_shared
@pytest.mark.parametrize("name", ["resnet20_cifar10", "face_rfb320"])
def test_real_models_made_wider_are_the_same_function(tool: Any, name: str) -> None:
    widen = tool("widen")
    model = tool("slower").prepared(SHARED / f"models/{name}.onnx")
    found = widen.spots(model)
    assert len(found) >= 9
    same(model, widen.widen(model, {s.writer: 16 for s in found[:4]}))


def test_the_nearest_steps_are_chosen(tool: Any) -> None:
    nearest = tool("slower")._nearest
    steps = {("a", 16): 0.02, ("a", 32): 0.04, ("b", 16): 0.03, ("c", 16): 0.011}
    assert nearest(steps, 0.03) == {"b": 16}
    assert nearest(steps, 0.081) == {"a": 32, "b": 16, "c": 16}
    assert nearest(steps, 0.9) == {"a": 32, "b": 16, "c": 16}


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        # By hand: U = 0, mean 8, variance 12: z = (8 - 0.5) / sqrt(12).
        ([1, 2, 3, 4], [5, 6, 7, 8], 0.0304),
        # Ties: scipy.stats.mannwhitneyu(..., method="asymptotic").
        ([1, 1, 2, 3, 3, 4], [1, 3, 4, 4, 5, 6], 0.12014),
        ([1.0] * 5, [1.0] * 7, 1.0),
    ],
)
def test_mann_whitney(tool: Any, a: list[float], b: list[float], p: float) -> None:
    test = tool("mann_whitney").mann_whitney
    assert test(a, b) == pytest.approx(p, abs=2e-4)
    assert test(b, a) == pytest.approx(test(a, b), abs=1e-12)


def test_mann_whitney_is_at_its_level_where_nothing_differs(tool: Any) -> None:
    test, rng = tool("mann_whitney").mann_whitney, np.random.default_rng(0)
    alarms = [test(rng.random(40), rng.random(50)) < 0.05 for _ in range(400)]
    assert 0.02 < np.mean(alarms) < 0.09


def test_the_state_survives_a_torn_line(tool: Any, tmp_path: Path) -> None:
    state_of, path = tool("bench_gate").State, tmp_path / "state.jsonl"
    state = state_of(path)
    state.add({"kind": "check", "key": "a", "seconds": 1})
    with path.open("a") as out:
        out.write('{"kind": "check", "k')
    again = state_of(path)
    assert again.entries == state.entries
    again.add({"kind": "check", "key": "b", "seconds": 2})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_the_page_counts(tool: Any) -> None:
    bench = tool("bench_gate")
    state = bench.State(None)
    state.add({"kind": "environment", "key": "", "environment": {
        "cpu": "a CPU", "of_cores": "2", "onnxruntime": "1"}})  # fmt: skip
    for k, status in enumerate(["pass", "pass", "fail", "inconclusive"]):
        gate = {"status": status, "change": 0.01 * k, "openings": 8, "seconds": 1.0}
        usual = {"p": 0.01 if k else 0.5, "change": 0.01 * k}
        state.add({"kind": "check", "key": "m/quiet/0", "gate": {"0.02": gate}, "usual": usual,
                   "base_ms": 0.5})  # fmt: skip
    text, raw = bench.page(state)
    (row,) = raw["rows"]
    assert (row["checks"], row["fail"], row["pass"], row["inconclusive"]) == (4, 1, 2, 1)
    assert (row["usual"], row["usual_limit"]) == (3, 1)
    assert "| m | quiet | 0.500 | +0% | +1.50% (1.29%) | 2% | 4 | **25.0%** |" in text


@needs_shared
@pytest.mark.slow
def test_a_check_of_a_real_model(tool: Any, tmp_path: Path) -> None:
    bench, slower, widen = tool("bench_gate"), tool("slower"), tool("widen")
    model = slower.prepared(SHARED / "models/resnet20_cifar10.onnx")
    base = model.save(tmp_path / "base.onnx")
    every = {s.writer: 64 for s in widen.spots(model)}
    cand = widen.widen(model, every).save(tmp_path / "cand.onnx")
    entry = bench.check(base, cand, slower.random_feeds(model), (0.02, 0.03), 0)
    # Several times as much to compute: whatever else runs here.
    assert {v["status"] for v in entry["gate"].values()} == {"fail"}
    assert entry["usual"]["change"] > 0.2


@pytest.mark.slow
def test_simulated_machines(tool: Any) -> None:
    """No false failures, real ones found, intervals that hold, on drifting noisy machines."""
    simulate = tool("simulate_gate")
    for name in ("quiet", "neighbour"):
        machine = simulate.MACHINES[name]
        alarms = simulate.characteristics(machine, 0.0, 0.02, 40)
        assert alarms["fail"] == 0 and alarms["pass"] >= 0.95
        edge = simulate.characteristics(machine, 0.02, 0.02, 20)
        assert edge["fail"] <= 0.05 and edge["held"] >= 0.9
        assert simulate.characteristics(machine, 0.05, 0.02, 20)["fail"] >= 0.98
