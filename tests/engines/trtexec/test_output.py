"""The files trtexec exports: each version's format, and every way they can be wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines.trtexec.layers import read_layer_times, read_layers
from graphopt.engines.trtexec.output import read_times
from graphopt.errors import EnvironmentProblem

# As exportJSONTrace, exportJSONProfile and the inspector write them.
TIMES = """[
  { "startEnqMs" : 211.6, "endEnqMs" : 211.7, "startH2dMs" : 211.6, "endH2dMs" : 211.6, \
"startComputeMs" : 211.7, "endComputeMs" : 212.8, "startD2hMs" : 212.8, "endD2hMs" : 212.8, \
"h2dMs" : 0, "computeMs" : 1.125, "d2hMs" : 0.25, "latencyMs" : 1.375 }
, { "startEnqMs" : 213, "endEnqMs" : 213.5, "startH2dMs" : 213, "endH2dMs" : 213, \
"startComputeMs" : 213, "endComputeMs" : 214, "startD2hMs" : 214, "endD2hMs" : 214, \
"h2dMs" : 0, "computeMs" : 1.0625e+00, "d2hMs" : 0, "latencyMs" : 1.0625 }
]
"""
PROFILE = """[
  { "count" : 145 }
, { "name" : "conv1 + relu1", "timeMs" : 29, "averageMs" : 0.2, "medianMs" : 0.19, \
"percentage" : 80 }
, { "name" : "fc", "timeMs" : 7.25, "averageMs" : 0.05, "medianMs" : 0.05, "percentage" : 20 }
]
"""
DETAILED = """{"Layers": [{
  "Name": "conv1 + relu1",
  "LayerType": "CaskConvolution",
  "Inputs": [
  {
    "Name": "data",
    "Location": "Device",
    "Dimensions": [1,3,224,224],
    "Format/Datatype": "Row major Int8 format"
  }],
  "Outputs": [],
  "TacticValue": "0x00000000000003e8",
  "Metadata": ""
}],
"Bindings": ["data"
,"prob"
]}"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "times.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_times_are_raw_samples_of_gpu_compute_time(file):
    times = read_times(file(TIMES), batch=8, environment={"gpu": "T4"})
    assert times.latency.samples_ms == (1.125, 1.0625)
    assert times.latency.batch == 8
    assert times.latency.environment == {"gpu": "T4"}
    assert times.columns["latencyMs"] == (1.375, 1.0625)
    assert times.columns["d2hMs"] == (0.25, 0.0)
    assert times.columns["enqueueMs"] == pytest.approx((0.1, 0.5))


def test_with_streams_the_time_on_the_clock_is_kept(file):
    latency = read_times(file(TIMES), batch=8, streams=2).latency
    assert (latency.streams, latency.batch) == (2, 8)
    # From the first launch to the last end.
    assert latency.wall_ms == pytest.approx(214 - 211.6)
    assert latency.throughput == pytest.approx(1000 * 2 * 8 / 2.4)
    with pytest.raises(EnvironmentProblem, match="without a endComputeMs"):
        read_times(file(TIMES.replace("endComputeMs", "end")), streams=2)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("[]", "no runs"),
        ("{}", "no runs"),
        ("[1]", "without a computeMs"),
        (TIMES[: len(TIMES) // 2], "no JSON"),
        (TIMES.replace("1.125", "nan"), "no JSON"),
        (TIMES.replace("1.125", "NaN"), "not finite"),
        (TIMES.replace("1.125", "1e999"), "not finite"),
        (TIMES.replace("1.125", "-Infinity"), "not finite"),
        (TIMES.replace("1.125", "-1"), "below zero"),
        (TIMES.replace("1.125", "true"), "without a computeMs"),
        (TIMES.replace("1.125", '"1"'), "without a computeMs"),
        (TIMES.replace("1.125", "9" * 400), "not finite"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "no JSON"),
    ],
)
def test_times_that_are_wrong_are_one_line(file, text, why):
    with pytest.raises(EnvironmentProblem, match=why) as problem:
        read_times(file(text))
    assert "\n" not in str(problem.value)


