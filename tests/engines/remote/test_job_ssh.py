"""Jobs over a real sshd: the link cut at the worst of times, two clients, a client that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from jobs import nothing_left, quick, running, sh, wait_for
from sshd import Device

from graphopt.engines.remote.job import Finished, Job, Waits
from graphopt.engines.remote.link import LinkLost
from graphopt.engines.remote.runner import run_job
from graphopt.errors import EnvironmentProblem


@pytest.fixture
def waits(sshd: Device, tmp_path: Path) -> Iterator[Waits]:
    """Short waits, in the folder that the device has by itself; nothing is left after a test."""
    waits = quick(tmp_path, root="")
    yield waits
    root = sshd.home / ".cache/graphopt"
    if root.exists():
        nothing_left(root)
    assert sshd.quiet() == {}
    assert wait_for(lambda: not sshd.clients())


def over(device: Device, job: Job, waits: Waits, **more: Any) -> Finished:
    with device.link() as link:
        return run_job(link, job, waits=waits, **more)


@pytest.fixture
def cache(sshd: Device) -> Path:
    return sshd.home / ".cache/graphopt"


def test_there_and_back(sshd: Device, waits: Waits, cache: Path, tmp_path: Path) -> None:
    model = tmp_path / "it's a model"
    model.write_bytes(os.urandom(300_000))
    sshd.login_prints("Welcome!\nrunning\n")
    job = sh(
        'cp "$1" "$2"; echo "$2"; echo "$HOME"',
        "in 'put",
        'out "put"\n',
        inputs={"in 'put": model},
        outputs={'out "put"\n': tmp_path / "got"},
    )
    finished = over(sshd, job, waits)
    assert finished.status == 0
    assert finished.log == f'out "put"\n\n{sshd.home}\n'
    assert (tmp_path / "got").read_bytes() == model.read_bytes()
    assert len(list((cache / "objects").iterdir())) == 1


def test_cut_while_it_sends(sshd: Device, waits: Waits, cache: Path, tmp_path: Path) -> None:
    """And once more: what arrived is not sent again."""
    model = tmp_path / "model"
    model.write_bytes(os.urandom(12_000_000))
    sshd.proxy.cut_after(sent=9_000_000)
    job = sh("cp in out", inputs={"in": model}, outputs={"out": tmp_path / "got"})
    finished = over(sshd, job, waits)
    assert finished.status == 0
    assert (tmp_path / "got").read_bytes() == model.read_bytes()
    # What the two kernels still held at the cut is lost; the rest is not sent again.
    assert sshd.proxy.sent < 12_000_000 + 9_000_000 - 1_000_000


def test_down_while_it_sends_and_resumed(
    sshd: Device, waits: Waits, cache: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.write_bytes(os.urandom(16_000_000))
    job = sh("cp in out", inputs={"in": model}, outputs={"out": tmp_path / "got"})

    def on_copy(*_: object) -> None:
        # What was handed over here may lie in the buffers of two kernels: look there.
        if any(p.stat().st_size > 2_000_000 for p in (cache / "objects").glob("*.part")):
            sshd.proxy.refuse()
            sshd.proxy.cut()

    with pytest.raises(LinkLost, match="the same command takes it up"):
        over(sshd, job, replace(waits, reconnect_s=1), on_copy=on_copy)
    parts = list((cache / "objects").iterdir())
    assert [p.suffix for p in parts] == [".part"]
    kept = parts[0].stat().st_size
    sshd.proxy.accept()
    before = sshd.proxy.sent
    finished = over(sshd, job, waits)
    assert finished.status == 0
    assert finished.resumed
    assert (tmp_path / "got").read_bytes() == model.read_bytes()
    assert sshd.proxy.sent - before < 16_000_000 - kept + 800_000


def test_cut_while_it_runs(sshd: Device, waits: Waits, tmp_path: Path) -> None:
    """Again and again; each line comes once."""
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line in "147":
            sshd.proxy.cut()

    job = sh("for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.3; done")
    finished = over(sshd, job, waits, on_line=on_line)
    assert (finished.status, lines) == (0, list("123456789"))


def test_down_while_it_runs_and_resumed(sshd: Device, waits: Waits, tmp_path: Path) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    job = sh(
        'echo run >>"$1"; echo on; while [ ! -e "$2" ]; do sleep 0.1; done; echo x >out; echo off',
        str(runs),
        str(go),
        outputs={"out": tmp_path / "got"},
    )

    def on_line(_: str) -> None:
        sshd.proxy.refuse()
        sshd.proxy.cut()

    with pytest.raises(LinkLost, match="the connection to jetson was lost"):
        over(sshd, job, replace(waits, reconnect_s=1), on_line=on_line)
    sshd.proxy.accept()
    threading.Timer(1.0, go.touch).start()
    lines: list[str] = []
    finished = over(sshd, job, waits, on_line=lines.append)
    assert (finished.status, finished.resumed, lines) == (0, True, ["on", "off"])
    assert runs.read_text() == "run\n"
    assert (tmp_path / "got").read_text() == "x\n"


def test_time_limit_holds_while_the_link_is_down(sshd: Device, waits: Waits, cache: Path) -> None:
    def on_line(_: str) -> None:
        sshd.proxy.refuse()
        sshd.proxy.cut()

    job = sh("echo on; sleep 300", time_limit_s=3)
    with pytest.raises(LinkLost):
        over(sshd, job, replace(waits, reconnect_s=0.5), on_line=on_line)
    assert wait_for(lambda: "sleep 300" not in sshd.processes().values())
    sshd.proxy.accept()
    with pytest.raises(EnvironmentProblem, match="took longer than 3 s and was stopped"):
        over(sshd, job, waits)


def test_an_error_right_after_a_cut(sshd: Device, waits: Waits) -> None:
    """To clean up, the link is made anew."""

    def on_line(_: str) -> None:
        sshd.proxy.cut()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        over(sshd, sh("echo on; sleep 300"), waits, on_line=on_line)


CLIENT = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from jobs import quick, sh
from graphopt.engines.remote.ssh import SshLink
from graphopt.engines.remote.runner import run_job
with SshLink({host!r}) as link:
    run_job(link, sh({script!r}), on_line=lambda l: print(l, flush=True),
            on_wait=lambda l: print(l, flush=True), waits=quick(Path({folder!r}), **{more!r}))
"""


