"""What keeps another machine from building engines, or from being timed, and what to do about it.

graphopt changes nothing over there: what is to be done is said, with the command where one does it.
Package names are those of NVIDIA's repositories (TensorRT's installation guide; JetPack's list).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.engines.releases import Version, release_of, spell_version
from graphopt.errors import UsageError
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.engines.remote.probe import Probe
    from graphopt.profiles import DeviceProfile

_FULL_DISK = 256 << 20
_LOW_DISK = 2 << 30
_CONTAINER = "or work in a container of nvcr.io/nvidia/tensorrt:YY.MM-py3"
_REPOSITORY = f"it is in NVIDIA's CUDA repository; {_CONTAINER}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        name: the thing: ``"trtexec"``, ``"disk"``.
        what: one line: what is wrong.
        remedy: one line: what to do, or an empty string.
        blocking: nothing can be built because of it; else times mean less, or it may go wrong.
    """

    name: str
    what: str
    remedy: str = ""
    blocking: bool = False


def problems(probe: Probe, device: DeviceProfile | None = None) -> list[Problem]:
    """Return what is wrong with a machine, what blocks first.

    Args:
        probe: of the machine.
        device: what it should be; None for the device that it is, where that is known.
    """
    asked, device = device, device or probe.device()
    found = [
        *_trtexec(probe, device),
        *_gpu(probe),
        *([] if asked is None else _other_gpu(probe, asked)),
        *_disk(probe),
        *_tools(probe),
        *_noise(probe),
    ]
    return sorted(found, key=lambda problem: not problem.blocking)


def install_command(probe: Probe) -> str:
    """Return what installs trtexec on a machine."""
    if probe.jetson is not None:
        return "sudo apt-get update && sudo apt-get install nvidia-tensorrt libnvinfer-bin"
    if probe.packages == "apt":
        return f"sudo apt-get update && sudo apt-get install libnvinfer-bin; {_REPOSITORY}"
    if probe.packages == "dnf":
        return f"sudo dnf install tensorrt; {_REPOSITORY}"
    return f"install TensorRT from NVIDIA's archive (its wheels hold no trtexec), {_CONTAINER}"


def _trtexec(probe: Probe, device: DeviceProfile | None) -> Iterator[Problem]:
    if not probe.trtexec and probe.asked:
        yield Problem(
            "trtexec",
            f"there is no program {one_line(probe.asked)} there, or it may not be run",
            "leave --trtexec out to have it looked for, or give its path there",
            blocking=True,
        )
        return
    if not probe.trtexec:
        has = f" (TensorRT {probe.version} is)" if probe.version else ""
        yield Problem(
            "trtexec",
            f"trtexec is not on PATH, nor where NVIDIA's packages put it{has}",
            f"{install_command(probe)}; or give its path with --trtexec",
            blocking=True,
        )
        return
    path = one_line(probe.trtexec)
    if "[TensorRT v" not in probe.help_text:
        said = one_line(probe.help_text, 150) or "nothing"
        yield Problem(
            "trtexec",
            f"{path} --help does not say its version, it says: {said}",
            f"{install_command(probe)}; TensorRT's libraries may be missing, or of another version",
            blocking=True,
        )
        return
    if probe.tensorrt is not None:
        yield from _version(probe.tensorrt, device)


def _version(version: Version, device: DeviceProfile | None) -> Iterator[Problem]:
    try:
        release_of(version)
    except UsageError as problem:
        yield Problem("tensorrt", str(problem), "install a newer TensorRT", blocking=True)
        return
    if device is None:
        return
    name, has = device.title or device.name, f"TensorRT {spell_version(version)}"
    oldest, newest = device.oldest_tensorrt, device.newest_tensorrt
    if newest is not None and version > newest:
        yield Problem(
            "tensorrt",
            f"{has} does not support {name}: {spell_version(newest)} is the last",
            "install that one, with the JetPack it belongs to",
            blocking=True,
        )
    elif oldest is not None and version < oldest:
        yield Problem(
            "tensorrt",
            f"{has} is older than {name}, which needs {spell_version(oldest)}",
            "install a newer TensorRT",
            blocking=True,
        )


