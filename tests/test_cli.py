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
from helpers import command_line as call
from helpers import conv_net, image_samples

from graphopt.cli import cli
from graphopt.engines.onnxruntime import OnnxRuntime
from graphopt.engines.sidecar import write_sidecar
from graphopt.files import sha256
from graphopt.recipe import Recipe


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
    # Latency is shown, not judged, here: seconds of timing a build would show nothing more.
    monkeypatch.setattr("graphopt.measure.SECONDS", 0.01)


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
        "simplify", "fold-batchnorm", "analyze-channels", "score-channels", "recover",
        "score-channels", "prune-channels", "recover", "prepare-weights", "calibrate",
        "round-weights", "insert-qdq",
        "build-onnxruntime", "verify", "verify-layers", "time",
    ]  # fmt: skip
    onnx.checker.check_model(str(out / "model.int8.onnx"), full_check=True)


def test_the_same_build_gives_the_same_bytes(tmp_path: Path) -> None:
    reports = []
    for name, seed in (("a", "1"), ("b", "2")):
        args = ["build", "net.onnx", *INT8, "--prune", "0.3", "-o", str(tmp_path / name)]
        quick = "import graphopt.cli, graphopt.measure as m; m.SECONDS = 0.01; graphopt.cli.main()"
        done = subprocess.run(
            [sys.executable, "-c", quick, *args],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / name / "report.json").read_text())
        for stage in report["stages"]:
            stage.pop("seconds")
        for measured in ("latency", "comparison"):
            report.pop(measured, None)
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
        "--importance", "l2", "--recover-with", "none",
        "--data", "calib.npz", "--max-drop", "0", "-o", str(out),
    )  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    (gate,) = report["gates"]
    # Without labels the gate holds agreement with the model as given.
    assert (code, report["status"], gate["metric"]) == (1, "fail", "top-1 agreement")
    assert gate["value"] > gate["limit"] == 0
    printed = capsys.readouterr()
    assert "gate max-drop: fail" in printed.out
    assert "--max-drop allows 0" in printed.err
    for artifact in report["artifacts"]:
        assert sha256(out / artifact["path"]) == artifact["sha256"]


def test_a_gate_that_holds_exits_with_0(tmp_path: Path) -> None:
    args = ["build", "net.onnx", "--engine", "onnxruntime", "--eval", "test.npz"]
    assert call(*args, "--max-drop", "0", "-o", str(tmp_path / "o")) == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert [(g["metric"], g["status"]) for g in report["gates"]] == [("accuracy", "pass")]


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


def test_engines_are_compared_and_profiled_through_their_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # No GPU here: an engine's bytes, and behind them the model on ONNX Runtime.
    engine = tmp_path / "m.engine"
    engine.write_bytes(b"ftrt" + bytes(60))
    home = "graphopt.engines.tensorrt.TensorRT"
    monkeypatch.setattr(f"{home}.missing", lambda _: None)
    monkeypatch.setattr(f"{home}.cannot_run", lambda _: None)
    monkeypatch.setattr(f"{home}.open", lambda *_: OnnxRuntime().open(Path("net.onnx")))
    assert call("profile", str(engine), "--duration", "0.01", "--batch", "2") == 0
    assert "m.engine, batch 2" in capsys.readouterr().out
    assert call("profile", str(engine), "--duration", "0.01", "--data", "test.npz") == 0
    assert call("compare", str(engine), str(engine), "--data", "test.npz", "--max-drop", "0") == 0
    # A file without TensorRT's header is known by its sidecar; other tools' JSON is none.
    other = tmp_path / "m.bin"
    other.write_bytes(b"not ONNX")
    (tmp_path / "m.bin.json").write_text("[1]")
    assert call("profile", str(other), "--duration", "0.01") == 3
    write_sidecar(other, {"engine": "tensorrt"})
    assert call("profile", str(other), "--duration", "0.01") == 0
    assert call("compare", "net.onnx", str(engine), "--data", "test.npz", "--max-drop", "0") == 0


