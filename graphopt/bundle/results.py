"""Results that come back from a device: unpacked and checked as if an enemy had made them.

The checks find damage, mix-ups and tampering with the archive. They cannot make an engine safe: it
is code, and whoever built it could have built another.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from graphopt.bundle.archive import read_archive
from graphopt.bundle.manifest import MANIFEST, SUMS, Manifest, parse_sums
from graphopt.bundle.pack import README
from graphopt.bundle.script import SCRIPT
from graphopt.engines.header import identify
from graphopt.engines.releases import Version, parse_release, spell_whole
from graphopt.engines.sidecar import read_json
from graphopt.engines.trtexec.features import banner_version
from graphopt.engines.trtexec.log import read_log
from graphopt.engines.trtexec.requests import FILES
from graphopt.errors import EnvironmentProblem, GraphoptError, ModelFormatError, UsageError
from graphopt.files import sha256
from graphopt.output import CACHE, RECIPE, REPORT, TABLE
from graphopt.wording import one_line

SCHEMA = 1
KIND = "graphopt-results"
OUTCOME, RESULT_SUMS = "results.json", "results.sha256"
BUILD_LOG, TIME_LOG = "build.log", "time.log"
_MIB = 1 << 20
_MODELS = tuple(
    f"model{precision}.onnx{data}"
    for precision in ("", *(f".{p}" for p in ("int8", "fp16", "int8-fp16", "w4", "w8",
                                              "w4-fp16", "w8-fp16")))
    for data in ("", ".data")
)  # fmt: skip
BUNDLE_LIMITS: Mapping[str, int] = {
    **dict.fromkeys((MANIFEST, SUMS, README, SCRIPT, RECIPE), 16 * _MIB),
    **dict.fromkeys((CACHE, REPORT), 64 * _MIB),
    TABLE: 1024 * _MIB,
    **dict.fromkeys(_MODELS, 64 << 30),
}
"""The files a bundle may hold, and the most bytes of each that are read."""
_RESULT_LIMITS: Mapping[str, int] = {
    **dict.fromkeys((MANIFEST, OUTCOME, RESULT_SUMS), 16 * _MIB),
    **dict.fromkeys((BUILD_LOG, TIME_LOG), 256 * _MIB),
    **dict.fromkeys((FILES.times, FILES.layer_times, FILES.layers), 64 * _MIB),
}
# An engine holds the weights once, or once a tactic of a few; kernels come on top.
_ENGINE_TIMES, _ENGINE_ROOM = 16, 2 << 30
_BANNER_BYTES = 1 << 16
_MOST_LINES, _MOST_LINE = 1_000_000, 1 << 16
# What build.sh knows and the log does not.
_KNOWN_BEST = ("it took longer", "the disk is full")


@dataclass(frozen=True, slots=True)
class Results:
    """What a device sent, checked against the bundle it was made of.

    Attributes:
        folder: where the files lie.
        told: what the device tells of itself: name -> text, printable.
        version: the TensorRT that built the engine.
        timed: whether it was timed.
        warnings: what could not be checked, a line each.
    """

    folder: Path
    told: Mapping[str, str]
    version: Version
    timed: bool
    warnings: tuple[str, ...] = ()


def open_bundle(path: Path, into: Path) -> Manifest:
    """Unpack a bundle into an empty folder and check it against its manifest.

    Raises:
        UsageError: it is none, or damaged.
    """
    name = read_archive(path, into, BUNDLE_LIMITS, in_folder=True)
    if not (into / MANIFEST).is_file():
        raise UsageError(f"{path} is not a bundle made by graphopt: it has no {MANIFEST}")
    manifest = Manifest.load(into, str(path))
    if manifest.name != name:
        raise UsageError(f"{path}: its folder {name!r} is not what its manifest says")
    return manifest


def open_results(path: Path, into: Path, bundle: Path, manifest: Manifest) -> Results:
    """Unpack results into an empty folder and check all that can be checked without the device.

    Args:
        path: what ``build.sh`` packed.
        into: an empty folder.
        bundle: where the unpacked bundle lies.
        manifest: of that bundle.

    Raises:
        UsageError: the archive is damaged or holds what it should not, or is of another bundle.
        EnvironmentProblem: the build failed on the device; the message has its reason.
        ModelFormatError: the engine is none, or is truncated.
    """
    weights = sum(p.stat().st_size for p in bundle.iterdir() if p.name in _MODELS)
    limits = {**_RESULT_LIMITS, FILES.engine: _ENGINE_TIMES * weights + _ENGINE_ROOM}
    read_archive(path, into, limits, in_folder=False)
    for name in (MANIFEST, OUTCOME):
        if not (into / name).is_file():
            raise UsageError(f"{path} is not what build.sh packs: it has no {name}")
    if sha256(into / MANIFEST) != manifest.digest:
        raise UsageError(
            f"{path} belongs to another bundle: its manifest is not that of the one given with "
            "--bundle"
        )
    told = _told(into / OUTCOME, path)
    warnings = _check_sums(path, into, told)
    version = _version(path, told)
    if told["status"] != "built":
        raise _failure(path, into, told)
    if not (into / FILES.engine).is_file():
        raise UsageError(f"{path} tells of an engine and has none")
    warnings += _check_engine(path, into, told, version)
    _check_line(path, manifest, told, version)
    warnings += _doubts(manifest, told, version)
    timed = told["timed"] == "yes"
    if timed and not (into / FILES.times).is_file():
        raise UsageError(f"{path} tells of times and has none")
    return Results(into, told, version, timed, tuple(warnings))


def _told(file: Path, path: Path) -> dict[str, str]:
    """Read what the device tells: texts, every one made fit to be shown."""
    try:
        raw = read_json(file, f"{OUTCOME} written by build.sh")
    except UsageError as problem:
        raise UsageError(_of_archive(problem, file, path)) from problem
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise UsageError(f"{path}: {OUTCOME} was not written by build.sh")
    if raw.get("schema") != SCHEMA:
        raise UsageError(
            f"{path} is of schema {one_line(raw.get('schema'), 20)}; this graphopt reads {SCHEMA}"
        )
    told = {k: one_line(v, 1000) for k, v in raw.items() if isinstance(v, str)}
    for key in ("status", "reason", "timed", "tensorrt", "banner", "hashes"):
        if key not in told:
            raise UsageError(f"{path}: {OUTCOME} lacks '{key}'")
    return told


def _of_archive(problem: GraphoptError, file: Path, path: Path) -> str:
    """Return a message about an unpacked file, which nobody sees, as one about the archive."""
    return f"{path}: {str(problem).replace(str(file), file.name)}"


def _check_sums(path: Path, into: Path, told: Mapping[str, str]) -> list[str]:
    """Check every file against what the device says it packed."""
    listed = into / RESULT_SUMS
    if not listed.is_file():
        if told["hashes"]:
            raise UsageError(f"{path} lacks {RESULT_SUMS}: copy it again")
        return ["the device had nothing to make SHA-256 sums with: its files are not checked"]
    try:
        text = listed.read_bytes().decode("ascii")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: {RESULT_SUMS} is not text") from problem
    sums = parse_sums(text, f"{RESULT_SUMS} of {path}")
    there = {p.name for p in into.iterdir()} - {RESULT_SUMS}
    for name in sorted(there ^ set(sums)):
        if name in there:
            raise UsageError(f"{path}: {RESULT_SUMS} does not list {name}")
        raise UsageError(f"{path}: {RESULT_SUMS} lists {name}, which is not there")
    for name in sorted(sums):
        if sha256(into / name) != sums[name]:
            raise UsageError(f"{path}: {name} is not what the device packed: copy it again")
    return []


def _version(path: Path, told: Mapping[str, str]) -> Version:
    try:
        version = parse_release(told["tensorrt"])
    except UsageError as problem:
        raise UsageError(f"{path} does not tell which TensorRT built it") from problem
    if banner_version(f"[TensorRT v{told['banner']}]") != version:
        raise UsageError(
            f"{path} contradicts itself: TensorRT {told['tensorrt']}, and trtexec said "
            f"v{told['banner']}"
        )
    return version


def _check_line(path: Path, manifest: Manifest, told: Mapping[str, str], version: Version) -> None:
    """Check that build.sh used the words that were written for this TensorRT.

    Raises:
        UsageError: it did not, or there are none.
    """
    older = [t for t in manifest.value["tensorrt"] if parse_release(t["since"]) <= version]
    line = older[-1] if older else {"refused": ""}
    if "refused" in line or line["name"] != told.get("line"):
        raise UsageError(
            f"{path} contradicts itself: build.sh does not build by TensorRT {told['tensorrt']} "
            f"as by {told.get('line') or 'none'}"
        )


def _doubts(manifest: Manifest, told: Mapping[str, str], version: Version) -> list[str]:
    """Return where the device is not the one that the bundle was made for, a line each."""
    found = []
    device = manifest.value["device"]
    name, sm, spans = manifest.device, device.get("sm"), device.get("tensorrt_versions") or []
    if sm and told.get("sm") and told["sm"].split(".") != [str(part) for part in sm]:
        found.append(
            f"it was built on {told.get('gpu') or 'a GPU'} of compute capability {told['sm']}, and "
            f"the bundle is for {name}, whose is {'.'.join(map(str, sm))}"
        )
    oldest, newest = (tuple(spans[0]), tuple(spans[-1])) if spans else ((), ())
    kept = 3 if newest and newest[-1] else 2  # a last version without a patch: its whole line
    if (oldest and version < oldest) or (len(spans) > 1 and version[:kept] > newest[:kept]):
        found.append(
            f"it was built by TensorRT {told['tensorrt']}, which {name} is not known to run"
        )
    return found


def _failure(path: Path, into: Path, told: Mapping[str, str]) -> GraphoptError:
    where = told.get("model") or told.get("gpu") or "the device"
    reason = told["reason"]
    log = into / BUILD_LOG
    if log.is_file() and not reason.startswith(_KNOWN_BEST):
        reason = _reason(log, told.get("exit", "")) or reason
    return EnvironmentProblem(
        f"the build failed on {where.strip()} (TensorRT {told['tensorrt']}): "
        f"{reason or 'no reason was told'}",
        hint=f"all it said: tar xzf {shlex.quote(str(path))} -O {BUILD_LOG}",
    )


def _reason(log: Path, status: str) -> str:
    """Return what the log itself gives as the reason."""
    with log.open("rb") as stream:
        lines = islice(iter(partial(stream.readline, _MOST_LINE), b""), _MOST_LINES)
        outcome = read_log(line.decode("utf-8", "replace") for line in lines)
    code = int(status) if re.fullmatch(r"[0-9]{1,3}", status) else 1
    return one_line(outcome.problem(code) or "", 400)


def _check_engine(path: Path, into: Path, told: Mapping[str, str], version: Version) -> list[str]:
    """Check the engine's own header, and the log, against the version that is told."""
    file = into / FILES.engine
    try:
        header = identify(file)
    except ModelFormatError as problem:
        raise ModelFormatError(_of_archive(problem, file, path)) from problem
    if header.kind != "tensorrt":
        raise UsageError(f"{path}: its engine is one of {header.kind}, which trtexec cannot build")
    spelled = spell_whole(version)
    log = into / BUILD_LOG
    if log.is_file():
        with log.open("rb") as stream:
            said = banner_version(stream.read(_BANNER_BYTES).decode("ascii", "replace"))
        if said is not None and said != version:
            raise UsageError(
                f"{path} contradicts itself: its log is of TensorRT {spell_whole(said)}, "
                f"and it tells of {spelled}"
            )
    if header.version is None or not header.sure:
        return []  # laid out in a way nobody has described: nothing to compare
    inner = re.match(r"(\d+)\.(\d+)\.(\d+)", header.version)
    if inner is None or tuple(map(int, inner.groups())) != version:
        raise UsageError(
            f"{path} contradicts itself: its engine was built by TensorRT {header.version}, and "
            f"it tells of {told['tensorrt']}"
        )
    return []
