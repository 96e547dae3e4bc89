"""Every file that graphopt writes is what its schema says, and says nothing its schema does not."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from helpers import ROOT, conv_net, image_samples
from helpers import command_line as call

from graphopt import schemas
from graphopt.errors import UsageError
from graphopt.recipe import Recipe
from graphopt.runs import run_of_report

Draft = jsonschema.Draft202012Validator


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a build, an analysis and a profile leave behind."""
    folder = tmp_path_factory.mktemp("schemas")
    conv_net(32).save(folder / "net.onnx")
    np.savez(folder / "calib.npz", image=image_samples(16))
    np.savez(folder / "test.npz", image=image_samples(16, seed=2), labels=np.arange(16) % 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("graphopt.measure.SECONDS", 0.01)
        for name in ("CI", "GITHUB_ACTIONS", "GITLAB_CI"):
            patch.delenv(name, raising=False)
        data = ("--data", "calib.npz")
        build = ("build", "net.onnx", *data, "--eval", "test.npz", "--engine", "onnxruntime")
        assert call(*build, "--int8", "--prune", "0.3", "--max-drop", "100", "-o", "out",
                    "--metrics", "metrics.json", "--bmf", "bmf.json", "-q") == 0  # fmt: skip
        assert call(*build, "--min-sqnr", "190", "--int8", "-o", "failed", "-q") == 1
        assert call("optimize", "net.onnx", "-o", "plain", "-q") == 0
        assert call("optimize", "net.onnx", "--device", "t4", "-o", "device", "-q") == 0
        assert call("analyze", "net.onnx", *data, "--ratios", "0.5", "--samples", "8",
                    "-o", "sensitivity.json", "-q") == 0  # fmt: skip
        short = ("--duration", "0.05", "--warm-up", "1", "-q")
        run = ("profile", "out/model.ort.onnx", *short)
        assert call(*run, "-o", "latency.json", "--layers", "layers.json") == 0
        assert call(*run, "-o", "sweep.json", "--batch", "1,2") == 0
        assert call(*run, "-o", "layers-in.json", "--layers", "-", "--max-latency", "5") == 0
        assert call("estimate", "net.onnx", "--device", "t4", "-o", "estimate.json", "-q") == 0
        both = ("out/model.ort.onnx", "--baseline", "out/model.ort.onnx")
        found = call("check", *both, "--max-regression", "50%", "--budget", "5", "-q",
                     "-o", "check.json", "--history", "history.sqlite")  # fmt: skip
        assert found in (0, 5)
        assert call("history", "export", "history.sqlite", "-o", "history.jsonl", "-q") == 0
        yield folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def undocumented(value: Any, schema: Any, root: Any, where: str = "") -> list[str]:
    """Return the keys of ``value`` that its schema does not name."""
    schemas_here = [schema]
    found: dict[str, Any] = {}
    rest: Any = None
    items: Any = None
    while schemas_here:
        part = schemas_here.pop()
        if not isinstance(part, dict):
            continue
        if "$ref" in part:
            schemas_here.append(root["$defs"][part["$ref"].rsplit("/", 1)[1]])
        schemas_here += part.get("anyOf", [])
        found |= part.get("properties", {})
        rest = part.get("additionalProperties", rest)
        items = part.get("items", items)
    if isinstance(value, list):
        return [
            miss
            for i, each in enumerate(value)
            for miss in undocumented(each, items, root, f"{where}[{i}]")
        ]
    if not isinstance(value, dict) or not (found or rest):
        return []
    missing: list[str] = []
    for key, each in value.items():
        if key in found:
            missing += undocumented(each, found[key], root, f"{where}.{key}")
        elif rest:
            missing += undocumented(each, rest, root, f"{where}.{key}")
        else:
            missing.append(f"{where}.{key}")
    return missing


def check(name: str, value: Any) -> None:
    schema = schemas.load(name)
    wrong = [f"{list(e.path)}: {e.message[:200]}" for e in Draft(schema).iter_errors(value)]
    assert wrong == []
    assert undocumented(value, schema, schema) == []


def test_each_is_a_schema_with_a_number_of_its_own() -> None:
    assert {"report", "run", "recipe", "latency", "calibration", "prune-plan", "sidecar"} <= set(
        schemas.names()
    )
    for name in schemas.names():
        schema = schemas.load(name)
        Draft.check_schema(schema)
        assert schema["$id"].startswith(f"urn:graphopt:schema:{name}:"), name
        assert schema["title"]


def test_the_page_lists_them_all() -> None:
    page = (ROOT / "docs" / "schemas.md").read_text(encoding="utf-8")
    rows = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert sorted(re.findall(r"`([\w-]+)`", rows)) == schemas.names()


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(UsageError, match=r"no schema 'reports' \(did you mean 'report'\?\)"):
        schemas.load("reports")


def test_files_of_a_build(work: Path) -> None:
    for folder in ("out", "failed", "plain"):
        check("report", read(work / folder / "report.json"))
        check("recipe", read(work / folder / "report.json")["recipe"])
    check("calibration", read(work / "out" / "calibration.json"))
    check("prune-plan", read(work / "out" / "prune-plan.json"))
    for profile in read(work / "out" / "report.json")["latency"].values():
        check("latency", profile)
    check("metrics", read(work / "metrics.json"))


def test_the_roofline_of_a_report_is_an_estimate(work: Path) -> None:
    assert "roofline" not in read(work / "plain" / "report.json")
    report = read(work / "device" / "report.json")
    check("report", report)
    check("estimate", report["roofline"])


def test_the_run_of_a_build(work: Path) -> None:
    for folder, status in (("out", "pass"), ("failed", "fail"), ("plain", "none")):
        run = run_of_report(read(work / folder / "report.json"))
        assert run.status == status
        check("run", run.to_json())
        assert run.figure("onnx_size") is not None and run.figure("onnx_size_before") is not None
    run = run_of_report(read(work / "out" / "report.json"))
    for name in ("latency_p50", "latency_p99", "throughput", "accuracy", "sqnr", "macs"):
        assert run.figure(name) is not None, name
    assert run.samples_ms and run.fingerprint
    before, after = run.figure("macs_before"), run.figure("macs")
    assert before is not None and after is not None and after.value < before.value


def test_what_is_no_report_is_refused() -> None:
    for wrong in ({}, {"kind": "graphopt-report"}, {"kind": "x", "latency": {}}):
        with pytest.raises(UsageError, match="not a valid report"):
            run_of_report(wrong)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("latency", "latency.json"),
        ("latency", "layers-in.json"),
        ("layer-times", "layers.json"),
        ("sweep", "sweep.json"),
        ("estimate", "estimate.json"),
        ("run", "check.json"),
    ],
)
def test_what_measures_writes(work: Path, name: str, file: str) -> None:
    check(name, read(work / file))


