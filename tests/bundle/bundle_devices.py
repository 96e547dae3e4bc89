"""A device for the tests: a folder with a bundle in it, a trtexec, a shell."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SHELLS = [
    pytest.param(("dash",), id="dash", marks=pytest.mark.skipif(
        shutil.which("dash") is None, reason="no dash here")),
    pytest.param(("busybox", "sh"), id="busybox", marks=pytest.mark.skipif(
        shutil.which("busybox") is None, reason="no busybox here")),
]  # fmt: skip


@dataclass
class Device:
    """A folder with an unpacked bundle, a trtexec, and the shell that runs it."""

    folder: Path
    trtexec: Path | None
    shell: tuple[str, ...] = ("sh",)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def results(self) -> Path:
        return self.out / "model-results.tar.gz"

    def words(self, *words: str) -> list[str]:
        given = [] if self.trtexec is None else ["--trtexec", str(self.trtexec)]
        return [*self.shell, "build.sh", *given, *words]

    def build(self, *words: str, env: dict[str, str] | None = None) -> Any:
        return subprocess.run(
            self.words(*words),
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
