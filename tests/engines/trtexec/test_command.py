"""Words for trtexec: each version gets those it takes, and what decides is never dropped."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
import trtexec_options
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.engines import ShapeRange
from graphopt.engines.trtexec.command import (
    Request,
    Timing,
    command,
    dynamic_only,
    shape_spec,
)
from graphopt.engines.trtexec.features import Features
from graphopt.errors import EnvironmentProblem, GraphoptError, UnsupportedModelError, UsageError

V85, V86, V10, V11 = (Features.of(v) for v in ((8, 5, 2), (8, 6, 1), (10, 3, 0), (11, 0, 0)))
X = ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
PLAIN = Request(onnx="m.onnx", save="m.engine")
FULL = Request(
    onnx="/tmp/a b/m.onnx",
    save="/tmp/a b/m.engine",
    profiles=({"x": X},),
    int8=True,
    sparsity="enable",
    level=4,
    workspace_bytes=3 << 30,
    timing_cache="/tmp/t.cache",
    timing=Timing(),
    shapes={"x": (4, 3, 8, 8)},
    times="/tmp/times.json",
    layer_times="/tmp/profile.json",
    layers="/tmp/layers.json",
    gpu=0,
)


def words(request, features):
    return list(command(request, features).words)


def test_the_whole_of_a_request_in_8_5():
    made = command(FULL, V85)
    assert made.words == (
        "--onnx=/tmp/a b/m.onnx",
        "--saveEngine=/tmp/a b/m.engine",
        "--minShapes=x:1x3x8x8",
        "--optShapes=x:4x3x8x8",
        "--maxShapes=x:8x3x8x8",
        "--int8",
        "--sparsity=enable",
        "--memPoolSize=workspace:3072",
        "--timingCacheFile=/tmp/t.cache",
        "--profilingVerbosity=detailed",
        "--device=0",
        "--exportLayerInfo=/tmp/layers.json",
        "--shapes=x:4x3x8x8",
        "--warmUp=200",
        "--duration=3",
        "--iterations=10",
        "--percentile=50,90,95,99",
        "--useCudaGraph",
        "--useSpinWait",
        "--noDataTransfers",
        "--exportTimes=/tmp/times.json",
        "--separateProfileRun",
        "--exportProfile=/tmp/profile.json",
    )
    assert made.notes == (
        "trtexec 8.5.2 takes no --builderOptimizationLevel: it builds at its own level",
    )


def test_each_version_says_precision_its_way():
    def precision(features, **held):
        return {
            w
            for w in words(replace(PLAIN, **held), features)
            if w in ("--int8", "--fp16", "--stronglyTyped")
        }

    for features in (V85, V86):
        assert precision(features) == set()
        assert precision(features, int8=True) == {"--int8"}
        assert precision(features, fp16=True) == {"--fp16"}
        assert precision(features, int8=True, fp16=True) == {"--int8", "--fp16"}
    assert precision(V10, int8=True, fp16=True) == {"--stronglyTyped"}
    assert precision(V11, int8=True, fp16=True) == set()


def test_implicit_int8_where_there_is_calibration_and_a_refusal_elsewhere():
    request = replace(PLAIN, calibration="c.cache")
    for features in (V85, V86, V10):
        made = words(request, features)
        assert "--stronglyTyped" not in made
        assert [w for w in made if w in ("--int8", "--fp16")] == ["--int8", "--fp16"]
        assert "--calib=c.cache" in made
    with pytest.raises(UnsupportedModelError, match="no implicit INT8"):
        command(request, V11)
    with pytest.raises(UsageError, match="would ignore the cache"):
        command(replace(request, int8=True), V85)


def test_the_dla_has_a_core_a_fallback_and_no_fp32():
    made = command(replace(PLAIN, dla=1, calibration="c"), V85)
    assert {"--useDLACore=1", "--allowGPUFallback", "--int8", "--fp16"} <= set(made.words)
    alone = command(replace(PLAIN, dla=0, gpu_fallback=False), V10)
    assert "--allowGPUFallback" not in alone.words and "--stronglyTyped" not in alone.words
    assert "--fp16" in alone.words
    assert "a DLA has no fp32: its layers run in fp16" in alone.notes
    with pytest.raises(UnsupportedModelError, match="takes no Q/DQ"):
        command(replace(PLAIN, dla=0, int8=True), V85)


def test_the_run_ends_after_the_build_without_timing():
    assert "--buildOnly" in words(PLAIN, V85)
    for features in (V86, V10, V11):
        assert "--skipInference" in words(PLAIN, features)
        assert "--buildOnly" not in words(PLAIN, features)


def test_11_measures_as_the_others_do_by_its_defaults():
    def switches(features, **how):
        made = words(Request(load="e", timing=Timing(**how), layer_times="p"), features)
        return {w for w in made if re.search("Graph|Spin|Transfers|separate", w)}

    measured = {"--useCudaGraph", "--useSpinWait", "--noDataTransfers", "--separateProfileRun"}
    assert switches(V85) == switches(V10) == measured
    assert switches(V11) == set()
    off = {"cuda_graph": False, "spin_wait": False, "transfers": True}
    assert switches(V10, **off) == {"--separateProfileRun"}
    assert switches(V11, **off) == {"--noCudaGraph", "--noSpinWait", "--includeDataTransfers"}


def test_streams_have_another_name_from_8_6_on():
    timed = Request(load="e", timing=Timing(streams=3))
    assert "--streams=3" in words(timed, V85)
    for features in (V86, V10, V11):
        assert "--infStreams=3" in words(timed, features)
        alone = words(Request(load="e", timing=Timing()), features)
        assert not [word for word in alone if "treams" in word]


def test_several_profiles_where_they_can_be_said():
    request = replace(PLAIN, profiles=({"x": X}, {"x": X}))
    made = words(request, V10)
    assert [w for w in made if w.startswith(("--profile=", "--minShapes"))] == [
        "--profile=0",
        "--minShapes=x:1x3x8x8",
        "--profile=1",
        "--minShapes=x:1x3x8x8",
    ]
    for features in (V85, V86):
        with pytest.raises(EnvironmentProblem, match="one optimization profile, and 2"):
            command(request, features)
    timed = Request(load="e", timing=Timing(), profile=1)
    assert "--useProfile=1" in words(timed, V11)
    with pytest.raises(EnvironmentProblem, match="first optimization profile only"):
        command(timed, V86)


def test_workspace_by_the_older_flag_where_the_newer_is_missing():
    old = Features((8, 5, 0), V85.flags - {"--memPoolSize"})
    assert "--workspace=3072" in words(FULL, old)
    with pytest.raises(EnvironmentProblem, match="takes no --workspace"):
        command(FULL, Features((8, 5, 0), old.flags - {"--workspace"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"onnx": None}, "give one of them"),
        ({"load": "e"}, "give one of them"),
        ({"onnx": None, "load": "e"}, "only to measure"),
        ({"times": "t"}, "no times without measuring"),
        ({"dla": -1}, "counted from 0"),
        ({"level": 6}, "0 to 5"),
        ({"workspace_bytes": 1000}, "at least 1 MiB"),
        ({"onnx": "a\nb"}, "no path"),
        ({"save": ""}, "no path"),
        ({"profiles": ({"x": X},), "profile": 1, "timing": Timing()}, "no optimization profile 1"),
        ({"profiles": ({"a,b": X},)}, "a comma"),
        ({"profiles": ({"a'b": X},)}, "a single quote"),
        ({"profiles": ({"a*": X},)}, "an asterisk"),
        ({"profiles": ({"": X},)}, "white space"),
        ({"profiles": ({" a": X},)}, "white space"),
        ({"profiles": ({"a": ShapeRange((), (), ())},)}, "scalar"),
    ],
)
def test_what_cannot_be_said_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        command(replace(PLAIN, **change), V10)


def test_names_with_colons_spaces_and_x_arrive(version):
    shapes = {"images:0": (1, 3, 8, 8), "a x b": (2,), "x1x2:": (3, 4), "müßig=1": (5,)}
    read = trtexec_options.parse([f"--optShapes={shape_spec(shapes)}"], version)
    assert read.profiles[0]["opt"] == shapes


def test_only_dynamic_inputs_are_told():
    ranges = {"x": X, "fixed": X, "free": X}
    declared = {"x": ["N", 3, 8, 8], "fixed": [4, 3, 8, 8], "free": None}
    assert set(dynamic_only(ranges, declared)) == {"x", "free"}


def _flags(made):
    return {word.split("=")[0] for word in made}


def test_every_flag_is_refused_where_it_is_not_listed(version, ran):
    """Strictness both ways: what one version is told, a version without the flag refuses."""
    features = Features.of(version)
    requests = [FULL, PLAIN, replace(PLAIN, calibration="c"), replace(PLAIN, dla=0)]
    requests += [replace(FULL, timing=Timing(cuda_graph=False, spin_wait=False, transfers=True))]
    told = set()
    for other in (V85, V86, V10, V11):
        for request in requests:
            try:
                told |= _flags(command(request, other).words)
            except GraphoptError:
                continue
    foreign = sorted(told - features.flags)
    assert foreign or version[0] == 10
    for flag in foreign:
        status, log = ran(version, ["--onnx=m.onnx", f"{flag}=1"])
        assert status == 1
        assert f"[E] Unknown option: {flag} 1" in log


NAMES = st.text(min_size=1, max_size=12)
DIMS = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
PROFILES = st.dictionaries(NAMES, DIMS.map(lambda d: ShapeRange(d, d, d)), max_size=3)
REQUESTS = st.builds(
    Request,
    onnx=st.sampled_from(["m.onnx", "/a b/ü=1,2.onnx"]),
    save=st.sampled_from([None, "e"]),
    profiles=st.lists(PROFILES, max_size=3).map(tuple),
    int8=st.booleans(),
    fp16=st.booleans(),
    calibration=st.sampled_from([None, "c"]),
    dla=st.sampled_from([None, 0, 1]),
    gpu_fallback=st.booleans(),
    sparsity=st.sampled_from(["disable", "enable", "force"]),
    level=st.sampled_from([None, 0, 5]),
    workspace_bytes=st.sampled_from([None, 1 << 20, 5 << 30]),
    timing_cache=st.sampled_from([None, "t"]),
    timing=st.none()
    | st.builds(
        Timing,
        warmup_ms=st.integers(0, 500),
        average_runs=st.sampled_from([None, 5]),
        cuda_graph=st.booleans(),
        spin_wait=st.booleans(),
        transfers=st.booleans(),
    ),
    layers=st.sampled_from([None, "l"]),
    gpu=st.sampled_from([None, 1]),
)


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.sampled_from([V85, V86, V10, V11]))
def test_any_command_made_for_a_version_is_accepted_by_it(request, features):
    if request.timing is not None:
        request = replace(request, times="times", layer_times="profile")
    try:
        made = command(request, features)
    except GraphoptError as problem:
        assert "\n" not in str(problem)
        assume(False)
    read = trtexec_options.parse(list(made.words), features.version)
    assert read.unknown == []
    given_profiles = [p for p in request.profiles if p]
    assert [p for p in read.profiles if p] == [
        {which: {n: getattr(r, which) for n, r in p.items()} for which in ("min", "opt", "max")}
        for p in given_profiles
    ]
    # What decides what the engine computes is there, or was refused.
    assert read.has("--calib") == (request.calibration is not None)
    assert read.has("--useDLACore") == (request.dla is not None)
    assert read.get("--sparsity", "disable") == request.sparsity
    if features.weak_typing and not features.strong_typing:
        wanted = request.int8 or request.calibration is not None
        assert read.has("--int8") == wanted
    assert read.has("--exportTimes") == (request.timing is not None)


def test_the_request_has_no_field_that_is_forgotten():
    """A field added later must be written, or this fails."""
    everything = replace(FULL, calibration="c", int8=False, fp16=True, dla=0, profile=1)
    everything = replace(everything, profiles=({"x": X}, {"x": X}))
    base = command(everything, V10).words
    quiet = {"load", "fp16", "int8"}  # the other half of a choice; said by other words in 10
    changes = {
        "onnx": "other", "save": None, "profiles": (), "calibration": None, "dla": None,
        "gpu_fallback": False, "sparsity": "force", "level": 1, "workspace_bytes": 1 << 20,
        "timing_cache": None, "timing": Timing(warmup_ms=1), "shapes": {}, "profile": 0,
        "times": None, "layer_times": None, "layers": None, "gpu": 1,
        "feeds": {"x": "x.bin"}, "values": "out.json",
    }  # fmt: skip
    assert quiet | set(changes) == {f.name for f in fields(Request)}
    for name, value in changes.items():
        changed = replace(everything, **{name: value})
        if name == "profiles":
            changed = replace(changed, profile=0)
        assert command(changed, V10).words != base, name
