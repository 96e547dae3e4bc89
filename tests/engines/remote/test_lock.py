"""The device's lock: one holder among many, taken over from the dead, told to whoever waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from jobs import client, nothing_left, quick, running, sh, use_shell, wait_for

from graphopt.engines.remote.local import LocalLink
from graphopt.engines.remote.lock import Queue, spell_holder, time_span
from graphopt.engines.remote.runner import run_job
from graphopt.engines.remote.store import script
from graphopt.errors import EnvironmentProblem

KINDS = ("dash", "busybox", "bare")  # bare: no flock, so that the lock is a link

# Takes the lock over and over; the counter in "$2" shows two holders at once.
CONTEND = """
lock=$1 what=contend round=0 by=
while [ "$round" -lt "$3" ]; do
    tell_time; started $$; me="$$ $start $boot $now me"
    if take; then
        mkdir "$2" || echo two holders
        echo held
        sleep 0.01
        rmdir "$2"
        round=$((round + 1))
        [ "$4" = die ] && kill -9 $$
        release
    else
        sleep 0.01
    fi
done
"""


@pytest.fixture(params=KINDS)
def shell(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    use_shell(request.param, tmp_path / "bin", monkeypatch)
    return str(request.param)


def contender(
    folder: Path, rounds: int, *more: str, user: int | None = None
) -> subprocess.Popen[str]:
    text = script("job.sh").partition("verb=$1")[0] + CONTEND
    words = ["sh", "-c", text, "sh", f"{folder}/lock", f"{folder}/inside", str(rounds), *more]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, user=user
    )


def test_never_two_holders(shell: str, tmp_path: Path) -> None:
    """Twelve at once, and some that are killed while they hold it."""
    many = [contender(tmp_path, 5) for _ in range(8)]
    many += [contender(tmp_path, 1, "die") for _ in range(4)]
    said = [each.communicate(timeout=60)[0] for each in many]
    assert "two holders" not in "".join(said)
    assert "".join(said) == "held\n" * (8 * 5 + 4)
    assert not (tmp_path / "lock.guard").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes other users")
@pytest.mark.parametrize("first", [None, 12345])
def test_users_share_the_lock(first: int | None) -> None:
    """In a folder as /tmp is, where nobody removes what is another's; whoever made the lock."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o1777)
        assert contender(folder, 1, user=first).communicate(timeout=60)[0] == "held\n"
        killed = contender(folder, 1, "die", user=12346)
        assert killed.communicate(timeout=60)[0] == "held\n"
        many = [contender(folder, 5, user=user) for user in (None, 12345, 12346, 12347)]
        said = "".join(each.communicate(timeout=60)[0] for each in many)
        assert said == "held\n" * 20


def test_a_second_client_waits_and_is_told_for_whom(shell: str, tmp_path: Path) -> None:
    waits = quick(tmp_path)
    first = client(tmp_path, "echo on; sleep 1.5; date +%s%N", {"title": "building\x1b[2J x\ny"})
    assert first.stdout is not None
    assert first.stdout.readline() == "on\n"
    told: list[str] = []
    done = run_job(LocalLink(), sh("date +%s%N"), on_wait=told.append, waits=waits)
    assert done.status == 0
    assert told[0].startswith("waiting for this machine: ")
    assert "there) has had it for" in told[0]
    assert told[0].endswith(": building x y")
    assert len(told) <= 6
    assert first.communicate()[0].endswith("\n0\n")
    nothing_left(waits.root)


def test_waiting_has_an_end(tmp_path: Path) -> None:
    waits = quick(tmp_path, queue_s=0.5)
    first = client(tmp_path, "echo on; sleep 300")
    assert first.stdout is not None
    assert first.stdout.readline() == "on\n"
    try:
        with pytest.raises(EnvironmentProblem, match=r"was not free within 0 s: \S+ \(process"):
            run_job(LocalLink(), sh("true"), waits=waits)
        assert len(list(Path(waits.root, "jobs").iterdir())) == 1  # ours is gone
    finally:
        first.send_signal(signal.SIGINT)
        first.communicate()
    nothing_left(waits.root)


