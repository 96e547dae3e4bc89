"""Every command and snippet in the README runs as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
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


@pytest.mark.slow
def test_every_snippet_runs(folder: Path) -> None:
    for snippet in PYTHON:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", snippet],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{snippet}\n{done.stderr}"


def test_links_lead_somewhere() -> None:
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
