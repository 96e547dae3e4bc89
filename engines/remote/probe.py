"""What another machine has: asked by one script, told as one value; nothing over there is changed.

What comes back is hostile until read: a line of ours carries a word made up for this one run, each
value is hex and bounded, and what is not as expected counts as not known.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from graphopt.engines.releases import Version
from graphopt.engines.remote import readings
from graphopt.engines.safety import Place, gpu_fact
from graphopt.errors import EnvironmentProblem
from graphopt.profiles import DeviceProfile, devices, load_device
from graphopt.profiles.host import Gpu
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.engines.remote.link import Link
    from graphopt.engines.remote.problems import Problem

_MOST_CHARACTERS = 4 << 20
_LINE = re.compile(r"@([a-z0-9-]{1,32}) ((?:[0-9a-f]{2})*)", re.ASCII)

_OTHER_CARDS = {"ti", "super", "d", "laptop", "mobile", "max"}
"""Words that make another card of a name: an RTX 4090 Laptop GPU is no RTX 4090."""


@dataclass(frozen=True, slots=True)
class Jetson:
    """What only a Jetson tells.

    Attributes:
        board: the model, ``"NVIDIA Jetson AGX Orin Developer Kit"``.
        chip: ``"tegra194"``, or an empty string.
        l4t: the release of Jetson Linux, ``"35.4.1"``, or an empty string.
        jetpack: ``"5.1.2"``, or an empty string where its package is not installed.
        power_mode: of nvpmodel, ``"MAXN"``, or an empty string.
        clocks_fixed: whether the GPU's clock is held at its maximum; None where only root may ask.
    """

    board: str
    chip: str = ""
    l4t: str = ""
    jetpack: str = ""
    power_mode: str = ""
    clocks_fixed: bool | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What a machine has. What could not be read is None, empty or False.

    Attributes:
        where: what a person calls the machine: ``"user@jetson"``, ``"this machine"``.
        system: ``"Linux"``.
        machine: the architecture, ``"aarch64"``.
        distribution: ``"Ubuntu 20.04.6 LTS"``.
        packages: what installs packages: ``"apt"``, ``"dnf"`` or an empty string.
        user: who is logged in.
        groups: the groups of that user.
        asked: the trtexec that was asked for, or an empty string where it was looked for.
        trtexec: the absolute path of trtexec, or an empty string.
        help_text: what ``trtexec --help`` printed, for ``Features.from_help``.
        tensorrt: the version of TensorRT: trtexec's own, else the libraries'.
        gpus: a Jetson's is called by its board.
        gpu_open: whether this user may use the GPU's device node; None where there is none.
        gpu_says: the last words of an nvidia-smi that lists no GPU.
        jobs: programs on the GPU.
        jetson: None on another machine.
        cuda: the version of the CUDA toolkit, or an empty string.
        folder: where files will go, or its nearest parent that exists.
        folder_writable: whether they may.
        folder_free: bytes free there.
        tmp_free: bytes free in the folder for temporary files.
        memory: bytes of memory, in all.
        memory_free: bytes of memory that can be had.
        sha256: the tool that hashes files, or an empty string.
        python: ``"3.8.10"``, for people to know; nothing uses it.
        cores: processors.
        load: processes that run, averaged over a minute.
        uptime_s: seconds since the start.
    """

    where: str
    system: str = ""
    machine: str = ""
    distribution: str = ""
    packages: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    asked: str = ""
    trtexec: str = ""
    help_text: str = ""
    tensorrt: Version | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_open: bool | None = None
    gpu_says: str = ""
    jobs: tuple[str, ...] = ()
    jetson: Jetson | None = None
    cuda: str = ""
    folder: str = ""
    folder_writable: bool = False
    folder_free: int | None = None
    tmp_free: int | None = None
    memory: int | None = None
    memory_free: int | None = None
    sha256: str = ""
    python: str = ""
    cores: int | None = None
    load: float | None = None
    uptime_s: float | None = None

    @property
    def version(self) -> str | None:
        """The version of TensorRT as text, ``"8.5.2"``, or None."""
        return None if self.tensorrt is None else ".".join(str(part) for part in self.tensorrt)

    def place(self) -> Place:
        """Return it as a place for engines, to check them against before they are loaded."""
        return Place("tensorrt", self.version, self.gpus, self.where)

    def device_name(self) -> str | None:
        """Return the known device that this is, ``"jetson-agx-xavier"``, ``"t4"``, or None."""
        if not self.gpus:
            return None
        card = self.gpus[0]
        words = set(re.findall(r"[a-z0-9]+", card.name.lower()))
        found = []
        for name in devices():
            own = set(name.split("-"))
            if name == "host" or not own <= words or (words - own) & _OTHER_CARDS:
                continue
            if card.sm in (None, load_device(name).sm):
                found.append(name)
        return max(found, key=len, default=None)

    def device(self) -> DeviceProfile | None:
        """Return the profile of :meth:`device_name`, or None."""
        name = self.device_name()
        return None if name is None else load_device(name)

    def problems(self, device: DeviceProfile | None = None) -> list[Problem]:
        """Return what keeps it from building for a device, or from being timed, and what to do."""
        from graphopt.engines.remote.problems import problems

        return problems(self, device)

    def facts(self) -> dict[str, Any]:
        """Return what an engine's sidecar and a stored latency must tell of it: JSON values."""
        facts: dict[str, Any] = {"tensorrt": self.version}
        if self.gpus:
            facts["gpu"] = gpu_fact(self.gpus[0])
            facts["driver"] = self.gpus[0].driver or None
        if self.jetson is not None:
            facts["l4t"] = self.jetson.l4t or None
            facts["jetpack"] = self.jetson.jetpack or None
            facts["power_mode"] = self.jetson.power_mode or None
            facts["clocks_fixed"] = self.jetson.clocks_fixed
        facts["cuda"] = self.cuda or None
        return {key: value for key, value in facts.items() if value is not None}


