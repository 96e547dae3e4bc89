"""``--host``: builds and times on a device behind a real sshd, whose trtexec is a stand-in."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers import ROOT

from graphopt.engines.header import identify

Call = Callable[..., tuple[int, str, str]]
Setup = Callable[..., Any]
NET = "my 'net'.onnx"
INT8 = (NET, "--int8", "--data", "calib.npz")
CASES = [
    ("jetson-agx-xavier", "8.5.2", {"--int8"}),
    ("t4", "8.6.1", {"--int8"}),
    ("t4", "10.3.0", {"--stronglyTyped"}),
    ("t4", "11.0.0", set()),
]


def jobs(there: Any) -> list[Path]:
    """What is left of jobs on the device: nothing, when one is over."""
    folder = there.home / ".cache" / "graphopt" / "jobs"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def is_clean(there: Any, tmp_path: Path) -> bool:
    return not jobs(there) and not there.quiet() and not list(there.tmp.iterdir())


@pytest.mark.parametrize(("name", "version", "typing"), CASES)
def test_a_build_comes_back_whole(
    name: str, version: str, typing: set[str], work: Path, device: Setup, call: Call, tmp_path: Path
) -> None:
    there = device(name, version, record=str(tmp_path / "words.jsonl"))
    out = work / "out"
    code, _, err = call("build", *INT8, "--prune", "0.3", "--host", there.host, "-o", out)
    assert code == 0, err
    assert f"device {name}" in err
    header = identify(out / "model.engine")
    assert (header.kind, (header.version or "")[: len(version)]) == ("tensorrt", version)
    side = json.loads((out / "model.engine.json").read_text())
    assert side["runtime_version"] == version
    assert side["device"] == name
    assert side["engine"] == "trtexec"
    report = json.loads((out / "report.json").read_text())
    kinds = {a["kind"] for a in report["artifacts"]}
    assert {"engine", "sidecar", "layers", "layer-times", "engine-log"} <= kinds
    (latency,) = [m for m in report["metrics"] if m["name"] == "engine latency"]
    assert latency["values"]["int8"] > 0
    assert report["latency"]["engine"]["environment"]["clock"] == "GPU compute time by trtexec"
    assert str(work) not in json.dumps(side)
    ran = [json.loads(line) for line in (tmp_path / "words.jsonl").read_text().splitlines()]
    built = next(words for words in ran if any(w.startswith("--onnx=") for w in words))
    assert {"--int8", "--fp16", "--stronglyTyped"} & set(built) == typing
    model = onnx.load(out / "model.int8.onnx")
    kept = {i.name: i.data_type for i in model.graph.initializer}
    read = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    stored = any(kept.get(each) == onnx.TensorProto.INT8 for each in read)
    assert stored is not version.startswith("8."), "8.x takes no int8 weights"
    assert is_clean(there, tmp_path)


def test_a_dla_gets_the_plain_model_and_a_cache(
    work: Path, device: Setup, call: Call, tmp_path: Path
) -> None:
    there = device("jetson-agx-xavier", "8.5.2", record=str(tmp_path / "words.jsonl"))
    code, _, err = call("build", *INT8, "--host", there.host, "--dla", 0, "-o", "dla")
    assert code == 0, err
    assert "implicit" in err
    words = json.loads((work / "dla" / "model.engine.json").read_text())["trtexec"]
    assert {"--useDLACore=0", "--allowGPUFallback", "--calib=calibration.cache"} <= set(words)
    first = (work / "dla" / "calibration.cache").read_text().splitlines()[0]
    assert first == "TRT-8502-EntropyCalibration2"
    assert not (work / "dla" / "model.int8.onnx").exists()
    # It is timed on the DLA too: an engine of one is loaded for a core.
    code, _, err = call("profile", "dla/model.engine", "--host", there.host)
    assert code == 0, err
    ran = [json.loads(line) for line in (tmp_path / "words.jsonl").read_text().splitlines()]
    assert "--useDLACore=0" in ran[-1]


def test_what_the_device_cannot_do_is_told_before_any_work(
    work: Path, device: Setup, call: Call
) -> None:
    host = device("t4", "11.0.0").host
    for words, told in (
        (("--dla", 0), "NVIDIA T4 has no DLA"),
        (("--quantization", "implicit"), "no implicit INT8"),
        (
            ("--device", "jetson-agx-xavier"),
            "does not support NVIDIA Jetson AGX Xavier: 8.5.2 is the last",
        ),
        (("--sparsity", "2:4"), "2:4"),
    ):
        code, _, err = call("build", *INT8, "--host", host, "-o", "o", *words)
        assert code in (2, 3, 4)
        assert told in err, err
        assert not (work / "o").exists()


def test_times_an_engine_and_a_model_there(work: Path, device: Setup, call: Call) -> None:
    there = device("t4", "10.3.0")
    assert call("build", NET, "--host", there.host, "-o", "o")[0] == 0
    sent = there.proxy.sent
    saved = ("--layers", "layers.json", "-o", "p.json")
    code, out, err = call("profile", "o/model.engine", "--host", there.host, "--batch", 4, *saved)
    assert code == 0, err
    assert "batch 4" in out
    value = json.loads((work / "p.json").read_text())
    assert value["environment"]["gpu"] == "Tesla T4"
    layers = json.loads((work / "layers.json").read_text())["layers"]
    assert all(each["count"] > 0 and each["median_ms"] > 0 for each in layers)
    assert sum(each["share"] for each in layers) == pytest.approx(1)
    assert {each["name"] for each in value["layers"]["layers"]} == {e["name"] for e in layers}
    assert there.proxy.sent - sent > (work / "o" / "model.engine").stat().st_size
    code, _, err = call("profile", NET, "--host", there.host)
    assert code == 0, err


def test_points_of_an_engine_are_timed_there_and_back(
    work: Path, device: Setup, call: Call, tmp_path: Path
) -> None:
    there = device("t4", "8.6.1", record=str(tmp_path / "words.jsonl"))
    shapes = [f"--{w}-shapes=image:{n}x3x16x16" for w, n in (("min", 1), ("opt", 4), ("max", 8))]
    assert call("build", NET, "--host", there.host, *shapes, "-o", "o")[0] == 0
    built = len((tmp_path / "words.jsonl").read_text().splitlines())
    sweep = ("profile", "o/model.engine", "--host", there.host, "--duration", 2)
    code, out, err = call(*sweep, "--batch", "1,8", "--streams", "2", "-o", "s.json")
    assert code == 0, err
    assert "2 points" in out
    value = json.loads((work / "s.json").read_text())
    assert [(p["batch"], p["streams"]) for p in value["points"]] == [(1, 2), (8, 2)]
    assert all(len(p["starts"]) == 2 and p["wall_ms"] > 0 for p in value["points"])
    lines = (tmp_path / "words.jsonl").read_text().splitlines()[built:]
    words = [json.loads(line) for line in lines if "--loadEngine" in line]
    ran = [next(w for w in each if w.startswith("--shapes=")) for each in words]
    assert ran == [f"--shapes=image:{n}x3x16x16" for n in (1, 8, 8, 1)]
    assert all({"--infStreams=2", "--duration=1"} <= set(each) for each in words)
    # Before any timing: what the engine does not take, and what trtexec cannot do.
    for flags, told in (
        (("--batch", "1,9"), "the engine was not built for 9x3x16x16; it takes 1x3x16x16 to 8x"),
        (("--threads", "2"), "--threads is for ONNX Runtime"),
        (("--data", "calib.npz"), "trtexec makes its inputs up"),
        (("--power", "--streams", "2"), "an engine on one stream"),
    ):
        code, _, err = call(*sweep, *flags)
        assert (code, told in err) == (2, True), err
    assert len((tmp_path / "words.jsonl").read_text().splitlines()) == built + len(lines)


def test_an_engine_built_for_one_size_is_timed_at_that_size(
    work: Path, device: Setup, call: Call, tmp_path: Path
) -> None:
    """Its batch is still open: trtexec would take 1 for it, which the engine does not run."""
    there = device("t4", "10.3.0", record=str(tmp_path / "words.jsonl"))
    shapes = ("--opt-shapes", "image:4x3x16x16")
    assert call("build", "my 'net'.onnx", "--host", there.host, *shapes, "-o", "o")[0] == 0
    code, out, err = call("profile", "o/model.engine", "--host", there.host)
    assert code == 0, err
    assert "batch 4" in out
    words = json.loads((tmp_path / "words.jsonl").read_text().splitlines()[-1])
    assert "--shapes=image:4x3x16x16" in words


def test_an_engine_of_another_place_is_not_loaded(work: Path, device: Setup, call: Call) -> None:
    assert call("build", NET, "--host", device("t4", "10.3.0").host, "-o", "o")[0] == 0
    there = device("t4", "8.6.1")
    code, _, err = call("profile", "o/model.engine", "--host", there.host)
    assert code == 4
    assert "was built by TensorRT 10.3.0.2, and jetson has 8.6.1" in err
    assert "graphopt build" in err
    with (work / "o" / "model.engine").open("ab") as stream:
        stream.write(b"x")
    code, _, err = call("profile", "o/model.engine", "--host", there.host)
    assert code == 2


@pytest.mark.parametrize(
    ("behaviour", "code", "told"),
    [
        ({"fail": {"build": "Could not find any implementation for node conv1"}}, 3, "conv1"),
        ({"killed": "build"}, 4, "out of memory"),
        ({"full": ("save",)}, 4, "is the disk there full?"),
        ({"garbage": "help"}, 4, "trtexec"),
        ({"cannot_start": "libnvinfer.so.8: cannot open shared object file"}, 4, "trtexec"),
    ],
)
def test_a_failure_there_is_one_line_and_leaves_nothing(
    behaviour: dict[str, Any],
    code: int,
    told: str,
    work: Path,
    device: Setup,
    call: Call,
    tmp_path: Path,
) -> None:
    there = device("t4", "10.3.0", **behaviour)
    found, _, err = call("build", NET, "--host", there.host, "-o", "o")
    assert found == code, err
    (line,) = [x for x in err.splitlines() if x.startswith("error: ")]
    assert told in line, err
    assert not (work / "o").exists()
    assert is_clean(there, tmp_path)
    if "killed" in behaviour:
        device("t4", "10.3.0")
        assert call("build", NET, "--host", there.host, "-o", "o")[0] == 0


def test_bad_times_are_told_and_the_engine_is_kept(work: Path, device: Setup, call: Call) -> None:
    there = device("t4", "10.3.0", fail={"inference": "an illegal memory access"})
    code, _, err = call("build", NET, "--host", there.host, "-o", "o")
    assert code == 0, err
    assert "the engine was built and not timed: " in err
    assert (work / "o" / "model.engine").exists()


def started(there: Any, work: Path, *words: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "graphopt", *map(str, words)],
        cwd=work,
        env={**there.environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(what: Callable[[], Any], within_s: float = 60.0) -> Any:
    """Wait until something is so, and return it."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to be")


