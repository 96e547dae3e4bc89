"""Activations beyond the budget: in files, which go away again whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_nets import values

from graphopt.errors import OutputError
from graphopt.statistics import Spill


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    # ONNX Runtime leaves a file of its own there.
    return [p for p in folder.glob("graphopt-*/*") if p.is_file()]


def left(folder: Path) -> list[Path]:
    return list(folder.glob("graphopt-*"))


KEYS = st.integers(0, 5)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "drop"]), KEYS, st.integers(0, 40)))


@given(STEPS, st.integers(0, 200))
@settings(max_examples=60)
def test_the_budget_holds_and_nothing_is_lost(
    steps: list[tuple[str, int, int]], budget: int
) -> None:
    wanted: dict[int, np.ndarray] = {}
    with Spill(budget) as spill:
        for step, key, size in steps:
            if step == "put":
                wanted[key] = values(size, seed=size)
                spill.put(key, wanted[key])
            else:
                wanted.pop(key, None)
                spill.drop(key)
            assert spill.held <= budget
            assert spill.peak <= budget
            for name in range(6):
                assert (name in spill) == (name in wanted)
            for name, array in wanted.items():
                np.testing.assert_array_equal(spill.get(name), array)
    assert spill.held == 0


@pytest.mark.parametrize("budget", [0, 1 << 20])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "u1", "?", "c8"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 4)])
def test_every_type_and_shape(shape: tuple[int, ...], dtype: str, budget: int) -> None:
    array = np.ones(shape, dtype)
    with Spill(budget) as spill:
        spill.put("a", array)
        found = spill.get("a")
        assert (found.dtype, found.shape) == (array.dtype, shape)
        np.testing.assert_array_equal(found, array)


def test_arrays_that_are_no_block() -> None:
    array = values(4, 6)[::2, ::-1]
    with Spill(0) as spill:
        spill.put("a", array)
        np.testing.assert_array_equal(spill.get("a"), array)
        spill.put("words", np.array(["one", None], dtype=object))
        assert list(spill.get("words")) == ["one", None]


def test_files_go_with_what_they_hold(folder: Path) -> None:
    with Spill(100) as spill:
        for i in range(5):
            spill.put(i, np.zeros(25, "f4"))  # exactly the budget, four on disk
        assert len(files(folder)) == 4
        assert spill.peak_disk == 400
        spill.put(1, np.ones(25, "f4"))
        assert len(files(folder)) == 4
        spill.drop(2)
        spill.drop(2)
        assert len(files(folder)) == 3
    assert not left(folder)


def test_what_is_mapped_outlives_its_file(folder: Path) -> None:
    with Spill(0) as spill:
        spill.put("a", np.arange(1000))
        kept = spill.get("a")
        spill.drop("a")
        assert not files(folder)
        assert kept.sum() == 499_500


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(folder: Path, kind: type[BaseException]) -> None:
    with pytest.raises(kind), Spill(0) as spill:
        spill.put("a", np.zeros(10))
        raise kind
    assert not left(folder)


MAPS = Path("/proc/self/maps")


@pytest.mark.skipif(not MAPS.exists(), reason="needs Linux's /proc/self/maps")
def test_mappings_do_not_pile_up(folder: Path) -> None:
    def mapped() -> int:
        return sum(str(folder) in line for line in MAPS.read_text().splitlines())

    with Spill(0) as spill:
        for i in range(20):
            spill.put(i, np.zeros(10_000))
        for _ in range(3):
            for i in range(20):
                assert spill.get(i)[0] == 0
        assert mapped() == 0
        held = [spill.get(i) for i in range(3)]
        assert mapped() == 3
        del held
        assert mapped() == 0


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left for the activations"),
        (errno.EACCES, "Permission denied"),
    ],
)
def test_a_failing_disk_is_told_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with Spill(0) as spill:
        spill.put("a", np.zeros(10))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            with pytest.raises(OutputError, match=words) as caught:
                spill.put("b", np.zeros(10))
        assert "\n" not in str(caught.value)
        assert "TMPDIR" in str(caught.value)
        assert "b" not in spill
        spill.put("b", np.ones(10))  # it goes on once there is room
        assert spill.get("b").sum() == 10
    assert not left(folder)


def test_no_folder_to_write_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with Spill(0) as spill, pytest.raises(OutputError, match="No such file"):
        spill.put("a", np.zeros(10))


FULL = """
import resource, signal, sys
import numpy as np
from graphopt.errors import OutputError
from graphopt.statistics import Spill
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with Spill(0) as spill:
    spill.put("small", np.zeros(1000))
    try:
        spill.put("large", np.zeros(100_000))
    except OutputError as problem:
        print(problem)
"""


def test_a_file_that_really_cannot_be_written(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", FULL],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert found.stdout.startswith("no space left for the activations")
    assert not found.stderr
    assert not left(tmp_path)


ENDS = """
import sys, time
import numpy as np
from graphopt.statistics import Spill
spill = Spill(0)
spill.put("a", np.zeros(10))
print("written", flush=True)
{then}
"""


@pytest.mark.parametrize(
    ("then", "number"),
    [("", None), ("1 / 0", None), ("time.sleep(60)", signal.SIGINT)],
    ids=["end", "error", "Ctrl-C"],
)
def test_files_vanish_when_the_interpreter_ends(
    tmp_path: Path, then: str, number: int | None
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", ENDS.format(then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == "written\n"
    if number is not None:
        assert len(files(tmp_path)) == 1
        process.send_signal(number)
    process.wait(30)
    assert not left(tmp_path)
