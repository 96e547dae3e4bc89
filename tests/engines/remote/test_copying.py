"""Copies: resumed, checked, whole or not at all; what a full disk and a hostile device do."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sshd import Device

from graphopt.engines.remote import copying
from graphopt.engines.remote.link import Link, LinkLost
from graphopt.engines.remote.local import LocalLink
from graphopt.errors import EnvironmentProblem, OutputError, UsageError
from graphopt.files import sha256

NAMES = [
    "plain.onnx",
    'it\'s a "file"',
    "-rf",
    "new\nline",
    "$(x) `y` *?",
    "é漢.onnx",
    "back\\slash",
]
MIB = 1 << 20


def content(path: Path, size: int, seed: int = 0) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_by_any_name(link: Link, there: Path, tmp_path: Path, name: str) -> None:
    source = content(tmp_path / "source", 200_003)
    link.put(source, str(there / name), limit_s=30)
    assert names(there) == [name]
    back = tmp_path / "back" / name
    back.parent.mkdir()
    link.get(str(there / name), back, limit_s=30)
    assert names(back.parent) == [name]
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("size", [0, 1, copying.PIECE, copying.PIECE + 1])
def test_sizes_at_the_edge(link: Link, there: Path, tmp_path: Path, size: int) -> None:
    source = content(tmp_path / "source", size)
    told: list[tuple[int, int]] = []
    link.put(source, str(there / "f"), limit_s=30, progress=lambda *at: told.append(at))
    link.get(str(there / "f"), tmp_path / "g", limit_s=30, progress=lambda *at: told.append(at))
    assert (tmp_path / "g").read_bytes() == source.read_bytes()
    assert told[-1] == (size, size)
    assert told[0] == (0, size)


def test_what_was_there_is_replaced(link: Link, there: Path, tmp_path: Path) -> None:
    source = content(tmp_path / "source", 1000)
    (there / "f").write_bytes(b"old" * 9999)
    (tmp_path / "g").write_bytes(b"old" * 9999)
    link.put(source, str(there / "f"), limit_s=30)
    link.get(str(there / "f"), tmp_path / "g", limit_s=30)
    assert sha256(there / "f") == sha256(tmp_path / "g") == sha256(source)


@pytest.mark.parametrize(
    ("have", "begins"), [(300_000, 262_144), (500_000, 500_000), (262_144, 262_144)]
)
def test_a_copy_goes_on_where_it_broke_off(
    link: Link, there: Path, tmp_path: Path, have: int, begins: int
) -> None:
    source = content(tmp_path / "source", 500_000)
    (there / "f.part").write_bytes(source.read_bytes()[:have])
    (tmp_path / "g.part").write_bytes(source.read_bytes()[:have])
    told: list[int] = []
    link.put(source, str(there / "f"), limit_s=30, progress=lambda at, _: told.append(at))
    assert min(told, default=500_000) == begins
    assert names(there) == ["f"]
    told.clear()
    link.get(str(there / "f"), tmp_path / "g", limit_s=30, progress=lambda at, _: told.append(at))
    assert min(told) == have
    assert (tmp_path / "g").read_bytes() == source.read_bytes()
    assert not (tmp_path / "g.part").exists()


@pytest.mark.parametrize("size", [100_000, 500_000, 900_000])
def test_another_files_rest_is_found_out(
    link: Link, there: Path, tmp_path: Path, size: int
) -> None:
    source = content(tmp_path / "source", 500_000)
    content(there / "f.part", size, seed=1)
    content(tmp_path / "g.part", size, seed=1)
    link.put(source, str(there / "f"), limit_s=30)
    link.get(str(there / "f"), tmp_path / "g", limit_s=30)
    assert sha256(there / "f") == sha256(tmp_path / "g") == sha256(source)
    assert names(there) == ["f"]


def test_a_link_cut_in_an_upload(sshd: Device, there: Path, tmp_path: Path) -> None:
    """The second upload sends the rest and nothing else: the proxy counts."""
    size = 8 * MIB
    source = content(tmp_path / "source", size)
    with sshd.link() as link:
        link.run("true")
        sshd.proxy.cut_after(sent=5 * MIB)
        with pytest.raises(LinkLost):
            link.put(source, str(there / "f"), limit_s=60)
        assert names(there) == ["f.part"]
        assert sshd.quiet() == {}
        have = (there / "f.part").stat().st_size
        assert have > 3 * MIB
        before = sshd.proxy.sent
        link.put(source, str(there / "f"), limit_s=60)
        again = sshd.proxy.sent - before
    assert again < size - have + 150_000  # the rest, and ssh's own
    assert names(there) == ["f"]
    assert sha256(there / "f") == sha256(source)


def test_a_link_cut_in_a_download(sshd: Device, there: Path, tmp_path: Path) -> None:
    size = 8 * MIB
    source = content(there / "f", size)
    target = tmp_path / "g"
    with sshd.link() as link:
        link.run("true")
        sshd.proxy.cut_after(received=5 * MIB)
        with pytest.raises(LinkLost):
            link.get(str(source), target, limit_s=60)
        assert not target.exists()
        have = (tmp_path / "g.part").stat().st_size
        assert have > 3 * MIB
        before = sshd.proxy.received
        link.get(str(source), target, limit_s=60)
        assert sshd.proxy.received - before < size - have + 150_000
    assert sha256(target) == sha256(source)
    assert not (tmp_path / "g.part").exists()


def test_a_link_that_stalls_in_an_upload(sshd: Device, there: Path, tmp_path: Path) -> None:
    """What the dead link still delivers later lands where it belongs."""
    source = content(tmp_path / "source", 8 * MIB)

    def stall(at: int, _: int) -> None:
        if at > 3 * MIB:
            sshd.proxy.stall()

    with sshd.link() as link:
        with pytest.raises(LinkLost, match="took longer"):
            link.put(source, str(there / "f"), limit_s=4, progress=stall)
        sshd.proxy.resume()
        link.put(source, str(there / "f"), limit_s=60)
    assert sha256(there / "f") == sha256(source)


def test_a_full_disk_over_there(
    link: Link, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full to stand for a full disk")
    monkeypatch.setattr(copying, "_kib", lambda _: 5 * 1024)  # df knows no more than it should
    source = content(tmp_path / "source", 3 * MIB)
    (there / "f.part").symlink_to("/dev/full")
    with pytest.raises(OutputError) as told:
        link.put(source, str(there / "f"), limit_s=30)
    message = f"no space left on {link.where} in {there} (5 MiB free) for 3.0 MiB"
    assert str(told.value).startswith(message)
    assert names(there) == []


def test_a_disk_is_not_filled_where_there_is_no_room(
    sshd: Device, there: Path, tmp_path: Path
) -> None:
    stand_in = sshd.bin / "df"
    stand_in.write_text(
        "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted on'\n"
        "echo '//nas/my files 9000000 8998976 1024 100% /mnt/a 1 2 3 b'\n"
    )
    stand_in.chmod(0o755)
    source = content(tmp_path / "source", 3 * MIB)
    (there / "f.part").write_bytes(source.read_bytes()[:1000])
    with sshd.link() as link:
        with pytest.raises(OutputError, match=r"\(1 MiB free\) for 3.0 MiB"):
            link.put(source, str(there / "f"), limit_s=30)
        assert names(there) == []
        (there / "f.part").write_bytes(source.read_bytes()[: 2 * MIB + 7])
        link.put(source, str(there / "f"), limit_s=30)  # the rest has room
    assert names(there) == ["f"]


def test_no_room_here(
    link: Link, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content(there / "f", 100_000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=99_999))
    with pytest.raises(OutputError, match="no space left on the disk that holds"):
        link.get(str(there / "f"), tmp_path / "g", limit_s=30)
    monkeypatch.undo()
    if Path("/dev/full").exists() and link.where == "this machine":
        (tmp_path / "g.part").symlink_to("/dev/full")
        with pytest.raises(OutputError, match="no space left on the disk that holds"):
            link.get(str(there / "f"), tmp_path / "g", limit_s=30)
    assert not (tmp_path / "g").exists()
    assert not (tmp_path / "g.part").is_symlink()


def test_folders_and_files_that_are_not_there(link: Link, there: Path, tmp_path: Path) -> None:
    source = content(tmp_path / "source", 10)
    (there / "folder").mkdir()
    with pytest.raises(OutputError, match="has no folder"):
        link.put(source, str(there / "no" / "f"), limit_s=30)
    with pytest.raises(OutputError, match="is a folder"):
        link.put(source, str(there / "folder"), limit_s=30)
    with pytest.raises(UsageError, match="cannot read"):
        link.put(tmp_path / "none", str(there / "f"), limit_s=30)
    for name in ("none", "folder"):
        with pytest.raises(EnvironmentProblem, match=f"{link.where} has no file .*{name}"):
            link.get(str(there / name), tmp_path / "g", limit_s=30)
    with pytest.raises(OutputError, match=r"cannot write|may not write"):
        link.get(str(there / "../source"), tmp_path / "no" / "g", limit_s=30)
    assert names(there) == ["folder"]
    assert not (tmp_path / "g.part").exists()


@pytest.mark.parametrize("remote", ["relative", "", "/folder/"])
def test_only_absolute_paths_go_there(remote: str, tmp_path: Path) -> None:
    with LocalLink() as link, pytest.raises(ValueError, match="absolute"):
        link.put(content(tmp_path / "s", 1), remote, limit_s=3)


def tools(folder: Path, *extra: str) -> str:
    """Make a PATH with what POSIX has, and ``extra``."""
    folder.mkdir()
    for name in ("sh", "cat", "dd", "wc", "tail", "df", "mv", "rm", *extra):
        (folder / name).symlink_to(str(shutil.which(name)))
    return str(folder)


@pytest.mark.parametrize("tool", ["sha256sum", "shasum", "openssl", ""])
def test_whatever_computes_digests_over_there(
    tool: str, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = content(tmp_path / "source", 70_000)
    extra = [tool] if tool and tool != "shasum" else []
    if extra and not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    path = tools(tmp_path / "bin", *extra)
    if tool == "shasum":  # Perl's; its output is sha256sum's
        (tmp_path / "bin" / tool).write_text(
            f'#!/bin/sh\n[ "$*" = "-a 256" ] && exec {shutil.which("sha256sum")}\nexit 64\n'
        )
        (tmp_path / "bin" / tool).chmod(0o755)
    monkeypatch.setenv("PATH", path)
    with LocalLink() as link:
        if tool:
            link.put(source, str(there / "f"), limit_s=30)
            link.get(str(there / "f"), tmp_path / "g", limit_s=30)
            assert sha256(there / "f") == sha256(tmp_path / "g") == sha256(source)
            return
        with pytest.raises(EnvironmentProblem, match="none of sha256sum, shasum and openssl"):
            link.put(source, str(there / "f"), limit_s=30)
        assert names(there) == []
        with pytest.raises(EnvironmentProblem, match="none of sha256sum, shasum and openssl"):
            link.get(str(source), tmp_path / "g", limit_s=30)


def lying(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, body: str) -> None:
    """Put a tool first on PATH that does something else than it should."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_device_that_sends_without_end(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content(there / "f", 100_000)
    lying(monkeypatch, tmp_path / "bin", "tail", "exec yes")
    with LocalLink() as link, pytest.raises(EnvironmentProblem, match=r"sends more of .*100000"):
        link.get(str(there / "f"), tmp_path / "g", limit_s=30)
    assert not list(tmp_path.glob("g*"))


