"""``graphopt analyze`` as a user meets it: tables, JSON, a file that a stopped run goes on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graphopt.sensitivity.store as store
from graphopt.console import Console
from graphopt.errors import DataError, OutputExistsError, UsageError
from graphopt.sensitivity import load
from graphopt.sensitivity.store import Journal
from graphopt.verbs_analyze import run_analyze

FLAGS = {
    "data": "calib.npz", "preprocess": None, "samples": None, "seed": None, "eval_spec": None,
    "ratios": None, "only": None, "importance": None, "align": None, "calibrator": None,
    "engine": "tensorrt", "device": None, "output": None, "force": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def work(tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = tools.chain()
    model.save(tmp_path / "net.onnx")
    tools.nets["skips"]().save(tmp_path / "unet.onnx")
    tools.samples(model, tmp_path / "calib.npz")
    tools.samples(model, tmp_path / "test.npz", 12, labels=5, seed=8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "SECONDS", 0.0)
    return tmp_path


def call(
    name: str = "net.onnx", *, as_json: bool = False, quiet: bool = True, **flags: Any
) -> None:
    ui = Console(verbosity=-1 if quiet else 1, json=as_json)
    run_analyze(Path(name), {**FLAGS, **flags}, ui)


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make Ctrl-C come after so many figures; returns what takes that back."""
    keep, seen = Journal.__call__, []

    def kept(self: Journal, found: Any) -> None:
        keep(self, found)
        seen.append(found)
        if len(seen) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "__call__", kept)
    return lambda: monkeypatch.setattr(Journal, "__call__", keep)


def test_tables_in_the_order_to_follow(capsys: pytest.CaptureFixture[str]) -> None:
    call(eval_spec="test.npz", quiet=False)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("channels, the least sensitive first (noise per MAC saved; obs)")
    assert lines[1].split() == (
        [
            "group",
            "ratio",
            "channels",
            "MACs",
            "saved",
            "SQNR",
            "dB",
            "same",
            "class",
            "accuracy",
            "MACs",
            "per",
            "%",
            "noise",
        ]
    )
    assert sum("->" in line for line in lines) == 9
    assert any(line.startswith("layers to INT8") for line in lines)
    assert "losses of several do not add up; on 12 samples of --eval" in printed.out
    assert "accuracy of the model itself: 3/12 (25.00 %)" in printed.out
    assert "INT8 in the tensorrt dialect: tensorrt was asked for" in printed.err
    assert "not measured: prune Gemm8: frozen: graph output" in printed.err


def test_json_is_the_file_and_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    call(as_json=True, output=Path("a.json"))
    first = capsys.readouterr().out
    call(as_json=True, ratios="0.5,0.3,0.1", output=Path("b.json"))
    assert capsys.readouterr().out == first == Path("a.json").read_text()
    assert Path("b.json").read_text() == first
    value = json.loads(first)
    assert value["complete"] is True
    assert value["subject"]["on_calibration"] is True
    keys = {(i["kind"], i["name"], i["ratio"]) for i in value["items"]}
    assert len(keys) == len(value["items"]) == 9 + 3
    assert sorted(map(tuple, value["order"]["prune"])) == sorted(
        (n, r) for k, n, r in keys if k == "prune"
    )
    assert load(Path("a.json")).to_json() == value


def test_on_calibration_data_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    call(only="int8")
    assert "on 20 samples of the calibration data: optimistic" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 6, 11])
