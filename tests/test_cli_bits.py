"""``--int8``, ``--fp16`` and limits on the command line: what is said, written, repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import conv_net, image_samples

from graphopt.cli import main

GIVEN = ("net.onnx", "--int8", "--data", "x.npz", "--device", "t4", "-q")


@pytest.fixture(autouse=True)
def _in_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    conv_net(32).save("net.onnx")
    np.savez("x.npz", image=image_samples(40))


def optimize(out: str, *args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["optimize", *args, "-o", out])
    return int(ended.value.code or 0)


def facts(out: str, stage: str) -> dict[str, Any]:
    report = json.loads((Path(out) / "report.json").read_text())
    (found,) = (s["facts"] for s in report["stages"] if s["name"] == stage)
    return dict(found)


def sqnr(out: str) -> float:
    report = json.loads((Path(out) / "report.json").read_text())
    (gate,) = report["gates"]
    return float(gate["value"])


@pytest.mark.parametrize("more", [(), ("--fp16",), ("--engine", "onnxruntime")])
def test_a_search_judges_what_ships_and_its_recipe_repeats_it(more: tuple[str, ...]) -> None:
    assert optimize("all", *GIVEN, *more, "--min-sqnr", "1") == 0
    limit = f"{sqnr('all') + 2:.2f}"
    assert optimize("a", *GIVEN, *more, "--min-sqnr", limit) == 0
    found = facts("a", "mixed-precision")
    assert found["left_in_float"]
    assert found["final"]["sqnr_db"] == pytest.approx(sqnr("a"), abs=1e-5)
    assert optimize("b", "net.onnx", "--recipe", "a/recipe.toml", "-q") == 0
    for path in Path("a").iterdir():
        if path.name != "report.json":
            assert path.read_bytes() == (Path("b") / path.name).read_bytes(), path.name


def test_a_limit_that_only_float_meets_fails_with_the_best_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert optimize("a", *GIVEN, "--min-sqnr", "110") == 1
    assert "that is the best of" in capsys.readouterr().err
    assert not facts("a", "mixed-precision")["met"]
    assert (Path("a") / "model.int8.onnx").exists()


@pytest.mark.parametrize("what", [("--int8",), ("--fp16",), ("--weights", "int8")])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_pattern_that_names_nothing_is_told(
    capsys: pytest.CaptureFixture[str], what: tuple[str, ...], more: tuple[str, ...]
) -> None:
    given = ("net.onnx", *what, "--data", "x.npz", "--device", "t4", "-q", *more)
    assert optimize("a", *given, "--exclude-nodes", "Conv", "--exclude-nodes", "cnov*") == 0
    told = capsys.readouterr().err
    assert "--exclude-nodes cnov* matches no node name or operator" in told
    assert "--exclude-nodes Conv matches" not in told
