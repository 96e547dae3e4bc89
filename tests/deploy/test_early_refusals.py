"""What ``--host`` refuses before any work, and what a build there may never spoil."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., tuple[int, str, str]]
Setup = Callable[..., Any]
INT8 = ("my 'net'.onnx", "--int8", "--data", "calib.npz")


def profile(low: int, high: int) -> tuple[str, ...]:
    sizes = {"min": low, "opt": low, "max": high}
    return tuple(w for k, n in sizes.items() for w in (f"--{k}-shapes", f"image:{n}x3x16x16"))


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((*profile(1, 4), *profile(8, 16)), 2, "builds for one optimization profile, and 2 are"),
        (("--workspace", "1k"), 2, "1 MiB"),
        (("--timing-cache", "."), 2, "is no file"),
        (("--trtexec", "/nope/trtexec"), 4, "jetson: there is no program /nope/trtexec there"),
        (("--device", "a10"), 4, "jetson: it is Tesla T4"),
        (("--trtexec", ""), 2, "empty"),
        (("--host", ""), 2, "empty"),
    ],
)
def test_a_build_is_refused_before_it_calibrates(
    words: tuple[str, ...], code: int, told: str, work: Path, device: Setup, call: Call
) -> None:
    host = device("t4", "8.6.1").host
    found, _, err = call("build", *INT8, "--host", host, "-o", "o", *words)
    assert found == code, err
    assert told in err, err
    assert "calibrate:" not in err
    assert not (work / "o").exists()


def test_profile_refuses_what_contradicts_itself(work: Path, device: Setup, call: Call) -> None:
    words = ("profile", "my 'net'.onnx", "--host", device("t4", "10.3.0").host)
    code, _, err = call(*words, "--batch", 3, "--opt-shapes", "image:5x3x16x16")
    assert (code, "--batch 3: --opt-shapes has 5" in err) == (2, True), err
    for force in ((), ("--force",)):
        (work / "one.json").write_text("{}")
        assert call(*words, "-o", "one.json", "--layers", "one.json", *force)[0] == 2
    (work / "one.json").unlink()
    for host, code in (("", 2), (" ", 2)):
        assert call("profile", "my 'net'.onnx", "--host", host)[0] == code


def test_kernel_timings_come_home_whole_or_not(work: Path, device: Setup, call: Call) -> None:
    host = device("t4", "10.3.0").host
    words = ("build", "my 'net'.onnx", "--host", host, "--timing-cache", "new/t.cache", "-o")
    code, _, err = call(*words, "a")
    assert code == 0, err
    assert "MB" not in err, "small files are not worth a word"
    kept = work / "new" / "t.cache"
    first = kept.read_bytes()
    assert first.startswith(b"timing cache of 10.3.0")
    device("t4", "10.3.0", fail={"build": "no"})
    assert call(*words, "b")[0] == 3
    assert kept.read_bytes() == first
    device("t4", "10.3.0", full=("cache",))
    code, _, err = call(*words, "b")
    assert (code, "is left as it was" in err) == (0, True), err
    assert kept.read_bytes() == first
    assert [p.name for p in kept.parent.iterdir()] == ["t.cache"]


def test_an_engine_outlives_times_cut_short(work: Path, device: Setup, call: Call) -> None:
    host = device("t4", "10.3.0", full=("times",)).host
    code, _, err = call("build", "my 'net'.onnx", "--host", host, "-o", "o")
    assert code == 0, err
    assert "built and not timed: times.json is not what trtexec writes" in err
    report = json.loads((work / "o" / "report.json").read_text())
    assert "engine" in {each["kind"] for each in report["artifacts"]}
