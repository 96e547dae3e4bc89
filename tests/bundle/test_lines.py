"""What each TensorRT is given: words that it takes, or a reason with a way out."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import astuple, replace

import pytest
from helpers import conv_net, parse

from graphopt.bundle.contents import Contents
from graphopt.bundle.lines import PLACES, Line, lines
from graphopt.bundle.script import number, render
from graphopt.calibrators import CalibrationTable
from graphopt.engines import BuildOptions, ShapeRange
from graphopt.engines.trtexec.features import Features
from graphopt.profiles import load_device

DYNAMIC = {"image": ShapeRange((1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16))}


def of(name: str, found: list[Line]) -> Line:
    return next(line for line in found if line.name == name)


def options(**changes: object) -> BuildOptions:
    return replace(BuildOptions(device=load_device("xavier"), shapes=DYNAMIC), **changes)  # type: ignore[arg-type]


def table() -> CalibrationTable:
    return CalibrationTable({}, "entropy", "0" * 64)


PLAIN = Contents.of(conv_net(16).to_onnx())
QDQ = replace(PLAIN, qdq=True)


def test_every_line_is_given_only_what_it_lists() -> None:
    for contents in (PLAIN, QDQ):
        for line in lines(contents, options(level=3, workspace_bytes=1 << 30, sparse=True)):
            known = Features.of(line.since).flags
            assert line.build and line.time
            for word in (*line.build, *line.time):
                assert word.partition("=")[0] in known


def test_words_differ_where_releases_do() -> None:
    found = lines(QDQ, options())
    assert "--int8" in of("8.5", found).build
    assert "--buildOnly" in of("8.5", found).build
    assert "--skipInference" in of("8.6", found).build
    assert "--stronglyTyped" in of("10.0", found).build
    assert not {"--int8", "--stronglyTyped"} & set(of("11.0", found).build)
    assert "--useCudaGraph" in of("10.9", found).time
    assert "--useCudaGraph" not in of("11.0", found).time


def test_implicit_ends_with_10() -> None:
    found = lines(PLAIN, options(implicit=table()))
    assert "--calib=@CACHE@" in of("8.5", found).build
    assert "--calib=@CACHE@" in of("10.13", found).build
    assert "--quantization explicit" in of("11.0", found).refused


def test_what_a_file_holds_is_refused_where_it_is_not_known() -> None:
    found = lines(replace(QDQ, int8_weights=True, opset=19), options())
    assert "takes ONNX opset 17, and the model has 19" in of("8.6", found).refused
    assert of("10.0", found).refused == ""
    found = lines(replace(QDQ, int8_weights=True), options())
    assert "int8" in of("8.5", found).refused
    found = lines(replace(QDQ, int4_weights=True, opset=17), options())
    assert "4-bit" in of("10.0", found).refused
    assert of("10.9", found).refused == ""


def test_a_dla_is_not_in_every_release() -> None:
    found = lines(PLAIN, options(implicit=table(), dla=1, gpu_fallback=False))
    assert "--useDLACore=1" in of("8.5", found).build
    assert "--allowGPUFallback" not in of("8.5", found).build
    assert of("10.0", found).refused == ""
    assert "builds for no DLA" in of("10.8", found).refused


def test_what_only_tunes_is_found_out_and_what_decides_is_not() -> None:
    found = lines(QDQ, options(level=2, workspace_bytes=1 << 30))
    assert "--builderOptimizationLevel" not in " ".join(of("8.5", found).build)
    assert any("builderOptimizationLevel" in note for note in of("8.5", found).notes)
    for line in found:
        assert not {"--int8", "--fp16", "--onnx", "--saveEngine", "--memPoolSize"} & set(
            line.optional
        )
    assert {"--builderOptimizationLevel", "--timingCacheFile"} <= set(of("8.6", found).optional)


def test_fp16_by_flag_is_said_where_there_is_no_such_flag() -> None:
    found = lines(QDQ, options(fp16=True))
    assert "--fp16" in of("8.5", found).build
    assert any("fp32" in note for note in of("10.0", found).notes)


def test_names_of_inputs_reach_trtexec_as_they_are() -> None:
    name = 'an $(input)"`x`'
    contents = replace(PLAIN, inputs={name: ("float", [None, 3])})
    shapes = {name: ShapeRange((1, 3), (2, 3), (4, 3))}
    found = lines(contents, options(shapes=shapes))
    script = render(found, onnx="model.onnx", cache="", device="t4", versions=(), need_kb=1)
    start, end = script.index("# Which of the versions"), script.index("line=\nrefused=")
    head = 'here=/h out="/o o" engine=/o/model.engine onnx=model.onnx\n'
    told = head + script[start:end] + "\nline=8.5\nwith_build_words printf '%s\\n'"
    done = subprocess.run(["sh", "-c", told], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert f"--optShapes={name}:2x3" in words
    assert "--timingCacheFile=/o o/timing.cache" in words
    assert "--saveEngine=/o/model.engine.partial" in words
    assert not any(path in done.stdout for path in astuple(PLACES))


def test_the_right_line_is_chosen_for_each_version() -> None:
    found = lines(PLAIN, options(implicit=table()))
    script = render(found, onnx="m", cache="c", device="t4", versions=((8, 5, 2),), need_kb=1)
    start, end = script.index("choose_line() {"), script.index("with_build_words() {")
    for version, line in (
        ((8, 5, 2), "8.5"), ((8, 6, 1), "8.6"), ((9, 2, 0), "8.6"), ((10, 3, 0), "10.0"),
        ((10, 12, 9), "10.9"), ((10, 16, 1), "10.13"), ((11, 1, 0), "11.0"), ((12, 0, 0), "11.5"),
        ((8, 4, 3), ""),
    ):  # fmt: skip
        told = f'line=\n{script[start:end]}\nchoose_line {number(version)}; echo "$line|$refused"'
        done = subprocess.run(["sh", "-c", told], capture_output=True, text=True, check=True)
        chosen, _, refused = done.stdout.strip().partition("|")
        assert chosen == line
        assert bool(refused) == (version >= (11, 0, 0) or version < (8, 5, 0))
    assert shlex.split("device_oldest=80502")[0] in script
    assert "device_newest=99999999" in script


def test_contents_are_read_from_the_graph_and_its_branches() -> None:
    model = parse(
        """
        net (float[N,2] x, bool c) => (float[N,2] y) {
            y = If (c) <then_branch = t () => (float[N,2] a) {
                s = Constant <value = float {0.5}> ()
                z = Constant <value = int8 {0}> ()
                q = QuantizeLinear (x, s, z)
                a = DequantizeLinear (q, s, z)
            }, else_branch = e () => (float[N,2] b) {
                h = Cast <to = 10> (x)
                b = Cast <to = 1> (h)
            }>
        }
        """
    )
    found = Contents.of(model.to_onnx())
    assert found.qdq and found.fp16 and not found.int8_weights
    assert found.inputs == {"x": ("float", ["N", 2]), "c": ("bool", [])}
    weights = parse(
        """
        net (float[1,2] x) => (float[1,2] y) <int8[2] w = {1, 2}, float s = {0.5}, int8 z = {0}> {
            d = DequantizeLinear (w, s, z)
            y = Add (x, d)
        }
        """
    )
    assert Contents.of(weights.to_onnx()).int8_weights


@pytest.mark.parametrize("dims", [(1, 3, 16, 16)])
def test_fixed_inputs_get_no_shapes(dims: tuple[int, ...]) -> None:
    contents = replace(PLAIN, inputs={"image": ("float", list(dims))})
    found = lines(contents, options(shapes={"image": ShapeRange(dims, dims, dims)}))
    assert not [w for w in (*found[0].build, *found[0].time) if "hapes" in w]
