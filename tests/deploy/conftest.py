"""Devices over a real ssh, with a stand-in trtexec of one version, and the command line."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, conv_net, image_samples, told

sys.path.insert(0, str(ROOT / "tests" / "engines" / "remote"))
sys.path.insert(0, str(ROOT / "tests" / "standins"))

import nvidia_smi
from sshd import Device, missing, ssh_device
from trtexec import install

GPUS = {
    "t4": ("Tesla T4", "7.5", nvidia_smi.T4, 0),
    "jetson-agx-xavier": ("NVIDIA Jetson AGX Xavier", "7.2", nvidia_smi.XAVIER, 2),
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and samples, to work in; its name needs quotes."""
    from graphopt import measure

    folder = tmp_path / 'it\'s a "work" $HOME'
    folder.mkdir()
    conv_net(16).save(folder / "my 'net'.onnx")
    np.savez(folder / "calib.npz", image=image_samples(8))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    return folder


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Device]]:
    """Set up a device: ``device("t4", "10.3.0", slow=0.1)``."""
    from graphopt.engines.remote import runner
    from graphopt.engines.remote.job import Waits

    if reason := missing():
        pytest.skip(reason)
    brisk = functools.partial(Waits, poll_s=0.2, tick_s=0.2, lock=str(tmp_path / "lock"))
    monkeypatch.setattr(runner, "Waits", brisk)
    with ssh_device(tmp_path / "device") as there:
        monkeypatch.setenv("PATH", there.path)
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)

        def set_up(name: str = "t4", version: str = "10.3.0", **behaviour: Any) -> Device:
            gpu, sm, listed, cores = GPUS[name]
            install(there.bin, version, gpu=gpu, sm=sm, dla_cores=cores, **behaviour)
            nvidia_smi.install(there.bin, listed)
            return there

        yield set_up


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line: exit code, what it printed, what it said."""
    return told(capsys)
