from __future__ import annotations

import json
import struct

import pytest
from engine_models import A10, convnet, needs_rtx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines import BuildOptions
from graphopt.engines.safety import Place, check_engine, here, reasons_against, same_gpu
from graphopt.engines.sidecar import sidecar_path, write_sidecar
from graphopt.engines.tensorrt_rtx import TensorRTRTX
from graphopt.errors import EnvironmentProblem, GraphoptError, ModelFormatError, UsageError
from graphopt.profiles.host import Gpu

T4 = Gpu("Tesla T4", (7, 5))
A10_GPU = Gpu("NVIDIA A10", (8, 6))
BUILT_ON_T4 = {"name": "Tesla T4", "sm": "7.5"}
PLACE = Place("tensorrt", "8.5.2", (T4,), "user@server")


def plan(magic: bytes = b"ftrt", version: tuple[int, ...] = (8, 5, 2, 2), size: int = 64) -> bytes:
    head = struct.pack("<4sII4xQ4B", magic, 0, 232, size, *version)
    return head + bytes(size - len(head))


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(plan())
    return path


def facts(**changes):
    known = {
        "engine": "trtexec",
        "runtime": "tensorrt",
        "runtime_version": "8.5.2",
        "gpu": BUILT_ON_T4,
        "source": "res net.onnx",
    }
    return {key: value for key, value in {**known, **changes}.items() if value is not None}


def test_an_engine_is_let_through_where_it_was_built(engine):
    write_sidecar(engine, facts())
    said = []
    check_engine(engine, PLACE, warn=said.append)
    check_engine(engine, Place("tensorrt"))  # a place of which nothing is known
    assert said == []
    assert reasons_against(engine, PLACE) == []


def test_one_without_a_sidecar_is_a_matter_of_trust(engine):
    said = []
    check_engine(engine, PLACE, warn=said.append)
    (line,) = said
    assert line.startswith("model.engine has no sidecar")
    assert "whose maker you trust" in line
    check_engine(engine, PLACE)  # nobody listens


def test_the_header_alone_tells_another_version(engine):
    engine.write_bytes(plan(version=(10, 9, 0, 34)))
    with pytest.raises(
        EnvironmentProblem, match=r"TensorRT 10\.9\.0\.34, and user@server has 8\.5"
    ):
        check_engine(engine, PLACE)


def test_a_version_that_is_a_guess_refuses_nothing(engine):
    engine.write_bytes(plan(version=(10, 9, 0, 34)) + b"longer than the header says")
    check_engine(engine, PLACE)


MISMATCHES = [
    (facts(runtime_version="10.9.0"), (10, 9, 0, 1), "by TensorRT 10.9.0.1, and user@server has 8"),
    (facts(runtime_version="8.5.3"), (8, 5, 3, 1), "8.5.3.1, and user@server has 8.5.2: an engine"),
    (
        facts(gpu={"name": "NVIDIA A10", "sm": "8.6"}),
        (8, 5, 2, 2),
        r"NVIDIA A10 \(compute capability 8.6\), and user@server has Tesla T4",
    ),
    (
        facts(gpu={"name": "NVIDIA GeForce RTX 2080 Ti", "sm": "7.5"}),
        (8, 5, 2, 2),
        "on NVIDIA GeForce RTX 2080 Ti .* and user@server has Tesla T4",
    ),
]


@pytest.mark.parametrize(("told", "version", "line"), MISMATCHES)
def test_a_mismatch_is_refused_in_one_line_with_the_command(engine, told, version, line):
    engine.write_bytes(plan(version=version))
    write_sidecar(engine, told)
    (engine.parent / "recipe.toml").write_text("")
    with pytest.raises(EnvironmentProblem, match=line) as problem:
        check_engine(engine, PLACE)
    assert str(problem.value).isprintable()
    first, second = problem.value.hint.splitlines()
    folder = engine.parent
    assert first == (
        f"build it again: graphopt build 'res net.onnx' --recipe {folder}/recipe.toml "
        f"--engine trtexec --host user@server -o {folder} --force"
    )
    assert "move model.engine.json away" in second
    assert reasons_against(engine, PLACE) == [str(problem.value)]


def test_what_was_built_to_be_compatible_is_let_through(engine):
    engine.write_bytes(plan(version=(8, 6, 1, 6)))
    newer = Place("tensorrt", "10.3.0", (T4,))
    write_sidecar(engine, facts(runtime_version="8.6.1", version_compatible=True))
    check_engine(engine, newer)
    with pytest.raises(EnvironmentProblem, match="that version and newer"):
        check_engine(engine, PLACE)
    write_sidecar(engine, facts(runtime_version="8.6.1", version_compatible="yes"))
    with pytest.raises(EnvironmentProblem, match="no other version"):
        check_engine(engine, newer)

    engine.write_bytes(plan())
    a10 = {"name": "NVIDIA A10", "sm": "8.6"}
    ada = Place("tensorrt", "8.5.2", (Gpu("NVIDIA L4", (8, 9)),))
    write_sidecar(engine, facts(gpu=a10, hardware_compatibility="ampere_plus"))
    check_engine(engine, ada)
    with pytest.raises(EnvironmentProblem, match="Tesla T4"):
        check_engine(engine, PLACE)
    same = Place("tensorrt", "8.5.2", (Gpu("NVIDIA GeForce RTX 3090", (8, 6)),))
    write_sidecar(engine, facts(gpu=a10, hardware_compatibility="same_compute_capability"))
    check_engine(engine, same)
    with pytest.raises(EnvironmentProblem):
        check_engine(engine, ada)