def test_an_exported_history(work: Path) -> None:
    lines = (work / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    schema = schemas.load("run")
    assert list(Draft(schema).iter_errors(json.loads(lines[0]))) == []


def test_sensitivity(work: Path) -> None:
    check("sensitivity", read(work / "sensitivity.json"))


def test_the_sidecar_of_an_engine(work: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    assert call("build", "net.onnx", "--engine", "tensorrt-rtx", "-o", "rtx", "-q") == 0
    check("sidecar", read(work / "rtx" / "model.engine.json"))
    check("report", read(work / "rtx" / "report.json"))


def test_the_manifest_of_a_bundle(work: Path, tmp_path: Path) -> None:
    import tarfile

    out = tmp_path / "b.tar.gz"
    assert call("bundle", "net.onnx", "--device", "t4", "-o", str(out), "-q") == 0
    with tarfile.open(out) as archive:
        (name,) = [n for n in archive.getnames() if n.endswith("/manifest.json")]
        member = archive.extractfile(name)
        assert member is not None
        check("bundle", json.load(member))


def test_the_schema_of_the_recipe_follows_from_its_model() -> None:
    path = ROOT / "tools" / "make_schemas.py"
    spec = importlib.util.spec_from_file_location("make_schemas", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    same = schemas.text("recipe") == module.recipe_schema()
    assert same, "the recipe changed: run python tools/make_schemas.py"
    check("recipe", Recipe().model_dump(mode="json"))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("report", {"kind": "graphopt-report"}),
        ("metrics", {"a": "1"}),
        ("recipe", {"prune": {"ratio": 2}}),
        ("run", {"schema": 1, "kind": "graphopt-run", "status": "good"}),
    ],
)
def test_what_is_wrong_is_seen(name: str, wrong: Any) -> None:
    assert list(Draft(schemas.load(name)).iter_errors(wrong))
