"""``docs/deploy.md``: its tables are what the code makes, and each cell of them is built here."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from helpers import ROOT

from graphopt.calibrators import CalibrationTable
from graphopt.calibrators.cache import write_cache
from graphopt.engines import ShapeRange
from graphopt.engines.releases import spell_version
from graphopt.engines.trtexec.command import Request, command
from graphopt.engines.trtexec.features import Features
from graphopt.profiles import load_device

Call = Callable[..., tuple[int, str, str]]
DEVICES = ("t4", "jetson-agx-xavier", "jetson-agx-orin", "a10", "l4")
KIN = {"rtx-2080-ti": "t4", "rtx-3090": "a10", "rtx-4090": "l4", "rtx-5090": "l4"}


@pytest.fixture
def tables() -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))
    return importlib.import_module("deploy_tables")


def test_the_page_is_up_to_date(tables: ModuleType) -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert tables.updated(text) == text, "run tools/deploy_tables.py --write"


def test_a_page_that_drifted_is_noticed(tables: ModuleType) -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert tables.updated(text.replace("`--stronglyTyped`", "`--int8`")) == text
    with pytest.raises(ValueError, match="table: flags"):
        tables.updated(text.replace("<!-- table: flags -->", ""))


def test_the_tables_name_every_device_with_a_tensorrt(tables: ModuleType) -> None:
    from graphopt.profiles import devices

    assert set(tables.DEVICES) == set(DEVICES)
    assert set(DEVICES) | set(KIN) == {n for n in devices() if load_device(n).sm}


@pytest.mark.parametrize(("name", "kin"), KIN.items())
def test_the_cards_left_out_are_as_those_they_are_kin_to(
    tables: ModuleType, name: str, kin: str
) -> None:
    def cells(device: str) -> set[tuple[object, ...]]:
        rows = tables.rows_of(load_device(device))
        return {(c.version, c.mode, c.text) for row in rows for c in row}

    assert cells(name)
    assert cells(name) <= cells(kin)


def checked(cell, out: Path) -> Path:  # type: ignore[no-untyped-def]
    """Compare what was built with what the cell says; return the file that ships."""
    implicit = cell.target.quantization == "implicit"
    shipped = sorted(out.glob("model.int8*.onnx"))
    assert bool(shipped) is not implicit
    path = shipped[0] if shipped else out / "model.onnx"
    model = onnx.load(path)
    assert model.opset_import[0].version <= cell.target.max_opset
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    read = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    stored = any(kinds.get(name) == onnx.TensorProto.INT8 for name in read)
    assert stored is cell.target.int8_weights
    half = any(n.op_type == "Cast" for n in model.graph.node)
    assert half is ("casts" in cell.form), "FP16 is in the graph where the cell says so"
    assert (out / "model.engine").exists()
    return path


def request_of(cell, model: Path, folder: Path) -> Request:  # type: ignore[no-untyped-def]
    """Ask for the same of another version, whose model is written the same."""
    implicit = cell.target.quantization == "implicit"
    return Request(
        onnx=str(model),
        save=str(folder / "model.engine"),
        profiles=({"image": ShapeRange(*(((1, 3, 16, 16),) * 3))},),
        int8=not implicit,
        fp16="--fp16" in cell.mode,
        calibration=str(folder / "calibration.cache") if implicit else None,
        dla=0 if "--dla" in cell.mode else None,
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs, first on this machine's PATH, whose jobs are quick."""
    from graphopt.engines.remote.job import Waits

    brisk = functools.partial(Waits, poll_s=0.05, tick_s=0.05, lock=str(tmp_path / "lock"))
    monkeypatch.setattr("graphopt.engines.remote.runner.Waits", brisk)
    monkeypatch.setattr("graphopt.engines.trtexec.engine.Waits", brisk)
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return folder


@pytest.mark.slow
def test_each_cell_is_built(tables: ModuleType, work: Path, here: Path, call: Call) -> None:
    """By the command line where the file or the flags are new, else by its trtexec alone."""
    import nvidia_smi
    from trtexec import install

    made: dict[tuple[str, ...], Path] = {}
    data = ("my 'net'.onnx", "--data", "calib.npz", "--samples", 4)
    for name in DEVICES:
        device = load_device(name)
        assert device.sm is not None
        sm = f"{device.sm[0]}.{device.sm[1]}"
        nvidia_smi.install(here, f"{device.title}, {sm}, 15360, 535.161.08")
        for cell in (cell for row in tables.rows_of(device) for cell in row):
            engine, program = "tensorrt-rtx", ""
            if cell.version is not None:
                engine, version = "trtexec", spell_version(cell.version)
                cores = device.dla or 0
                program = str(install(here, version, gpu=device.title, sm=sm, dla_cores=cores))
            elif cell.target is not None:
                pytest.importorskip("tensorrt_rtx")
            out = work / str(len(made))
            words = (*data, "--engine", engine, "--device", name, *cell.mode.split(), "-o", out)
            if cell.target is None:
                code, _, err = call("build", *words)
                assert code in (2, 3, 4), f"{cell}: {err}"
                assert not out.exists()
                continue
            key = (cell.form, *cell.flags, *([] if program else [name]))
            if key in made:
                shipped, folder = made[key], made[key].parent
                cache = folder / "calibration.cache"
                if cell.target.quantization == "implicit":
                    table = CalibrationTable.load(folder / "calibration.json")
                    write_cache(cache, table, version=cell.version)
                asked = request_of(cell, shipped, folder)
                wanted = command(asked, Features.of(cell.version)).words
                ran = subprocess.run(
                    [program, *wanted], capture_output=True, text=True, check=False
                )
                assert ran.returncode == 0, f"{cell}: {ran.stdout}"
                continue
            code, _, err = call("build", *words)
            assert code == 0, f"{cell}: {err}"
            made[key] = checked(cell, out)
            if program:
                side = json.loads((out / "model.engine.json").read_text())["trtexec"]
                told = tuple(w for w in side if w.partition("=")[0] in tables.DECIDES)
                assert told == cell.flags, f"{cell}"
    assert len(made) >= 9
