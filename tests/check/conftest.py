"""A folder with models, and the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, conv_net, image_samples, told

sys.path.insert(0, str(ROOT / "tests" / "check"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: a model, one that answers otherwise, one of twice the channels."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    conv_net(8).save(folder / "net.onnx")
    conv_net(8, seed=3).save(folder / "other.onnx")
    np.savez(folder / "data.npz", image=image_samples(24))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line: exit code, what it printed, what it said."""
    return told(capsys)
