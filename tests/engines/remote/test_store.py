"""What is kept on the device: by content, checked, bounded, and nobody else's."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from jobs import SHELLS, nothing_left, quick, sh, use_shell, wait_for

from graphopt.engines.remote.link import Done
from graphopt.engines.remote.local import LocalLink
from graphopt.engines.remote.runner import run_job
from graphopt.engines.remote.store import full, opened, script, send
from graphopt.errors import EnvironmentProblem, OutputError


class Counting(LocalLink):
    """Counts the files that are sent."""

    puts = 0

    def put(self, local: Path, remote: str, /, **more: Any) -> None:
        type(self).puts += 1
        super().put(local, remote, **more)


@pytest.fixture
def counting() -> type[Counting]:
    return type("OneCounting", (Counting,), {})


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    use_shell(request.param, tmp_path / "bin", monkeypatch)
    return str(request.param)


def test_sent_once_and_checked(shell: str, tmp_path: Path, counting: type[Counting]) -> None:
    model = tmp_path / "a model's \n name"
    model.write_bytes(b"model" * 1000)
    link, digest = counting(), hashlib.sha256(model.read_bytes()).hexdigest()
    root = opened(link, str(tmp_path / "de vice"))
    path = Path(root) / "objects" / digest

    def sent() -> bool:
        return send(link, root, model, digest, None, 60.0)

    assert (sent(), sent(), counting.puts) == (True, False, 1)
    path.write_bytes(b"rotten")
    assert (sent(), sent(), counting.puts) == (True, False, 2)
    assert path.read_bytes() == model.read_bytes()


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert opened(LocalLink()) == str(tmp_path / "cache/graphopt")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = opened(LocalLink())
    assert root == str(tmp_path / "home/.cache/graphopt")
    assert Path(root).stat().st_mode & 0o777 == 0o700


def test_an_open_folder_is_closed_to_others(shell: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir(mode=0o777)
    (tmp_path / "root").chmod(0o777)
    opened(LocalLink(), str(tmp_path / "root"))
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("part", ["", "objects", "jobs", "timing"])
def test_a_link_in_its_place_is_refused(tmp_path: Path, part: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "root"
    if part:
        root.mkdir()
    (root / part if part else root).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentProblem, match="is a symbolic link: remove it"):
        opened(LocalLink(), str(root))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    os.chown(tmp_path / "root", 12345, 12345)
    with pytest.raises(EnvironmentProblem, match=r"belongs to somebody else \(user 12345\)"):
        opened(LocalLink(), str(tmp_path / "root"))


@pytest.mark.parametrize("root", ["relative/path", "/a\nb"])
def test_paths_that_cannot_be(root: str) -> None:
    with pytest.raises(EnvironmentProblem, match=r"not an absolute path|holds a line's end"):
        opened(LocalLink(), root)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match=r"this machine does not do as asked \(open\)"):
        opened(LocalLink(), str(tmp_path / "file/x"))


def object_(root: Path, size: int, days: float) -> Path:
    """Put an object of ``size`` bytes there that was last used ``days`` ago."""
    data = os.urandom(size)
    path = root / "objects" / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    return path


def test_bounded_by_age_and_size(shell: str, tmp_path: Path) -> None:
    waits = quick(tmp_path, store_limit=100_000)
    root = Path(opened(LocalLink(), waits.root))
    old, older = object_(root, 10, 9), object_(root, 10, 6)
    big = [object_(root, 30_000, n) for n in (1, 2, 3, 4)]
    part = root / "objects" / ("0" * 64 + ".part")
    part.write_bytes(b"x" * 50_000)
    broken_off = object_(root, 10, 2)
    broken_off = broken_off.rename(f"{broken_off}.part")
    in_use = object_(root, 40_000, 9)
    os.link(in_use, root / "linked")
    (tmp_path / "model").write_bytes(b"m" * 20_000)
    job = sh("cat in | wc -c", inputs={"in": tmp_path / "model"})
    assert run_job(LocalLink(), job, waits=waits).log.strip() == "20000"
    nothing_left(root)
    # Newest first: 20000, then 30000 and 30000 are within the limit, the rest is not.
    assert wait_for(lambda: not big[3].exists())
    assert [p.exists() for p in big] == [True, True, False, False]
    assert not broken_off.exists(), "nobody has written to it for two days"
    assert (old.exists(), older.exists(), in_use.exists(), part.exists()) == (
        False, False, True, True,
    )  # fmt: skip


def test_what_vanishes_before_the_start_is_sent_again(
    tmp_path: Path, counting: type[Counting]
) -> None:
    """Somebody empties the folder between the copy and the command."""
    waits = quick(tmp_path)
    (tmp_path / "model").write_bytes(b"m" * 1000)

    class Emptied(counting):  # type: ignore[misc, valid-type]
        def run(self, script: str, *words: str, **more: Any) -> Done:
            if words[:1] == ("go",) and counting.puts + Emptied.puts == 1:
                for entry in Path(waits.root, "objects").iterdir():
                    entry.unlink()
            return super().run(script, *words, **more)

    job = sh("wc -c <in", inputs={"in": tmp_path / "model"})
    assert run_job(Emptied(), job, waits=waits).log.strip() == "1000"
    assert Emptied.puts == 2


def test_an_input_is_used_by_the_next_job(tmp_path: Path, counting: type[Counting]) -> None:
    waits = quick(tmp_path)
    (tmp_path / "model").write_bytes(b"m" * 1000)
    for word in "ab":
        job = sh("wc -c <in", word, inputs={"in": tmp_path / "model"})
        assert run_job(counting(), job, waits=waits).status == 0
    assert counting.puts == 1


def test_jobs_of_a_machine_that_restarted_are_removed(shell: str, tmp_path: Path) -> None:
    waits = quick(tmp_path)
    root = Path(opened(LocalLink(), waits.root))
    for name, runner in (("a", f"{os.getpid()} 1 other-boot/x 5 me"), ("b", "1 1"), ("c", "x")):
        (root / "jobs" / name / "work").mkdir(parents=True)
        (root / "jobs" / name / "runner").symlink_to(runner)
    (root / "jobs/being-made").mkdir()
    opened(LocalLink(), waits.root)
    assert [p.name for p in (root / "jobs").iterdir()] == ["being-made"]
    os.utime(root / "jobs/being-made", (0, 0))
    opened(LocalLink(), waits.root)
    assert list((root / "jobs").iterdir()) == []


def test_a_folder_whose_maker_died_is_taken(tmp_path: Path) -> None:
    waits = quick(tmp_path, quiet_s=1)
    root = Path(opened(LocalLink(), waits.root))
    job = sh("echo ran")
    (root / "jobs" / job.identity({})).mkdir()
    assert run_job(LocalLink(), job, waits=waits).log == "ran\n"


def test_a_full_disk_says_what_is_free(tmp_path: Path) -> None:
    class Full(LocalLink):
        def run(self, script: str, *words: str, **more: Any) -> Done:
            if words[0] == "attach":
                return Done(1, "", "sh: write error: No space left on device\n")
            return super().run(script, *words, **more)

    waits = quick(tmp_path)
    with pytest.raises(OutputError, match=r"no space left on this machine in .*MiB free\): free"):
        run_job(Full(), sh("true"), waits=waits)
    assert isinstance(full(LocalLink(), str(tmp_path)), OutputError)


def test_scripts_are_short_enough_to_be_sent() -> None:
    for name in ("job.sh", "runner.sh"):
        assert len(script(name)) < 20_000
        assert not any(line.lstrip().startswith("#") for line in script(name).splitlines())


def test_a_long_command_is_taken(tmp_path: Path) -> None:
    words = [f"word {i} 'quoted'" for i in range(500)]
    finished = run_job(LocalLink(), sh("echo $#", *words), waits=replace(quick(tmp_path)))
    assert finished.log == "500\n"