def test_any_of_several_gpus_will_do(engine):
    write_sidecar(engine, facts())
    check_engine(engine, Place("tensorrt", "8.5.2", (A10_GPU, T4)))
    with pytest.raises(EnvironmentProblem, match=r"NVIDIA A10 .* and Tesla V100"):
        check_engine(
            engine, Place("tensorrt", "8.5.2", (A10_GPU, Gpu("Tesla V100", (7, 0)), A10_GPU))
        )


def test_another_file_than_the_sidecar_tells_of(engine):
    write_sidecar(engine, facts())
    engine.write_bytes(plan()[:-1] + b"x")
    with pytest.raises(UsageError, match="SHA-256 differs"):
        check_engine(engine, PLACE)
    engine.write_bytes(plan() + b"x")
    with pytest.raises(UsageError, match="65 bytes and its sidecar tells of 64"):
        check_engine(engine, PLACE)


def test_a_sidecar_that_contradicts_the_header(engine):
    write_sidecar(engine, facts(runtime_version="10.3.0"))
    with pytest.raises(UsageError, match=r"tells of TensorRT 10.3.0, .* built by 8.5.2.2"):
        check_engine(engine, PLACE)
    write_sidecar(engine, facts(runtime="tensorrt-rtx"))
    with pytest.raises(UsageError, match="engine of TensorRT-RTX, and the file is one of TensorRT"):
        check_engine(engine, PLACE)
    assert len(reasons_against(engine, PLACE)) == 1


def test_an_engine_of_another_runtime(engine):
    write_sidecar(engine, facts())
    with pytest.raises(EnvironmentProblem, match="is an engine of TensorRT, and here would"):
        check_engine(engine, Place("tensorrt-rtx", "1.7.1", where="here"))


def test_a_sidecar_that_cannot_be_read_is_no_reason_to_trust(engine):
    sidecar_path(engine).write_text("{")
    with pytest.raises(UsageError, match="its sidecar cannot be read") as problem:
        check_engine(engine, PLACE)
    assert "move model.engine.json away" in problem.value.hint
    assert len(reasons_against(engine, PLACE)) == 1
    sidecar_path(engine).write_text('{"Layers": []}')  # another tool's
    check_engine(engine, PLACE)


def test_a_damaged_engine_is_told(engine):
    engine.write_bytes(plan(b"vtrt")[:40])
    with pytest.raises(ModelFormatError, match="truncated"):
        check_engine(engine, Place("tensorrt-rtx"))
    with pytest.raises(UsageError, match="no such file"):
        reasons_against(engine.with_name("other"), PLACE)


def test_artifacts_of_onnx_runtime_are_held_to_their_hash_alone(tmp_path):
    path = tmp_path / "model.ort.onnx"
    path.write_bytes(b"a model")
    place, said = Place("onnxruntime", "1.32.0"), []
    check_engine(path, place, warn=said.append)
    write_sidecar(path, {"engine": "onnxruntime", "runtime_version": "1.19.0"})
    check_engine(path, place, warn=said.append)
    assert said == []
    path.write_bytes(b"another")
    with pytest.raises(UsageError, match="SHA-256"):
        check_engine(path, place)


@needs_rtx
def test_an_engine_of_tensorrt_rtx_and_its_targets(tmp_path):
    engine = TensorRTRTX()
    path = tmp_path / "m.engine"
    artifact = engine.build(convnet(batch=1), path, BuildOptions(A10))
    write_sidecar(path, artifact.facts)
    version = engine.version()
    check_engine(path, here(engine))
    check_engine(path, Place("tensorrt-rtx", version, (A10_GPU,)))
    with pytest.raises(EnvironmentProblem, match=r"for compute capability 8.6, .* has Tesla T4"):
        check_engine(path, Place("tensorrt-rtx", version, (T4,)))
    with pytest.raises(EnvironmentProblem, match=r"TensorRT-RTX .* has 1.6.0"):
        check_engine(path, Place("tensorrt-rtx", "1.6.0", (A10_GPU,)))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Tesla T4", "NVIDIA T4", True),
        ("A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB", True),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB", False),
        ("NVIDIA A10", "NVIDIA A10G", False),
        ("NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 3090 Ti", False),
        ("NVIDIA Jetson AGX Orin Developer Kit", "Orin (nvgpu)", True),
        ("NVIDIA Jetson AGX Orin Developer Kit", "NVIDIA Jetson Orin Nano", False),
        ("NVIDIA Jetson AGX Xavier", "Xavier", True),
        ("an NVIDIA GPU", "Tesla T4", True),
        ("", "Tesla T4", True),
    ],
)
def test_names_of_one_gpu(a, b, same):
    assert same_gpu(a, b) is same
    assert same_gpu(b, a) is same


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CHECKED = ["runtime", "runtime_version", "gpu", "compute_capabilities", "engine", "source"]
MORE = ["version_compatible", "hardware_compatibility", "engine_bytes", "engine_sha256"]


@settings(settings.get_profile("repeatable"), max_examples=150)
@given(
    st.dictionaries(st.sampled_from(CHECKED + MORE), ANYTHING),
    st.sampled_from(["tensorrt", "tensorrt-rtx", "onnxruntime"]),
)
def test_any_sidecar_is_checked_or_told_in_one_line(tmp_path_factory, told, runtime):
    engine = tmp_path_factory.mktemp("safety") / "m.engine"
    engine.write_bytes(plan())
    known = json.loads(write_sidecar(engine, {}).read_text())
    sidecar_path(engine).write_text(json.dumps({**known, **told}))
    try:
        check_engine(engine, Place(runtime, "8.5.2", (T4,)))
    except GraphoptError as problem:
        assert str(problem).isprintable()
        assert all(line.isprintable() for line in problem.hint.splitlines())
