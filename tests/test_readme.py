"""Every command and snippet in the README runs as it stands there.

Blocks about devices run against stand-ins of them, over a real ssh.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "tests" / "engines" / "remote"))
sys.path.insert(0, str(ROOT / "tests" / "standins"))

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
ON_DEVICES = dict(
    re.findall(
        r"<!-- block: (deploy|bundle|there|back) -->\s*```bash\n(.*?)```", TEXT, flags=re.DOTALL
    )
)
SHELL = [
    block
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    if block not in ON_DEVICES.values()
]
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
TOML = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[str]:
    """Every graphopt command of the shell blocks; continuation lines joined, installs left out."""
    found = []
    for block in SHELL:
        for line in block.replace("\\\n", " ").splitlines():
            found += [c.strip() for c in line.split("&&") if "graphopt " in c and "pip " not in c]
    return [re.sub(r"^\S*graphopt ", "graphopt ", c) for c in found if re.match(r"\S*graphopt ", c)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands expect around them."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    for i, text in enumerate(TOML):
        (folder / ("recipe.toml" if i == 0 else f"recipe{i}.toml")).write_text(text)
    return folder


def test_there_are_blocks_to_run() -> None:
    assert len(commands()) >= 6
    assert list(ON_DEVICES) == ["deploy", "bundle", "there", "back"]
    assert not [c for c in commands() if "--host" in c]
    assert PYTHON
    assert TOML


@pytest.mark.slow
def test_every_command_runs_in_order(folder: Path) -> None:
    for command in commands():
        words = shlex.split(command, comments=True)
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def devices(tmp_path: Path, folder: Path) -> Iterator[tuple[dict[str, str], Path, Path]]:
    """What knows ``jetson`` and ``t4`` by ssh: an environment; the home and programs of jetson."""
    import nvidia_smi
    from sshd import missing, ssh_device
    from trtexec import install

    if reason := missing():
        pytest.skip(reason)
    with ssh_device(tmp_path / "one", "jetson") as xavier, ssh_device(tmp_path / "two", "t4") as t4:
        gpu = "NVIDIA Jetson AGX Xavier"
        install(xavier.bin, "8.5.2", gpu=gpu, sm="7.2", dla_cores=2)
        nvidia_smi.install(xavier.bin, nvidia_smi.XAVIER)
        install(t4.bin, "10.3.0", gpu="Tesla T4", sm="7.5")
        nvidia_smi.install(t4.bin, nvidia_smi.T4)
        xavier.config.write_text(xavier.config.read_text() + t4.config.read_text())
        program = tmp_path / "programs" / "graphopt"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m graphopt "$@"\n')
        program.chmod(0o755)
        environment = {**xavier.environment, "PYTHONPATH": str(ROOT)}
        environment["PATH"] = f"{program.parent}{os.pathsep}{xavier.path}"
        yield environment, xavier.home, xavier.bin


@pytest.mark.slow
def test_the_blocks_about_devices_run_against_stand_ins(
    devices: tuple[dict[str, str], Path, Path], folder: Path
) -> None:
    environment, home, programs = devices

    def runs(name: str, cwd: Path, environment: dict[str, str]) -> None:
        done = subprocess.run(
            ["sh", "-euc", ON_DEVICES[name]],
            cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"

    runs("deploy", folder, environment)
    assert (folder / "for-t4" / "model.engine").exists()
    first = (folder / "for-dla" / "calibration.cache").read_text().splitlines()[0]
    assert first == "TRT-8502-EntropyCalibration2"
    runs("bundle", folder, environment)
    shutil.copy(folder / "digits.tar.gz", home)
    runs("there", home, {"HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin"})
    (packed,) = home.glob("*/out/model-results.tar.gz")
    shutil.copy(packed, folder)
    runs("back", folder, environment)
    assert (folder / "digits-graphopt" / "model.engine").exists()


@pytest.mark.slow
def test_every_snippet_runs(folder: Path) -> None:
    for snippet in PYTHON:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", snippet],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{snippet}\n{done.stderr}"
