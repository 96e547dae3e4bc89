"""The device ``host``: this machine, looked at when asked; nothing is changed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from graphopt.machine import cpu_count
from graphopt.profiles.device import DeviceProfile

# Integer dot products: ONNX Runtime's INT8 kernels are fast with any of these.
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm")
# Device nodes of the NVIDIA driver: a graphics card, a Jetson.
GPU_NODES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0")
_QUERY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor.

    Attributes:
        model: its name as the system tells it, or the architecture.
        cores: how many this process may use.
        int8_flags: the instruction sets it has for integer dot products, of ``INT8_FLAGS``.
    """

    model: str
    cores: int
    int8_flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU; what could not be read is None or empty."""

    name: str
    sm: tuple[int, int] | None = None
    memory_gb: float | None = None
    driver: str = ""


def cpu(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> Cpu:
    """Read the processor; never raises."""
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip().lower(), value.strip())
    flags = set((values.get("flags") or values.get("features") or "").split())
    model = values.get("model name") or values.get("hardware") or platform.processor()
    return Cpu(
        model=model or platform.machine() or "unknown",
        cores=cpu_count(),
        int8_flags=tuple(flag for flag in INT8_FLAGS if flag in flags),
    )


def gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that nvidia-smi lists, or a nameless one whose device node is there.

    Never raises, and waits at most ten seconds for nvidia-smi.
    """
    found = read_gpus(_nvidia_smi("name,compute_cap,memory.total,driver_version"))
    if not found:  # Drivers before 510 do not know compute_cap.
        found = read_gpus(_nvidia_smi("name,memory.total,driver_version"))
    if not found and any(Path(node).exists() for node in GPU_NODES):
        found = (Gpu("an NVIDIA GPU"),)
    return found


def read_gpus(table: str) -> tuple[Gpu, ...]:
    """Read what nvidia-smi prints as CSV without header and units.

    Args:
        table: rows of name, compute capability (drivers before 510 leave it out), memory in MiB
            and driver; other rows are passed over.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    full = [[r[0], "", *r[1:]] if len(r) == 3 else r for r in rows]
    return tuple(_gpu(row) for row in full if len(row) == 4 and row[0])


def host() -> DeviceProfile:
    """Return this machine as a device: its GPU where there is one, else its processor."""
    processor = cpu()
    vnni = ", ".join(processor.int8_flags)
    notes = [
        f"{processor.cores} cores of {processor.model} can be used.",
        f"Integer dot products: {vnni}."
        if vnni
        else "No VNNI or dot-product instructions seen: INT8 may be no faster than fp32 here.",
    ]
    cards = gpus()
    if cards:
        card = cards[0]
        notes.insert(0, f"GPU: {card.name}, driver {card.driver or 'unknown'}.")
        return DeviceProfile(
            name="host",
            title=card.name,
            sm=card.sm,
            memory_gb=card.memory_gb,
            precisions=("int8", "fp16", "fp32"),
            channel_multiple={"int8": 32, "fp16": 8, "fp32": 8},
            notes=tuple(notes),
        )
    return DeviceProfile(
        name="host",
        title=processor.model,
        memory_gb=_memory_gb(),
        precisions=("int8", "fp32"),
        channel_multiple={"int8": 8, "fp32": 8},
        notes=tuple(notes),
    )


def _nvidia_smi(query: str) -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_QUERY_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return "" if answer.returncode else answer.stdout


def _gpu(row: list[str]) -> Gpu:
    name, capability, memory, driver = row
    major, _, minor = capability.partition(".")
    sm = (int(major), int(minor)) if _is_count(major) and _is_count(minor) else None
    # MiB; a Jetson answers "[N/A]".
    memory_gb = round(int(memory) * 2**20 / 1e9, 1) if _is_count(memory) else None
    return Gpu(name, sm, memory_gb, driver)


def _is_count(text: str) -> bool:
    # isdigit() alone takes digits that int() does not, and any number of them.
    return text.isascii() and text.isdigit() and len(text) < 12


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None
