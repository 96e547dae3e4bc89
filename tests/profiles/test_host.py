from __future__ import annotations

import stat
import time

import pytest

from graphopt.profiles import host as module
from graphopt.profiles import load_device
from graphopt.profiles.host import Gpu, cpu, gpus


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put a made-up nvidia-smi on PATH, or none."""

    def install(script: str | None) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(module, "GPU_NODES", ())
        if script is not None:
            tool = tmp_path / "nvidia-smi"
            tool.write_text("#!/bin/sh\n" + script)
            tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    return install


def test_a_card_is_read(smi):
    smi("echo 'NVIDIA A10, 8.6, 23028, 550.54.15'\necho 'Tesla T4, 7.5, 15360, 550.54.15'\n")
    assert gpus() == (
        Gpu("NVIDIA A10", (8, 6), 24.1, "550.54.15"),
        Gpu("Tesla T4", (7, 5), 16.1, "550.54.15"),
    )
    device = load_device("host")
    assert (device.title, device.sm, device.memory_gb) == ("NVIDIA A10", (8, 6), 24.1)
    assert device.multiple("int8") == 32
    assert "driver 550.54.15" in device.notes[0]


def test_an_old_driver_does_not_know_compute_cap(smi):
    smi(
        'case "$1" in *compute_cap*) exit 2;; esac\n'
        "echo 'Tesla T4, 15360, 470.1'\necho 'Orin (nvgpu), [N/A], 540.2'\n"
    )
    assert gpus() == (
        Gpu("Tesla T4", None, 16.1, "470.1"),
        Gpu("Orin (nvgpu)", None, None, "540.2"),
    )


@pytest.mark.parametrize("script", [None, "exit 9", "echo garbage", "echo 'a, b'"])
def test_no_card_or_no_answer_is_no_card(smi, script):
    smi(script)
    assert gpus() == ()
    device = load_device("host")
    assert device.sm is None
    assert device.title == cpu().model
    assert device.memory_gb is None or device.memory_gb > 0
    assert device.multiple("int8") == 8


def test_a_hanging_nvidia_smi_is_not_waited_for(smi, monkeypatch):
    smi("exec /bin/sleep 60")
    monkeypatch.setattr(module, "_QUERY_TIMEOUT_S", 0.2)
    start = time.monotonic()
    assert gpus() == ()
    assert time.monotonic() - start < 30


def test_a_jetson_has_a_device_node_and_no_nvidia_smi(smi, monkeypatch, tmp_path):
    smi(None)
    node = tmp_path / "nvhost-gpu"
    node.touch()
    monkeypatch.setattr(module, "GPU_NODES", (str(node),))
    assert gpus() == (Gpu("an NVIDIA GPU"),)
    assert load_device("host").sm is None


def test_the_processor_is_read(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: sse avx512_vnni avx_vnni\n\n"
        "processor\t: 1\nmodel name\t: Another\nflags\t\t: none\n"
    )
    assert cpu(info).model == "Some CPU @ 2 GHz"
    assert cpu(info).int8_flags == ("avx512_vnni", "avx_vnni")
    info.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert cpu(info).int8_flags == ("asimddp", "i8mm")
    assert cpu(info).model
    nothing = cpu(tmp_path / "none")
    assert nothing.model
    assert nothing.cores >= 1
    assert nothing.int8_flags == ()
