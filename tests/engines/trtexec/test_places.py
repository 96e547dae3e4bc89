"""trtexec on this machine: found where it is put, and in the same places as on a device."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import ROOT

from graphopt.engines.trtexec import places
from graphopt.engines.trtexec.places import local_trtexec


def executable(path: Path) -> str:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_the_path_comes_first_then_what_was_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PLACES", (str(tmp_path / "usr" / "bin"),))
    monkeypatch.setattr(places, "UNPACKED", ("~",))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert local_trtexec() is None
    unpacked = executable(tmp_path / "TensorRT-10.3.0" / "bin" / "trtexec")
    assert local_trtexec() == unpacked
    assert local_trtexec("~/TensorRT-10.3.0/bin/trtexec") == unpacked
    put = executable(tmp_path / "usr" / "bin" / "trtexec")
    assert local_trtexec() == put
    on_path = executable(tmp_path / "bin" / "trtexec")
    assert local_trtexec() == on_path
    assert local_trtexec(str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize("script", ["engines/remote/probe.sh", "graphopt/bundle/build.sh"])
def test_scripts_look_in_the_same_places(script: str) -> None:
    text = (ROOT / script).read_text().replace('"${HOME-}"', "~").replace('"$HOME"', "~")
    for place in places.PLACES:
        assert place in text
    for place in places.UNPACKED:
        assert f"{place}/TensorRT*/bin" in text
