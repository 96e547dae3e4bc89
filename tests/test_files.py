"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from graphopt.errors import OutputError
from graphopt.files import (
    atomic_path,
    dump_json,
    output_error,
    scratch_beside,
    sha256,
    uninterrupted,
    write_bytes,
    write_text,
)


def test_writes_and_makes_folders(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a" / "b.bin", b"x")
    assert path.read_bytes() == b"x"
    assert [p.name for p in path.parent.iterdir()] == ["b.bin"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as beside:
        beside.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_companions_move_with_the_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "m.onnx") as beside:
        beside.write_bytes(b"m")
        beside.with_name("m.onnx.data").write_bytes(b"d")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="no space left on the disk") as caught,
        atomic_path(tmp_path / "a"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_no_permission_is_one_line(code: int) -> None:
    assert "may not write out/x" in str(output_error(Path("out/x"), OSError(code, "denied")))


def test_sha256_reads_in_pieces(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(data)
    assert sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_json_refuses_nan_and_sorts() -> None:
    assert dump_json({"b": 1, "a": 2}).index('"a"') < dump_json({"b": 1, "a": 2}).index('"b"')
    with pytest.raises(ValueError, match="JSON"):
        dump_json({"a": float("nan")})


def test_an_interrupt_waits_for_the_block() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        done = True
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_during_cleaning_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    remove = shutil.rmtree

    def interrupted(*args: object, **named: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        remove(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch_beside(tmp_path / "out") as scratch:
        (scratch / "half").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_folders_made_for_nothing_are_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), scratch_beside(tmp_path / "a" / "b" / "out"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_text(pipe, "hello")
    reader.join(10)
    assert got == [b"hello"] and pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_standard_output_stays_what_it_is(tmp_path: Path) -> None:
    before = Path("/dev/stdout").readlink()
    script = (
        "from graphopt.files import write_text; import sys;"
        "print('one', flush=True); write_text('/dev/stdout', 'two\\n'); print('three')"
    )
    with (tmp_path / "out").open("w") as stream:
        subprocess.run([sys.executable, "-c", script], stdout=stream, check=True)
    assert (tmp_path / "out").read_text() == "one\ntwo\nthree\n"
    assert Path("/dev/stdout").readlink() == before