def test_no_file_at_all(tmp_path):
    with pytest.raises(EnvironmentProblem, match=r"trtexec left no t\.json"):
        read_times(tmp_path / "t.json")


def test_a_file_that_never_ends_is_not_read_whole(file, monkeypatch):
    from graphopt.engines.trtexec import output

    with pytest.raises(EnvironmentProblem, match="longer than 10 bytes"):
        output.read_bounded(file(TIMES), 10)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(TIMES) - 4))
def test_times_cut_anywhere_are_refused(tmp_path_factory, at):
    path = tmp_path_factory.mktemp("t") / "times.json"
    path.write_text(TIMES[:at])
    with pytest.raises(EnvironmentProblem):
        read_times(path)


def test_layer_times(file):
    found = read_layer_times(file(PROFILE))
    assert found.runs == 145
    assert [(each.name, each.average_ms, each.percent) for each in found.layers] == [
        ("conv1 + relu1", 0.2, 80.0),
        ("fc", 0.05, 20.0),
    ]


def test_names_that_break_the_json_are_read_all_the_same(file):
    name = 'say "hi", "timeMs" : 1 \\d {x}'
    found = read_layer_times(file(PROFILE.replace("conv1 + relu1", name)))
    assert [each.name for each in found.layers] == [name, "fc"]
    assert found.layers[0].total_ms == 29
    with pytest.raises(EnvironmentProblem, match="no JSON"):
        read_layer_times(file(PROFILE.replace("conv1", '"')[:-4]))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[{}]",
        '[{"count": -1}]',
        '[{"count": true}]',
        '[{"count": 1}, 5]',
        '[{"count": 1}, {"name": 5, "timeMs": 1, "percentage": 1}]',
        '[{"count": 1}, {"name": "a", "timeMs": -1, "percentage": 1}]',
        '[{"count": 1}, {"name": "a", "timeMs": 1e999, "percentage": 1}]',
        '[{"count": 1}, {"name": "a", "timeMs": 1}]',
        PROFILE.replace('"conv1', '""conv1').replace(" 29,", " 1..2,"),
    ],
)
def test_layer_times_that_are_wrong(file, text):
    with pytest.raises(EnvironmentProblem):
        read_layer_times(file(text))


def test_layers_by_name_and_in_detail(file):
    names = read_layers(file('{"Layers": ["Conv__25 + Relu"\n,"y + z"\n],\n"Bindings": ["x:0"]}'))
    assert [each.name for each in names.layers] == ["Conv__25 + Relu", "y + z"]
    assert names.tensors == ("x:0",) and not names.detailed
    found = read_layers(file(DETAILED))
    assert found.detailed and found.tensors == ("data", "prob")
    assert found.layers[0].kind == "CaskConvolution"
    assert found.layers[0].inputs == {"data": "Row major Int8 format"}
    assert found.layers[0].details["TacticValue"] == "0x00000000000003e8"


def test_layers_of_11_name_their_tensors_elsewhere(file):
    document = {
        "Layers": [
            {
                "Name": "gemm",
                "LayerType": "MatrixMultiply",
                "Inputs": [{"Name": "tokens", "Format": "LINEAR", "DataType": "FP16"}],
                "Outputs": [{"Name": "out", "Format": "LINEAR", "Datatype": "FP16"}],
            }
        ],
        "I/O Tensors": [{"Name": "tokens", "IOMode": "INPUT"}, {"Name": "out"}],
    }
    found = read_layers(file(json.dumps(document)))
    assert found.tensors == ("tokens", "out")
    assert found.layers[0].inputs == {"tokens": "LINEAR FP16"}
    assert found.layers[0].outputs == {"out": "LINEAR FP16"}


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"Layers": {}}',
        '{"Layers": [5]}',
        '{"Layers": [{}]}',
        '{"Layers": [{"Name": "a", "Inputs": 5}]}',
        '{"Layers": [], "Bindings": 5}',
        '{"Layers": [], "Bindings": [5]}',
        DETAILED[:200],
    ],
)
def test_layers_that_are_wrong(file, text):
    with pytest.raises(EnvironmentProblem) as problem:
        read_layers(file(text))
    assert "\n" not in str(problem.value)
