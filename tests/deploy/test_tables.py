"""``docs/deploy.md``: its tables are what the code makes, and each cell of them is built here."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from helpers import ROOT

from graphopt.engines.releases import spell_version
from graphopt.profiles import load_device

Call = Callable[..., tuple[int, str, str]]
DEVICES = ("t4", "jetson-agx-xavier", "jetson-agx-orin", "a10", "l4")


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

    assert set(tables.DEVICES) == set(DEVICES) == {n for n in devices() if load_device(n).sm}


def checked(cell, out: Path) -> None:  # type: ignore[no-untyped-def]
    """Compare what was built with what the cell says."""
    implicit = cell.target.quantization == "implicit"
    shipped = sorted(out.glob("model.int8*.onnx"))
    assert bool(shipped) is not implicit
    model = onnx.load(shipped[0] if shipped else out / "model.onnx")
    assert model.opset_import[0].version <= cell.target.max_opset
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    read = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    stored = any(kinds.get(name) == onnx.TensorProto.INT8 for name in read)
    assert stored is cell.target.int8_weights
    half = any(n.op_type == "Cast" for n in model.graph.node)
    assert half is ("casts" in cell.form), "FP16 is in the graph where the cell says so"
    assert (out / "model.engine").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", DEVICES)
def test_each_cell_is_what_a_build_does(
    name: str,
    tables: ModuleType,
    work: Path,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import nvidia_smi
    from trtexec import install

    from graphopt.engines.remote import runner
    from graphopt.engines.remote.job import Waits

    monkeypatch.setattr(
        runner,
        "Waits",
        functools.partial(Waits, poll_s=0.05, tick_s=0.05, lock=str(tmp_path / "lock")),
    )
    monkeypatch.setattr(
        "graphopt.engines.trtexec.engine.Waits",
        functools.partial(Waits, poll_s=0.05, tick_s=0.05, lock=str(tmp_path / "lock")),
    )
    bin_ = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(bin_), prepend=":")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    device = load_device(name)
    sm = f"{device.sm[0]}.{device.sm[1]}"  # type: ignore[index]
    nvidia_smi.install(bin_, f"{device.title}, {sm}, 15360, 535.161.08")
    built = 0
    for row in tables.rows_of(device):
        for cell in row:
            engine = "tensorrt-rtx"
            if cell.version is not None:
                engine = "trtexec"
                version = spell_version(cell.version)
                cores = device.dla or 0
                install(bin_, version, gpu=device.title, sm=sm, dla_cores=cores)
            elif cell.target is not None:
                pytest.importorskip("tensorrt_rtx")
            out = work / f"{built}"
            options = ["--engine", engine, "--device", name, *cell.mode.split()]
            data = ("--data", "calib.npz", "--samples", 4, "-o", out)
            code, _, err = call("build", "my 'net'.onnx", *data, *options)
            if cell.target is None:
                assert code in (2, 3, 4), f"{cell}: {err}"
                assert not out.exists()
                continue
            assert code == 0, f"{cell}: {err}"
            checked(cell, out)
            if cell.version is not None:
                words = json.loads((out / "model.engine.json").read_text())["trtexec"]
                told = tuple(w for w in words if w.partition("=")[0] in tables.DECIDES)
                assert told == cell.flags, f"{cell}"
            built += 1
    assert built
