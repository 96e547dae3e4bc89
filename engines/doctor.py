"""What is installed here, what is missing, and how to get it. Never raises."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graphopt.wording import one_line

Status = Literal["ok", "missing", "note"]

TRTEXEC = Path("/usr/src/tensorrt/bin/trtexec")
_REQUIRED = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what.
        status: ``"ok"``; ``"missing"`` where something cannot be done without it; ``"note"``.
        detail: one line: the version, or what cannot be done.
        remedy: what to do about it, or an empty string.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def doctor() -> list[Finding]:
    """Look at Python, the packages, the GPU, trtexec and the processor, in that order."""
    findings: list[Finding] = []
    for look in (_python, _packages, _engines, _cuda, _gpu, _trtexec, _cpu):
        findings += _safely(look)
    return findings


def _safely(look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except Exception as problem:  # noqa: BLE001 - a broken installation is what this is for
        name = look.__name__.strip("_")
        what = one_line(f"{type(problem).__name__}: {problem}")
        return [Finding(name, "note", f"could not be looked at: {what}")]


def _python() -> Iterable[Finding]:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("python", "ok", detail)


def _packages() -> Iterable[Finding]:
    from graphopt.machine import installed_version

    for name in _REQUIRED:
        version = installed_version(name)
        if version:
            yield Finding(name, "ok", version)
        else:
            yield Finding(name, "missing", "graphopt needs it", f"pip install {name}")


def _engines() -> Iterable[Finding]:
    from graphopt.engines import ENGINES, Engine
    from graphopt.machine import installed_version

    version = installed_version("polygraphy")
    if version:
        yield Finding("polygraphy", "ok", version)
    else:
        remedy = 'pip install "graphopt[rtx]"'
        yield Finding("polygraphy", "missing", "engines are built through it", remedy)
    for name in ("tensorrt-rtx", "tensorrt"):
        engine: Engine = ENGINES.load(name)()
        missing = engine.missing()
        if missing is None:
            yield Finding(name, "ok", engine.version() or "version unknown")
        else:
            # TensorRT has its place on machines with a GPU; its absence elsewhere is no fault.
            status: Status = "missing" if name == "tensorrt-rtx" else "note"
            what, _, remedy = missing.partition(": ")
            yield Finding(name, status, what, remedy)


def _cuda() -> Iterable[Finding]:
    from graphopt.engines.cuda import INSTALL, cuda_python
    from graphopt.machine import installed, installed_version

    if installed("pycuda"):
        yield Finding("pycuda", "ok", installed_version("pycuda") or "version unknown")
    elif cuda_python():
        found = installed_version("cuda-python", "cuda-bindings") or "version unknown"
        yield Finding("cuda-python", "ok", found)
    else:
        yield Finding("pycuda", "note", "TensorRT engines cannot be run or timed here", INSTALL)


def _gpu() -> Iterable[Finding]:
    from graphopt.profiles.host import gpus

    cards = gpus()
    for card in cards:
        known = [
            card.name,
            f"compute capability {card.sm[0]}.{card.sm[1]}" if card.sm else "",
            f"{card.memory_gb:g} GB" if card.memory_gb else "",
            f"driver {card.driver}" if card.driver else "",
        ]
        yield Finding("gpu", "ok", ", ".join(part for part in known if part))
    if not cards:
        detail = "no NVIDIA GPU seen: engines can be built with TensorRT-RTX, and not timed"
        yield Finding("gpu", "note", detail)


def _trtexec() -> Iterable[Finding]:
    found = shutil.which("trtexec")
    if found is None and os.access(TRTEXEC, os.X_OK):
        found = str(TRTEXEC)
    if found:
        yield Finding("trtexec", "ok", found)
    else:
        yield Finding("trtexec", "note", f"not on PATH, nor at {TRTEXEC}; it comes with TensorRT")


def _cpu() -> Iterable[Finding]:
    from graphopt.profiles.host import cpu

    processor = cpu()
    detail = f"{processor.model}, {processor.cores} cores can be used"
    if processor.int8_flags:
        yield Finding("cpu", "ok", f"{detail}, {', '.join(processor.int8_flags)}")
    else:
        what = "no VNNI or dot-product instructions: INT8 may be no faster than fp32"
        yield Finding("cpu", "note", f"{detail}; {what}")
