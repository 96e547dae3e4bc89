"""Archives: the same bytes for the same files; nothing but plain known files comes out of one."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.bundle.archive import read_archive, write_archive
from graphopt.errors import UsageError

LIMITS = {"model.onnx": 4096, "build.sh": 4096}


def made(path: Path, *members: tuple[tarfile.TarInfo, bytes], pax: bool = False) -> Path:
    kind = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    with tarfile.open(path, "w:gz", format=kind) as archive:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "model.onnx"
    return info


def read(path: Path, into: Path, *, in_folder: bool = False) -> str:
    into.mkdir(exist_ok=True)
    return read_archive(path, into, LIMITS, in_folder=in_folder)


def test_what_is_written_is_read_and_is_the_same_again(tmp_path: Path) -> None:
    files = {}
    for name, data in (("model.onnx", b"m" * 1000), ("build.sh", b"")):
        files[name] = tmp_path / name
        files[name].write_bytes(data)
    one = write_archive(tmp_path / "1.tar.gz", files, folder="net-t4")
    (tmp_path / "model.onnx").touch()
    backwards = dict(reversed(files.items()))
    two = write_archive(tmp_path / "another name.tar.gz", backwards, folder="net-t4")
    assert one.read_bytes() == two.read_bytes()
    assert read(one, tmp_path / "out", in_folder=True) == "net-t4"
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"m" * 1000
    with tarfile.open(one) as archive:
        infos = archive.getmembers()
    assert [(i.name, i.mode, i.mtime, i.uid, i.uname) for i in infos] == [
        ("net-t4/build.sh", 0o755, 0, 0, ""),
        ("net-t4/model.onnx", 0o644, 0, 0, ""),
    ]


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/model.onnx", "a/../model.onnx", "./model.onnx", "a/model.onnx",
     "model.onnx/", "MODEL.ONNX", "model.onnx\n", "..", ".", "other", "a" * 300,
     "model.onnx" + "/x" * 200],
)  # fmt: skip
def test_names_that_are_not_known_are_refused(tmp_path: Path, name: str) -> None:
    path = made(tmp_path / "x.tar.gz", (member(name), b"data"))
    with pytest.raises(UsageError, match=r"does not belong|not a plain file"):
        read(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["model.onnx", "a/b/model.onnx", "../model.onnx", "/model.onnx"])
def test_a_bundle_has_one_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="does not belong"):
        read(made(tmp_path / "x.tar.gz", (member(name), b"")), tmp_path / "out", in_folder=True)
    two = made(tmp_path / "2.tar.gz", (member("a/model.onnx"), b""), (member("b/build.sh"), b""))
    with pytest.raises(UsageError, match="more than one folder"):
        read(two, tmp_path / "out2", in_folder=True)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
     tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE],
)  # fmt: skip
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = made(tmp_path / "x.tar.gz", (member("model.onnx", kind), b""))
    with pytest.raises(UsageError, match=r"not a plain file|does not belong"):
        read(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_name_twice_and_a_file_too_long_are_refused(tmp_path: Path) -> None:
    twice = made(tmp_path / "2.tar.gz", (member("model.onnx"), b"1"), (member("model.onnx"), b"2"))
    with pytest.raises(UsageError, match=r"holds model\.onnx twice"):
        read(twice, tmp_path / "out")
    long = made(tmp_path / "3.tar.gz", (member("build.sh"), b"x" * 4097))
    with pytest.raises(UsageError, match=r"claims 4,097 bytes; at most 4,096"):
        read(long, tmp_path / "out3")


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    made(path, (member("model.onnx"), b"\0" * (40 << 20)))
    into = tmp_path / "out"
    into.mkdir()
    with pytest.raises(UsageError, match="200 times its size"):
        read_archive(path, into, {"model.onnx": 1 << 40}, in_folder=False)
    assert sum(p.stat().st_size for p in into.iterdir()) < 32 << 20


def test_what_follows_the_end_is_refused(tmp_path: Path) -> None:
    good = gzip.decompress(made(tmp_path / "x.tar.gz", (member("build.sh"), b"x")).read_bytes())
    for what, data in (
        ("follows after its end", good + b"more"),
        ("follows after its end", good + bytes(1 << 20)),
        ("cut short", good[:1024]),
        ("cut short", good[:1536]),
    ):
        path = tmp_path / "y.tar.gz"
        path.write_bytes(gzip.compress(data))
        with pytest.raises(UsageError, match=what):
            read(path, tmp_path / f"out{len(data)}")
    path.write_bytes(gzip.compress(good) + b"not gzip")
    with pytest.raises(UsageError, match=r"not a whole tar\.gz"):
        read(path, tmp_path / "out-trailing")


@settings(max_examples=60)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_an_archive_cut_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = made(folder / "x.tar.gz", (member("model.onnx"), bytes(range(256)) * 8))
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(UsageError, match=r"cut short|not a whole"):
        read(path, folder / "out")


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_end_in_one_line_or_in_known_files(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    path = made(folder / "x.tar.gz", (member("model.onnx"), b"m" * 600))
    data = bytearray(gzip.decompress(path.read_bytes()))
    for at, value in flips:
        data[at] = value
    path.write_bytes(gzip.compress(bytes(data)))
    try:
        read(path, folder / "out")
    except UsageError as problem:
        assert "\n" not in str(problem)
    assert {p.name for p in folder.iterdir()} == {"out", "x.tar.gz"}
    assert {p.name for p in (folder / "out").iterdir()} <= set(LIMITS)


@settings(max_examples=100)
@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
        | st.sampled_from(["../../x", "/etc/x", "model.onnx", "build.sh", "model.onnx/..", ""]),
        max_size=4,
    ),
    pax=st.booleans(),
)
def test_no_name_escapes(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], pax: bool
) -> None:
    folder = tmp_path_factory.mktemp("names")
    path = made(folder / "x.tar.gz", *((member(name), b"data") for name in names), pax=pax)
    try:
        read(path, folder / "out")
    except UsageError as problem:
        assert str(problem).isprintable()
    else:
        assert sorted(names) == sorted(p.name for p in (folder / "out").iterdir())
    assert {p.name for p in folder.iterdir()} == {"out", "x.tar.gz"}
    assert all(p.is_file() and p.name in LIMITS for p in (folder / "out").iterdir())


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "random").write_bytes(gzip.compress(b"no tar" * 1000))
    for name, what in (
        ("text", "not a whole"), ("empty", "cut short"), ("random", "invalid header"),
        ("none", "no such file"), (".", "cannot read"), ("n" * 300, "cannot read"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=what):
            read(tmp_path / name, tmp_path / f"out-{name[:9]}")
