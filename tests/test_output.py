"""The output folder appears whole; what is the user's stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphopt.errors import GateError, OutputError, OutputExistsError
from graphopt.files import sha256
from graphopt.output import check_free, staged


def finish(folder: Path, **files: str) -> None:
    with staged(folder, force=True) as scratch:
        for name, text in files.items():
            (scratch / name).write_text(text)
        listed = [{"kind": "x", "path": n, "sha256": sha256(scratch / n)} for n in files]
        (scratch / "report.json").write_text(json.dumps({"artifacts": listed}))


def test_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged(out, force=False) as scratch:
        (scratch / "a").write_text("a")
        assert not out.exists()
    assert (out / "a").read_text() == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged(tmp_path / "out", force=False) as scratch:
        (scratch / "a").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out", force=False):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_failed_gate_delivers(tmp_path: Path) -> None:
    with pytest.raises(GateError), staged(tmp_path / "out", force=False) as scratch:
        (scratch / "report.json").write_text("{}")
        raise GateError("too much was lost")
    assert (tmp_path / "out" / "report.json").exists()


def test_an_existing_folder_is_refused_without_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_free(tmp_path / "out", force=False)  # empty: free
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(OutputExistsError, match="--force"):
        check_free(tmp_path / "out", force=False)


def test_a_file_is_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputExistsError, match="is a file"):
        check_free(tmp_path / "out", force=True)


def test_force_replaces_ours_and_keeps_what_is_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finish(out, engine="1", stale="old", edited="old")
    (out / "mine").write_text("mine")
    (out / "edited").write_text("changed by hand")
    finish(out, engine="2")
    assert (out / "engine").read_text() == "2"
    assert not (out / "stale").exists()
    assert (out / "mine").read_text() == "mine"
    assert (out / "edited").read_text() == "changed by hand"


def test_a_hostile_report_removes_nothing_outside(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("v")
    out = tmp_path / "out"
    out.mkdir()
    listed = [{"path": "../victim", "sha256": sha256(victim)}]
    (out / "report.json").write_text(json.dumps({"artifacts": listed}))
    finish(out, engine="1")
    assert victim.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        check_free(tmp_path / "file" / "out", force=False)


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputExistsError, match="link to nothing"):
        check_free(tmp_path / "out", force=True)


def test_a_name_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name too long"):
        check_free(tmp_path / ("x" * 300), force=False)


def test_an_existing_folder_is_filled_on_its_own_disk(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with staged(out, force=False) as scratch:
        assert scratch.parent == out  # beside it may be another disk: a mounted volume
        (scratch / "a").write_text("a")
    assert [p.name for p in out.iterdir()] == ["a"]


def test_what_another_program_put_there_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(OutputExistsError, match="meanwhile"),
        staged(out, force=False) as scratch,
    ):
        (scratch / "a").write_text("mine")
        out.mkdir()
        (out / "a").write_text("theirs")
    assert (out / "a").read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_nothing_is_replaced_where_a_folder_is_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "b").mkdir(parents=True)
    (out / "a").write_text("old")
    with pytest.raises(OutputExistsError, match="is a folder"), staged(out, force=True) as scratch:
        (scratch / "a").write_text("new")
        (scratch / "b").write_text("new")
    assert (out / "a").read_text() == "old"


def test_errors_name_the_folder_and_not_where_it_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError) as caught, staged(out, force=False) as scratch:
        raise OutputError(f"no space left for {scratch / 'model.onnx'}")
    assert str(caught.value) == f"no space left for {out / 'model.onnx'}"


def test_an_error_about_something_else_is_not_told_as_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged(tmp_path / "a" / "out", force=False):
        (tmp_path / "other").read_bytes()
