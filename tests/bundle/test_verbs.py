"""``graphopt bundle`` and ``graphopt import-results``, as their verbs are called."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from helpers import conv_net

from graphopt.bundle.archive import write_archive
from graphopt.bundle.manifest import parse_sums
from graphopt.bundle.pack import bundle_name, pack
from graphopt.cli import cli
from graphopt.console import Console
from graphopt.errors import GateError, OutputError, OutputExistsError, UsageError
from graphopt.files import sha256
from graphopt.recipe import Recipe
from graphopt.verbs import run_inspect
from graphopt.verbs_bundle import run_bundle, run_import_results

INT8 = ("--int8", "--data", "calib.npz")


@pytest.fixture(autouse=True)
def _in_outputs(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(outputs)
    monkeypatch.setattr("graphopt.measure.SECONDS", 0.01)


def bundle(model: str, *words: str) -> None:
    """Call the verb with the flags of ``optimize``, which are its own."""
    command = cli.commands["optimize"]
    flags: dict[str, Any] = command.make_context("bundle", [model, *words]).params
    given = flags.pop("model")
    verbosity = -1 if flags.pop("quiet") else 0
    flags.pop("verbose")
    run_bundle(given, flags, Console(verbosity=verbosity, json=flags.pop("as_json")))


def test_a_bundle_of_a_model_is_the_same_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "my 'net' $HOME.onnx"
    one, two = tmp_path / "1.tar.gz", tmp_path / "2.tar.gz"
    bundle(model, *INT8, "--device", "xavier", "-o", str(one))
    printed = capsys.readouterr()
    assert "8.5" in printed.out
    assert "cd my-net-HOME-jetson-agx-xavier && sh build.sh" in printed.out
    bundle(model, *INT8, "--device", "xavier", "-o", str(two))
    assert one.read_bytes() == two.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with pytest.raises(OutputExistsError):
        bundle(model, *INT8, "--device", "xavier", "-o", str(one))
    bundle(model, "--device", "xavier", "-o", str(one), "--force")
    assert one.read_bytes() != two.read_bytes()


def test_another_hash_seed_gives_the_same_bytes(outputs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from graphopt.bundle.pack import pack; "
        "pack(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    made = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.tar.gz"
        subprocess.run(
            [sys.executable, "-c", code, str(outputs / "t4"), str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
        )  # fmt: skip
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_the_manifest_tells_of_every_file(bundles: Path, tmp_path: Path) -> None:
    for name, files in (
        ("explicit", {"model.int8.onnx"}),
        ("implicit", {"model.onnx", "calibration.cache"}),
        ("t4", {"model.int8-fp16.onnx"}),
    ):
        with tarfile.open(bundles / f"{name}.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
            folder = tmp_path / archive.getnames()[0].partition("/")[0]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest["files"]) == files | {
            "README.txt", "build.sh", "calibration.json", "recipe.toml", "report.json",
        }  # fmt: skip
        sums = parse_sums((folder / "manifest.sha256").read_text(), "")
        assert {p.name for p in folder.iterdir()} == set(sums) | {"manifest.sha256"}
        assert all(sha256(folder / file) == digest for file, digest in sums.items())
        assert manifest["inputs"]["image"] == ["float", ["N", 3, 16, 16]]
        assert manifest["profiles"][0]["image"]["max"] == [16, 3, 16, 16]
        report = json.loads((folder / "report.json").read_text())
        assert report["latency"] == {}
        assert all("seconds" not in stage for stage in report["stages"])
        if name == "implicit":
            cache = (folder / "calibration.cache").read_text()
            assert cache.startswith("TRT-8502-EntropyCalibration2\n")
        for path in folder.iterdir():
            path.unlink()


def test_a_folder_is_bundled_without_doing_the_work_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.tar.gz"
    bundle("explicit", "--device", "jetson-agx-xavier", "-o", str(out), "--json")
    value = json.loads(capsys.readouterr().out)
    assert value["kind"] == "graphopt-bundle"
    assert value["onnx"] == "model.int8.onnx"
    bundle("explicit", "-o", str(out), "--force")
    with pytest.raises(UsageError, match="was made for jetson-agx-xavier"):
        bundle("explicit", "--device", "t4", "-o", str(out), "--force")
    with pytest.raises(UsageError, match="whose options are settled"):
        bundle("explicit", "--fp16", "-o", str(out), "--force")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"has no report\.json"):
        pack(tmp_path / "empty", out)


def test_a_folder_that_was_changed_is_refused(outputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in (outputs / "implicit").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "calibration.cache").write_text("TRT-8502-MinMaxCalibration\n")
    with pytest.raises(UsageError, match="was changed after the build"):
        pack(folder, tmp_path / "x.tar.gz")
    (folder / "calibration.cache").unlink()
    with pytest.raises(UsageError, match=r"lacks 'calibration\.cache'"):
        pack(folder, tmp_path / "x.tar.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--device", "xavier", "--host", "me@jetson"), "graphopt build --host"),
        (("--device", "xavier", "--trtexec", "/x"), r"build\.sh takes --trtexec"),
        (("--device", "xavier", "--timing-cache", "x"), r"build\.sh keeps one"),
    ],
)
def test_what_a_bundle_cannot_heed_is_refused(words: tuple[str, ...], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        bundle("my 'net' $HOME.onnx", *words)


def test_a_device_without_a_gpu_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cpu.toml").write_text('name = "cpu"\n')
    with pytest.raises(UsageError, match="is no NVIDIA GPU"):
        bundle("my 'net' $HOME.onnx", "--device", str(tmp_path / "cpu.toml"))


PROFILES = ("--min-shapes", "image:1x3x16x16", "--max-shapes", "image:2x3x16x16",
            "--min-shapes", "image:2x3x16x16", "--max-shapes", "image:4x3x16x16")  # fmt: skip


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--device", "t4", "--engine", "onnxruntime"), "and not by onnxruntime"),
        (("--device", "t4", "--engine", "rtx"), "and not by rtx"),
        (("--device", "t4", "--workspace", "5"), "--workspace 5 is less than 1 MiB"),
        (("--device", "xavier", *PROFILES), "one optimization profile, and 2 are asked for"),
        (("--device", "t4", "--min-shapes", "x:1"), "no input of the model; its inputs: image"),
    ],
)
def test_what_no_device_could_build_is_refused_before_the_work(
    words: tuple[str, ...], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.verbs_bundle._optimize", lambda *_: pytest.fail("it worked"))
    with pytest.raises(UsageError, match=what):
        bundle("my 'net' $HOME.onnx", *INT8, *words)
    with pytest.raises(UsageError, match=r"no such file: nowhere\.onnx"):
        bundle("nowhere.onnx", "--device", "t4")


def test_a_folder_whose_device_or_ranges_are_not_known_is_refused(
    outputs: Path, tmp_path: Path
) -> None:
    for name, key, value, what in (
        ("explicit", "engine", {"host": "me@jetson", "device": "host"}, "--host named"),
        ("implicit", "quantize", {"gpu_calibration": True}, "with --calibrate-on-gpu"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for path in (outputs / name).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        recipe = Recipe.load(folder / "recipe.toml").override({key: value})
        (folder / "recipe.toml").write_text(recipe.to_toml())
        report = json.loads((folder / "report.json").read_text())
        for artifact in report["artifacts"]:
            artifact["sha256"] = sha256(folder / artifact["path"])
        (folder / "report.json").write_text(json.dumps(report))
        with pytest.raises(UsageError, match=what):
            pack(folder, tmp_path / "x.tar.gz")


def test_what_is_shown_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "it's a $BUNDLE.tar.gz"
    bundle("explicit", "-o", str(out))
    lines = capsys.readouterr().out.splitlines()
    there = next(line for line in lines if line.startswith("there: "))
    here = next(line for line in lines if line.startswith("then here: "))
    words = shlex.split(there.removeprefix("there: "))
    assert words[:3] == ["tar", "xzf", out.name]
    assert shlex.split(here.removeprefix("then here: "))[-2:] == ["--bundle", str(out)]
    # Of the lines of TensorRT only those that the device may have.
    assert [line.split()[0] for line in lines if "--onnx" not in line][1] == "8.5"
    assert not any(line.split()[0].startswith(("10.", "11.")) for line in lines if line.split())


def test_an_archive_is_not_inspected_as_a_model() -> None:
    with pytest.raises(UsageError, match=r"is an archive: unpack it .* manifest\.json"):
        run_inspect(Path("explicit.tar.gz"), {}, Console())


def test_an_implicit_report_does_not_claim_q_dq(bundles: Path) -> None:
    for name, stands in (("explicit", False), ("implicit", True), ("dla", True)):
        report = json.loads((bundles / name / "report.json").read_text())
        stage = next(s for s in report["stages"] if s["name"] == "insert-qdq")
        assert ("stands_for" in stage["facts"]) == stands
        kinds = {a["kind"] for a in report["artifacts"]}
        assert ("onnx-simulated" in kinds, "onnx-int8" in kinds) == (stands, not stands)


def test_a_dry_run_writes_nothing(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(p.name for p in outputs.iterdir())
    bundle("my 'net' $HOME.onnx", *INT8, "--device", "xavier", "--dry-run")
    assert "dry run: nothing was written" in capsys.readouterr().out
    assert sorted(p.name for p in outputs.iterdir()) == before


def test_a_limit_that_is_missed_fails_and_leaves_the_bundle(tmp_path: Path) -> None:
    out = tmp_path / "x.tar.gz"
    limit = ("--min-sqnr", "150", "--quantization", "implicit", "-o", str(out))
    with pytest.raises(GateError):
        bundle("my 'net' $HOME.onnx", *INT8, "--device", "xavier", *limit)
    assert out.is_file()


def test_importing_shows_times_and_says_whom_to_trust(
    built: Path, bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"bundle": bundles / "explicit.tar.gz", "output": tmp_path / "out", "force": False}
    run_import_results(built, flags, Console())
    printed = capsys.readouterr()
    assert "TensorRT 8.5.2" in printed.out
    assert "latency" in printed.out
    assert "an engine is code" in printed.err
    run_import_results(built, {**flags, "force": True}, Console(json=True))
    assert json.loads(capsys.readouterr().out)["kind"] == "graphopt-report"


def test_external_weights_travel_along(outputs: Path, tmp_path: Path) -> None:
    import onnx

    folder = tmp_path / "big"
    folder.mkdir()
    for path in (outputs / "explicit").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = onnx.load(str(folder / "model.int8.onnx"))
    onnx.save(
        model, str(folder / "model.int8.onnx"), save_as_external_data=True,
        location="model.int8.onnx.data", size_threshold=0,
    )  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    for artifact in report["artifacts"]:
        artifact["sha256"] = sha256(folder / artifact["path"])
    (folder / "report.json").write_text(json.dumps(report))
    done = pack(folder, tmp_path / "x.tar.gz")
    assert "model.int8.onnx.data" in done.manifest.value["files"]
    (folder / "model.int8.onnx.data").unlink()
    with pytest.raises(UsageError, match="which is not beside it"):
        pack(folder, tmp_path / "y.tar.gz")


@pytest.mark.parametrize(
    ("model", "name"),
    [("a b.onnx", "a-b-t4"), ("../../x.onnx", "x-t4"), ("';$(x).onnx", "x-t4"),
     ("模型.onnx", "model-t4"), ("-rf.onnx", "rf-t4"), (".onnx", "onnx-t4"),
     ("a" * 300, "a" * 60 + "-t4")],
)  # fmt: skip
def test_names_are_plain(model: str, name: str) -> None:
    assert bundle_name(model, "t4") == name


def test_an_archive_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    conv_net(16).save(tmp_path / "m.onnx")
    with pytest.raises(OutputError, match="cannot write"):
        write_archive(tmp_path / "x", {"m.onnx": tmp_path / "m.onnx"}, folder="f")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "x"]
