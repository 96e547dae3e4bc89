"""What a trtexec takes is read from its help, and what is recorded agrees with it."""

from __future__ import annotations

import pytest
import trtexec_options
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines.releases import RELEASES
from graphopt.engines.trtexec.features import Features, banner_number, banner_version
from graphopt.errors import EnvironmentProblem, UsageError

BANNER = "&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --help\n"
# Lines as 10.5 and 8.5.3 print them: aliases, examples inside the prose, options without "=".
REAL = """&&&& RUNNING TensorRT.trtexec [TensorRT v100500] [b18] # trtexec --help
=== Model Options ===
  --onnx=<file>               ONNX model

=== Build Options ===
  --versionCompatible, --vc          Mark the engine as version compatible.
  --stripAllWeights                  Alias for combining the --refit and --stripWeights options.
  --builderOptimizationLevel         Set the builder optimization level. (default is 3)
  --saveEngine=<file>                Save the serialized engine
  --loadEngine=<file>                Load a serialized engine
                                     For example: --tacticSources=-CUDNN,+CUBLAS
                                     (ex: --profile=0 --minShapes=<spec> --profile=1 ...)
  --percentile=P1,P2,P3,...   Report performance for the P1,P2,P3,... percentages
  --exportTimes=<file>        Write the timing results in a json file (default = disabled)

=== Help ===
  --help, -h                  Print this message
"""


def test_a_real_help_is_read():
    found = Features.from_help(REAL)
    assert found.version == (10, 5, 0)
    assert found.flags == {
        "--onnx",
        "--versionCompatible",
        "--vc",
        "--stripAllWeights",
        "--builderOptimizationLevel",
        "--saveEngine",
        "--loadEngine",
        "--percentile",
        "--exportTimes",
        "--help",
        "-h",
    }


def test_the_record_is_what_the_standin_lists(version, ran):
    status, text = ran(version, ["--help"])
    assert status == 0
    assert Features.from_help(text) == Features.of(version)
    assert Features.of(version).flags == trtexec_options.known(version)


def test_every_release_has_a_record():
    for release in RELEASES:
        found = Features.of(release.version)
        assert found.release == release
        assert found.weak_typing == release.weak_typing
        assert found.implicit == release.implicit
        assert found.strong_typing == release.strong_typing
        assert found.build_only == (
            "--buildOnly" if release.version < (8, 6, 0) else "--skipInference"
        )


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("[TensorRT v8502]", (8, 5, 2)),
        ("[TensorRT v8601]", (8, 6, 1)),
        ("[TensorRT v9200]", (9, 2, 0)),
        ("[TensorRT v100300]", (10, 3, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # x", (10, 13, 3)),
        ("[TensorRT v110000]", (11, 0, 0)),
        ("TensorRT 10.3", None),
        ("[TensorRT v1]", None),
    ],
)
def test_the_banner_tells_the_version(text, version):
    assert banner_version(text) == version
    if version:
        assert f"v{banner_number(version)}]" in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bash: trtexec: command not found",
        "trtexec: error while loading shared libraries: libnvinfer.so.8: cannot open",
        BANNER,
        BANNER + "\x1b[31m\0\ufffd\n  --onnx\n  --on",
        BANNER.replace("8502", "7103") + REAL,
        REAL[: REAL.index("  --exportTimes")],
        REAL * 2000,
    ],
)
def test_what_is_no_help_is_one_line(text):
    with pytest.raises(EnvironmentProblem) as problem:
        Features.from_help(text)
    assert "\n" not in str(problem.value) and len(str(problem.value)) < 250


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.integers(0, len(REAL)))
def test_garbled_help_never_raises_anything_else(noise, at):
    text = REAL[:at] + noise + REAL[at:]
    try:
        found = Features.from_help(text)
    except EnvironmentProblem as problem:
        assert "\n" not in str(problem)
    else:
        assert {"--onnx", "--exportTimes"} <= found.flags


def test_a_release_older_than_known_is_refused():
    with pytest.raises(UsageError, match=r"8\.2 is older"):
        Features.of((8, 2, 0))