def _gpu(probe: Probe) -> Iterator[Problem]:
    if not probe.gpus:
        said = f": nvidia-smi says {probe.gpu_says}" if probe.gpu_says else ""
        yield Problem(
            "gpu",
            f"no NVIDIA GPU is seen{said}",
            "install NVIDIA's driver (in a container: start it with --gpus all), until nvidia-smi "
            "lists the GPU",
            blocking=True,
        )
    elif probe.gpu_open is False:
        remedy = "let this user open the GPU's device nodes in /dev"
        if probe.jetson is not None and "video" not in probe.groups:
            remedy = f"sudo usermod -aG video {shlex.quote(probe.user or 'USER')}, and log in again"
        yield Problem("gpu", f"{probe.user or 'this user'} may not use the GPU", remedy, True)


def _other_gpu(probe: Probe, device: DeviceProfile) -> Iterator[Problem]:
    card = probe.gpus[0] if probe.gpus else None
    if card is None or card.sm is None or device.sm is None or card.sm == device.sm:
        return
    here, there = (f"{major}.{minor}" for major, minor in (card.sm, device.sm))
    known = probe.device_name()
    yield Problem(
        "device",
        f"it is {card.name} (compute capability {here}), and not {device.title or device.name} "
        f"({there})",
        f"use --device {known}" if known else "use another --host, or a --device of that GPU",
        blocking=True,
    )


def _disk(probe: Probe) -> Iterator[Problem]:
    if probe.folder and not probe.folder_writable:
        yield Problem(
            "disk",
            f"{probe.user or 'this user'} may not write in {one_line(probe.folder)}",
            "set XDG_CACHE_HOME there to a folder that may be written",
            blocking=True,
        )
    for what, free in ((probe.folder or "the folder for files", probe.folder_free),
                       ("the folder for temporary files", probe.tmp_free)):  # fmt: skip
        if free is not None and free < _LOW_DISK:
            yield Problem(
                "disk",
                f"{free / 2**20:,.0f} MiB are free in {one_line(what)}",
                "free some: an engine takes about as much as its ONNX model, and its build more",
                blocking=free < _FULL_DISK,
            )


def _tools(probe: Probe) -> Iterator[Problem]:
    if not probe.sha256:
        yield Problem(
            "sha256sum",
            "no tool there computes a SHA-256, so copies cannot be checked",
            "install coreutils",
            blocking=True,
        )


def _noise(probe: Probe) -> Iterator[Problem]:
    """Tell what makes times vary: it is read, and never set."""
    jetson = probe.jetson
    if jetson is not None and jetson.power_mode and not jetson.power_mode.startswith("MAXN"):
        yield Problem(
            "power mode",
            f"the power mode is {jetson.power_mode}, not MAXN: times are for this mode",
            "sudo nvpmodel -m 0, where MAXN is wanted (the list: /etc/nvpmodel.conf)",
        )
    if jetson is not None and jetson.clocks_fixed is False:
        yield Problem(
            "clocks",
            "the GPU's clock is not held at its maximum: times vary with load and heat",
            "sudo jetson_clocks, while timing",
        )
    if probe.jobs:
        more = f" and {len(probe.jobs) - 3} more" if len(probe.jobs) > 3 else ""
        yield Problem(
            "gpu jobs",
            f"others use the GPU: {', '.join(probe.jobs[:3])}{more}",
            "wait for them to end, or take the times for what they are",
        )
    if probe.load is not None and probe.cores and probe.load > probe.cores:
        yield Problem(
            "load",
            f"{probe.load:g} processes run on {probe.cores} cores: times vary",
            "wait until it is less",
        )
