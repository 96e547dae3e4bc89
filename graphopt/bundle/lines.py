"""The words each line of TensorRT is given on the device, or why it cannot build the model.

What a device has is found out there, by ``build.sh``; here every answer is made beforehand, by
the function that also writes the command line of a build over ssh.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from graphopt.bundle.contents import Contents
from graphopt.engines import BuildOptions
from graphopt.engines.releases import (
    DLA,
    RELEASES,
    Release,
    Version,
    has_dla,
    release_of,
    spell_version,
)
from graphopt.engines.trtexec.command import Request, Timing, command
from graphopt.engines.trtexec.features import Features
from graphopt.engines.trtexec.requests import FILES, Files, requests
from graphopt.errors import GraphoptError

# Stand for paths that only the device knows; no file of a bundle is called so.
PLACES = Files(
    onnx="@ONNX@",
    engine="@ENGINE@",
    cache="@CACHE@",
    timing_cache="@TUNED@",
    times="@TIMES@",
    layer_times="@LAYER_TIMES@",
    layers="@LAYERS@",
)


@dataclass(frozen=True, slots=True)
class Line:
    """What versions from ``since`` on, up to the next line's, are given.

    Attributes:
        since: the first version.
        name: what a person calls it: ``"8.5"``.
        build: the words after ``trtexec`` that build; empty where it cannot.
        time: those that measure what was built.
        optional: flags among them that only tune, and may be left out.
        notes: what is left out or done otherwise, a line each.
        refused: why it cannot build this model and what to do, or empty.
    """

    since: Version
    name: str
    build: tuple[str, ...] = ()
    time: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str = ""


def lines(contents: Contents, options: BuildOptions, timing: Timing | None = None) -> list[Line]:
    """Return every line of TensorRT that graphopt knows, oldest first.

    Args:
        contents: of the model that ships.
        options: how it shall be built.
        timing: how it is measured.
    """
    build, measure = _requests(contents, options, timing or Timing())
    return [_line(since, contents, options, build, measure) for since in _boundaries(options)]


def _boundaries(options: BuildOptions) -> list[Version]:
    """Return the versions from which on something differs."""
    since = {release.version for release in RELEASES}
    if options.dla is not None:
        for first, last in DLA:
            since.add(first)
            if last is not None:
                since.add((last[0], last[1] + 1, 0))
    return sorted(since)


def _requests(contents: Contents, options: BuildOptions, timing: Timing) -> tuple[Request, Request]:
    declared = {name: shape for name, (_, shape) in contents.inputs.items()}
    build, measure = requests(
        options, declared, int8=contents.qdq, fp16=contents.fp16, files=PLACES, timing=timing
    )
    # What only tells of the engine is written by the run that may fail.
    return replace(build, layers=None), replace(measure, layers=PLACES.layers)


def _line(
    since: Version,
    contents: Contents,
    options: BuildOptions,
    build: Request,
    measure: Request,
) -> Line:
    release, name = release_of(since), f"{since[0]}.{since[1]}"
    features = Features.of(since)
    refused = _refusal(contents, options, release, since)
    if refused:
        return Line(since, name, refused=refused)
    try:
        made, timed = command(build, features), command(measure, features)
    except GraphoptError as problem:
        return Line(since, name, refused=str(problem))
    optional = sorted({*_optional(build, features), *_optional(measure, features)})
    notes = [*made.notes, *timed.notes]
    if options.fp16 and not contents.fp16 and "--fp16" not in made.words:
        notes.append(
            "what is not INT8 runs in fp32, for this TensorRT takes FP16 from the graph only: a "
            f"bundle made with --trt-version {spell_version(since)} has it there"
        )
    notes = list(dict.fromkeys(notes))
    return Line(since, name, made.words, timed.words, tuple(optional), tuple(notes))


def _refusal(contents: Contents, options: BuildOptions, release: Release, since: Version) -> str:
    """Return what in the file or the request this line cannot take, with the way out."""
    again = f"make the bundle again with --trt-version {spell_version(since)}"
    if options.dla is not None and not has_dla(since):
        return "it builds for no DLA: make the bundle again without --dla"
    if options.implicit is not None and not release.implicit:
        return (
            "the model relies on a calibration cache, which TensorRT reads up to 10 only: "
            "make the bundle again with --quantization explicit"
        )
    if contents.opset > release.max_opset:
        return (
            f"its parser takes ONNX opset {release.max_opset}, and the model has "
            f"{contents.opset}: {again}"
        )
    if contents.int4_weights and not release.int4_weights:
        return f"it takes no 4-bit weights: {again} and without --weights int4"
    if contents.int8_weights and not release.int8_weights:
        return f"it takes no weights stored as int8: {again}"
    return ""


def _optional(request: Request, features: Features) -> list[str]:
    """Return the flags without which the same command is written, with a note.

    Asked of the function that writes commands, so that there is one answer to what may be dropped.
    """
    whole = command(request, features)
    found = []
    for word in whole.words:
        flag = word.partition("=")[0]
        try:
            without = command(request, replace(features, flags=features.flags - {flag}))
        except GraphoptError:
            continue
        rest = tuple(w for w in whole.words if w != word)
        if without.words == rest and len(without.notes) > len(whole.notes):
            found.append(flag)
    return found


def by_name(word: str) -> str:
    """Return a word with the names of files for what only the device knows: for people."""
    for path, name in zip(astuple(PLACES), astuple(FILES), strict=True):
        word = word.replace(path, name)
    return word