def test_taken_over_from_a_killed_holder(shell: str, tmp_path: Path) -> None:
    """Killed hard: runner, command and client; its folder and processes go with the next run."""
    waits = quick(tmp_path)
    first = client(tmp_path, "echo on; sleep 300 & sleep 301")
    assert first.stdout is not None
    assert first.stdout.readline() == "on\n"
    runners = [p for p, w in running(Path(waits.root) / "jobs").items() if "run.sh" in w]
    assert runners
    first.kill()
    first.communicate()
    for pid in runners:
        os.kill(pid, signal.SIGKILL)
    assert run_job(LocalLink(), sh("echo next"), waits=waits).log == "next\n"
    nothing_left(waits.root)


@pytest.mark.parametrize(
    "held",
    [
        "1 1 other-boot/pid:[1] 5 bob a job",  # the machine was started anew
        "{dead} 77 {boot} 5 bob a job",  # that process is gone
        "{me} 77 {boot} 5 bob a job",  # another process has its id now
        "",
        "$(touch hacked) `touch hacked` x[$(touch hacked)] 1 2 3",
    ],
)
def test_stale_links_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    use_shell("bare", tmp_path / "bin", monkeypatch)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    boot = f"{boot_id}/{Path('/proc/self/ns/pid').readlink()}"
    waits = quick(tmp_path)
    text = held.format(dead=dead.pid, me=os.getpid(), boot=boot) if "{" in held else held
    Path(waits.lock + ".by").symlink_to(text or " ")
    assert run_job(LocalLink(), sh("echo mine"), waits=waits).log == "mine\n"
    assert not Path("hacked").exists()


def test_a_holder_in_another_container_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it wrote about itself is only ever shown, never evaluated."""
    use_shell("bare", tmp_path / "bin", monkeypatch)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    waits = quick(tmp_path, queue_s=0.3)
    by = Path(waits.lock + ".by")
    by.symlink_to(f"7 7 {boot}/pid:[1] a[$(touch${{IFS}}{tmp_path}/hacked)] eve \x1b[2J* `id`")
    with pytest.raises(EnvironmentProblem, match=r"eve \(process 7 there\) .* 0 s: \* `id`"):
        run_job(LocalLink(), sh("true"), waits=waits)
    assert by.is_symlink()
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_something_else_in_the_locks_place(tmp_path: Path, kind: str) -> None:
    waits = quick(tmp_path, queue_s=0.3)
    lock = Path(waits.lock)
    target = tmp_path / "precious"
    if kind == "link":
        lock.symlink_to(target)
    elif kind == "folder":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    with pytest.raises(EnvironmentProblem, match="the lock is in the way: have it removed there"):
        run_job(LocalLink(), sh("true"), waits=waits)
    assert not target.exists()
    nothing_left(waits.root)


def test_the_lock_is_there_for_other_users(tmp_path: Path) -> None:
    waits = quick(tmp_path)
    run_job(LocalLink(), sh("true"), waits=waits)
    assert Path(waits.lock).stat().st_mode & 0o777 == 0o644
    assert Path(waits.root).stat().st_mode & 0o777 == 0o700


def test_words_for_those_who_wait() -> None:
    assert spell_holder("held 12 3600 bob building \x1b[2Jx") == (
        "bob (process 12 there) has had it for 60 min: building x"
    )
    assert spell_holder("held x") == spell_holder("") == "it is taken"
    assert [time_span(s) for s in (0, 99, 100, 5999, 7200)] == [
        "0 s", "99 s", "1 min", "99 min", "2 h",
    ]  # fmt: skip


def test_reminders_are_rare() -> None:
    told: list[str] = []
    queue = Queue("x", told.append, limit_s=0.4, remind_s=60)
    for _ in range(5):
        queue.still("why")
    assert told == ["waiting for x: why"]
    time.sleep(0.5)
    with pytest.raises(EnvironmentProblem, match="x was not free within 0 s: why"):
        queue.still("why")
    queue.over()
    queue.still("why")
    assert len(told) == 2


def test_many_clients_at_once(tmp_path: Path) -> None:
    """Four builds: each alone on the device, all done, nothing left."""
    inside = tmp_path / "inside"
    script = f'mkdir "{inside}" && sleep 0.2 && rmdir "{inside}" && echo alone'
    many = [client(tmp_path, f"{script} # {i}") for i in range(4)]
    for each in many:
        said = each.communicate(timeout=60)[0].splitlines()
        assert said[-2:] == ["alone", "0"]
    nothing_left(quick(tmp_path).root)
    assert wait_for(lambda: not running(tmp_path / "device"))
