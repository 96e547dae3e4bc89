"""The benchmark of recovery: its judgement by hand-made cases, and a quick run of it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import SHARED, needs_shared

from graphopt.channels import analyze
from graphopt.channels.plan import matches
from graphopt.model import Model

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of tools/ by name."""
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, dtype=np.float32).reshape(-1, 4)


def test_overlap_of_boxes(tool: Any) -> None:
    overlap = tool("detections").overlap
    one = boxes((0, 0, 2, 2))[0]
    others = boxes((0, 0, 2, 2), (1, 0, 3, 2), (2, 2, 3, 3), (0, 0, 1, 1), (0, 0, 0, 0))
    assert overlap(one, others) == pytest.approx([1, 2 / 6, 0, 1 / 4, 0])
    assert overlap(boxes((1, 1, 1, 1))[0], boxes((1, 1, 1, 1))) == pytest.approx([0])


def test_suppression_keeps_the_surest_of_what_overlaps(tool: Any) -> None:
    detect = tool("detections").detect
    scores = np.array([0.8, 0.95, 0.9, 0.7, 0.71], dtype=np.float32)
    places = boxes((0, 0, 10, 10), (1, 0, 11, 10), (50, 0, 60, 10), (80, 0, 90, 10), (0, 50, 9, 60))
    assert detect(scores, places).tolist() == places[[1, 2, 4]].tolist()  # 0.7 is not above 0.7
    assert detect(scores - 1, places).shape == (0, 4)


def test_a_detection_is_found_once(tool: Any) -> None:
    agreement = tool("detections").Agreement()
    reference = boxes((0, 0, 10, 10), (100, 0, 110, 10))
    agreement.add(reference, boxes((0, 0, 10, 10), (1, 0, 11, 10), (200, 0, 210, 10)))
    agreement.add(reference, boxes())
    agreement.add(boxes(), reference)
    assert agreement.to_json() == {"reference": 4, "candidate": 5, "same": 1}


RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y)
<float[8, 3, 1, 1] stem, float[6, 8, 1, 1] up, float[8, 6, 1, 1] down, float[2, 8, 1, 1] head> {
  a = Conv (x, stem)
  b = Conv (a, up)
  r = Relu (b)
  c = Conv (r, down)
  s = Add (a, c)
  y = Conv (s, head)
}
"""


def test_only_residual_streams_are_kept(tool: Any, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(RESIDUAL)
    rng = np.random.default_rng(0)
    for info in list(proto.graph.value_info):
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        values = rng.standard_normal(shape, dtype=np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
    del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "net.onnx")
    groups = analyze(Model.load(tmp_path / "net.onnx")).groups
    patterns = tool("recovery_runs").keep_streams(groups)
    kept = [g.width for g in groups if any(matches(g, p) for p in patterns)]
    assert kept == [8]
    assert [g.width for g in groups if g.width not in kept] == [6]


def test_figures_are_of_the_command_and_not_of_its_parent(tool: Any, tmp_path: Path) -> None:
    run = tool("recovery_runs")
    big, small = "a = b'x' * 300_000_000; print(len(a))", "print('ok')"
    ballast = np.ones(40_000_000)  # 320 MB of this process
    figures, told = run.measured([sys.executable, "-c", small], tmp_path)
    assert told.strip() == "ok"
    assert 2 * figures["peak_mb"] < ballast.nbytes / 1e6
    assert run.measured([sys.executable, "-c", big], tmp_path)[0]["peak_mb"] > 300
    fails = "import sys; print('note', file=sys.stderr); sys.exit('error: no such thing')"
    with pytest.raises(run.Failed, match="exit 1: no such thing"):
        run.measured([sys.executable, "-c", fails], tmp_path)


def test_every_case_has_a_key_of_its_own_and_a_reference_that_is_run(tool: Any) -> None:
    cases = tool("recovery_cases")
    for quick in (False, True):
        for make in cases.PARTS.values():
            keys = [c.key for c in make(quick)]
            assert len(set(keys)) == len(keys)
            assert {c.equal for c in make(quick) if c.equal} <= set(keys)


def test_the_page_says_what_was_refused_and_what_is_missing(tool: Any) -> None:
    cases, page = tool("recovery_cases"), tool("recovery_page").page
    one, two, *_ = cases.part_a(False)
    rows = {one.key: {"problem": "exit 2: why not", "options": {"samples": 5}, "jobs": 2}}
    rows[one.key]["part"] = "A"
    raw = {"rows": rows, "parts": {}, "machine": {"cpu": "some", "cores": 2}}
    text = page(raw, False, "")
    assert f"| {one.title} | refused |" in text
    assert f"- {one.title}: exit 2: why not" in text
    assert f"| {two.title} | not measured |" in text
    assert "Part A ran 2 cases at a time" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in table)


@pytest.mark.slow
@needs_shared
def test_a_quick_run_measures_writes_and_resumes(tmp_path: Path) -> None:
    output = tmp_path / "recovery.md"
    command = [sys.executable, str(TOOLS / "bench_recovery.py"), "--data", str(SHARED), "--quick"]
    command += ["--parts", "A", "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    raw = json.loads(output.with_suffix(".json").read_text())
    place = "A/resnet20_cifar10/0.5"
    none, solved = (raw["rows"][f"{place}/l2, {how}"] for how in ("none", "least-squares"))
    assert none["channels"] == solved["channels"]
    assert none["right"][0] == solved["right"][0] == 854
    assert none["right"][1] + 200 < solved["right"][1]
    assert none["lost"] - none["gained"] == none["right"][0] - none["right"][1]
    assert solved["peak_mb"] > 20 and "recover" in solved["stages"]
    again = subprocess.run([*command, "--resume"], check=True, capture_output=True, text=True)
    assert place not in again.stderr  # nothing was measured again
    assert json.loads(output.with_suffix(".json").read_text())["rows"] == raw["rows"]
    assert again.stdout.strip() == output.read_text().strip()
    full = subprocess.run(
        [c for c in command if c != "--quick"], check=False, capture_output=True, text=True
    )
    assert full.returncode and "holds a quick run" in full.stderr
