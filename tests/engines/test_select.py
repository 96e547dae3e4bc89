from __future__ import annotations

import pytest
from engine_models import A10, HOST, T4, XAVIER

from graphopt.engines import ENGINES
from graphopt.engines.onnxruntime import OnnxRuntime
from graphopt.engines.select import choose
from graphopt.engines.tensorrt import TensorRT
from graphopt.engines.tensorrt_rtx import TensorRTRTX
from graphopt.errors import EnvironmentProblem, MissingDependencyError, UsageError
from graphopt.profiles.host import Gpu


@pytest.fixture
def machine(monkeypatch):
    """Say what is installed and which GPUs there are."""

    def set_up(*modules: str, gpus: tuple[Gpu, ...] = ()) -> None:
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setattr(f"graphopt.engines.{name}.installed", lambda m: m in modules)
        monkeypatch.setattr("graphopt.profiles.host.gpus", lambda: gpus)

    return set_up


BOTH = ("tensorrt", "tensorrt_rtx", "polygraphy")
GPU = Gpu("NVIDIA A10", sm=(8, 6))


@pytest.mark.parametrize(
    ("modules", "gpus", "device", "precision", "want"),
    [
        ((), (), HOST, "int8", OnnxRuntime),
        (("tensorrt_rtx", "polygraphy"), (), HOST, "int8", TensorRTRTX),
        (BOTH, (), HOST, "int8", TensorRTRTX),
        (BOTH, (GPU,), HOST, "int8", TensorRT),
        (BOTH, (GPU,), A10, "int8", TensorRT),
        (BOTH, (GPU,), T4, "fp32", TensorRTRTX),
        (("tensorrt_rtx",), (), HOST, "fp32", OnnxRuntime),
    ],
)
def test_auto_takes_the_best_that_can_build_here(machine, modules, gpus, device, precision, want):
    machine(*modules, gpus=gpus)
    engine, reason = choose("auto", device, precision=precision)
    assert type(engine) is want
    assert reason.startswith(f"{engine.name}: ")
    passed_over = {TensorRT: 0, TensorRTRTX: 2, OnnxRuntime: 3}[want]
    assert reason.count("; not ") == passed_over


@pytest.mark.parametrize(("device", "precision"), [(T4, "int8"), (XAVIER, "fp32")])
def test_auto_does_not_pass_a_cpu_model_off_as_one_for_a_gpu(machine, device, precision):
    machine(*BOTH, gpus=(GPU,))
    with pytest.raises(EnvironmentProblem, match=f"no engine for {device.name}") as caught:
        choose("auto", device, precision=precision)
    assert f"--device {device.name}" in caught.value.hint


def test_the_reason_says_why_the_others_were_not_taken(machine):
    machine("tensorrt_rtx", "polygraphy")
    _, reason = choose("auto", HOST)
    assert reason.startswith(
        "tensorrt-rtx: builds here without a GPU; not tensorrt: tensorrt is not installed: "
        'pip install "graphopt[tensorrt]"'
    )


def test_an_engine_asked_for_is_given_or_refused(machine):
    machine("tensorrt_rtx", "polygraphy")
    assert choose("rtx", HOST)[1] == "tensorrt-rtx: asked for"
    with pytest.raises(MissingDependencyError, match=r'pip install "graphopt\[tensorrt\]"'):
        choose("tensorrt", HOST)
    with pytest.raises(EnvironmentProblem, match="no INT8 on Turing"):
        choose("tensorrt-rtx", T4, precision="int8")
    machine()
    with pytest.raises(MissingDependencyError, match=r'pip install "graphopt\[rtx\]"'):
        choose("tensorrt-rtx", HOST)
    with pytest.raises(UsageError, match="did you mean 'tensorrt-rtx'"):
        choose("tensor-rtx", HOST)


def test_tensorrt_needs_the_gpu_that_the_engine_is_for(machine):
    machine("tensorrt", "polygraphy")
    assert "there is none here" in str(TensorRT().missing())
    assert "there is none here" in str(TensorRT().cannot_build(HOST, "fp32"))
    machine("tensorrt", "polygraphy", gpus=(GPU,))
    assert TensorRT().missing() is None
    assert TensorRT().cannot_build(HOST, "int8") is None
    assert TensorRT().cannot_build(A10, "int8") is None
    assert "this is NVIDIA A10 (8.6), not NVIDIA T4 (7.5)" in str(
        TensorRT().cannot_build(T4, "int8")
    )
    # A GPU that could not be asked for its kind is not refused.
    machine("tensorrt", "polygraphy", gpus=(Gpu("an NVIDIA GPU"),))
    assert TensorRT().cannot_build(T4, "int8") is None


def test_every_engine_keeps_the_protocol():
    for name in ENGINES.table:
        engine = ENGINES.load(name)()
        assert engine.name == name
        assert engine.suffix.startswith(".")
        assert engine.version() is None or engine.version()[0].isdigit()
        for question in (engine.missing(), engine.cannot_run(), engine.cannot_build(HOST, "int8")):
            assert question is None or (question and "\n" not in question)
