"""A job on this machine as the device: run, followed, stopped, found again, cleaned up."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from jobs import SHELLS, client, nothing_left, quick, running, sh, use_shell, wait_for

from graphopt.engines.remote.job import Finished, Job, Waits
from graphopt.engines.remote.link import Done, LinkLost, Progress
from graphopt.engines.remote.local import LocalLink
from graphopt.engines.remote.runner import run_job
from graphopt.errors import EnvironmentProblem, OutputError, UsageError

NASTY = "a 'b' \"c\" $HOME `id`\n-d\\é"


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kind of shell and tools that a device may have."""
    use_shell(request.param, tmp_path / "bin", monkeypatch)
    return str(request.param)


@pytest.fixture
def waits(tmp_path: Path) -> Iterator[Waits]:
    """Short waits; after the test nothing may be left of any job."""
    waits = quick(tmp_path)
    yield waits
    if Path(waits.root).exists():
        nothing_left(waits.root)


def run(job: Job, waits: Waits, **more: Any) -> Finished:
    return run_job(LocalLink(), job, waits=waits, **more)


def test_runs_with_inputs_and_outputs_of_any_name(shell: str, waits: Waits, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(bytes(range(256)) * 400)
    (tmp_path / "empty").write_bytes(b"")
    lines: list[str] = []
    job = sh(
        'for word; do echo "$word"; done; cat "$2" "$3" >"-out $1"; echo no >&2; printf end',
        NASTY,
        f"in {NASTY}",
        "sub/-empty",
        inputs={f"in {NASTY}": tmp_path / "model", "sub/-empty": tmp_path / "empty"},
        outputs={f"-out {NASTY}": tmp_path / "got", "other": tmp_path / "x", "opt": tmp_path / "y"},
        optional=frozenset({"opt"}),
        title=NASTY,
    )
    finished = run(job, waits, on_line=lines.append)
    assert (finished.status, finished.missing, finished.resumed) == (0, ("other",), False)
    assert "did not write other" in finished.problem
    assert finished.outputs == {f"-out {NASTY}": tmp_path / "got"}
    assert (tmp_path / "got").read_bytes() == (tmp_path / "model").read_bytes()
    assert lines[:2] == ["a 'b' \"c\" $HOME `id`", "-d\\é"]
    assert lines[-2:] == ["no", "end"]
    assert finished.log == "".join(f"{line}\n" for line in lines)
    nothing_left(waits.root)
    assert not Path(waits.lock + ".by").is_symlink()


@pytest.mark.parametrize("status", [1, 126, 137, 143])
def test_a_failing_command_is_a_value(waits: Waits, tmp_path: Path, status: int) -> None:
    (tmp_path / "got").write_text("as before")
    job = sh(f"echo bad; echo x >out; exit {status}", outputs={"out": tmp_path / "got"})
    finished = run(job, waits)
    assert (finished.status, finished.log, finished.outputs) == (status, "bad\n", {})
    assert finished.problem
    assert (tmp_path / "got").read_text() == "as before"


def test_a_killed_command_says_what_kills(shell: str, waits: Waits) -> None:
    finished = run(sh("echo on; kill -9 $$"), waits)
    assert (finished.status, finished.log) == (137, "on\n")
    assert "memory" in finished.problem


def test_a_command_that_is_not_there(shell: str, waits: Waits) -> None:
    finished = run(Job(("no-such-trtexec", "--onnx=x")), waits)
    assert finished.status == 127
    assert "no-such-trtexec" in finished.log
    assert "could not be started" in finished.problem


def test_a_full_disk_is_an_output_error(waits: Waits) -> None:
    with pytest.raises(OutputError, match=r"no space left on this machine in .*MiB free") as caught:
        run(sh("echo before; cat /dev/zero >/dev/full || exit 3"), waits)
    assert "before" in caught.value.hint


def test_lines_come_while_it_runs_and_whole(waits: Waits, tmp_path: Path) -> None:
    go = tmp_path / "go on"
    seen: list[str] = []

    def on_line(line: str) -> None:
        seen.append(line)
        if line == "first":
            go.touch()

    job = sh('echo first; while [ ! -e "$1" ]; do sleep 0.05; done; printf se; sleep 0.5; echo cond'
             "; printf third", str(go))  # fmt: skip
    assert run(job, waits, on_line=on_line).status == 0
    assert seen == ["first", "second", "third"]


def test_log_of_a_hostile_command(shell: str, waits: Waits) -> None:
    """Control characters, bytes that are no text, a line without end, and ever more of them."""
    script = (
        r"printf '\033[2J\033]0;title\007a\rb\tc\000\377\n'; head -c 200000 /dev/zero |"
        r" tr '\000' x; echo; i=0; while [ $i -lt 60 ]; do head -c 90000 /dev/zero |"
        r" tr '\000' 'y'; echo; echo $i; i=$((i+1)); done"
    )
    lines: list[str] = []
    finished = run(sh(script), waits, on_line=lines.append)
    assert finished.status == 0
    assert all(line.isprintable() and len(line) <= 4096 for line in lines)
    assert lines[0].startswith("a b c")
    assert lines[-1] == "59"
    assert len(finished.log) < 3 << 20


def test_a_log_beyond_its_limit_stops_the_job(waits: Waits) -> None:
    waits = replace(waits, log_limit=1 << 20)
    with pytest.raises(EnvironmentProblem, match=r"printed more than 1 MiB and was stopped"):
        run(sh("while :; do head -c 100000 /dev/zero | tr '\\000' 'y'; echo; done"), waits)


def test_time_limit_takes_all_descendants(shell: str, waits: Waits) -> None:
    script = "trap '' TERM; sleep 300 & (trap '' TERM; sleep 301; sleep 302) & echo on; wait"
    with pytest.raises(EnvironmentProblem, match=r"took longer than 1 s and was stopped") as caught:
        run(sh(script, time_limit_s=1, title="a long one"), waits)
    assert caught.value.hint == "on"
    nothing_left(waits.root)


def test_what_a_command_leaves_running_is_ended(shell: str, waits: Waits) -> None:
    finished = run(sh("sleep 300 </dev/null >/dev/null 2>&1 & echo done"), waits)
    assert (finished.status, finished.log) == (0, "done\n")
    nothing_left(waits.root)


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_interrupted_job_leaves_nothing(
    shell: str, waits: Waits, problem: BaseException
) -> None:
    def on_line(_: str) -> None:
        assert running(Path(waits.root) / "jobs")
        raise problem

    with pytest.raises(type(problem)):
        run(sh("echo on; sleep 300 & sleep 301"), waits, on_line=on_line)
    assert list(Path(waits.root, "jobs").iterdir()) == []
    nothing_left(waits.root)
    assert run(sh("echo next"), waits).status == 0  # the lock is free


def test_a_job_ended_by_somebody_else(waits: Waits) -> None:
    def on_line(_: str) -> None:
        for pid, words in running(Path(waits.root) / "jobs").items():
            if "run.sh" in words:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(EnvironmentProblem, match="was ended there"):
        run(sh("echo on; sleep 300"), waits, on_line=on_line)
    nothing_left(waits.root)


def test_caches_are_kept_from_job_to_job(shell: str, waits: Waits) -> None:
    job = sh("cat cache; echo more >>cache; exit $1", "0", caches={"cache": "10.3 T4"})
    assert "No such file" in run(job, waits).log or shell
    assert run(job, waits).log == "more\n"
    failing = sh("echo torn >cache; exit 1", caches={"cache": "10.3 T4"})
    assert run(failing, waits).status == 1
    assert run(job, waits).log == "more\nmore\n"


def test_an_output_beyond_its_limit_is_refused(waits: Waits, tmp_path: Path) -> None:
    job = sh("echo 123456789 >out", outputs={"out": tmp_path / "got"}, output_limit=9)
    with pytest.raises(OutputError, match="out on this machine has 10 bytes, more than the 9"):
        run(job, waits)
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../b", ".", "a//b", "./a", "a\0b"])
def test_names_stay_in_the_folder(name: str) -> None:
    for field in ("inputs", "outputs"):
        with pytest.raises(ValueError, match="not a name"):
            Job(("true",), **{field: {name: Path("x")}})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a name for a cache"):
        Job(("true",), caches={"c": f"../{name}"})


def test_an_input_that_is_not_there(waits: Waits, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*/none: No such file"):
        run(sh("true", inputs={"in": tmp_path / "none"}), waits)


def test_identity_is_what_was_asked_for(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    one = sh("x", inputs={"i": tmp_path / "a"}, outputs={"o": tmp_path / "o"})
    others = [
        sh("y", inputs={"i": tmp_path / "a"}, outputs={"o": tmp_path / "o"}),
        sh("x", inputs={"i": tmp_path / "b"}, outputs={"o": tmp_path / "o"}),
        sh("x", inputs={"j": tmp_path / "a"}, outputs={"o": tmp_path / "o"}),
        sh("x", inputs={"i": tmp_path / "a"}, outputs={"p": tmp_path / "o"}),
    ]
    same = replace(one, outputs={"o": tmp_path / "elsewhere"}, title="t", time_limit_s=1)
    assert one.identity(one.digests()) == same.identity(same.digests())
    assert len({j.identity(j.digests()) for j in (one, *others)}) == 5


class Flaky(LocalLink):
    """Loses the link where a test says so."""

    down = False
    lose: Callable[[str], bool] = staticmethod(lambda verb: False)

    def run(self, script: str, *words: str, **more: Any) -> Done:
        if type(self).down or type(self).lose(words[0] if words else ""):
            raise LinkLost("the test cut the link")
        return super().run(script, *words, **more)


@pytest.fixture
def flaky() -> type[Flaky]:
    return type("OneFlaky", (Flaky,), {})


@pytest.mark.parametrize("before", [True, False])
def test_each_step_bears_being_repeated(
    waits: Waits, tmp_path: Path, flaky: type[Flaky], before: bool
) -> None:
    """The link breaks once at each step: before it was taken there, or after, its answer lost."""
    (tmp_path / "model").write_bytes(b"m" * 100_000)
    lost: set[str] = set()
    verbs = {"open", "have", "attach", "poll", "go", "sizes", "keep"}

    class Once(flaky):  # type: ignore[misc, valid-type]
        def run(self, script: str, *words: str, **more: Any) -> Done:
            verb = words[0] if words else ""
            if verb in verbs - lost:
                lost.add(verb)
                if not before:
                    super().run(script, *words, **more)
                raise LinkLost("the test cut the link")
            return super().run(script, *words, **more)

    lines: list[str] = []
    job = sh(
        "echo 1; sleep 0.3; echo 2; cp in out",
        inputs={"in": tmp_path / "model"},
        outputs={"out": tmp_path / "got"},
        caches={"in": "c"},
    )
    finished = run_job(Once(), job, on_line=lines.append, waits=waits)
    assert lost == verbs
    assert (finished.status, lines, finished.resumed) == (0, ["1", "2"], False)
    assert (tmp_path / "got").read_bytes() == b"m" * 100_000


def test_a_lost_link_leaves_the_job_and_the_same_request_finds_it(
    waits: Waits, tmp_path: Path, flaky: type[Flaky]
) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go on"
    job = sh(
        'echo run >>"$1"; echo early; while [ ! -e "$2" ]; do sleep 0.1; done; echo late >out;'
        " echo late",
        str(runs),
        str(go),
        outputs={"out": tmp_path / "got"},
    )

    def on_line(_: str) -> None:
        flaky.down = True

    with pytest.raises(LinkLost, match=r"within 1 s.*up to 60 s, and the same command takes it up"):
        run_job(flaky(), job, on_line=on_line, waits=replace(waits, reconnect_s=1))
    assert running(Path(waits.root) / "jobs")
    go.touch()
    lines: list[str] = []
    time.sleep(1)
    finished = run(job, waits, on_line=lines.append)
    assert (finished.status, finished.resumed) == (0, True)
    assert lines == ["early", "late"]
    assert (tmp_path / "got").read_text() == "late\n"
    assert runs.read_text() == "run\n"


@pytest.mark.parametrize("when", ["running", "done", "waiting"])
def test_a_job_whose_client_died_is_ended(tmp_path: Path, when: str) -> None:
    """SIGKILL: no cleaning up here, so the device does it, after ``orphan_s``."""
    waits = quick(tmp_path, orphan_s=2)
    script = {"done": "echo on"}.get(when, "echo on; sleep 300")
    if when == "waiting":
        holder = client(tmp_path, "echo first; sleep 300")
        assert holder.stdout is not None
        assert holder.stdout.readline() == "first\n"
    child = client(tmp_path, script, orphan_s=2, poll_s=0.8)
    assert child.stdout is not None
    said = child.stdout.readline()
    assert ("waiting for" if when == "waiting" else "on") in said
    child.kill()
    child.communicate()
    if when == "waiting":
        assert wait_for(lambda: len(list(Path(waits.root, "jobs").iterdir())) == 1)
        holder.send_signal(signal.SIGINT)
        holder.communicate()
    nothing_left(waits.root)


def test_two_of_the_same_request_take_turns(waits: Waits, tmp_path: Path) -> None:
    first = client(tmp_path, "echo on; sleep 1.5; echo off")
    assert first.stdout is not None
    assert first.stdout.readline() == "on\n"
    told: list[str] = []
    finished = run(sh("echo on; sleep 1.5; echo off"), waits, on_wait=told.append)
    assert finished == Finished(0, "on\noff\n", {}, (), finished.seconds, False)
    assert "another client" in told[0]
    assert first.communicate()[0] == "off\n0\n"


class Liar(LocalLink):
    """Answers one step with what a test wants."""

    answers: ClassVar[dict[str, str]] = {}

    def run(self, script: str, *words: str, **more: Any) -> Done:
        done = super().run(script, *words, **more)
        return (
            Done(0, self.answers[words[0]], "") if words[:1] and words[0] in self.answers else done
        )


@pytest.mark.parametrize(
    ("verb", "answer", "what"),
    [
        ("open", "no path\n", "its folder is no path"),
        ("open", "/a\n/b\n", "its folder is"),
        ("poll", "\x1b[2Jrunning\n99\nx", "answers what no job does"),
        ("poll", "running\n-1\n", "answers what no job does"),
        ("poll", "done 0 exit 1\n999999999\nx", "answers what no job does"),
        ("poll", "inputs\n", "answers what no job does: inputs"),
        ("poll", "lost\n", "loses each job"),
        ("sizes", "1 2 3\n", "answers what no job does"),
        ("sizes", "99999999999999\n", "more than the"),
        ("go", "nothing of it\n", ""),
    ],
)
def test_a_device_that_lies(
    waits: Waits, tmp_path: Path, verb: str, answer: str, what: str
) -> None:
    kind = type("OneLiar", (Liar,), {"answers": {verb: answer}})
    job = sh("echo x >out", outputs={"out": tmp_path / "got"})
    if not what:
        assert run_job(kind(), job, waits=waits).status == 0
        return
    with pytest.raises(EnvironmentProblem, match=what) as caught:
        run_job(kind(), job, waits=waits)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "got").exists()


def test_progress_of_copies_and_beats(waits: Waits, tmp_path: Path) -> None:
    """A copy that takes longer than ``quiet_s`` keeps the job ours."""
    (tmp_path / "model").write_bytes(os.urandom(400_000))
    told: list[tuple[str, int, int]] = []

    class Slow(LocalLink):
        def put(
            self, local: Path, remote: str, /, *, progress: Progress | None = None, limit_s: float
        ) -> None:
            def slowly(at: int, size: int) -> None:
                time.sleep(0.5)
                if progress:
                    progress(at, size)

            super().put(local, remote, progress=slowly, limit_s=limit_s)

    job = sh("cp in out", inputs={"in": tmp_path / "model"}, outputs={"out": tmp_path / "got"})
    short = replace(waits, orphan_s=2, quiet_s=1)
    finished = run_job(Slow(), job, waits=short, on_copy=lambda *it: told.append(it))
    assert (finished.status, finished.resumed) == (0, False)
    assert told[0] == ("in", 0, 400_000)
    assert told[-1] == ("out", 400_000, 400_000)
