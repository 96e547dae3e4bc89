"""What is installed, here and on another machine, what is missing, and how to get it.

Nothing of that is an error: a broken installation, or a machine that does not answer, is a finding.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from graphopt.errors import EnvironmentProblem, GraphoptError
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.engines.remote.link import Link
    from graphopt.engines.remote.probe import Probe
    from graphopt.profiles import DeviceProfile
    from graphopt.profiles.host import Gpu

Status = Literal["ok", "missing", "note", "no answer"]
HERE = "here"

_REQUIRED = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what.
        status: ``"ok"``; ``"missing"`` where something cannot be done without it; ``"note"``;
            ``"no answer"`` where a machine could not be asked.
        detail: one line: the version, or what cannot be done.
        remedy: what to do about it, or an empty string.
        place: where: ``"here"``, or the machine as it was asked for.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""
    place: str = HERE


def doctor(
    host: str | None = None,
    *,
    trtexec: str = "",
    device: DeviceProfile | None = None,
    connect: Callable[[str], Link] | None = None,
) -> list[Finding]:
    """Look at this machine, and at another one.

    Args:
        host: as ssh takes it, ``"user@jetson"``; None for this machine alone.
        trtexec: the one to use on ``host``, or here where that is None; empty to look for it.
        device: what the machine that builds should be.
        connect: opens a link; None for ssh.

    Returns:
        Python, the packages, the GPU, trtexec, ssh and the processor here; then what is there.

    Raises:
        UsageError: ``host`` is nothing that ssh could take.
    """
    if host is not None:
        from graphopt.engines.remote.hosts import parse_host

        parse_host(host)
    findings: list[Finding] = []
    for look in (_python, _packages, _engines, _cuda, _gpu):
        findings += _safely(look)
    findings += _safely(lambda: _trtexec("" if host else trtexec), name="trtexec")
    for look in (_ssh, _cpu):
        findings += _safely(look)
    if host is not None:
        there = _safely(lambda: _there(host, trtexec, device, connect or _by_ssh), name="host")
        findings += [replace(finding, place=host) for finding in there]
    return findings


def exit_code(findings: Iterable[Finding]) -> int:
    """Return what the command line ends with: 4 where a machine could not be asked, else 0."""
    asked = all(finding.status != "no answer" for finding in findings)
    return 0 if asked else EnvironmentProblem.exit_code


def _safely(look: Callable[[], Iterable[Finding]], name: str = "") -> list[Finding]:
    try:
        return list(look())
    except Exception as problem:  # noqa: BLE001 - a broken installation is what this is for
        what = one_line(f"{type(problem).__name__}: {problem}")
        name = name or look.__name__.strip("_")
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
        yield Finding("gpu", "ok", _card(card))
    if not cards:
        detail = "no NVIDIA GPU seen: engines can be built with TensorRT-RTX, and not timed"
        yield Finding("gpu", "note", detail)


def _card(card: Gpu) -> str:
    parts = [
        card.name,
        f"compute capability {card.sm[0]}.{card.sm[1]}" if card.sm else "",
        f"{card.memory_gb:g} GB" if card.memory_gb else "",
        f"driver {card.driver}" if card.driver else "",
    ]
    return ", ".join(part for part in parts if part)


def _trtexec(asked: str) -> Iterable[Finding]:
    from graphopt.engines.remote.local import LocalLink
    from graphopt.engines.remote.probe import run_probe

    with LocalLink() as link:
        probe = run_probe(link, trtexec=asked)
    wrong = [p for p in probe.problems() if p.name in ("trtexec", "tensorrt")]
    if probe.trtexec and not wrong:
        yield Finding("trtexec", "ok", f"TensorRT {probe.version}, {one_line(probe.trtexec)}")
    for problem in wrong:  # there are other ways to build, so none of it is a fault
        yield Finding("trtexec", "note", problem.what, problem.remedy)


def _ssh() -> Iterable[Finding]:
    tool = shutil.which("ssh")
    if tool is None:
        detail = "engines cannot be built on other machines (--host)"
        yield Finding("ssh", "note", detail, "sudo apt-get install openssh-client")
        return
    answer = subprocess.run(
        [tool, "-V"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=10,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    yield Finding("ssh", "ok", one_line(answer.stderr or answer.stdout, 80) or tool)


def _cpu() -> Iterable[Finding]:
    from graphopt.profiles.host import cpu

    processor = cpu()
    detail = f"{processor.model}, {processor.cores} cores can be used"
    if processor.int8_flags:
        yield Finding("cpu", "ok", f"{detail}, {', '.join(processor.int8_flags)}")
    else:
        what = "no VNNI or dot-product instructions: INT8 may be no faster than fp32"
        yield Finding("cpu", "note", f"{detail}; {what}")


def _by_ssh(host: str) -> Link:
    from graphopt.engines.remote.ssh import SshLink

    return SshLink(host)


def _there(
    host: str, trtexec: str, device: DeviceProfile | None, connect: Callable[[str], Link]
) -> Iterable[Finding]:
    from graphopt.engines.remote.probe import run_probe

    try:
        with connect(host) as link:
            probe = run_probe(link, trtexec=trtexec)
    except GraphoptError as failed:
        remedy = one_line(failed.hint) if failed.hint else ""
        yield Finding("host", "no answer", one_line(failed), remedy)
        return
    found = probe.problems(device)
    wrong = {problem.name for problem in found} - {"gpu"}
    for name, detail in _told(probe):
        if name not in wrong:
            yield Finding(name, "ok", detail)
    for problem in found:
        status: Status = "missing" if problem.blocking else "note"
        yield Finding(problem.name, status, problem.what, problem.remedy)


def _told(probe: Probe) -> Iterable[tuple[str, str]]:
    """Yield what a machine has, in one line each."""
    yield "host", ", ".join(filter(None, [probe.system, probe.machine, probe.distribution]))
    known = probe.device_name()
    if known:
        yield "device", known
    for card in probe.gpus:
        yield "gpu", _card(card)
    jetson = probe.jetson
    if jetson is not None:
        names = {"JetPack": jetson.jetpack, "L4T": jetson.l4t}
        told = [f"{name} {version}" for name, version in names.items() if version]
        yield "jetpack", ", ".join(told) or "version unknown"
        if jetson.power_mode:
            yield "power mode", jetson.power_mode
        if jetson.clocks_fixed:
            yield "clocks", "the GPU's is held at its maximum"
    if probe.version:
        yield "tensorrt", probe.version
    if probe.trtexec:
        yield "trtexec", one_line(probe.trtexec)
    if probe.cuda:
        yield "cuda", probe.cuda
    if probe.memory:
        free = "" if probe.memory_free is None else f", {probe.memory_free / 1e9:.1f} GB free"
        yield "memory", f"{probe.memory / 1e9:.1f} GB{free}"
    if probe.folder_free is not None:
        yield "disk", f"{probe.folder_free / 1e9:.1f} GB free in {one_line(probe.folder)}"
    if probe.python:
        yield "python", f"{probe.python} (graphopt does not need one there)"