@pytest.mark.parametrize("verb", ["devices", "engines", "doctor"])
def test_listings(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(verb) == 0
    assert capsys.readouterr().out.strip()
    assert call(verb, "--json") == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


ODD_MODELS = {
    "flat.onnx": "g (float[N,3] x) => (float[N,1] y) { y = ReduceMax<axes=[1]>(x) }",
    "none-in.onnx": "g () => (float[1] y) { y = Constant<value_floats=[1.0]>() }",
    "scalar.onnx": "g (float x) => (float y) { y = Relu(x) }",
    "list.onnx": "g (seq(float[N]) x, int64[1] i) => (float[N] y) { y = SequenceAt(x, i) }",
    "text.in.onnx": "g (string[N] x) => (string[N] y) { y = Identity(x) }",
    "hollow.onnx": "g (float[N,0] x) => (float[N,0] y) { y = Relu(x) }",
    "custom.onnx": "g (float[N,3] x) => (float[N,3] y) { y = acme.Foo(x) }",
}


def broken_files(folder: Path) -> None:
    (folder / "text.onnx").write_text("this is not a model")
    (folder / "empty.onnx").write_bytes(b"")
    whole = (folder / "net.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    np.savez(folder / "nan.npz", image=np.full((4, 3, 16, 16), np.nan, "f4"))
    np.savez(folder / "name.npz", imag=image_samples(4), other=image_samples(4))
    np.savez(folder / "shape.npz", image=np.zeros((4, 3, 8, 8), "f4"))
    (folder / "nothing").mkdir(exist_ok=True)
    np.savez(folder / "classes.npz", image=image_samples(8), labels=np.arange(8) + 5)
    np.savez(folder / "x.npz", x=np.ones((4, 3), "f4"))
    conv_net(8, batch=4).save(folder / "four.onnx")  # type: ignore[arg-type]
    for name, text in ODD_MODELS.items():
        head = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>'
        onnx.save(onnx.parser.parse_model(head + text), folder / name)
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
        (["build", "net.onnx", "--prune", "1.5"], 2, "'--prune': 1.5 is not in the range 0<x<1"),
        (["build", "net.onnx", "--prune", "nan"], 2, "'--prune': nan is not a finite number"),
        (["build", "net.onnx", "--samples", "0"], 2, "'--samples': 0"),
        (["build", "net.onnx", "--align", "0"], 2, "'--align': 0"),
        (["build", "net.onnx", "--eval", "classes.npz"], 2, "label 12 is out of range"),
        (["build", "flat.onnx", "--data", "x.npz", "--max-drop", "1"], 3, "--max-drop needs an"),
        (["build", "none-in.onnx"], 3, "has no inputs"),
        (["build", "scalar.onnx"], 3, "'x' is a scalar"),
        (["build", "list.onnx"], 3, "'x' is of the type sequence"),
        (["build", "text.in.onnx"], 3, "'x' takes text"),
        (["build", "hollow.onnx"], 3, "Nx0, which holds nothing"),
        (["build", "custom.onnx"], 3, "(Foo): Plugin not found"),
        (["inspect", "n" * 300], 2, "no such file"),
        (["build", "net.onnx", "--data", "n" * 300], 2, "no such file or folder"),
        (["build", "net.onnx", "--data", "n" * 300 + ".py:f"], 2, "no such file"),
        (["build", "net.onnx", "--preprocess", "n" * 300], 2, "unknown preprocessing"),
        (["build", "net\udcff.onnx"], 2, "is not UTF-8"),
        (["compare", "net.onnx", "net.onnx", "--data", "test.npz", "--max-drop", "nan"], 2, "nan"),
        (["compare", "net.onnx", "net.onnx", "--data", "test.npz", "--samples", "0"], 2, "0 is"),
        (["profile", "net.onnx", "--duration", "inf"], 2, "not a finite number"),
        (["profile", "net.onnx", "--seed", "-1"], 2, "'--seed': -1"),
        (["profile", "net.onnx", "--opt-shapes", "img:1x3x16x16"], 2, "did you mean 'image'"),
        (["profile", "four.onnx", "--batch", "2"], 2, "batch is fixed at 4"),
        (["profile", "net.onnx", "-o", "nothing", "--force"], 2, "is a folder"),
        (["profile", "net.onnx", "-o", "net.onnx", "--force"], 2, "is what is read"),
        (["inspect", "net.onnx", "--opt-shapes", "img:1x3x16x16"], 2, "did you mean 'image'"),
        (["calibrate", "net.onnx", "--data", "calib.npz", "-o", "net.onnx", "--force"], 2, "read"),
        (["calibrate", "net.onnx", "--data", "x.npz", "-o", "a", "--trt-cache", "a"], 2, "both"),
        (["build", "net.onnx", "--opt-shapes", "img:1x3x16x16"], 2, "did you mean 'image'"),
        (["build", "net.onnx", "--opt-shapes", "image:1x3x17x17"], 2, "1x3x17x17"),
        (
            [
                "build",
                "net.onnx",
                "--opt-shapes",
                "image:1x3x16x16",
                "--max-shapes",
                "image:4x3x16x17",
            ],
            2,
            "the max shape 4x3x16x17 does not fit",
        ),
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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("graphopt.engines.tensorrt.installed", lambda _: False)
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


def test_no_words_are_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    assert "Usage:" in capsys.readouterr().out


def test_a_fault_of_its_own_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("what")

    monkeypatch.setattr("graphopt.verbs_devices.run_devices", broken)
    assert call("devices") == 70
    told = capsys.readouterr().err
    assert told.splitlines() == [
        "error: internal error: KeyError: 'what'; please report it, with -v for the traceback"
    ]
    assert call("devices", "-v") == 70
    assert "Traceback" in capsys.readouterr().err


def test_the_machine_fails_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/etc/secret")

    monkeypatch.setattr("graphopt.verbs_devices.run_devices", broken)
    assert call("devices") == 4
    assert capsys.readouterr().err == "error: cannot use /etc/secret: Permission denied\n"


def run_shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = command.replace("graphopt", f"{sys.executable} -m graphopt")
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line() -> None:
    done = run_shell("graphopt devices > /dev/full")
    assert done.returncode == 4
    assert done.stderr == "error: cannot use standard output: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="of POSIX shells")
def test_a_closed_pipe_is_no_failed_gate() -> None:
    done = run_shell("graphopt devices | true")
    assert (done.returncode, done.stderr) == (141, "")
    done = run_shell("graphopt devices >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_narrow_encodings_print_what_they_can() -> None:
    done = run_shell("graphopt inspect net.onnx", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "channel groups" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="of POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_leaves_nothing(name: str, tmp_path: Path) -> None:
    import signal

    number = signal.Signals[name]
    args = [sys.executable, "-m", "graphopt", "build", "net.onnx", *INT8, "-o", str(tmp_path / "o")]
    process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()  # it has begun
    process.send_signal(number)
    told = first + process.stderr.read()
    process.stderr.close()
    assert process.wait() == 128 + number
    assert "Traceback" not in told
    assert told.splitlines()[-1] == "error: interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    conv_net(8).save("model.onnx")
    before = sha256("model.onnx")
    args = ("build", "model.onnx", "--engine", "onnxruntime", "-o", ".", "--force")
    assert call(*args) == 2
    assert "could be overwritten" in capsys.readouterr().err
    assert sha256("model.onnx") == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_results_do_not_become_a_class_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "images" / name / "0.png")
    args = ("build", "net.onnx", "--engine", "onnxruntime", "--preprocess", "cifar")
    data = tmp_path / "images"
    assert call(*args, "--data", str(data), "-o", str(data / "out")) == 2
    assert "sub-folders are classes" in capsys.readouterr().err
    assert sorted(p.name for p in data.iterdir()) == ["a", "b"]


def test_not_a_number_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "g (float[N,3] x) => (float[N,3] y) { z = Sub(x, x) y = Div(z, z) }"
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    onnx.save(onnx.parser.parse_model(head + text), tmp_path / "nan.onnx")
    args = ("--engine", "onnxruntime", "--json", "-o", str(tmp_path / "o"))
    assert call("build", str(tmp_path / "nan.onnx"), *args) == 0
    report = json.loads(capsys.readouterr().out)
    assert any("NaN or infinity" in warning for warning in report["warnings"])


def test_compare_feeds_what_both_take(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    conv_net(32, batch=4).save(tmp_path / "four.onnx")  # type: ignore[arg-type]
    args = ("compare", "net.onnx", str(tmp_path / "four.onnx"), "--data", "test.npz", "--json")
    assert call(*args) == 0
    assert json.loads(capsys.readouterr().out)["total"]["cosine"] > 0.9999


def test_a_chatty_loader_leaves_json_clean(capfd: pytest.CaptureFixture[str]) -> None:
    Path("chatty.py").write_text(
        "import numpy as np, os\ndef samples():\n    print('hello')\n"
        "    os.write(1, b'hello\\n')\n    yield np.ones((3, 16, 16), 'f4')\n"
    )
    assert call("compare", "net.onnx", "net.onnx", "--data", "chatty.py:samples", "--json") == 0
    assert json.loads(capfd.readouterr().out)["samples"] == 1


def custom_op(folder: Path) -> Path:
    """A model that ONNX Runtime cannot run: its own operator between two convolutions."""
    net = conv_net(32)
    node = next(n for n in net.graph.nodes if n.op == "Add")
    node.op, node.domain = "Merge", "com.example"
    net.graph.import_domains = [
        onnx.helper.make_opsetid("", 17),
        onnx.helper.make_opsetid("com.example", 1),
    ]
    return net.save(folder / "custom.onnx")


def test_a_custom_op_passes_through_unverified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(custom_op(tmp_path))
    out = tmp_path / "o"
    assert call("optimize", model, "--prune", "0.3", "--device", "t4", "-o", str(out)) == 0
    assert "nothing is verified or timed: ONNX Runtime cannot run com.example::Merge" in (
        capsys.readouterr().err
    )
    ops = {n.op_type for n in onnx.load(str(out / "model.onnx")).graph.node}
    assert "Merge" in ops
    assert json.loads((out / "report.json").read_text())["warnings"]
    for flags in (INT8, ("--engine", "onnxruntime")):
        assert call("build", model, *flags, "-o", str(tmp_path / "p")) == 3
        assert "com.example::Merge" in capsys.readouterr().err
        assert not (tmp_path / "p").exists()


def test_an_opset_too_new_for_the_device_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = onnx.load("net.onnx")
    net.opset_import[0].version = 18
    onnx.save(net, tmp_path / "new.onnx")
    args = ("optimize", str(tmp_path / "new.onnx"), "--device", "jetson-agx-xavier")
    assert call(*args, "-o", str(tmp_path / "o")) == 0
    told = capsys.readouterr().err
    assert "lower-opset: 18 -> 17, the newest that TensorRT for jetson-agx-xavier parses" in told
    assert onnx.load(tmp_path / "o" / "model.onnx").opset_import[0].version == 17
    args = ("optimize", str(tmp_path / "new.onnx"), "--device", "t4")
    assert call(*args, "-o", str(tmp_path / "p")) == 0
    assert "18 -> 17, what the oldest TensorRT for t4 parses" in capsys.readouterr().err
    assert call(*args, "--trt-version", "10.3", "-o", str(tmp_path / "q")) == 0
    assert onnx.load(tmp_path / "q" / "model.onnx").opset_import[0].version == 18


def test_macs_before_are_those_of_every_channel_even_where_shapes_are_computed(
    tmp_path: Path,
) -> None:
    net = conv_net(32).to_onnx()
    # A Pad by computed amounts of zero hides every shape after it until constants are folded.
    zero, eight = (
        onnx.numpy_helper.from_array(np.array([value]), name)
        for value, name in ((0, "z"), (8, "e"))
    )
    net.graph.initializer.extend([zero, eight])
    stem = net.graph.node[0]
    stem.input[0] = "padded"
    tile = onnx.helper.make_node("Tile", ["z", "e"], ["pads"], "tile")
    pad = onnx.helper.make_node("Pad", ["image", "pads"], ["padded"], "pad")
    nodes = [tile, pad, *net.graph.node]
    del net.graph.node[:], net.graph.value_info[:]
    net.graph.node.extend(nodes)
    onnx.save(net, tmp_path / "padded.onnx")
    macs = []
    for model in ("net.onnx", str(tmp_path / "padded.onnx")):
        out = tmp_path / f"o{len(macs)}"
        args = ("optimize", model, "--prune", "0.5", "--engine", "onnxruntime", "-o", str(out))
        assert call(*args) == 0
        report = json.loads((out / "report.json").read_text())
        macs.append(next(m for m in report["metrics"] if m["name"] == "MACs"))
    assert macs[0] == macs[1]
    assert macs[0]["values"]["fp32"] < macs[0]["values"]["before"]


def test_the_recipe_written_says_what_was_decided(tmp_path: Path) -> None:
    args = ("optimize", "net.onnx", *INT8, "--calibrator", "max", "--prune", "0.3")
    assert call(*args, "--engine", "ort", "-o", str(tmp_path / "o")) == 0
    recipe = Recipe.load(tmp_path / "o" / "recipe.toml")
    assert recipe.quantize.calibrator == "minmax"
    assert recipe.engine.name == "onnxruntime"
    assert recipe.prune.align == 8
    assert recipe.engine.shapes["image"].max == (16, 3, 16, 16)
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["recipe"] == recipe.model_dump(mode="json")


@pytest.mark.parametrize(("given", "threads"), [(None, "1"), ("4", "4")])
def test_linear_algebra_gets_one_thread_unless_the_user_says_otherwise(
    given: str | None, threads: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    if given is not None:
        environment["OPENBLAS_NUM_THREADS"] = given
    code = (
        "import atexit, os; from graphopt.cli import main; "
        "atexit.register(lambda: print('threads', os.environ['OPENBLAS_NUM_THREADS'])); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"threads {threads}" in done.stdout


@pytest.mark.parametrize(
    "flag", [("--builder-level", "3"), ("--time-limit", "5"), ("--workspace", "1GB")]
)
def test_optimize_takes_no_option_of_building(
    flag: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("optimize", "net.onnx", *flag, "-o", str(tmp_path / "o")) == 2
    assert f"{flag[0]} is about building, and optimize builds no engine" in capsys.readouterr().err


@pytest.mark.parametrize(("also", "told"), [([], "fp16"), (["--int8", "--synthetic"], "int8")])
def test_a_share_of_the_latency_says_in_which_precision_it_is_estimated(
    also: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = conv_net(256).save(tmp_path / "wide.onnx")
    words = [str(path), "--prune-to", "latency=0.95", "--device", "t4", "--dry-run", *also]
    assert call("optimize", *words) == 0
    said = "".join(capsys.readouterr())
    assert f"of latency, an estimate in {told} on t4, remain" in said
