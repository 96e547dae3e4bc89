"""Values by trtexec: samples there as files, outputs back as text, checked against the graph."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines import BuildOptions, ShapeRange
from graphopt.engines.remote.job import Waits
from graphopt.engines.shapes import input_facts
from graphopt.engines.sidecar import sidecar_path, write_sidecar
from graphopt.engines.trtexec import values as values_of
from graphopt.engines.trtexec.engine import Trtexec
from graphopt.engines.trtexec.exported import read_parts, read_values
from graphopt.errors import (
    EnvironmentProblem,
    GraphoptError,
    UsageError,
)
from graphopt.model import Model
from graphopt.verify import opened

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import engine_models

V85, V86, V10, V11 = "8.5.2", "8.6.1", "10.3.0", "11.0.0"
X = ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
DIGITS = 5.001e-6  # half a unit of the sixth digit


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A trtexec of this machine, in a folder whose name needs quotes."""
    import nvidia_smi
    from trtexec import install

    brisk = functools.partial(Waits, poll_s=0.02, tick_s=0.02, lock=str(tmp_path / "lock"))
    monkeypatch.setattr(values_of, "Waits", brisk)
    monkeypatch.setattr("graphopt.engines.trtexec.engine.Waits", brisk)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / 'it\'s a "bin" $HOME'
    listed, path = nvidia_smi.install(folder, nvidia_smi.T4).parent, "/usr/bin:/bin"
    monkeypatch.setenv("PATH", f"{listed}:{path}")

    def make(version, **behaviour):
        return Trtexec(None, str(install(folder, version, **behaviour)))

    return make


def built(tool, model, path, *, inputs=True, dla=None, **shapes):
    """Build with a sidecar as the pipeline writes it."""
    options = BuildOptions(engine_models.T4, shapes=shapes, dla=dla)
    artifact = tool.build(model, path, options)
    facts = {**artifact.facts, "engine": "trtexec"}
    write_sidecar(path, {**facts, "inputs": input_facts(model)} if inputs else facts)
    return path


def samples(*sizes, shape=(3, 8, 8)):
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(n, *shape)).astype(np.float32)} for n in sizes]


def as_written(model, feeds):
    with opened(model, optimize=False) as run:
        return run(feeds)


def close(told, exact):
    """Equal but for the sixth digit."""
    assert set(told) == set(exact)
    for name, array in exact.items():
        assert told[name].shape == array.shape
        np.testing.assert_allclose(told[name], array, rtol=DIGITS, atol=1e-30)


@pytest.mark.parametrize("version", [V85, V86, V10, V11])
def test_an_int8_engine_tells_what_the_graph_says(tool, tmp_path, version):
    model = engine_models.convnet(quantized=True)
    made = tool(version, record=str(tmp_path / "words"))
    path = built(made, model, tmp_path / "m.engine", x=X)
    batches = samples(8, 8, 3)
    with made.open(path) as session:
        assert session.inputs() == {"x": (np.dtype(np.float32), (None, 3, 8, 8))}
        assert (session.batch, session.least) == (8, 1)
        told = list(session.values(batches))
    assert len(told) == 3
    for out, feeds in zip(told, batches, strict=True):
        close(out, as_written(model, feeds))
    words = [json.loads(line) for line in (tmp_path / "words").read_text().splitlines()]
    runs = [line for line in words if "--exportOutput=out.json" in line]
    assert len(runs) == 3
    shapes = [next(w for w in run if w.startswith("--shapes")) for run in runs]
    assert shapes == [f"--shapes=x:{n}x3x8x8" for n in (8, 8, 3)]
    assert all({"--loadInputs=x:in-0", "--iterations=1", "--duration=0"} <= set(r) for r in runs)
    assert not any("--noDataTransfers" in run or "--useCudaGraph" in run for run in runs)


KINDS = """
g (float[N, 4] abc, int64[N, 2] ids, bool[N, 4] keep, double[N, 1] d)
  => (float[N, 4] y, int64[N, 2] cheese, bool[N, 4] kept, float[N, 4] odd) {
  zero = Constant <value = float {0.0}> ()
  m = Where (keep, abc, zero)
  f = Cast <to = 1> (d)
  y = Mul (m, f)
  one = Constant <value = int64 {1}> ()
  cheese = Add (ids, one)
  kept = Not (keep)
  odd = Sqrt (abc)
}
"""
RENAMED = {"abc": "a:b c", "cheese": 'say "cheese"'}


