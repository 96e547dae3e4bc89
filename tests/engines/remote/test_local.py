"""What every link does, by way of this machine and of a real sshd."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from graphopt.engines.remote.link import Link, LinkLost, quoted
from graphopt.engines.remote.local import LocalLink
from graphopt.engines.remote.talk import KEPT, Frame, Lines, Tail
from graphopt.wording import one_line

WORD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


def test_words_arrive_as_they_are(link: Link) -> None:
    words = [
        "a b",
        'it\'s "so"',
        "$(x) `y` $HOME !!",
        "\\n\\",
        "two\nlines\n",
        "-n",
        "",
        "é漢",
        "*",
    ]
    done = link.run('for word; do printf "%s\\0" "$word"; done', *words)
    assert done.stdout.split("\0") == [*words, ""]
    assert (done.status, done.stderr) == (0, "")


@pytest.mark.parametrize("status", [0, 1, 126, 127, 255])
def test_an_exit_status_is_just_that(link: Link, status: int) -> None:
    done = link.run(f"printf out; printf err >&2; exit {status}")
    assert (done.status, done.stdout, done.stderr) == (status, "out", "err")


def test_exec_and_signals_end_only_the_script(link: Link) -> None:
    assert link.run("exec sh -c 'exit 9'").status == 9
    assert link.run("kill -9 $$").status == 128 + 9
    assert link.run("if then").status == 2  # a syntax error


def test_stdin_is_given_or_empty(link: Link) -> None:
    data = bytes(range(256)) * 3000
    done = link.run("wc -c; exit 3", stdin=data)
    assert (done.stdout.strip(), done.status) == (str(len(data)), 3)
    assert link.run("cat").stdout == ""
    assert link.run("exit 4", stdin=data).status == 4  # nobody reads it


def test_lines_come_as_they_are_printed(link: Link, there: Path) -> None:
    go = there / "go"
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        if line == "one":
            go.write_text("")  # the script waits for this: the line came before its end

    script = 'echo one; while ! [ -e "$1" ]; do sleep 0.02; done; printf "two\\r\\n\\377three"'
    status = link.stream(script + "; echo no >&2; exit 5", str(go), on_line=take, limit_s=20)
    assert status == 5
    assert lines == ["one", "two", "\ufffdthree"]


def test_a_time_limit_ends_the_wait(link: Link) -> None:
    began = time.monotonic()
    with pytest.raises(LinkLost, match="took longer than 1 s"):
        link.run("sleep 60", limit_s=1)
    assert time.monotonic() - began < 20
    assert link.run("echo still here").stdout == "still here\n"


def test_endless_output_is_bounded(link: Link) -> None:
    done = link.run("yes aaaaaaaaaaaaaaa | head -n 700000; echo the end")
    first, _, rest = done.stdout.partition("\n")
    assert first == f"[the first {700000 * 16 + 8 - KEPT} bytes are left out]"
    assert len(rest) == KEPT
    assert rest.endswith("aaaaaaa\nthe end\n")
    with pytest.raises(LinkLost):
        link.run("yes", limit_s=1)


def test_a_process_left_behind_is_not_waited_for(link: Link) -> None:
    began = time.monotonic()
    done = link.run("sleep 30 & echo $!")
    assert time.monotonic() - began < 20
    subprocess.run(["kill", done.stdout.strip()], check=False)


def test_what_lists_processes_prints_no_marker(link: Link) -> None:
    script = "cat /proc/$PPID/cmdline /proc/$$/cmdline; echo; echo whole"
    assert link.run(script).stdout.endswith("whole\n")


def test_an_error_in_a_callback_ends_the_script(there: Path) -> None:
    def stop(_: str) -> None:
        raise KeyError("stop")

    with LocalLink() as link, pytest.raises(KeyError):
        link.stream('echo $$ > "$1/pid"; echo x; sleep 60', str(there), on_line=stop, limit_s=20)
    process = Path("/proc", (there / "pid").read_text().strip(), "cmdline")
    until = time.monotonic() + 5
    while process.exists() and process.read_bytes() and time.monotonic() < until:
        time.sleep(0.02)
    assert not process.exists() or process.read_bytes() == b""  # gone, or waiting to be reaped


def test_no_sh_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with LocalLink() as link, pytest.raises(Exception, match="sh cannot be started"):
        link.run("true")


@pytest.mark.parametrize(
    "shell", ["sh", "bash", "dash", "zsh", "mksh", "ksh", "csh", "tcsh", "fish"]
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORD, max_size=3))
@example(words=["\\", "'", "!", "\n", "\\'", "!!", "a\\\\b", "\x7f\x01\x1b"])
def test_any_login_shell_passes_words_on(shell: str, words: list[str]) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    line = quoted('for word; do printf "%s\\0" "$word"; done', words)
    done = subprocess.run([shell, "-c", line], capture_output=True, check=True)
    assert done.stdout == b"".join(os.fsencode(w) + b"\0" for w in words)


def test_what_no_shell_can_take_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quoted("true", ["a\0b"])
    with pytest.raises(ValueError, match="too long"):
        quoted("true", ["x" * 200_000])


@given(st.lists(st.sampled_from([b"<", b"<n", b":end>", b"<n:begin>\n", b"x\n", b"7"]), max_size=9))
def test_frames_do_not_depend_on_how_bytes_are_cut(pieces: list[bytes]) -> None:
    inside = b"".join(p for p in pieces if b"end" not in p and b"begin" not in p)
    whole = b"noise<n:begin>\n" + inside + b"<n:end>12\nmore"
    for size in (1, 2, 3, len(whole)):
        out = Tail()
        frame = Frame(b"<n:begin>\n", b"<n:end>", out)
        for at in range(0, len(whole), size):
            frame.feed(whole[at : at + size])
        frame.close()
        assert frame.status == 12
        assert out.text().encode() == inside
        assert frame.outside.text() == "noisemore"


def test_a_line_that_never_ends_is_cut() -> None:
    lines: list[str] = []
    cutter = Lines(lines.append)
    for _ in range(40):
        cutter(b"x" * 10_000)
    cutter.close()
    assert "".join(lines) == "x" * 400_000
    assert max(map(len, lines)) <= 1 << 16


def test_hostile_output_is_shown_harmlessly() -> None:
    text = "\x1b[2J\x1b]0;title\x07ok \x1b[31mred\x1b[0m\r\n\x9b1m\u202eback\0"
    assert one_line(text).isprintable()
    assert one_line(text).startswith("ok red")
    assert one_line("\x1b[2J\n") == ""
