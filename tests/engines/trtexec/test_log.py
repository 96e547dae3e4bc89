"""Logs of trtexec: lines as versions 8.5 to 10 print them, and hostile ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines.trtexec.log import LogReader, read_log

# From public issues: what 8.5 says over a zero-point, 8.4 over int8 weights, 10.3 over a flag.
ZERO_POINT = """&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=q.onnx --int8
[03/17/2023-10:00:00] [I] Start parsing network model
[03/17/2023-10:00:01] [E] [TRT] ModelImporter.cpp:771: While parsing node number 7 \
[QuantizeLinear -> "conv1_q"]:
[03/17/2023-10:00:01] [E] [TRT] ModelImporter.cpp:772: --- Begin node ---
[03/17/2023-10:00:01] [E] [TRT] ModelImporter.cpp:773: input: "x"
input: "scale"
input: "zero"
output: "conv1_q"
name: "conv1/quantize"
op_type: "QuantizeLinear"
attribute {
  name: "axis"
}
[03/17/2023-10:00:01] [E] [TRT] ModelImporter.cpp:774: --- End node ---
[03/17/2023-10:00:01] [E] [TRT] ModelImporter.cpp:777: ERROR: builtin_op_importers.cpp:1235 In \
function QuantDequantLinearHelper:
[6] Assertion failed: shiftIsAllZeros(zeroPoint) && "TRT only supports symmetric quantization - \
zeroPt must be all zeros"
[03/17/2023-10:00:01] [E] Failed to parse onnx file
[03/17/2023-10:00:01] [I] Finish parsing network model
[03/17/2023-10:00:01] [E] Parsing model failed
[03/17/2023-10:00:01] [E] Failed to create engine from model or file.
[03/17/2023-10:00:01] [E] Engine set up failed
&&&& FAILED TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=q.onnx --int8
"""
INT8_WEIGHTS = """&&&& RUNNING TensorRT.trtexec [TensorRT v8403] # trtexec --onnx=pq_model.onnx
[09/29/2022-11:43:30] [E] [TRT] ModelImporter.cpp:776: --- End node ---
[09/29/2022-11:43:30] [E] [TRT] ModelImporter.cpp:779: ERROR: ModelImporter.cpp:180 In function \
parseGraph:
[6] Invalid Node - Identity_0
onnx::QuantizeLinear_429: invalid weights type of Int8
[09/29/2022-11:43:30] [E] Failed to parse onnx file
[09/29/2022-11:43:30] [E] Engine set up failed
&&&& FAILED TensorRT.trtexec [TensorRT v8403] # trtexec --onnx=pq_model.onnx
"""
FLAG = """&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --workspace=2048
[10/05/2025-10:46:31] [E] Unknown option: --workspace 2048
[10/05/2025-10:46:31] [E] Unknown option: --buildOnly
=== Model Options ===
  --onnx=<file>               ONNX model
&&&& FAILED TensorRT.trtexec [TensorRT v100300] # trtexec --workspace=2048
"""
GOOD = """&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=a b.onnx
[05/10/2024-12:24:57] [W] [TRT] Detected invalid timing cache, setup a local cache instead
[05/10/2024-12:24:57] [I] [TRT] [MemUsageStats] Peak memory usage of TRT CPU/GPU memory \
allocators: CPU 116 MiB, GPU 4 MiB
[05/10/2024-12:24:57] [I] Engine built in 14.6812 sec.
[05/10/2024-12:24:57] [I] Engine deserialized in 0.00459798 sec.
[05/14/2023-04:31:44] [I] Throughput: 30.8434 qps
[05/14/2023-04:31:44] [I] GPU Compute Time: min = 31.1654 ms, max = 33.0587 ms, mean = 32.0889 \
ms, median = 31.9817 ms, percentile(90%) = 32.8837 ms, percentile(95%) = 32.9319 ms, \
percentile(99%) = 33.0587 ms
[05/14/2023-04:31:44] [I] Total GPU Compute Time: 3 s
&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=a b.onnx
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (
            ZERO_POINT,
            "node 'conv1/quantize' (QuantizeLinear): TRT only supports symmetric quantization - "
            "zeroPt must be all zeros",
        ),
        (
            INT8_WEIGHTS,
            "node 'Identity_0': onnx::QuantizeLinear_429: invalid weights type of Int8",
        ),
        (FLAG, "Unknown option: --workspace 2048"),
        (
            "[E] Error[4]: [network.cpp::validate::2738] Error Code 4: Internal Error (fp16 "
            "precision has been set for a layer or layer output, but fp16 is not configured in the "
            "builder)\n[E] Engine set up failed\n&&&& FAILED x",
            "fp16 precision has been set for a layer or layer output, but fp16 is not configured "
            "in the builder",
        ),
        (
            "[E] [TRT] 6: The engine plan file is not compatible with this version of TensorRT, "
            "expecting library version 8.6.1.6 got 8.6.0.12, please rebuild.\n&&&& FAILED x",
            "The engine plan file is not compatible with this version of TensorRT, expecting "
            "library version 8.6.1.6 got 8.6.0.12, please rebuild.",
        ),
        (
            "[E] IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan "
            "file is not compatible with this version of TensorRT, expecting library version "
            "10.12.0.36 got .)\n&&&& FAILED x",
            "The engine plan file is not compatible with this version of TensorRT, expecting "
            "library version 10.12.0.36 got",
        ),
        (
            "[E] [TRT] In node 5 with name: conv_3 and operator: Foo (checkFallbackPluginImporter):"
            ' INVALID_NODE: creator && "Plugin not found, are the plugin name, version, and '
            'namespace correct?"\n[E] Failed to parse onnx file\n&&&& FAILED x',
            "node 'conv_3' (Foo): Plugin not found, are the plugin name, version, and namespace "
            "correct?",
        ),
        ("[E] Engine set up failed\n&&&& FAILED x", "Engine set up failed"),
        ("&&&& FAILED x", "trtexec failed without saying why"),
    ],
)
def test_a_failure_is_one_useful_line(log, line):
    outcome = read_log(log)
    assert outcome.passed is False
    assert outcome.problem(1) == line