def run_probe(link: Link, *, trtexec: str = "", folder: str = "", limit_s: float = 150.0) -> Probe:
    """Ask a machine what it has.

    Args:
        link: to the machine.
        trtexec: a path or a name, where it is not to be looked for.
        folder: where files will go; empty for the user's folder for caches.
        limit_s: give up after so many seconds; each tool that is asked has a limit of its own.

    Raises:
        LinkLost: the link broke.
        EnvironmentProblem: the machine cannot be reached, or has no POSIX shell.
    """
    mark = secrets.token_hex(8)
    done = link.run(telling("probe.sh"), trtexec, folder, mark, limit_s=limit_s)
    values = parse(done.stdout, mark)
    if values is None:
        said = one_line(done.stderr or done.stdout, 200) or "nothing"
        raise EnvironmentProblem(
            f"{link.where} could not be asked what it has: its shell ended with {done.status} and "
            f"said: {said}",
            hint="graphopt needs a POSIX sh there, with head, od and tr",
        )
    return replace(read_probe(link.where, values), asked=trtexec)


def telling(name: str) -> str:
    """Return a script of this package that tells values, with the functions it does so by."""
    here = resources.files(__package__)
    return "".join((here / part).read_text(encoding="utf-8") for part in ("tell.sh", name))


def parse(text: str, mark: str) -> dict[str, str] | None:
    """Return the values between the lines ``MARK begin`` and ``MARK end``, by key.

    Lines that are not ours are passed over, and of two with one key the first counts. None where
    the two lines are not there, or there is far more text than the script can print.
    """
    if len(text) > _MOST_CHARACTERS:
        return None
    _, begin, rest = f"\n{text}".partition(f"\n{mark} begin\n")
    body, end, _ = rest.partition(f"\n{mark} end")
    if not begin or not end:
        return None
    values: dict[str, str] = {}
    for line in body.split("\n"):
        found = _LINE.fullmatch(line)
        if found:
            values.setdefault(found[1], _clean(bytes.fromhex(found[2])))
    return values