@pytest.mark.parametrize("says", ["garbage", "99999999999999999999999\n" + "a" * 64, "-5\n", ""])
def test_a_device_that_tells_nonsense_of_a_file(
    says: str, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content(there / "f", 1000)
    lying(monkeypatch, tmp_path / "bin", "wc", f"echo '{says}'")
    with LocalLink() as link, pytest.raises(EnvironmentProblem, match="cannot read"):
        link.get(str(there / "f"), tmp_path / "g", limit_s=30)
    assert not list(tmp_path.glob("g*"))


def test_bytes_that_change_on_the_way(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = content(tmp_path / "source", 100_000)
    content(there / "f", 100_000)
    lying(monkeypatch, tmp_path / "bin", "tail", "head -c 100000 /dev/zero")
    lying(monkeypatch, tmp_path / "bin", "dd", 'cat > /dev/null; : > "${1#of=}"')
    with LocalLink() as link:
        with pytest.raises(EnvironmentProblem, match="did not arrive as it is there, twice"):
            link.get(str(there / "f"), tmp_path / "g", limit_s=30)
        with pytest.raises(EnvironmentProblem, match="is not what was sent, twice"):
            link.put(source, str(there / "h"), limit_s=30)
    assert names(there) == ["f"]
    assert not list(tmp_path.glob("g*"))


def test_a_file_that_may_not_be_written(there: Path, tmp_path: Path) -> None:
    (there / "f.part").mkdir()
    with LocalLink() as link, pytest.raises(OutputError, match=r"cannot write .*f on this machine"):
        link.put(content(tmp_path / "s", 10), str(there / "f"), limit_s=30)


@given(st.text(max_size=200), st.integers(0, 10**12))
def test_df_tables_are_read_or_left(text: str, free: int) -> None:
    copying._kib(text)  # whatever a device prints
    head = "Filesystem 1024-blocks Used Available Capacity Mounted on\n"
    assert copying._kib(f"{head}/dev/mmcblk0p1 1 2 {free} 97% /\n") == free
    assert copying._kib(f"{head}/dev/x 1 2 -{free + 1} 101% /a b\n") == 0
    assert copying._kib(head) is None
