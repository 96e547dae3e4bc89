"""Whether an engine may be loaded: its header and its sidecar against the place it would run in.

TensorRT loads an engine only in the version that built it, and on the kind of GPU it was built on,
unless it was built to be version or hardware compatible (from 8.6 on). TensorRT-RTX's are never
compatible between releases, and run on the compute capabilities they were built for (NVIDIA's
documentation, "Engine Compatibility" of both).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.engines.header import identify, is_engine
from graphopt.engines.sidecar import find_sidecar, is_another, sidecar_path
from graphopt.errors import EnvironmentProblem, GraphoptError, UsageError
from graphopt.profiles.host import Gpu
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.engines import Engine

TRUST = "an engine is code that runs: load only what you built or whose maker you trust"
_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX", "onnxruntime": "ONNX Runtime"}
_OLDEST_COMPATIBLE = (8, 6, 0)
_AMPERE = (8, 0)
# What makers and drivers add to the name of one and the same GPU.
_NO_NAME = {"nvidia", "tesla", "gpu", "graphics", "nvgpu", "developer", "kit", "devkit", "module"}


HERE = "this machine"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine would run. What is None or empty is not known, and not checked.

    Attributes:
        runtime: ``"tensorrt"`` or ``"tensorrt-rtx"``, or another name in ``ENGINES``.
        version: of that runtime: ``"8.5.2"``, ``"10.9.0.34"``.
        gpus: any of which it may run on.
        where: what a person calls it: ``"this machine"``, ``"user@jetson"``.
    """

    runtime: str
    version: str | None = None
    gpus: tuple[Gpu, ...] = ()
    where: str = HERE


def here(engine: Engine) -> Place:
    """Return this machine as a place for artifacts of this engine; waits for ``nvidia-smi``."""
    from graphopt.profiles.host import gpus

    cards = () if engine.name == "onnxruntime" else gpus()
    runtime = "tensorrt" if engine.name == "trtexec" else engine.name
    return Place(runtime, engine.version(), cards)


def gpu_fact(card: Gpu) -> dict[str, str | None]:
    """Return what a sidecar tells of the GPU an engine was built on (``gpu``)."""
    return {"name": card.name, "sm": f"{card.sm[0]}.{card.sm[1]}" if card.sm else None}


def check_engine(
    path: str | os.PathLike[str], place: Place, *, warn: Callable[[str], None] | None = None
) -> None:
    """Refuse an engine that its header or its sidecar tells not to belong in this place.

    One without a sidecar comes from elsewhere: it is let through, and ``warn`` is told that loading
    it is a matter of trust.

    Args:
        path: the engine's file.
        place: where it would be loaded.
        warn: is given a line for each thing that is no reason to refuse it.

    Raises:
        UsageError: the sidecar is another engine's, or cannot be read; there is no such file.
        ModelFormatError: the engine is truncated or damaged.
        EnvironmentProblem: it belongs to another runtime, version or GPU.
    """
    path = Path(path)
    facts = _facts_of(path)
    if facts is None and place.runtime != "onnxruntime" and warn is not None:
        warn(f"{path.name} has no sidecar, so what it is for cannot be checked; {TRUST}")
    problems = _problems(path, facts, place)
    if problems:
        problem, *more = problems
        hint = [f"also: {other}" for other in more] + [rebuild_hint(path, facts or {}, place)]
        if facts is not None:
            hint.append(_way_out(path))
        raise type(problem)(str(problem), hint="\n".join(hint))