def building(there: Any) -> bool:
    # The runner over there has the command among its words too, from the start.
    return any("trtexec.py" in w and "--onnx=" in w for w in there.processes().values())


@pytest.mark.slow
def test_ctrl_c_ends_the_work_there(work: Path, device: Setup, tmp_path: Path) -> None:
    there = device("t4", "10.3.0", slow=5)
    process = started(there, work, "build", NET, "--host", there.host, "-o", "o")
    until(lambda: building(there))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("error: interrupted")
    assert is_clean(there, tmp_path)
    assert not there.clients()
    assert sorted(p.name for p in work.iterdir()) == ["calib.npz", "my 'net'.onnx"]


@pytest.mark.slow
def test_a_link_cut_in_a_build_is_made_again(work: Path, device: Setup, tmp_path: Path) -> None:
    there = device("t4", "10.3.0", slow=0.2)
    process = started(there, work, "build", NET, "--host", there.host, "-o", "o")
    until(lambda: building(there))
    there.proxy.cut()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert (work / "o" / "model.engine").exists()
    assert is_clean(there, tmp_path)


@pytest.mark.slow
def test_a_link_that_stays_down_is_told_and_the_next_run_goes_on(
    work: Path, device: Setup, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from graphopt.engines.remote import runner

    there = device("t4", "10.3.0", slow=0.3, record=str(tmp_path / "words.jsonl"))
    brisk = runner.Waits
    monkeypatch.setattr(runner, "Waits", lambda: brisk(reconnect_s=0.5, quiet_s=1))
    words = ("build", NET, "--host", there.host, "-o", "o")

    def cut_while_building() -> None:
        until(lambda: building(there))
        there.proxy.refuse()
        there.proxy.cut()

    import threading

    watcher = threading.Thread(target=cut_while_building)
    watcher.start()
    code, _, err = call(*words)
    watcher.join()
    assert code == 4, err
    assert "the same command takes it up" in err
    assert jobs(there), "the work goes on"
    there.proxy.accept()
    code, _, err = call(*words)
    assert code == 0, err
    ran = [json.loads(line) for line in (tmp_path / "words.jsonl").read_text().splitlines()]
    assert len([w for w in ran if any(x.startswith("--onnx=") for x in w)]) == 1, "built once"
    assert is_clean(there, tmp_path)


@pytest.mark.slow
def test_two_builds_at_once_take_turns(work: Path, device: Setup, tmp_path: Path) -> None:
    there = device("t4", "10.3.0", slow=0.2)
    words = ("--host", there.host, "-o")
    one = started(there, work, "build", NET, *words, "one")
    two = started(there, work, "build", NET, "--builder-level", 3, *words, "two")
    told = [process.communicate(timeout=180)[1] for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], told
    assert any("waiting for" in err for err in told)
    assert is_clean(there, tmp_path)


def test_a_host_key_that_changed_is_one_line(work: Path, device: Setup, call: Call) -> None:
    there = device("t4", "10.3.0")
    there.change_host_key()
    code, _, err = call("build", NET, "--host", there.host, "-o", "o")
    assert code == 4
    assert "key" in err
    assert "known_hosts" in err
    assert not (work / "o").exists()


def test_a_name_that_is_no_host_is_one_line(work: Path, call: Call) -> None:
    for host in ("-oProxyCommand=touch x", "a b", "$(touch x)", ""):
        code, _, err = call("build", *INT8, "--host", host, "-o", "o")
        assert code == 2, err
        assert not Path("x").exists()
