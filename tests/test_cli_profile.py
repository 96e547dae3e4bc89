"""``graphopt profile`` on this machine, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from helpers import command_line as call
from helpers import conv_net, image_samples

from graphopt.console import Console
from graphopt.engines.onnxruntime import OnnxRuntimeSession
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.files import sha256
from graphopt.model import Model
from graphopt.profiles import LatencyProfile
from graphopt.profiles.layer_times import LayerTime, LayerTimes
from graphopt.profiles.power import PowerResult
from graphopt.profiles.run import Run
from graphopt.profiles.sweep import Sweep
from graphopt.profiling.points import Point, points
from graphopt.profiling.result import Measured
from graphopt.profiling.show import plot
from graphopt.profiling.there import _Work, joined

QUICK = ("--duration", "0.02", "--warm-up", "0", "--iterations", "1", "--threads", "1")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    conv_net(16).save(folder / "net.onnx")
    four = onnx.load(folder / "net.onnx")
    four.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    del four.graph.value_info[:]
    for output in four.graph.output:
        output.type.tensor_type.shape.dim[0].Clear()
    onnx.save(four, folder / "four.onnx")
    np.savez(folder / "few.npz", image=image_samples(6))
    baked = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[2, 2] y)'
        "<int64[2] s = {2, 2}> { y = Reshape(x, s) }"
    )
    onnx.save(baked, folder / "baked.onnx")
    (folder / "a.engine").write_bytes(b"ftrt" + bytes(60))
    return folder


@pytest.fixture(autouse=True)
def _in_work(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def test_one_point_is_a_latency_profile_with_all_figures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "p.json"
    assert call("profile", "net.onnx", *QUICK, "--iterations", "20", "-o", out) == 0
    shown = capsys.readouterr().out
    head = ["mean", "ms", "p50", "p90", "p95", "p99", "min", "max", "sd", "items/s"]
    assert head == " ".join(shown.splitlines()[1].split()).split()
    assert "95 % interval" in shown
    value = json.loads(out.read_text())
    profile = LatencyProfile.from_json(value)
    assert profile.environment["threads"] == "1"
    assert profile.environment["engine"] == "onnxruntime"
    assert len(profile.samples_ms) >= 20
    assert value["p50_interval_ms"][0] <= value["p50_ms"] <= value["p50_interval_ms"][1]
    assert value["warnings"] is not None


def test_a_sweep_has_a_row_for_each_point_and_a_plot(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, picture = tmp_path / "s.json", tmp_path / "s.svg"
    words = ("profile", "net.onnx", *QUICK, "--batch", "8,1", "--streams", "1,2")
    assert call(*words, "--max-latency", "100000", "-o", out, "--plot", picture) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()[2:6]]
    assert [row[:2] for row in rows] == [["8", "1"], ["1", "1"], ["8", "2"], ["1", "2"]]
    assert rows[0][5] == "1.00x"
    assert shown.count("best") == 2  # the row, and what it means
    value = json.loads(out.read_text())
    sweep = Sweep.from_json(value)
    assert value["best"] == sweep.best(100_000)
    assert [(p.batch, p.streams) for p in sweep.points] == [(8, 1), (1, 1), (8, 2), (1, 2)]
    svg = picture.read_text()
    assert svg.startswith("<svg") and "99th percentile" in svg and "limit 100000 ms" in svg
    assert call(*words, "--max-latency", "0.000001") == 0
    assert "nothing keeps its p99 within 1e-06 ms" in capsys.readouterr().err


@pytest.mark.parametrize("where", [None, "layers.json"])
def test_layers_are_shown_and_saved(
    where: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = [] if where is None else [tmp_path / where]
    assert call("profile", "net.onnx", *QUICK, "--layers", *file) == 0
    assert "the slowest of" in capsys.readouterr().out
    assert not Path("-").exists()
    if file:
        layers = json.loads(file[0].read_text())["layers"]
        assert set(layers[0]) == {"name", "op", "median_ms", "share", "count"}
        assert {"Conv", "FusedConv"} & {each["op"] for each in layers}


def test_it_goes_to_a_history_and_to_a_pipeline(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from graphopt.profiles.history import History

    book, flat = tmp_path / "h.db", tmp_path / "m.json"
    words = ("--batch", "2,4", "--history", book, "--metrics", flat, "--json", "--ci", "off")
    assert call("profile", "net.onnx", *QUICK, *words) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "graphopt-latency-sweep"
    assert "latency_p50" in flat.read_text()
    with History.open(book) as history:
        run = history.get(1)
    assert (run.verb, run.subject, run.batch) == ("profile", "net.onnx", 2)
    assert run.sha256 == sha256("net.onnx")
    assert run.model_digest == Model.load("net.onnx").digest()
    assert {"threads", "cpu", "engine"} <= set(run.fingerprint)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["net.onnx", "--batch", "0"], 2, "'0' is no whole number from 1"),
        (["net.onnx", "--batch", "1,,8"], 2, "nothing stands between two commas"),
        (["net.onnx", "--batch", "1,"], 2, "nothing stands between two commas or at an end"),
        (["net.onnx", "--batch", "8,1,8"], 2, "has 8 twice"),
        (["net.onnx", "--batch", "-1"], 2, "'-1' is no whole number"),
        (["net.onnx", "--batch", "9999999"], 2, "from 1 to 1000000"),
        (["net.onnx", "--streams", "1.5"], 2, "'1.5' is no whole number"),
        (["net.onnx", "--streams", ",".join(map(str, range(1, 90)))], 2, "make 89 points"),
        (["net.onnx", "--max-latency", "0"], 2, "not in the range"),
        (["net.onnx", "--power", "soon"], 2, "'--power'"),
        (["net.onnx", "--threads", "0"], 2, "'--threads'"),
        (["four.onnx", "--batch", "4,8"], 2, "--batch 8: the model's batch is fixed at 4"),
        (["baked.onnx", "--batch", "1,8"], 2, "batch 8: ONNX Runtime could not run these inputs"),
        (["net.onnx", "--data", "few.npz", "--batch", "4,8"], 2, "--data has 6 samples"),
        (["net.onnx", "--batch", "4", "--opt-shapes", "image:2x3x16x16"], 2, "leave one of the"),
        (["net.onnx", "--plot", "new.png"], 2, "drawn as SVG, name it .svg"),
        (["."], 2, "is a folder without report.json"),
        (["a.engine"], 4, "a.engine cannot be run here"),
        (["a.engine", "--threads", "2"], 2, "--threads is for ONNX Runtime on the CPU"),
        (["net.onnx", "-o", "few.npz"], 2, "few.npz exists; use --force"),
        (["net.onnx", "-o", "new.json", "--plot", "./new.json"], 2, "of another output too"),
        (["net.onnx", "-o", "new.json", "--junit", "new.json"], 2, "name one file"),
        (["net.onnx", "--layers", "net.onnx", "--force"], 2, "is what is read"),
        (["--layers", "net.onnx"], 2, "Missing argument"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(
    words: list[str], code: int, told: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(p.name for p in work.iterdir())
    assert call("profile", *QUICK[:6], *words) == code
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
    assert sorted(p.name for p in work.iterdir()) == before


def test_a_machine_without_a_meter_says_so_before_timing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(_: str) -> object:
        raise EnvironmentProblem("nothing here tells power")

    monkeypatch.setattr("graphopt.profiles.power.meters.find_meter", none)
    monkeypatch.setattr("graphopt.profiling.here.measure_points", None)
    assert call("profile", "net.onnx", *QUICK, "--power") == 4
    assert "nothing here tells power" in capsys.readouterr().err


def test_power_is_a_pass_of_its_own_at_the_first_point(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {}

    def power_pass(run, *, batch, seconds, meter):  # type: ignore[no-untyped-def]
        run()
        asked.update(batch=batch, seconds=seconds, meter=meter)
        return PowerResult("a meter", 1.0, 5.0, 6.0, 2.5, 2.0, {"GPU": 4.0}, 9, seconds, 10, batch)

    monkeypatch.setattr("graphopt.profiles.power.meters.find_meter", lambda of: f"meter of {of}")
    monkeypatch.setattr("graphopt.profiles.power.power_pass", power_pass)
    assert call("profile", "net.onnx", *QUICK, "--batch", "4,2", "--power", "3") == 0
    shown = capsys.readouterr().out
    assert "power over 3.0 s, by a meter" in shown
    assert (asked["seconds"], asked["meter"]) == (3, "meter of cpu")
    assert asked["batch"] % 4 == 0


@pytest.mark.parametrize("stage", ["ready", "timed"])
def test_out_of_memory_keeps_the_smaller_points(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = OnnxRuntimeSession.timer

    def timer(self, feeds, /, *, streams=1):  # type: ignore[no-untyped-def]
        made = real(self, feeds, streams=streams)
        if made.batch == 8:

            def fails() -> None:
                raise EnvironmentProblem("Failed to allocate memory for requested buffer")

            if stage == "ready":
                fails()
            made.run = fails
        return made

    monkeypatch.setattr(OnnxRuntimeSession, "timer", timer)
    assert call("profile", "net.onnx", *QUICK, "--batch", "16,1,8,2", "--json") == 0
    out, err = capsys.readouterr()
    value = json.loads(out)
    assert [p["batch"] for p in value["points"]] == [1, 2]
    assert "batch 8 is left out: it ran out of memory" in err
    assert "batch 16 is left out: as large as what ran out of memory" in err
    assert len(value["notes"]) == 2
    assert call("profile", "net.onnx", *QUICK, "--batch", "8") == 4
    assert "batch 8 runs out of memory" in capsys.readouterr().err


def test_a_machine_that_has_not_settled_is_warned_of() -> None:
    def point(*rounds: float) -> LatencyProfile:
        return LatencyProfile(rounds, starts=tuple(range(len(rounds))))

    assert Measured(Sweep((point(1, 1, 1.04),))).all_warnings() == []
    (line,) = Measured(Sweep((point(1, 1, 1.2),))).all_warnings()
    assert line.startswith("the last rounds were 20.0 % slower than the first")
    assert "--warm-up" in line
    (line,) = Measured(Sweep((point(1, 1, 1), point(1, 1, 0.5)))).all_warnings()
    assert line.startswith("batch 1: the last rounds were 50.0 % faster")


def test_a_run_holds_every_point() -> None:
    sweep = Sweep((LatencyProfile((1.0,) * 6, 1), LatencyProfile((4.0,) * 6, 8, streams=2)))
    run = Measured(sweep, LayerTimes((), "s"), memory=4096).run(Path("net.onnx"))
    assert Run.from_json(json.loads(json.dumps(run.to_json()))) == run
    names = [f.name for f in run.figures]
    assert names == [
        *("latency_mean", "latency_p50", "latency_p90", "latency_p95", "latency_p99"),
        "throughput",
        *("latency_p50_batch_8_streams_2", "latency_p99_batch_8_streams_2"),
        *("throughput_batch_8_streams_2", "size", "peak_memory"),
    ]
    size = run.figure("size")
    assert size is not None and size.value == Path("net.onnx").stat().st_size
    figure = run.figure("latency_p50")
    assert figure is not None and (figure.low, figure.high) == (1.0, 1.0)
    throughput = run.figure("throughput")
    assert throughput is not None and throughput.better == "higher"


def test_the_plot_names_its_points_and_escapes_the_file() -> None:
    sweep = Sweep((LatencyProfile((1.0,), 1), LatencyProfile((2.0,), 8)))
    svg = plot(Measured(sweep), "a<b>.onnx", None)
    assert "a&lt;b&gt;.onnx" in svg
    assert "median of latency" in svg


def test_points_are_every_batch_on_every_number_of_streams() -> None:
    assert points((1, 8), (1, 2)) == (Point(1, 1), Point(8, 1), Point(1, 2), Point(8, 2))
    assert points(None, None) == (Point(None, 1),)


def test_passes_of_trtexec_are_joined_as_rounds() -> None:
    first = LatencyProfile((1.0, 2.0), 4, streams=2, wall_ms=3.0)
    both = joined([first, LatencyProfile((3.0,), 4, streams=2, wall_ms=4.0)])
    assert (both.samples_ms, both.starts, both.wall_ms) == ((1.0, 2.0, 3.0), (0, 2), 7.0)
    assert joined([first]) is first


@pytest.mark.parametrize("turn", [1, 2])
def test_out_of_memory_on_a_device_keeps_the_smaller_points(turn: int) -> None:
    asked = [Point(1, 1), Point(8, 1), Point(64, 1)]
    tried: list[int] = []

    class Tool:
        def time(self, path, sizes, timing, *, say, warn):  # type: ignore[no-untyped-def]
            batch = sizes["x"][0]
            tried.append(batch)
            if batch == 8 and tried.count(8) == turn:
                raise EnvironmentProblem("trtexec: Cuda failure: out of memory")
            return SimpleNamespace(latency=LatencyProfile((1.0,), batch))

    from graphopt.engines.trtexec.command import Timing

    sizes = {p: {"x": (p.batch or 1,)} for p in asked}
    work = _Work(Tool(), Path("m.engine"), sizes, Timing(), Console())  # type: ignore[arg-type]
    work.take(asked)
    if turn == 2:
        work.take(asked[::-1])
    assert [p.batch for p in work.found] == ([1] if turn == 1 else [1, 64])
    assert work.notes


def test_a_sweep_may_fix_the_other_sizes(tmp_path: Path) -> None:
    from graphopt.profiling.there import _swept

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[N, H] x, float[5, W] k) => (float[N, H] y) { y = Relu(x) }"
    )
    onnx.save(model, tmp_path / "open.onnx")
    out = tmp_path / "s.json"
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> '
            "g (float[N, H] x) => (float[N, H] y) { y = Relu(x) }"
        ),
        tmp_path / "one.onnx",
    )
    words = ("--batch", "1,4", "--opt-shapes", "x:2x6")
    assert call("profile", tmp_path / "one.onnx", *QUICK, *words, "-o", out, "-q") == 0
    assert [p["batch"] for p in json.loads(out.read_text())["points"]] == [1, 4]
    fixed = {"x": (2, 6), "k": (5, 7)}
    both, one = [Point(1, 1), Point(4, 1)], [Point(4, 1), Point(4, 2)]
    assert _swept(tmp_path / "open.onnx", fixed, both, 4) == {"x": (4, 6), "k": (5, 7)}
    assert _swept(tmp_path / "open.onnx", fixed, one, 4) is fixed


def test_an_interruption_tells_what_is_written_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphopt.publish.publish", interrupted)
    out = tmp_path / "p.json"
    assert call("profile", "net.onnx", *QUICK, "-o", out) == 130
    assert f"interrupted; {out} written" in capsys.readouterr().err
    assert call("profile", "net.onnx", *QUICK) == 130
    assert "nothing was written" in capsys.readouterr().err


def test_more_threads_than_cores_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("graphopt.profiling.here.cpu_count", lambda: 1)
    assert call("profile", "net.onnx", *QUICK, "--threads", "2") == 0
    assert "--threads 2, and 1 core: they wait for one another" in capsys.readouterr().err


def test_layers_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from graphopt.profiling.show import show

    names = [f"/backbone/{'deep/' * 30}conv{i}" for i in (1, 2)]

    def shown(op: str) -> list[str]:
        found = LayerTimes(tuple(LayerTime(n, op, 1.0, 0.5, 9) for n in names), "s")
        measured = Measured(Sweep((LatencyProfile((1.0,)),)), found)
        show(measured, "net.onnx", Console(), max_latency_ms=None, many=False)
        return capsys.readouterr().out.splitlines()[-3:]

    head, *rows = shown("Conv+BatchNormalization+Relu")
    assert "op" in head.split() and all(len(row) <= 80 for row in rows)
    assert "conv1 " in rows[0] and "conv2 " in rows[1] and "…" in rows[0]
    head, *rows = shown("")
    assert "op" not in head.split() and all(len(row) <= 80 for row in rows)


def test_warnings_that_differ_in_figures_are_told_once() -> None:
    from graphopt.profiling.there import _once

    assert _once(["4.5 of 2", "4.41 of 2", "hot", "hot"]) == ("4.5 of 2", "hot")


def test_a_run_that_is_none_is_refused() -> None:
    run = Measured(Sweep((LatencyProfile((1.0,)),))).run(Path("net.onnx")).to_json()
    with pytest.raises(UsageError, match="not a valid run"):
        Run.from_json({**run, "batch": float("inf")})