def reasons_against(path: str | os.PathLike[str], place: Place) -> list[str]:
    """Return why :func:`check_engine` would refuse an engine, a line each; empty if it would not.

    Raises:
        UsageError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    try:
        facts = _facts_of(path)
        return [str(problem) for problem in _problems(path, facts, place)]
    except GraphoptError as problem:
        return [str(problem)]


def rebuild_hint(path: Path, facts: Mapping[str, Any], place: Place) -> str:
    """Return the command that builds the engine for a place, as far as its sidecar tells it."""
    source = facts.get("source")
    words = ["graphopt", "build", _word(source) if isinstance(source, str) and source else "MODEL"]
    folder = path.parent
    if (folder / "recipe.toml").is_file():
        words += ["--recipe", _word(str(folder / "recipe.toml"))]
    engine = facts.get("engine")
    if isinstance(engine, str) and re.fullmatch(r"[a-z0-9-]{1,40}", engine):
        words += ["--engine", engine]
    if engine == "trtexec" and place.where != HERE:
        words += ["--host", _word(place.where)]  # the recipe may name another machine
    words += ["-o", _word(str(folder)), "--force"]
    return f"build it again: {' '.join(words)}"


def same_gpu(a: str, b: str) -> bool:
    """Whether two names mean one kind of GPU: ``Tesla T4`` and ``NVIDIA T4``.

    A Jetson goes by its model's name or, to newer drivers, by its chip's: ``Orin (nvgpu)``.
    """
    one, other = _name_words(a), _name_words(b)
    if "jetson" in one | other:
        one, other = one - {"jetson"}, other - {"jetson"}
        return not one or not other or one <= other or other <= one
    return one == other or not one or not other


def _facts_of(path: Path) -> dict[str, Any] | None:
    try:
        return find_sidecar(path)
    except UsageError as problem:
        raise UsageError(
            f"{path.name} is not loaded, because its sidecar cannot be read: {problem}",
            hint=_way_out(path),
        ) from problem


def _way_out(path: Path) -> str:
    return (
        f"or move {sidecar_path(path).name} away to have it loaded unchecked, like an engine from "
        f"elsewhere; {TRUST}"
    )


def _problems(path: Path, facts: Mapping[str, Any] | None, place: Place) -> list[GraphoptError]:
    """Return what speaks against loading it, the weightiest first."""
    if facts is not None:
        swapped = is_another(path, facts)
        if swapped:  # nothing else it tells is about this file
            return [UsageError(swapped)]
    header = identify(path) if is_engine(path) else None
    told = facts or {}
    found: list[GraphoptError] = []
    runtime, version = _text(told, "runtime"), _text(told, "runtime_version")
    if header is not None:
        if runtime not in (None, header.kind):
            found.append(
                UsageError(
                    f"the sidecar of {path.name} tells of an engine of {_title(runtime)}, and the "
                    f"file is one of {_title(header.kind)}"
                )
            )
        runtime = header.kind
        if header.version and header.sure:
            if version is not None and _differ(version, header.version):
                found.append(
                    UsageError(
                        f"the sidecar of {path.name} tells of {_title(runtime)} {version}, and the "
                        f"file was built by {header.version}"
                    )
                )
            version = header.version
    if runtime is not None and runtime != place.runtime:
        found.append(
            EnvironmentProblem(
                f"{path.name} is an engine of {_title(runtime)}, and {place.where} would load it "
                f"with {_title(place.runtime)}"
            )
        )
        return found
    wrong = (_wrong_version(version, told, place), _wrong_gpu(told, place))
    return found + [EnvironmentProblem(f"{path.name} was built {line}") for line in wrong if line]


def _wrong_version(built: str | None, facts: Mapping[str, Any], place: Place) -> str | None:
    there = place.version
    if place.runtime == "onnxruntime" or not built or not there or not _differ(built, there):
        return None
    title = _title(place.runtime)
    line = f"by {title} {built}, and {place.where} has {there}"
    if facts.get("version_compatible") is True and place.runtime == "tensorrt":
        old, new = _numbers(built), _numbers(there)
        if _OLDEST_COMPATIBLE <= old <= new:
            return None
        return f"{line}: a version-compatible engine runs on that version and newer ones"
    return f"{line}: an engine runs on no other version than the one that built it"


def _wrong_gpu(facts: Mapping[str, Any], place: Place) -> str | None:
    if not place.gpus:
        return None
    there = " and ".join(dict.fromkeys(_spell(card) for card in place.gpus))
    targets = facts.get("compute_capabilities")
    if place.runtime == "tensorrt-rtx":
        allowed = {_sm(each) for each in targets} - {None} if isinstance(targets, list) else set()
        if not allowed or any(card.sm is None or card.sm in allowed for card in place.gpus):
            return None
        spelled = ", ".join(f"{major}.{minor}" for major, minor in sorted(filter(None, allowed)))
        return f"for compute capability {spelled}, and {place.where} has {there}"
    built = facts.get("gpu")
    if place.runtime != "tensorrt" or not isinstance(built, Mapping):
        return None
    card = Gpu(_text(built, "name") or "", _sm(built.get("sm")))
    level = facts.get("hardware_compatibility")
    if any(_fits(card, other, level) for other in place.gpus):
        return None
    return (
        f"on {_spell(card)}, and {place.where} has {there}: an engine runs on the kind of GPU it "
        "was built on"
    )


def _fits(built: Gpu, there: Gpu, level: object) -> bool:
    if built.sm is None or there.sm is None:
        return same_gpu(built.name, there.name)
    if level == "ampere_plus" and min(built.sm, there.sm) >= _AMPERE:
        return True
    if built.sm != there.sm:
        return False
    return level == "same_compute_capability" or same_gpu(built.name, there.name)


def _name_words(name: str) -> frozenset[str]:
    if name == "an NVIDIA GPU":  # what a device node alone tells
        return frozenset()
    return frozenset(re.findall(r"[a-z0-9]+", name.lower())) - _NO_NAME


def _differ(a: str, b: str) -> bool:
    """Whether two versions differ in major, minor or patch, as far as both say them."""
    one, other = _numbers(a), _numbers(b)
    both = min(len(one), len(other), 3)
    return both > 0 and one[:both] != other[:both]


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d{1,6}(?:\.\d{1,6})*", version.strip())
    return tuple(int(part) for part in match[0].split(".")[:3]) if match else ()


def _sm(value: object) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d{1,2})\.(\d)", value, re.ASCII) if isinstance(value, str) else None
    return (int(match[1]), int(match[2])) if match else None


def _text(facts: Mapping[str, Any], key: str) -> str | None:
    value = facts.get(key)
    return one_line(value, 100) or None if isinstance(value, str) else None


def _title(runtime: str | None) -> str:
    return _TITLES.get(runtime or "", runtime or "an unknown runtime")


def _spell(card: Gpu) -> str:
    name = one_line(card.name, 80) or "an NVIDIA GPU"
    return f"{name} (compute capability {card.sm[0]}.{card.sm[1]})" if card.sm else name


def _word(text: str) -> str:
    return shlex.quote(one_line(text))
