"""The command line, as a user meets it: what is printed, what is left behind, the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import conv_net, image_samples

from graphopt.cli import cli, main
from graphopt.files import sha256


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and samples."""
    folder = tmp_path_factory.mktemp("cli")
    conv_net(32).save(folder / "net.onnx")
    np.savez(folder / "calib.npz", image=image_samples(24))
    labels = np.arange(16) % 10
    np.savez(folder / "test.npz", image=image_samples(16, seed=2), labels=labels)
    return folder


@pytest.fixture(autouse=True)
def _in_work(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    return int(ended.value.code or 0)


INT8 = ("--int8", "--data", "calib.npz", "--engine", "onnxruntime")


def test_build_leaves_everything_the_report_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        call("build", "net.onnx", *INT8, "--prune", "0.3", "--eval", "test.npz", "-o", str(out))
        == 0
    )
    printed = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert {a["kind"] for a in report["artifacts"]} >= {
        "onnx-fp32", "onnx-int8", "calibration-table", "calibration-cache", "engine",
    }  # fmt: skip
    for artifact in report["artifacts"]:
        assert sha256(out / artifact["path"]) == artifact["sha256"]
    listed = {a["path"] for a in report["artifacts"]} | {"report.json"}
    assert {p.name for p in out.iterdir()} == listed
    for row in ("size", "parameters", "MACs", "accuracy", "latency"):
        assert row in printed.out
    assert report["status"] == "pass"
    names = [s["name"] for s in report["stages"]]
    assert names == [
        "simplify", "fold-batchnorm", "analyze-channels", "prune-channels", "calibrate",
        "insert-qdq", "build-onnxruntime", "verify", "time",
    ]  # fmt: skip
    onnx.checker.check_model(str(out / "model.int8.onnx"), full_check=True)


def test_the_same_build_gives_the_same_bytes(tmp_path: Path) -> None:
    reports = []
    for name, seed in (("a", "1"), ("b", "2")):
        args = ["build", "net.onnx", *INT8, "--prune", "0.3", "-o", str(tmp_path / name)]
        done = subprocess.run(
            [sys.executable, "-m", "graphopt", *args],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / name / "report.json").read_text())
        for stage in report["stages"]:
            stage.pop("seconds")
        report.pop("latency")
        report["metrics"] = [m for m in report["metrics"] if m["name"] != "latency"]
        reports.append(report)
    assert reports[0] == reports[1]


def test_json_is_the_report_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call("build", "net.onnx", "--engine", "onnxruntime", "--json", "-o", str(tmp_path / "o"))
        == 0
    )
    assert json.loads(capsys.readouterr().out)["kind"] == "graphopt-report"


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none"
    assert call("build", "net.onnx", *INT8, "--prune", "0.5", "--dry-run", "-o", str(out)) == 0
    assert not out.exists()
    printed = capsys.readouterr().out
    assert "nothing was written" in printed
    assert "kept" in printed


def test_optimize_builds_no_engine(tmp_path: Path) -> None:
    assert call("optimize", "net.onnx", *INT8, "-o", str(tmp_path / "o")) == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert "engine" not in {a["kind"] for a in report["artifacts"]}
    assert (tmp_path / "o" / "model.int8.onnx").exists()


def test_a_failed_gate_exits_with_1_and_delivers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    code = call(
        "build", "net.onnx", "--engine", "onnxruntime", "--prune", "0.9", "--align", "1",
        "--eval", "test.npz", "--data", "calib.npz", "--max-drop", "0", "-o", str(out),
    )  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    drop = report["gates"][0]["value"]
    assert code == (1 if drop > 0 else 0)
    assert report["status"] == ("fail" if drop > 0 else "pass")
    assert "gate max-drop" in capsys.readouterr().out


