"""``build.sh``: one script for every bundle, with this model's words and values written in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from importlib import resources

from graphopt.bundle.lines import PLACES, Line
from graphopt.engines.releases import Version, spell_version

SCRIPT = "build.sh"
RESULTS = "model-results.tar.gz"
_OLDEST, _NEWEST = 0, 99_999_999
_WHERE = {
    PLACES.onnx: '"$here/$onnx"',
    PLACES.cache: '"$out/$cache"',
    PLACES.timing_cache: '"$out/timing.cache"',
    PLACES.times: '"$out/times.json.partial"',
    PLACES.layer_times: '"$out/layer-times.json.partial"',
    PLACES.layers: '"$out/layers.json.partial"',
}
_PATHS = re.compile("|".join(re.escape(path) for path in astuple(PLACES)))


def render(
    lines: Sequence[Line],
    *,
    onnx: str,
    cache: str,
    device: str,
    versions: tuple[Version, ...],
    need_kb: int,
    limit_s: int = 0,
) -> str:
    """Return the script.

    Args:
        lines: what each TensorRT is given, oldest first.
        onnx: name of the model's file.
        cache: name of the calibration cache, or empty.
        device: what the bundle is for.
        versions: oldest and newest TensorRT of the device, or the oldest alone, or nothing.
        need_kb: free disk it wants, in KiB.
        limit_s: stop a build that takes longer, in seconds; 0 for no limit.
    """
    newest = lines[-1].since
    values = {
        "onnx": onnx,
        "cache": cache,
        "device": device,
        "results": RESULTS,
        "need_kb": need_kb,
        "limit": limit_s,
        "device_oldest": number(versions[0]) if versions else _OLDEST,
        "device_newest": _last(versions[1]) if len(versions) > 1 else _NEWEST,
        "device_tensorrt": _span(versions),
        "after_newest": number((newest[0], newest[1] + 1, 0)),
    }
    template = resources.files("graphopt.bundle").joinpath(SCRIPT).read_text(encoding="utf-8")
    head = "\n".join(f"{name}={shlex.quote(str(value))}" for name, value in values.items())
    body = "\n\n".join((_choice(lines), _words("build", lines), _words("time", lines)))
    return template.replace("#@VALUES@", head).replace("#@LINES@", body)


def number(version: Version) -> int:
    """Return a version as build.sh compares it: 8.5.2 is 80502, 10.3 is 100300."""
    return version[0] * 10_000 + version[1] * 100 + version[2]


def _last(version: Version) -> int:
    """Return the last number of a version; one without a patch stands for its whole line."""
    return number(version if version[2] else (version[0], version[1], 99))


def _span(versions: tuple[Version, ...]) -> str:
    spelled = list(dict.fromkeys(spell_version(version) for version in versions))
    return (
        " to ".join(spelled) if len(versions) > 1 else f"{spelled[0]} or newer" if spelled else ""
    )


def _choice(lines: Sequence[Line]) -> str:
    told = ["# Which of the versions known beforehand this one is used like.", "choose_line() {"]
    for i, line in enumerate(reversed(lines)):
        told.append(f'\t{"elif" if i else "if"} [ "$1" -ge {number(line.since)} ]; then')
        told.append(f"\t\tline={shlex.quote(line.name)}")
        told.append(f"\t\toptional={shlex.quote(' '.join(line.optional))}")
        told.append(f"\t\trefused={shlex.quote(line.refused)}")
        told.append(f"\t\tnotes={shlex.quote('; '.join(line.notes))}")
    oldest = f"{lines[0].since[0]}.{lines[0].since[1]}"
    told += ["\telse", f"\t\trefused='this bundle is for TensorRT {oldest} and newer'", "\tfi", "}"]
    return "\n".join(told)


def _words(which: str, lines: Sequence[Line]) -> str:
    engine = '"$engine.partial"' if which == "build" else '"$engine"'
    where = {**_WHERE, PLACES.engine: engine}
    told = [f"with_{which}_words() {{", '\tcase "$line" in']
    for line in lines:
        words = line.build if which == "build" else line.time
        if words:
            shown = " \\\n\t\t\t".join(_quoted(word, where) for word in words)
            told.append(f'\t{shlex.quote(line.name)})\n\t\t"$@" {shown}\n\t\t;;')
    return "\n".join([*told, "\tesac", "}"])


def _quoted(word: str, where: Mapping[str, str]) -> str:
    """Return a word for sh, with the device's paths in it."""
    pieces, at = [], 0
    for path in _PATHS.finditer(word):
        if path.start() > at:
            pieces.append(shlex.quote(word[at : path.start()]))
        pieces.append(where[path[0]])
        at = path.end()
    if at < len(word) or not word:
        pieces.append(shlex.quote(word[at:]))
    return "".join(pieces)