def kinds_model():
    """Inputs of four types, names that need care, and NaN where an input is negative."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]>{KINDS}')
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = RENAMED.get(value.name, value.name)
    for node in proto.graph.node:
        node.input[:] = [RENAMED.get(n, n) for n in node.input]
        node.output[:] = [RENAMED.get(n, n) for n in node.output]
    return Model.from_onnx(proto)


@pytest.mark.parametrize("version", [V85, V11])
def test_types_and_names(tool, tmp_path, version):
    model = kinds_model()
    ranges = {
        name: ShapeRange((1, n), (2, n), (2, n))
        for name, n in (("a:b c", 4), ("ids", 2), ("keep", 4), ("d", 1))
    }
    made = tool(version)
    path = built(made, model, tmp_path / "m.engine", **ranges)
    feeds = {
        "a:b c": np.array([[1, -1, np.float32(1e30), 0], [4, -0.0, -2, 1e-30]], np.float32),
        "ids": np.array([[1, -(2**31)], [2**31 - 2, 7]]),
        "keep": np.array([[True, False, True, True]] * 2),
        "d": np.array([[2.0], [1e9]]),
    }
    with made.open(path) as session:
        told = session.run(feeds)
        exact = as_written(model, feeds)
        assert np.isnan(told["odd"]).sum() == 2
        assert np.isinf(told["y"]).sum() == np.isinf(exact["y"]).sum()
        close(told, exact)
        beyond = {**feeds, "ids": feeds["ids"] + 2**31}
        if version == V85:
            with pytest.raises(UsageError, match="beyond int32, which TensorRT 8 has"):
                session.run(beyond)
        else:
            close(session.run(beyond), as_written(model, beyond))


def test_jobs_hold_a_bounded_number_of_batches_and_shapes_may_change(tool, tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(values_of, "BATCHES", 2)
    run = values_of.run_errand
    monkeypatch.setattr(values_of, "run_errand", lambda *a, **k: jobs.append(a[1]) or run(*a, **k))
    model = engine_models.convnet()
    made = tool(V10)
    path = built(made, model, tmp_path / "m.engine", x=X)
    batches = samples(2, 5, 5, 1, 1)
    asked = []

    def feeding():
        for feeds in batches:
            asked.append(len(feeds["x"]))
            yield feeds

    with made.open(path) as session:
        told = session.values(feeding())
        close(next(told), as_written(model, batches[0]))
        assert len(jobs) == 1
        assert len(asked) == 3  # no more than one job takes, and one to know that it is full
        for out, feeds in zip(told, batches[1:], strict=True):
            close(out, as_written(model, feeds))
    assert [job.counts for job in jobs] == [(1, 1), (1, 1), (1,)]


def test_times_come_through_the_same_session(tool, tmp_path):
    made = tool(V10)
    path = built(made, engine_models.convnet(), tmp_path / "m.engine", x=X)
    with made.open(path) as session:
        profile = session.time(samples(4)[0], warmup_s=0.0, min_s=1.0, min_runs=5)
    assert profile.batch == 4
    assert len(profile.samples_ms) >= 5


def test_what_is_not_right_is_told_before_anything_runs(tool, tmp_path, monkeypatch):
    made = tool(V10)
    path = built(made, engine_models.convnet(), tmp_path / "m.engine", x=X)
    monkeypatch.setattr(values_of, "run_errand", lambda *a, **k: pytest.fail("it ran"))
    with made.open(path) as session:
        for feeds, told in (
            (samples(9)[0], "9x3x8x8, and the engine was built for 1x3x8x8 to 8x3x8x8"),
            ({"x": samples(1)[0]["x"].astype(np.float64)}, "must be float32"),
            ({}, "input 'x' is not given"),
            ({**samples(1)[0], "z": np.zeros(1)}, "'z' is no input"),
        ):
            with pytest.raises(UsageError, match=told):
                session.run(feeds)


def test_an_engine_that_is_not_the_one(tool, tmp_path):
    made = tool(V10)
    path = built(made, engine_models.convnet(), tmp_path / "m.engine", x=X)
    other = built(made, engine_models.convnet(width=8), tmp_path / "o.engine", x=X)
    path.write_bytes(other.read_bytes())
    with pytest.raises(UsageError, match="sidecar"), made.open(path):
        pass
    with pytest.raises(EnvironmentProblem, match=r"8\.5\.2"), tool(V85).open(other):
        pass
    engine_models.convnet().save(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="no engine of TensorRT's"), made.open(tmp_path / "m.onnx"):
        pass
    with pytest.raises(UsageError, match="no such file"), made.open(tmp_path / "none"):
        pass


def test_without_a_sidecar_the_model_tells_if_its_shapes_are_fixed(tool, tmp_path):
    made, warned = tool(V10), []
    model = engine_models.convnet(batch=2)
    path = built(made, model, tmp_path / "m.engine")
    sidecar_path(path).unlink()
    with made.open(path, reference=model.inputs(), warn=warned.append) as session:
        close(session.run(samples(2)[0]), as_written(model, samples(2)[0]))
    assert "trust" in " ".join(warned)
    free = engine_models.convnet().inputs()
    with (
        pytest.raises(UsageError, match="nothing tells which shapes the engine takes"),
        made.open(path, reference=free),
    ):
        pass
    with pytest.raises(UsageError, match="nothing tells what"), made.open(path):
        pass


def test_types_that_the_sidecar_lacks_come_from_the_model(tool, tmp_path):
    made = tool(V10)
    model = engine_models.convnet()
    path = built(made, model, tmp_path / "m.engine", inputs=False, x=X)
    with made.open(path, reference=model.inputs()) as session:
        assert session.inputs()["x"][0] == np.float32
    with pytest.raises(UsageError, match="does not tell its type"), made.open(path):
        pass
    for told in ({"x": 3}, {"x": {"dtype": []}}, {"x": {"dtype": "object"}}, [1]):
        facts = json.loads(sidecar_path(path).read_text())
        sidecar_path(path).write_text(json.dumps({**facts, "inputs": told}))
        with pytest.raises(UsageError, match="does not tell its type"), made.open(path):
            pass


def test_a_name_that_trtexec_cannot_be_told(tool, tmp_path):
    proto = engine_models.convnet(batch=2).to_onnx()
    proto.graph.input[0].name = "x,y"
    proto.graph.node[0].input[0] = "x,y"
    made = tool(V10)
    path = built(made, Model.from_onnx(proto), tmp_path / "m.engine")
    with made.open(path) as session, pytest.raises(UsageError, match="a comma"):
        session.run({"x,y": samples(2)[0]["x"]})


@pytest.mark.parametrize(
    ("behaviour", "kind", "told"),
    [
        ({"fail": {"inference": "Cuda failure: out of memory"}}, GraphoptError, "out of memory"),
        ({"killed": "inference"}, EnvironmentProblem, "killed"),
        ({"full": ("values",)}, EnvironmentProblem, "cut short"),
    ],
)
def test_what_goes_wrong_there(tool, tmp_path, behaviour, kind, told):
    path = built(tool(V10), engine_models.convnet(), tmp_path / "m.engine", x=X)
    with tool(V10, **behaviour).open(path) as session, pytest.raises(kind, match=told):
        session.run(samples(2)[0])


def test_an_engine_of_a_dla_is_run_on_it(tool, tmp_path):
    made = tool(V86, dla_cores=2, record=str(tmp_path / "words"))
    path = built(made, engine_models.convnet(), tmp_path / "m.engine", dla=1, x=X)
    with made.open(path) as session:
        session.run(samples(1)[0])
    words = json.loads((tmp_path / "words").read_text().splitlines()[-1])
    assert {"--useDLACore=1", "--exportOutput=out.json"} <= set(words)


def test_int8_values_of_8_5_are_refused_and_later_ones_read(tool, tmp_path):
    text = (
        "g (float[2, 4] x) => (int8[2, 4] y) { s = Constant <value = float {0.1}> () "
        "z = Constant <value = int8 {0}> () y = QuantizeLinear (x, s, z) }"
    )
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]>{text}')
    model = Model.from_onnx(proto)
    feeds = {"x": np.array([[-12.8, 6.5, 0, 1], [9.3, 3.4, 2, -1]], np.float32)}
    for version in (V86, V85):
        made = tool(version)
        path = built(made, model, tmp_path / f"{version}.engine")
        with made.open(path) as session:
            if version == V86:
                close(session.run(feeds), as_written(model, feeds))
            else:
                with pytest.raises(EnvironmentProblem, match=r"not what trtexec writes"):
                    session.run(feeds)


def record(name, sizes, numbers):
    return (
        f'{{ "name" : "{name}"\n  , "dimensions" : "{sizes}"\n  , "values" : [ {numbers} ]\n  }}\n'
    )


ONE = record("y", "1x2", "1, -2.5e-07")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cut short"),
        ("[\n]\n", "no outputs"),
        ("{}", "no outputs"),
        (f"[ {ONE}", "cut short"),
        (f"[ {ONE[:-6]}", "cut short"),
        (f"[ {ONE} ] more", "cut short"),
        (f"[ {ONE}, {ONE}]", "twice"),
        ("[ " + record("y", "1x3", "1, 2") + "]", "2 values and the dimensions 1x3"),
        ("[ " + record("y", "-1x2", "1, 2") + "]", "depend on the data"),
        ("[ " + record("y", "1x2", "1, 0x2") + "]", "no numbers"),
        ("[ " + record("y", "1x2", "1, eins") + "]", "no numbers"),
        ("[ " + record("y", "1x2", "1, e") + "]", "no numbers"),
        ("[ " + record("y", "1x2", '1, "2"') + "]", "no numbers"),
        ("[ " + record("y", "x".join(["1"] * 33), "1") + "]", "33 dimensions"),
        ("[ " + record("y", "9" * 12 + "x" + "9" * 12, "1") + "]", "1 values"),
        ('[ { "name" : "' * 200_000, "without dimensions"),
        ('[ { "name" : "y", "dimensions" : "' + "1x" * 2000, "without dimensions"),
        ("[" * 100_000, "no outputs"),
    ],
)
def test_what_is_no_export_is_refused_at_once(text, told):
    with pytest.raises(EnvironmentProblem, match=told):
        read_values(text, "out.json")


def test_scalars_empty_outputs_and_the_other_spelling_of_dimensions():
    text = (
        f"[ {record('s', '', '3')}, {record('e', '0x4', '')}, {record('p', '(1, 2)', '-nan, inf')}]"
    )
    found = read_values(text, "out.json")
    assert found["s"].shape == ()
    assert found["e"].shape == (0, 4)
    assert np.array_equal(found["p"], [[np.nan, np.inf]], equal_nan=True)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda name: '"dimensions"' not in name
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        NAMES, st.lists(st.floats(width=32), min_size=1, max_size=6), min_size=1, max_size=4
    )
)
def test_what_the_stand_in_writes_is_read_back(values):
    from trtexec_computes import values_text

    arrays = {name: np.array([row], np.float32) for name, row in values.items()}
    found = read_values(values_text(arrays, (10, 3, 0)), "out.json")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        exact = array.astype(np.float64)  # NumPy compares denormal float32 in float32
        np.testing.assert_allclose(found[name], exact, rtol=DIGITS, atol=0)


def test_files_of_many_runs(tmp_path):
    path = tmp_path / "values"
    path.write_bytes(b"0 3\nabc1 1\nd")
    assert read_parts(path, 2, 10) == [(4, 3), (11, 1)]
    for text, told in (
        (b"0 3\nabc", "run 2 of 2"),
        (b"0 3\nabc1 2\nd", "cut short"),
        (b"0 3\nabc1 1\nde", "cut short"),
        (b"0 30\nabc", "more than"),
        (b"1 3\nabc1 1\nd", "run 1 of 2"),
        (b"", "run 1 of 2"),
    ):
        path.write_bytes(text)
        with pytest.raises(EnvironmentProblem, match=told):
            read_parts(path, 2, 10)
    with pytest.raises(EnvironmentProblem):
        read_parts(tmp_path / "none", 1, 10)