def test_a_stopped_run_goes_on_where_it_was(
    count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(output=Path("whole.json"), importance="l2")
    go_on = stop_after(count, monkeypatch)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on from there"):
        call(output=Path("part.json"), importance="l2")
    assert sorted(p.name for p in Path().iterdir() if p.name.startswith(".")) == []
    part = load(Path("part.json"))
    assert (len(part.items), part.complete) == (count, False)
    go_on()
    measured: list[object] = []
    keep = Journal.__call__
    monkeypatch.setattr(
        Journal, "__call__", lambda self, found: (measured.append(found), keep(self, found))
    )
    capsys.readouterr()
    call(output=Path("part.json"), importance="l2", quiet=False)
    assert f"part.json holds {count} figures of this run: going on from there" in (
        capsys.readouterr().err
    )
    assert len(measured) == 12 - count
    assert Path("part.json").read_bytes() == Path("whole.json").read_bytes()


def test_a_complete_file_is_shown_without_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(output=Path("a.json"), only="prune", importance="l2")
    first = capsys.readouterr().out
    monkeypatch.setattr("graphopt.sensitivity.run.losses", None)
    monkeypatch.setattr("graphopt.sensitivity.run.Simplify", None)
    call(output=Path("a.json"), only="prune", importance="l2", quiet=False)
    printed = capsys.readouterr()
    assert "nothing is left to measure" in printed.err
    assert printed.out == first


def test_stopped_before_the_first_figure_there_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphopt.sensitivity.run.losses", stopped)
    with pytest.raises(KeyboardInterrupt, match="interrupted; nothing was written"):
        call(output=Path("a.json"), importance="l2")
    assert not Path("a.json").exists()


def test_a_file_of_another_run_is_refused_unless_forced() -> None:
    call(output=Path("a.json"), only="prune", importance="l2", ratios="0.5")
    before = Path("a.json").read_bytes()
    same = {"only": "prune", "importance": "l2", "ratios": "0.5", "output": Path("a.json")}
    for name, change, told in [
        ("unet.onnx", {}, "another model"),
        ("net.onnx", {"data": "test.npz"}, "other --data"),
        ("net.onnx", {"eval_spec": "test.npz"}, "other samples to measure on"),
        ("net.onnx", {"ratios": "0.3"}, "ratios 0.3 in place of 0.5"),
        ("net.onnx", {"importance": "l1"}, "importance l1 in place of l2"),
        ("net.onnx", {"align": 4}, "align 4 in place of 1"),
    ]:
        with pytest.raises(OutputExistsError, match=told):
            call(name, **{**same, **change})
        assert Path("a.json").read_bytes() == before
    call("unet.onnx", **same, force=True)
    assert load(Path("a.json")).complete
    assert Path("a.json").read_bytes() != before


def test_what_is_no_file_of_figures_is_refused_unless_forced() -> None:
    Path("notes.txt").write_text("mine")
    Path("other.json").write_text('{"kind": "graphopt-calibration-table", "schema": 1}')
    for name in ("notes.txt", "other.json"):
        with pytest.raises(OutputExistsError, match=f"{name} holds no sensitivities"):
            call(output=Path(name), only="prune", importance="l2")
    assert Path("notes.txt").read_text() == "mine"
    for name, told in [(".", "is a folder"), ("net.onnx", "is what is read")]:
        with pytest.raises(OutputExistsError, match=told):
            call(output=Path(name), force=True)


@pytest.mark.parametrize(
    ("flags", "kind", "told"),
    [
        ({"data": None}, DataError, "analyze needs --data"),
        ({"ratios": "0.1,x"}, UsageError, "'x' is no number between 0 and 1"),
        ({"importance": "l3"}, UsageError, "unknown importance 'l3'"),
        ({"calibrator": "max2"}, UsageError, "unknown calibrator 'max2'"),
        ({"engine": "none"}, UsageError, "unknown engine 'none'"),
        ({"data": "nothing.npz"}, DataError, "no such file"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    flags: dict[str, Any], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind) as caught:
        call(**flags)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_samples_limit_what_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    call(as_json=True, samples=6, only="int8")
    value = json.loads(capsys.readouterr().out)
    assert value["subject"]["samples"] == 6


def test_of_several_outputs_the_table_has_all_and_json_each(
    tools: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tools.nets["branches"]()
    model.save("two.onnx")
    tools.samples(model, Path("two.npz"))
    flags = {"data": "two.npz", "importance": "l2", "ratios": "0.5", "output": Path("a.json")}
    call("two.onnx", **flags)
    assert "SQNR is over all outputs together" in capsys.readouterr().out
    value = json.loads(Path("a.json").read_text())
    names = [t.name for t in model.graph.outputs]
    assert all(sorted(item["loss"]["outputs"]) == sorted(names) for item in value["items"])
    known = [part["identical"] for i in value["items"] for part in i["loss"]["outputs"].values()]
    assert {True, False} == set(known)  # a change in one branch leaves the other's output alone


def test_outputs_that_are_no_classes_have_no_columns_for_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call("unet.onnx", importance="l2", ratios="0.5")
    printed = capsys.readouterr().out
    assert "SQNR dB" in printed
    assert "same class" not in printed
    assert "accuracy" not in printed