def client(device: Device, folder: Path, script: str, **more: object) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    text = CLIENT.format(
        here=here, host=device.host, script=script, folder=str(folder), more={"root": "", **more}
    )
    return subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=device.environment,
        start_new_session=True,
    )


@pytest.mark.slow
def test_an_error_over_a_silent_link(sshd: Device, waits: Waits) -> None:
    """Neither an answer nor a reset: it does not take for ever, and the device ends the job."""

    def on_line(_: str) -> None:
        sshd.proxy.stall()
        raise KeyboardInterrupt

    began, told = time.monotonic(), list[str]()
    with pytest.raises(KeyboardInterrupt):
        over(
            sshd,
            sh("echo on; sleep 300"),
            replace(waits, orphan_s=2),
            on_line=on_line,
            on_wait=told.append,
        )
    assert any("it ends that by itself within 2 s" in line for line in told), told
    assert time.monotonic() - began < 60
    sshd.proxy.cut()
    sshd.proxy.resume()


def test_ctrl_c_leaves_nothing(sshd: Device, waits: Waits, cache: Path, tmp_path: Path) -> None:
    """To the whole group, as a terminal does: ssh and its master get it as well."""
    child = client(sshd, tmp_path, "echo on; sleep 300 & sleep 301")
    assert child.stdout is not None
    assert child.stdout.readline() == "on\n"
    os.killpg(child.pid, signal.SIGINT)
    child.communicate(timeout=20)
    nothing_left(cache)


def test_a_killed_clients_job_is_ended(
    sshd: Device, waits: Waits, cache: Path, tmp_path: Path
) -> None:
    child = client(sshd, tmp_path, "echo on; sleep 300", orphan_s=2)
    assert child.stdout is not None
    assert child.stdout.readline() == "on\n"
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate(timeout=20)
    nothing_left(cache)
    for pid in sshd.clients():  # the master of a killed client is in a session of its own
        os.kill(pid, signal.SIGTERM)


def test_two_builds_at_once(sshd: Device, waits: Waits, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    script = f'echo on; mkdir "{inside}" && sleep 4 && rmdir "{inside}" && echo alone'
    first = client(sshd, tmp_path, script + " # 1")
    assert first.stdout is not None
    assert first.stdout.readline() == "on\n"
    told: list[str] = []
    finished = over(sshd, sh(script + " # 2"), waits, on_wait=told.append)
    assert finished.log == "on\nalone\n"
    assert told[0].startswith("waiting for jetson: ")
    assert "there) has had it for" in told[0]
    assert first.communicate(timeout=20)[0].endswith("alone\n")
    assert wait_for(lambda: not running(inside))
