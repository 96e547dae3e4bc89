from __future__ import annotations

import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from graphopt.engines import _builder
from graphopt.engines._builder import run_job
from graphopt.engines._config import Unable
from graphopt.engines._features import Typing, features, typing_for
from graphopt.engines._messages import builder_message, log_errors, parser_message
from graphopt.engines._worker import main
from graphopt.errors import EnvironmentProblem, UnsupportedModelError

STRONG, WEAK = {"STRONGLY_TYPED": 1}, {"EXPLICIT_BATCH": 0}


def stand_in(creation: dict[str, int], flags: tuple[str, ...]):
    """A module with the attributes that one version of TensorRT has."""
    return SimpleNamespace(
        NetworkDefinitionCreationFlag=SimpleNamespace(**creation),
        BuilderFlag=SimpleNamespace(**dict.fromkeys(flags, 0)),
        IBuilderConfig=SimpleNamespace(),
        ICudaEngine=SimpleNamespace(),
    )


TRT_8_5 = stand_in(WEAK, ("INT8", "FP16", "TF32"))
TRT_10 = stand_in(WEAK | STRONG, ("INT8", "FP16", "TF32"))
TRT_11 = stand_in(STRONG, ("TF32",))


@pytest.mark.parametrize(
    ("trt", "quantized", "half", "want"),
    [
        (TRT_8_5, False, False, Typing(strong=False, int8=False, fp16=False)),
        (TRT_8_5, True, False, Typing(strong=False, int8=True, fp16=False)),
        (TRT_8_5, True, True, Typing(strong=False, int8=True, fp16=True)),
        (TRT_10, True, True, Typing(strong=True, int8=False, fp16=False)),
        (TRT_11, True, False, Typing(strong=True, int8=False, fp16=False)),
    ],
)
def test_flags_allow_what_the_graph_holds_and_no_more(trt, quantized, half, want):
    assert typing_for(features(trt), quantized=quantized, half=half) == want


@pytest.mark.parametrize(
    ("trt", "want"),
    [
        (TRT_8_5, Typing(strong=False, int8=True, fp16=True)),
        (TRT_10, Typing(strong=False, int8=True, fp16=True)),
        (TRT_11, Typing(strong=True, int8=False, fp16=False)),
    ],
)
def test_weak_typing_where_it_is_asked_for_and_exists(trt, want):
    found = typing_for(features(trt), quantized=False, half=True, weak=True, implicit=True)
    assert found == want


def test_a_tensorrt_that_could_do_neither_is_refused():
    odd = stand_in(WEAK, ("TF32",))
    with pytest.raises(ValueError, match="neither"):
        typing_for(features(odd), quantized=True, half=False)


def test_features_of_the_real_module():
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    known = features(trt)
    assert known.strong_typing
    assert not (known.int8_flag or known.fp16_flag or known.calibrators)
    assert known.level
    assert known.inspector


@pytest.mark.parametrize(
    ("said", "operator", "want"),
    [
        ('creator && "Plugin not found, is it there?"', "Fancy", "Plugin not found, is it there?"),
        ("false", "Det", "operator Det is not supported"),
        ("Assertion failed: false", "", "not supported"),
        (
            "Assertion failed: resolvedWeights(axesWeights): Axis input must resolve to a "
            "build-time constant (an initializer)!",
            "ReduceMean",
            "Axis input must resolve to a build-time constant (an initializer)!",
        ),
        ("Something new,\n  in two lines", "Add", "Something new, in two lines"),
    ],
)
def test_parser_messages(said, operator, want):
    assert parser_message(said, operator) == want


def test_builder_messages_lose_functions_and_source_files():
    line = (
        "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing] "
        "Cannot compile operation 'fc' for Turing (SM75): FP32 GEMM is not supported. "
        "In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"
    )
    want = "Cannot compile operation 'fc' for Turing (SM75): FP32 GEMM is not supported."
    assert builder_message(line) == want
    assert builder_message("plain words") == "plain words"
    # As TensorRT 8 and 10 write it.
    line = (
        "10: [optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (Could not find any "
        "implementation for node conv1 + relu1.)"
    )
    want = "Could not find any implementation for node conv1 + relu1."
    assert builder_message(line) == want


def test_errors_of_a_log_are_found_joined_and_told_once():
    log = (
        "[W] a warning\n[E] the first\n    goes on\n[I] information\n    not an error\n"
        "[E] the second\n[E] the first\n    goes on\n[!] Invalid Engine\n"
    )
    assert log_errors(log) == ["the first goes on", "the second"]


def job(folder):
    return {"result": str(folder / "result.json")}


def child(monkeypatch, code: str) -> None:
    monkeypatch.setattr(_builder, "_BOOTSTRAP", code)


def test_a_crash_is_an_error_about_the_model(monkeypatch, tmp_path):
    child(monkeypatch, "import os; print('[E] before the end', flush=True); os.abort()")
    with pytest.raises(UnsupportedModelError, match=r"crashed \(SIGABRT\).*before the end"):
        run_job(job(tmp_path), tmp_path, "TensorRT", None)


def test_a_process_that_the_system_killed_ran_out_of_memory(monkeypatch, tmp_path):
    child(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(EnvironmentProblem, match="out of memory"):
        run_job(job(tmp_path), tmp_path, "TensorRT", None)


def test_a_process_without_a_result_is_told(monkeypatch, tmp_path):
    child(monkeypatch, "import sys; print('what it said'); sys.exit(3)")
    with pytest.raises(UnsupportedModelError, match=r"ended with code 3.*what it said"):
        run_job(job(tmp_path), tmp_path, "TensorRT", None)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


SLEEPER = "import os; open('pid', 'w').write(str(os.getpid())); import time; time.sleep(60)"


def test_the_time_limit_kills_the_process(monkeypatch, tmp_path):
    child(monkeypatch, SLEEPER)
    with pytest.raises(EnvironmentProblem, match="stopped after 2 s"):
        run_job(job(tmp_path), tmp_path, "TensorRT", 2)
    pid = (tmp_path / "pid").read_text()
    assert pid
    assert not alive(int(pid))


def test_ctrl_c_kills_the_process(monkeypatch, tmp_path):
    child(monkeypatch, SLEEPER)

    def interrupt():
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_job(job(tmp_path), tmp_path, "TensorRT", 60)
    thread.join()
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_runtime_that_cannot_be_loaded_is_an_environment_problem(tmp_path, monkeypatch):
    modules, scratch = tmp_path / "modules", tmp_path / "scratch"
    modules.mkdir()
    scratch.mkdir()
    (modules / "tensorrt.py").write_text("raise ImportError('libcuda.so.1 is not there')\n")
    # The child sees the modules of this process, this one too.
    monkeypatch.syspath_prepend(modules)
    request = {**job(scratch), "runtime": "tensorrt", "onnx": "", "engine": None}
    result, _ = run_job(request, scratch, "TensorRT", None)
    assert result["outcome"] == "environment"
    assert "libcuda.so.1" in result["message"]


def test_whatever_goes_wrong_there_is_a_result(tmp_path, monkeypatch):
    request = {**job(tmp_path), "runtime": "tensorrt"}
    (tmp_path / "job.json").write_text(json.dumps(request))
    for error, outcome in (
        (RuntimeError("no"), "failed"),
        (OSError(28, "full"), "output"),
        (Unable("not here"), "unable"),
    ):

        def work(_job, error=error):
            raise error

        monkeypatch.setattr("graphopt.engines._worker._work", work)
        main(str(tmp_path / "job.json"))
        assert json.loads((tmp_path / "result.json").read_text())["outcome"] == outcome
