"""A strict stand-in for the ``tensorrt`` module of one version: its names, and no others.

What it shows is that graphopt and Polygraphy ask only for what a version has, and what they ask
for. It does not show that TensorRT does it: it optimizes nothing, and an engine of its is the ONNX
model in a wrapper. :func:`install` makes it importable, in the worker process too.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def install(folder: Path, version: str, *, gpu: str = "Tesla T4", dla_cores: int = 0) -> Path:
    """Put a ``tensorrt`` of this version into ``folder``, for ``sys.path``; return the folder.

    Args:
        folder: an empty folder.
        version: one of ``names.VERSIONS``.
        gpu: the GPU of the machine it is on.
        dla_cores: how many DLA cores that has.
    """
    package = folder / "tensorrt"
    shutil.copytree(HERE, package / "_standin")
    facts: dict[str, Any] = {"version": version, "gpu": gpu, "dla_cores": dla_cores}
    (package / "__init__.py").write_text(
        f"from ._standin.module import populate\npopulate(globals(), **{facts!r})\ndel populate\n"
    )
    told = folder / f"tensorrt-{version}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n")
    return folder


def told(engine: Path) -> dict[str, Any]:
    """Return what an engine of the stand-in's says of how it was built."""
    data = engine.read_bytes()
    size = int.from_bytes(data[28:32], "little")
    found: dict[str, Any] = json.loads(data[32 : 32 + size])
    return found