def test_recipe_written_can_be_run_again(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert call("optimize", "net.onnx", *INT8, "--prune", "0.3", "-o", str(first)) == 0
    assert (
        call("optimize", "net.onnx", "--recipe", str(first / "recipe.toml"), "-o", str(second)) == 0
    )
    for name in ("model.onnx", "model.int8.onnx", "calibration.json", "recipe.toml"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_synthetic_is_marked_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o"
    assert (
        call(
            "build", "net.onnx", "--int8", "--synthetic", "--engine", "onnxruntime", "-o", str(out)
        )
        == 0
    )
    printed = capsys.readouterr()
    assert "SYNTHETIC" in printed.err
    assert "SYNTHETIC" in printed.out
    assert json.loads((out / "report.json").read_text())["synthetic"] is True
    assert json.loads((out / "calibration.json").read_text())["synthetic"] is True
    assert json.loads((out / "model.ort.onnx.json").read_text())["synthetic"] is True


def test_calibrate_writes_table_and_cache(tmp_path: Path) -> None:
    table, cache = tmp_path / "t.json", tmp_path / "t.cache"
    args = (
        "calibrate",
        "net.onnx",
        "--data",
        "calib.npz",
        "-o",
        str(table),
        "--trt-cache",
        str(cache),
    )
    assert call(*args) == 0
    ranges = json.loads(table.read_text())["ranges"]
    assert "image" in ranges
    assert cache.read_text().startswith("TRT-8502-EntropyCalibration2\n")
    assert len(cache.read_text().splitlines()) == 1 + len(ranges)
    assert call(*args) == 2  # exists
    assert call(*args, "--force", "--trt-version", "10.3.0") == 0
    assert cache.read_text().startswith("TRT-100300-")


def test_inspect_compare_profile(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("inspect", "net.onnx") == 0
    printed = capsys.readouterr().out
    assert "opset 17" in printed
    assert "INT8 would quantize" in printed
    assert call("inspect", "net.onnx", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["macs"] > 0
    assert value["groups"]
    assert (
        call("compare", "net.onnx", "net.onnx", "--data", "test.npz", "--json", "--max-drop", "0")
        == 0
    )
    assert json.loads(capsys.readouterr().out)
    samples = tmp_path / "p.json"
    assert call("profile", "net.onnx", "--duration", "0.1", "--batch", "2", "-o", str(samples)) == 0
    assert "items/s" in capsys.readouterr().out
    saved = json.loads(samples.read_text())
    assert saved["batch"] == 2
    assert len(saved["samples_ms"]) >= 10


@pytest.mark.parametrize("verb", ["devices", "engines", "doctor"])
def test_listings(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(verb) == 0
    assert capsys.readouterr().out.strip()
    assert call(verb, "--json") == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


def broken_files(folder: Path) -> None:
    (folder / "text.onnx").write_text("this is not a model")
    (folder / "empty.onnx").write_bytes(b"")
    whole = (folder / "net.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    np.savez(folder / "nan.npz", image=np.full((4, 3, 16, 16), np.nan, "f4"))
    np.savez(folder / "name.npz", imag=image_samples(4), other=image_samples(4))
    np.savez(folder / "shape.npz", image=np.zeros((4, 3, 8, 8), "f4"))
    (folder / "nothing").mkdir(exist_ok=True)
    (folder / "bad.toml").write_text("[prune]\nratoi = 0.3\n")


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["build", "none.onnx"], 2, "no such file: none.onnx"),
        (["build", "text.onnx"], 3, "text.onnx is not an ONNX model"),
        (["build", "empty.onnx"], 3, "empty.onnx is not an ONNX model"),
        (["build", "cut.onnx"], 3, "cut.onnx"),
        (["build", "nothing"], 2, "is a folder"),
        (["build", "net.onnx", "--int8"], 2, "--int8 needs --data"),
        (["build", "net.onnx", "--int8", "--data", "nan.npz"], 2, "NaN"),
        (["build", "net.onnx", "--int8", "--data", "name.npz"], 2, "image"),
        (["build", "net.onnx", "--int8", "--data", "shape.npz"], 2, "image"),
        (["build", "net.onnx", "--int8", "--data", "nothing"], 2, "nothing"),
        (["build", "net.onnx", "--int8", "--data", "gone"], 2, "gone"),
        (["build", "net.onnx", "--recipe", "bad.toml"], 2, "did you mean 'ratio'"),
        (["build", "net.onnx", "--calibrator", "entrpy"], 2, "did you mean 'entropy'"),
        (["build", "net.onnx", "--engine", "tensort"], 2, "did you mean 'tensorrt'"),
        (["build", "net.onnx", "--device", "t5"], 2, "did you mean 't4'"),
        (["build", "net.onnx", "--prune", "1.5"], 2, "less than 1"),
        (["build", "net.onnx", "--opt-shapes", "img:1x3x16x16"], 2, "did you mean 'image'"),
        (["build", "net.onnx", "--opt-shapes", "image:1x3x17x17"], 2, "1x3x17x17"),
        (["build", "net.onnx", "--synthetic", "--int8", "--max-drop", "1"], 2, "--max-drop"),
        (["build", "net.onnx", "--engine", "tensorrt"], 4, "pip install"),
        (["buidl", "net.onnx"], 2, "did you mean 'build'"),
        (["build", "net.onnx", "--prun", "0.3"], 2, "--prun"),
        (["inspect", "none"], 2, "no such file"),
        (["compare", "net.onnx", "net.onnx"], 2, "compare needs --data"),
    ],
)
def test_bad_input_is_one_clear_line(
    args: list[str],
    code: int,
    told: str,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken_files(work)
    if args[0] == "build":
        args = [*args, "-o", str(tmp_path / "out")]
    assert call(*args) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert told in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine").write_text("x")
    assert call("build", "net.onnx", "--engine", "onnxruntime", "-o", str(tmp_path / "o")) == 2
    assert "--force" in capsys.readouterr().err
    assert (
        call("build", "net.onnx", "--engine", "onnxruntime", "--force", "-o", str(tmp_path / "o"))
        == 0
    )
    assert (tmp_path / "o" / "mine").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert call("build", "net.onnx", *INT8, "-o", str(tmp_path / "o")) == 4
    assert "no space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    printed = capsys.readouterr().out
    for verb in cli.commands:
        assert verb in printed
