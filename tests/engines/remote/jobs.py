"""What the tests of jobs share: short waits, a shell with fewer tools, a look at what is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphopt.engines.remote.job import Job, Waits

# All that the scripts call, as the least of devices has it: no setsid, no flock.
_TOOLS = """sh cat readlink date grep sleep id ls ln rm mkdir rmdir find touch head tail wc cp mv df
env chmod sha256sum nohup dd tr kill"""
BARE = tuple(_TOOLS.split())
SHELLS = ("dash", "bash", "busybox", "bare")


def use_shell(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this machine's ``sh`` and tools be those of ``kind``, and no others on PATH."""
    folder.mkdir()
    if kind == "busybox":
        busybox = shutil.which("busybox")
        if busybox is None:
            pytest.skip("busybox is not installed")
        names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
        for name in names.stdout.split():
            (folder / name).symlink_to(busybox)
        monkeypatch.setenv("PATH", str(folder))
    elif kind == "bare":
        for name in BARE:
            if tool := shutil.which(name):
                (folder / name).symlink_to(tool)
        monkeypatch.setenv("PATH", str(folder))
    else:
        shell = shutil.which(kind)
        if shell is None:
            pytest.skip(f"{kind} is not installed")
        (folder / "sh").symlink_to(shell)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def quick(folder: Path, **more: Any) -> Waits:
    """Return waits for a test, the device's folder and lock below ``folder``."""
    soon = Waits(
        reconnect_s=20.0,
        orphan_s=60,
        quiet_s=2,
        queue_s=60.0,
        remind_s=0.5,
        poll_s=0.1,
        poll_most_s=0.3,
        tick_s=0.1,
        grace_s=1,
        copy_s=60.0,
        root=str(folder / "device"),
        lock=str(folder / "the lock"),
    )
    return replace(soon, **more)


def sh(script: str, *words: str, **more: Any) -> Job:
    """Return a job that runs ``script`` with ``words``."""
    return Job(("sh", "-c", script, "sh", *words), **more)


def running(mark: str | Path) -> dict[int, str]:
    """Return the processes that name ``mark`` in their words or are marked by a job below it."""
    found = {}
    told = os.fsencode(str(mark))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            if told in words or b"GRAPHOPT_JOB=" + told in (entry / "environ").read_bytes():
                found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def wait_for(what: Callable[[], Any], within_s: float = 20.0) -> Any:
    """Return ``what()`` as soon as it is true, or what it is at last."""
    until = time.monotonic() + within_s
    while not (value := what()) and time.monotonic() < until:
        time.sleep(0.05)
    return value


def nothing_left(root: str | Path) -> bool:
    """Wait until no job and no process of one is left in the device's folder ``root``."""
    root = Path(root)
    wait_for(lambda: not list((root / "jobs").glob("*")) and not running(root / "jobs"))
    assert list((root / "jobs").glob("*")) == []
    assert running(root / "jobs") == {}
    return True


CLIENT = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from jobs import quick, sh
from graphopt.engines.remote.local import LocalLink
from graphopt.engines.remote.runner import run_job
folder = Path({folder!r})
print(run_job(LocalLink(), sh({script!r}, **{job!r}), on_line=lambda l: print(l, flush=True),
      on_wait=lambda l: print(l, flush=True), waits=quick(folder, **{more!r})).status, flush=True)
"""


def client(
    folder: Path, script: str, job: dict[str, Any] | None = None, **more: Any
) -> subprocess.Popen[str]:
    """Start a process that runs the job ``script`` on this machine; it prints what it is told."""
    text = CLIENT.format(
        here=str(Path(__file__).parent),
        folder=str(folder),
        script=script,
        job=job or {},
        more=more,
    )
    words = [sys.executable, "-c", text]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
