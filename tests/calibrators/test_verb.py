"""``graphopt calibrate``: tables measured, resumed, merged, imported, compared, looked at."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import command_line, conv_net, image_samples

from graphopt.calibrators import CALIBRATORS, CalibrationTable
from graphopt.calibrators.cache import read_cache
from graphopt.data import Dataset
from graphopt.model import Model
from graphopt.quantize import wanted_tensors

call = partial(command_line, "calibrate")

IMAGES = image_samples(24)


@pytest.fixture(autouse=True)
def _in_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    conv_net(32).save("net.onnx")
    for name, part in {"all": IMAGES, "head": IMAGES[:10], "tail": IMAGES[10:]}.items():
        np.savez(f"{name}.npz", image=part)


def measure(data: str, out: str, *args: str) -> CalibrationTable:
    assert call("net.onnx", "--data", data, "-o", out, *args) == 0
    return CalibrationTable.load(out)


@pytest.mark.parametrize("method", ["entropy", "auto", "percentile:99.5"])
def test_merging_two_halves_is_one_pass_over_all(method: str) -> None:
    measure("all.npz", "all.json", "--calibrator", method)
    measure("head.npz", "head.json", "--calibrator", method)
    measure("tail.npz", "tail.json", "--calibrator", method)
    assert call("--merge", "tail.json", "head.json", "-o", "merged.json") == 0
    assert Path("merged.json").read_bytes() == Path("all.json").read_bytes()
    assert CalibrationTable.load("all.json").method == method


def test_resuming_counts_what_is_new_only() -> None:
    measure("all.npz", "all.json", "--calibrator", "mse")
    measure("head.npz", "t.json", "--calibrator", "mse")
    assert call("net.onnx", "--resume", "t.json", "--data", "all.npz", "-o", "t.json") == 0
    assert Path("t.json").read_bytes() == Path("all.json").read_bytes()
    # All of it seen: the same table again, or what another calibrator makes of the counts.
    again = ("net.onnx", "--resume", "t.json", "--data", "head.npz", "-o")
    assert call(*again, "u.json") == 0
    assert Path("u.json").read_bytes() == Path("all.json").read_bytes()
    assert call(*again, "v.json", "--calibrator", "max") == 0
    assert CalibrationTable.load("v.json") == measure("all.npz", "w.json", "--calibrator", "max")


def test_an_interrupted_run_is_kept_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure("all.npz", "all.json")
    batches = Dataset.batches

    def interrupted(self: Dataset, size: int):
        for i, batch in enumerate(batches(self, min(size, 4))):
            if i == 2:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr("graphopt.honesty.check_scale", lambda *_: [])  # it reads batches too
        patch.setattr(Dataset, "batches", interrupted)
        assert call("net.onnx", "--data", "all.npz", "-o", "t.json") == 130
    told = capsys.readouterr().err
    assert "interrupted after" in told
    assert "--resume t.partial.json" in told
    assert not Path("t.json").exists()
    partial = CalibrationTable.load("t.partial.json")
    assert 0 < partial.samples < 24
    assert partial.counts is not None
    assert len(partial.counts.seen) == partial.samples

    assert call("net.onnx", "--data", "all.npz", "-o", "t.json") == 2
    assert "is left of a run that was interrupted" in capsys.readouterr().err
    args = ("net.onnx", "--resume", "t.partial.json", "--data", "all.npz", "-o", "t.json")
    assert call(*args) == 0
    assert Path("t.json").read_bytes() == Path("all.json").read_bytes()
    assert not Path("t.partial.json").exists()


def test_all_compares_and_any_can_be_taken(capsys: pytest.CaptureFixture[str]) -> None:
    table = measure("all.npz", "t.json", "--calibrator", "all")
    printed = capsys.readouterr()
    assert table.method == "auto"
    assert "--from t.json --calibrator NAME" in printed.err
    for name in (*CALIBRATORS.names(), *table.ranges, "mean"):
        assert name in printed.out
    for name in [*CALIBRATORS.names(), "percentile:99"]:
        out = f"{name.replace(':', '-')}.json"
        assert call("--from", "t.json", "--calibrator", name, "-o", out) == 0
        again = measure("all.npz", f"again-{out}", "--calibrator", name)
        assert CalibrationTable.load(out) == again
    capsys.readouterr()
    measure("all.npz", "u.json", "--calibrator", "all", "--json")
    value = json.loads(capsys.readouterr().out)
    assert value["comparison"]["calibrators"] == CALIBRATORS.names()
    assert set(value["comparison"]["tensors"]) == set(table.ranges)


def test_caches_of_every_version_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    for version, number in {"5.1.5": 5105, "7.1.3": 7103, "8.6.1": 8601, "10.3": 100300}.items():
        cache = f"{version}.cache"
        extra = ("--trt-cache", cache, "--trt-version", version)
        table = measure(
            "all.npz", f"{version}.json", *extra, "--trt-algorithm", "MinMaxCalibration"
        )
        assert Path(cache).read_text().startswith(f"TRT-{number}-MinMaxCalibration\n")
        assert call("net.onnx", "--from", cache, "-o", f"{version}.back.json") == 0
        back = CalibrationTable.load(f"{version}.back.json")
        assert back.ranges.keys() == table.ranges.keys()
        for name, r in back.ranges.items():
            assert r.amax == pytest.approx(table.ranges[name].amax, rel=1e-6)
        # And from the imported table the same cache again.
        rewritten = ("--trt-cache", "again.cache", "--force", "--trt-version", version)
        assert call("--from", f"{version}.back.json", "-o", "x.json", *rewritten) == 0
        assert read_cache("again.cache")[1] == read_cache(cache)[1]
    assert "does not say which model" in capsys.readouterr().err


def test_inspecting_and_comparing(capsys: pytest.CaptureFixture[str]) -> None:
    table = measure("all.npz", "a.json", "--calibrator", "max")
    measure("head.npz", "b.json", "--calibrator", "percentile:90")
    capsys.readouterr()
    assert call("--inspect", "a.json") == 0
    printed = capsys.readouterr()
    assert "calibrated on 24 samples: give 32 or more" in printed.err
    for name in table.ranges:
        assert name in printed.out
    assert "24 samples, minmax" in printed.out
    assert call("--inspect", "a.json", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["tensors"]["image"]["clipped"] == 0
    assert value["tensors"]["image"]["sqnr_db"] > 20
    assert "counts" not in value
    assert call("--compare", "a.json", "b.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{len(table.ranges)} tensors differ" in lines[-1]
    ratios = [float(line.split()[-1]) for line in lines[2 : 2 + len(table.ranges)]]
    assert ratios == sorted(ratios, reverse=True)
    assert call("--compare", "a.json", "a.json") == 0
    assert "0 tensors differ" in capsys.readouterr().out
    assert call("--compare", "a.json", "b.json", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["differences"]) == len(table.ranges)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ("", "name one model"),
        ("net.onnx", "needs --data"),
        ("net.onnx other.onnx --data all.npz", "name one model"),
        ("net.onnx --data all.npz --calibrator percentile:x", "'x' is no percentile"),
        ("net.onnx --data all.npz --calibrator mean", "unknown calibrator 'mean'"),
        ("net.onnx --data all.npz --trt-version 8.5.2", "add --trt-cache"),
        ("net.onnx --data all.npz --trt-cache c --trt-version 11.0", "no TensorRT reads"),
        ("net.onnx --data all.npz --trt-cache c --trt-version x", "not a version"),
        ("net.onnx --data all.npz --resume none.json", "no such file: none.json"),
        ("other.onnx --data all.npz --resume t.json", "t.json belongs to another model"),
        ("net.onnx --data all.npz --resume old.json", "old.json has ranges only"),
        ("net.onnx --data all.npz -o t.json", "t.json exists"),
        ("net.onnx --resume t.json --data tail.npz --from t.json", "--from and --resume are two"),
        ("--merge t.json", "name two tables or more"),
        ("--merge t.json t.json", "t.json and t.json share 10 samples"),
        ("--merge t.json old.json", "old.json has ranges only"),
        ("--merge t.json old.json --data x", "--data has no effect with --merge"),
        ("--merge t.json net.onnx", "net.onnx is not text"),
        ("--merge t.json u.json -o t.json --force", "t.json is what is read"),
        ("--merge --compare t.json old.json", "--merge and --compare are two requests"),
        ("--compare t.json", "name two tables"),
        ("--compare t.json old.json -o x", "-o has no effect with --compare"),
        ("--inspect", "name one table"),
        ("--inspect net.onnx", "net.onnx is no calibration table"),
        ("--from c.cache", "name the model too"),
        ("net.onnx --from c.cache", "of its 1 tensor none"),
        ("net.onnx t.json --from c.cache", "name one model at most"),
        ("--from old.json --calibrator mse", "old.json has no histograms"),
    ],
)
def test_errors_are_one_clear_line(
    args: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = measure("head.npz", "t.json")
    old = {**table.to_json(histograms=False), "schema": 1}
    Path("old.json").write_text(json.dumps(old))
    Path("c.cache").write_text("TRT-8502-EntropyCalibration2\nnobody: 3c010204\n")
    conv_net(32, seed=1).save("other.onnx")
    capsys.readouterr()
    before = sorted(Path().iterdir())
    assert call(*args.split()) == 2
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert told in line
    assert "Traceback" not in err
    assert sorted(Path().iterdir()) == before


def test_a_dead_tensor_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    proto = onnx.load("net.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name in ("w1", "b1"):
            zeros = np.zeros_like(onnx.numpy_helper.to_array(tensor))
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    onnx.save(proto, "dead.onnx")
    assert call("dead.onnx", "--data", "all.npz", "-o", "t.json") == 0
    assert "zero on every sample" in capsys.readouterr().err
    assert call("--inspect", "t.json") == 0
    assert "dead" in capsys.readouterr().out


def test_what_is_asked_for_by_mistake_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("net.onnx") == 2
    assert "--synthetic" not in capsys.readouterr().err  # which calibrate has not
    assert call("net.onnx", "--data", "all.npz", "--calibrator", "", "-o", "t.json") == 2
    assert "--calibrator" in capsys.readouterr().err
    assert not Path("t.json").exists()


def test_samples_that_repeat_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("same.npz", image=np.repeat(IMAGES[:1], 40, axis=0))
    measure("same.npz", "t.json")
    assert "39 of 40 calibration samples (97.5 %) repeat" in capsys.readouterr().err


def test_the_table_of_a_model_that_is_simplified_is_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As given, the output of a Conv has another name than with the Identity behind it folded.
    given = Model.load("net.onnx")
    proto = given.to_onnx()
    node = proto.graph.node[0]
    node.output[0] = "c0_given"
    proto.graph.node.insert(1, onnx.helper.make_node("Identity", ["c0_given"], ["c0"], "same"))
    onnx.save(proto, "net.onnx")
    measure("all.npz", "t.json")
    assert call("net.onnx", "--from", "t.json", "-o", "u.json") == 0
    assert Path("u.json").read_bytes() == Path("t.json").read_bytes()
    measure("all.npz", "every.json", "--trt-cache", "every.cache")
    assert call("net.onnx", "--from", "every.json", "-o", "v.json") == 0
    assert "another version" not in capsys.readouterr().err
    for table, more in (("every.json", ()), ("t.json", ("--trt-cache", "w.cache"))):
        assert call("net.onnx", "--resume", table, "--data", "all.npz", "-o", "w.json", *more) == 2
        told = capsys.readouterr().err
        assert "--trt-cache, which asks for other tensors" in told
        assert "another model" not in told


def test_what_is_lacking_is_counted_in_the_model_as_it_is_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    measure("all.npz", "t.json")
    value = json.loads(Path("t.json").read_text())
    value.pop("counts")
    value["ranges"] = {"r0": value["ranges"]["r0"]}
    Path("t.json").write_text(json.dumps(value))
    assert call("net.onnx", "--from", "t.json", "-o", "u.json") == 0
    wanted = len(wanted_tensors(Model.load("net.onnx"), ()))
    assert f"{wanted - 1} of the {wanted} tensors that INT8" in capsys.readouterr().err
    Path("none.cache").write_text("TRT-8502-EntropyCalibration2\n")
    assert call("net.onnx", "--from", "none.cache", "-o", "v.json") == 2
    assert "no range at all" in capsys.readouterr().err
    assert not Path("v.json").exists()