def test_a_good_run_tells_its_figures():
    outcome = read_log(GOOD)
    assert outcome.problem(0) is None
    assert outcome.version == (8, 5, 2)
    assert outcome.engine_s == 14.6812
    assert outcome.throughput_qps == 30.8434
    assert (outcome.peak_cpu_mib, outcome.peak_gpu_mib) == (116, 4)
    assert outcome.warnings == ("Detected invalid timing cache, setup a local cache instead",)
    assert outcome.summaries == {
        "GPU Compute Time": {
            "min": 31.1654,
            "max": 33.0587,
            "mean": 32.0889,
            "median": 31.9817,
            "p90": 32.8837,
            "p95": 32.9319,
            "p99": 33.0587,
        }
    }


def test_a_run_that_ends_without_a_word():
    started = "&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec\n"
    assert "ran out of memory" in read_log(started).problem(137)
    assert "ran out of memory" in read_log(started).problem(-9)
    assert "cannot be started" in read_log("").problem(127)
    assert "without saying why (status 1)" in read_log(started).problem(1)
    assert read_log(GOOD).problem(1) == "trtexec said PASSED and ended with status 1"


def test_a_cache_that_is_not_taken_says_which_header_is():
    log = (
        "&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # t\n"
        "[I] [TRT] Starting Calibration.\n"
        "[E] Error[1]: [calibrator.cu::add::735] Error Code 1: Cuda Runtime (an illegal memory "
        "access was encountered)\n&&&& FAILED TensorRT.trtexec [TensorRT v8502] # t\n"
    )
    assert "first line must be TRT-8502-EntropyCalibration2" in read_log(log).problem(1)


def test_progress_shows_steps_and_no_noise():
    reader = LogReader()
    shown = [reader.feed(line) for line in GOOD.splitlines() + ZERO_POINT.splitlines()]
    assert [line for line in shown if line] == [
        "Engine built in 14.6812 sec.",
        "Throughput: 30.8434 qps",
        "Start parsing network model",
        "Finish parsing network model",
    ]


def test_hostile_lines_are_bounded_and_never_reach_a_terminal():
    reader = LogReader()
    assert reader.feed("[I] Engine built in \x1b[2J\x1b]0;evil\x07 1 sec." + "x" * 10**6)
    shown = reader.feed("[I] Start parsing network model\x1b[31m\x9b0m")
    assert shown == "Start parsing network model0m"
    for number in range(5000):
        reader.feed(f"[E] error {number} " + "y" * 5000)
        reader.feed(f"[W] warning {number}")
    outcome = reader.outcome()
    assert len(outcome.errors) == len(outcome.warnings) == 200
    assert all(len(error) <= 4000 for error in outcome.errors)
    assert read_log("[I] Throughput: 1e999 qps\n[I] Engine built in ... sec").throughput_qps is None


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(ZERO_POINT.splitlines() + GOOD.splitlines()) | st.text()))
def test_any_lines_are_read(lines):
    outcome = read_log(lines)
    for status in (None, 0, 1, 137):
        problem = outcome.problem(status)
        assert problem is None or "\n" not in problem
