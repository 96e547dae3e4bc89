"""The suite for machines with a GPU, run over stand-ins: it has to work when somebody needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trt_machine import V8_5, V10, V11, cuda_standin, tensorrt_standin

pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(os.name != "posix", reason="nvidia-smi is stood in for by a script")
@pytest.mark.parametrize(
    ("version", "passed", "skipped"), [(V8_5, 12, 6), (V10, 12, 6), (V11, 9, 9)]
)
def test_it_passes_where_all_is_well(version, passed, skipped, tmp_path):
    modules, tools = tmp_path / "modules", tmp_path / "tools"
    for folder in (modules, tools):
        folder.mkdir()
    tensorrt_standin.install(modules, version, gpu="NVIDIA H100")
    cuda_standin.install(modules)
    smi = tools / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100, 9.0, 81559, 550.54'\n")
    smi.chmod(0o755)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-rs"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(modules),
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{passed} passed, {skipped} skipped" in done.stdout.splitlines()[-1]