def _clean(data: bytes) -> str:
    """Return text that does nothing to a terminal, with its lines kept."""
    lines = data.decode(errors="replace").replace("\r", "").split("\n")
    return "\n".join("".join(c if c.isprintable() else "?" for c in x.expandtabs()) for x in lines)


def read_probe(where: str, values: dict[str, str]) -> Probe:
    """Make a :class:`Probe` of the values that :func:`parse` returns; never raises."""

    def line(key: str) -> str:
        return one_line(values.get(key, ""), 200)

    jetson = _jetson(values)
    memory, memory_free = readings.memory(values.get("memory", ""))
    gpus = readings.gpus(values.get("gpus", ""))
    if jetson is not None:
        sm = readings.CHIPS.get(jetson.chip)
        known = gpus[0] if gpus else Gpu("")
        size = None if memory is None else round(memory / 1e9, 1)
        # An AGX Xavier's device tree names no chip until JetPack 5.
        bare = jetson.board == "Jetson-AGX" and jetson.chip == "tegra194"
        name = "NVIDIA Jetson AGX Xavier" if bare else jetson.board
        gpus = (Gpu(name, sm or known.sm, known.memory_gb or size, known.driver),)
    elif not gpus and "gpu-node" in values and not values.get("nvidia-smi-says"):
        gpus = (Gpu("an NVIDIA GPU"),)  # a container without nvidia-smi, say
    help_text = values.get("help", "")
    return Probe(
        where=where,
        system=line("system"),
        machine=line("machine"),
        distribution=readings.distribution(values.get("os-release", "")),
        packages=readings.package_tool(values.get("os-release", "")),
        user=line("user"),
        groups=tuple(line("groups").split()),
        trtexec=_path(values.get("trtexec", "")),
        help_text=help_text,
        tensorrt=readings.tensorrt(values),
        gpus=gpus,
        gpu_open=("gpu-node-open" in values) if "gpu-node" in values else None,
        gpu_says=line("nvidia-smi-says"),
        jobs=readings.jobs(values.get("jobs", "")),
        jetson=jetson,
        cuda=readings.cuda(values.get("cuda", ""), values.get("nvcc", "")),
        folder=_path(values.get("folder", "")),
        folder_writable="folder-writable" in values,
        folder_free=readings.free_bytes(values.get("folder-disk", "")),
        tmp_free=readings.free_bytes(values.get("tmp-disk", "")),
        memory=memory,
        memory_free=memory_free,
        sha256=line("sha256"),
        python=readings.first(r"Python (\d[\w.+-]{0,30})", values.get("python", "")),
        cores=readings.whole(line("cores")),
        load=readings.real(line("load").partition(" ")[0]),
        uptime_s=readings.real(line("uptime").partition(" ")[0]),
    )


def _path(text: str) -> str:
    """Return an absolute path that can be used over there, or an empty string."""
    whole = text.startswith("/") and "\n" not in text and "\ufffd" not in text
    return text if whole and len(text) <= 4096 else ""


def _jetson(values: dict[str, str]) -> Jetson | None:
    chip = readings.first(r"(?m)^nvidia,(tegra\d{3})$", values.get("compatible", ""))
    release = readings.l4t(values.get("l4t", ""))
    if not chip and not release:
        return None
    return Jetson(
        board=one_line(values.get("board", ""), 100) or "NVIDIA Jetson",
        chip=chip,
        l4t=release,
        jetpack=readings.package(values.get("packages", ""), r"nvidia-jetpack"),
        power_mode=readings.power_mode(values.get("power-mode", "")),
        clocks_fixed=readings.clocks_fixed(values.get("clocks", "")),
    )
