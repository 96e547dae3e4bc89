"""build.sh, run for real under dash and busybox, against strict stand-ins of trtexec."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_devices import SHELLS, Device

from graphopt.engines.releases import parse_release
from graphopt.engines.trtexec.features import banner_number

Make = Callable[..., Device]
MADE = ["build.log", "layer-times.json", "layers.json", "manifest.json", "model.engine",
        "results.json", "results.sha256", "time.log", "times.json"]  # fmt: skip


def told(device: Device) -> dict[str, str]:
    value: dict[str, str] = json.loads((device.out / "results.json").read_text())
    return value


def left_over(device: Device) -> list[str]:
    return [p.name for p in device.out.iterdir() if p.name.endswith(".partial")] + [
        p.name for p in device.out.iterdir() if p.name.startswith(".")
    ]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("bundle", "version"),
    [("explicit", "8.5.2"), ("implicit", "8.5.2"), ("implicit", "8.6.1"), ("dla", "8.5.2"),
     ("t4", "10.9.0"), ("t4", "11.1.0")],
)  # fmt: skip
def test_builds_times_and_packs(
    device: Make, shell: tuple[str, ...], bundle: str, version: str
) -> None:
    jetson = device(bundle, version, shell)
    done = jetson.build()
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_over(jetson) == []
    with tarfile.open(jetson.results) as archive:
        assert sorted(archive.getnames()) == MADE
    subprocess.run(["sha256sum", "-c", "results.sha256"], cwd=jetson.out, check=True)
    facts = told(jetson)
    assert facts["status"] == "built"
    assert facts["timed"] == "yes"
    assert facts["tensorrt"] == version
    assert (facts["gpu"], facts["sm"]) == ("Xavier", "7.2")
    assert "GPU compute time" in done.stdout
    assert ("--useDLACore" in facts["flags"]) == (bundle == "dla")
    if bundle in ("implicit", "dla"):
        first = (jetson.out / "calibration.cache").read_text().splitlines()[0]
        assert first == f"TRT-{banner_number(parse_release(version))}-EntropyCalibration2"


def test_a_second_run_builds_nothing_again(device: Make, tmp_path: Path) -> None:
    record = tmp_path / "record"
    jetson = device(record=str(record))
    assert jetson.build("--no-profile").returncode == 0
    assert told(jetson)["timed"] == "no"
    engine = (jetson.out / "model.engine").stat().st_mtime_ns
    done = jetson.build()
    assert "built before" in done.stdout
    assert (jetson.out / "model.engine").stat().st_mtime_ns == engine
    assert told(jetson)["timed"] == "yes"
    assert told(jetson)["flags"].startswith(" --onnx")
    runs = [json.loads(line) for line in record.read_text().splitlines()]
    assert sum(any(w.startswith("--onnx") for w in words) for words in runs) == 1
    assert "built before" not in jetson.build("--force").stdout
    (jetson.out / "model.engine").write_bytes(b"cut short")
    assert "built before" not in jetson.build().stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_failed_build_sends_its_log_back(device: Make, shell: tuple[str, ...]) -> None:
    jetson = device(shell=shell, fail={"build": 'Error[10]: no "kernel" for it\\'})
    done = jetson.build()
    assert done.returncode == 3
    assert 'no "kernel" for it' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (jetson.out / "model.engine").exists()
    assert left_over(jetson) == []
    facts = told(jetson)
    assert facts["status"] == "failed"
    assert 'no "kernel" for it\\' in facts["reason"]
    with tarfile.open(jetson.results) as archive:
        assert sorted(archive.getnames()) == [
            "build.log", "manifest.json", "results.json", "results.sha256",
        ]  # fmt: skip


def test_killed_for_memory_disk_full_and_a_time_limit(device: Make) -> None:
    killed = device(killed="build").build()
    assert killed.returncode == 3
    assert "signal 9" in killed.stderr
    full = device(full=("save",)).build()
    assert full.returncode == 3
    assert "the build failed: " in full.stderr
    late = device(slow=30.0).build("--time-limit", "1")
    assert late.returncode == 3
    assert "longer than the time limit" in late.stderr


def test_timing_that_fails_keeps_the_engine(device: Make) -> None:
    jetson = device(fail={"inference": "Error[1]: Cask"})
    done = jetson.build()
    assert done.returncode == 1
    assert "the engine is built, but timing it failed: Error[1]: Cask" in done.stderr
    assert (jetson.out / "model.engine").is_file()
    with tarfile.open(jetson.results) as archive:
        assert "model.engine" in archive.getnames()
        assert "times.json" not in archive.getnames()


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("shell", SHELLS)
def test_a_signal_cleans_up_and_a_second_run_goes_on(
    device: Make, shell: tuple[str, ...], sign: signal.Signals
) -> None:
    jetson = device(shell=shell, slow=1.0)
    running = subprocess.Popen(
        jetson.words(), cwd=jetson.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = jetson.out / "build.log"
    until = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < until:
        time.sleep(0.05)
    started = children(running.pid)
    assert started
    running.send_signal(sign)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 128 + sign
    assert "stopped; run it again to go on" in stderr
    assert left_over(jetson) == []
    assert not (jetson.out / "model.engine").exists()
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    from trtexec import install

    install(jetson.folder.parent / "bin", "8.5.2")
    assert jetson.build().returncode == 0


def test_two_at_once_are_kept_apart_and_a_dead_lock_is_taken_over(device: Make) -> None:
    jetson = device()
    lock = jetson.out / ".lock"
    lock.mkdir(parents=True)
    (lock / "pid").write_text(f"{os.getpid()}\n")
    (jetson.out / "model.engine.partial").write_text("theirs")
    done = jetson.build()
    assert done.returncode == 4
    assert f"another build.sh (process {os.getpid()})" in done.stderr
    assert lock.is_dir()
    assert (jetson.out / "model.engine.partial").read_text() == "theirs"
    dead = subprocess.Popen(["true"])
    dead.wait()
    (lock / "pid").write_text(f"{dead.pid}\n")
    assert jetson.build().returncode == 0
    assert not lock.exists()


@pytest.mark.parametrize("name", ["model.int8.onnx", "report.json", "manifest.json"])
def test_files_that_changed_are_refused(device: Make, name: str) -> None:
    jetson = device()
    data = (jetson.folder / name).read_bytes()
    (jetson.folder / name).write_bytes(data[:-1] + b"#")
    done = jetson.build()
    assert done.returncode == 2
    assert f"{name} is not what the bundle was made with" in done.stderr
    (jetson.folder / name).unlink()
    done = jetson.build()
    assert done.returncode == 2
    assert f"{name} is missing" in done.stderr


def bare(tmp_path: Path, *left_out: str) -> str:
    """Return a PATH with the tools build.sh needs, and without some."""
    folder = tmp_path / "tools"
    folder.mkdir(exist_ok=True)
    for tool in ("sh", "cat", "cksum", "cp", "cut", "df", "grep", "gzip", "kill", "mkdir", "mv",
                 "rm", "rmdir", "sed", "sha256sum", "shasum", "openssl", "sleep", "tail", "tar",
                 "tr", "uname", "timeout", "env"):  # fmt: skip
        found = shutil.which(tool)
        if found and tool not in left_out and not (folder / tool).exists():
            (folder / tool).symlink_to(found)
    return str(folder)


def test_without_sha256sum_it_says_so_or_takes_openssl(device: Make, tmp_path: Path) -> None:
    jetson = device()
    path = bare(tmp_path, "sha256sum", "shasum", "openssl")
    done = jetson.build(env={"PATH": path})
    assert done.returncode == 0, done.stderr
    assert "the files are not checked" in done.stderr
    assert told(jetson)["hashes"] == ""
    again = jetson.build(env={"PATH": path})
    assert "built before" in again.stdout
    if shutil.which("openssl"):
        Path(path, "openssl").symlink_to(str(shutil.which("openssl")))
        done = jetson.build(env={"PATH": path})
        assert "(openssl)" in done.stdout
        subprocess.run(["sha256sum", "-c", "results.sha256"], cwd=jetson.out, check=True)


def test_trtexec_is_found_where_it_is_named_or_on_path(device: Make, tmp_path: Path) -> None:
    jetson = device()
    program, jetson.trtexec = jetson.trtexec, None
    path = bare(tmp_path)
    done = jetson.build(env={"PATH": path})
    assert done.returncode == 4
    assert "there is no trtexec here" in done.stderr
    assert "--trtexec PATH" in done.stderr
    assert program is not None
    assert jetson.build("--no-profile", env={"PATH": f"{path}:{program.parent}"}).returncode == 0
    assert jetson.build("--no-profile", env={"PATH": path, "TRTEXEC": str(program)}).returncode == 0
    done = jetson.build("--trtexec", "/nowhere/trtexec")
    assert done.returncode == 4
    assert "there is no program /nowhere/trtexec" in done.stderr
    done = jetson.build("--trtexec", "/bin/true")
    assert done.returncode == 4
    assert "is not TensorRT's trtexec" in done.stderr


def test_versions_that_cannot_or_were_not_meant(device: Make) -> None:
    refused = device("implicit", "11.0.0").build()
    assert refused.returncode == 3
    assert "--quantization explicit" in refused.stderr
    older = device("t4", "8.5.3").build()
    assert older.returncode == 3
    assert "opset 17, and the model has 19" in older.stderr
    assert "--trt-version 8.5" in older.stderr
    other = device("explicit", "8.6.1").build("--no-profile")
    assert other.returncode == 0
    assert "whose TensorRT is 8.5.2; this one is 8.6.1" in other.stderr
    broken = device(cannot_start="trtexec: error while loading shared libraries: libnvinfer.so.8")
    done = broken.build()
    assert done.returncode == 4
    assert "libnvinfer.so.8" in done.stderr


def test_a_version_newer_than_known_is_used_like_the_newest(device: Make) -> None:
    jetson = device("t4", "11.4.0")
    program = jetson.trtexec
    assert program is not None
    real = program.with_name("real")
    program.rename(real)
    # The stand-in knows no TensorRT 12: only the number in the banner is changed.
    program.write_text(f'#!/bin/sh\n"{real}" "$@" | sed "s/v110400/v120000/"\n')
    program.chmod(0o755)
    done = jetson.build("--no-profile")
    assert done.returncode == 0, done.stderr
    assert "TensorRT 12.0.0 is newer than this bundle knows: it is used like 11.5" in done.stderr


def test_a_flag_that_only_tunes_is_left_out_where_it_is_not_listed(device: Make) -> None:
    jetson = device()
    program = jetson.trtexec
    assert program is not None
    real = program.with_name("real")
    program.rename(real)
    body = (
        '#!/bin/sh\ncase "$1" in --help) "{}" "$@" | grep -v -e "{}" ;; *) exec "{}" "$@" ;; esac\n'
    )
    program.write_text(body.format(real, "--timingCacheFile", real))
    program.chmod(0o755)
    done = jetson.build("--no-profile")
    assert done.returncode == 0, done.stderr
    assert "does not list --timingCacheFile" in done.stdout
    assert told(jetson)["left_out"].split() == ["--timingCacheFile"]
    program.write_text(body.format(real, "--int8", real))
    done = jetson.build("--no-profile", "--force")
    assert done.returncode == 3
    assert "does not list --int8, without which" in done.stderr


def test_where_results_cannot_be_written(device: Make, tmp_path: Path) -> None:
    jetson = device()
    (tmp_path / "file").write_text("")
    done = jetson.build("--out", str(tmp_path / "file"))
    assert done.returncode == 4
    assert "choose another --out" in done.stderr
    done = jetson.build("--out", "-dash and space")
    assert done.returncode == 0, done.stderr
    assert (jetson.folder / "-dash and space" / "model.engine").is_file()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("file", ["results.json", "results.sha256", "build.state"])
def test_a_disk_that_is_full_at_the_end_is_one_line(
    device: Make, shell: tuple[str, ...], file: str
) -> None:
    jetson = device(shell=shell)
    program = jetson.trtexec
    assert program is not None
    real = program.with_name("real")
    program.rename(real)
    partial = jetson.out / f"{file}.partial"
    program.write_text(f'#!/bin/sh\nln -sf /dev/full "{partial}"\nexec "{real}" "$@"\n')
    program.chmod(0o755)
    done = jetson.build("--no-profile")
    assert done.returncode == 4
    assert done.stderr.splitlines() == [
        f"build.sh: cannot write into {jetson.out}: the disk is full, or it may not be written"
    ]
    assert not list(jetson.out.glob("*.partial"))
    program.write_text(f'#!/bin/sh\nexec "{real}" "$@"\n')
    assert jetson.build("--no-profile").returncode == 0


def test_another_program_is_told_by_its_first_line(device: Make, tmp_path: Path) -> None:
    jetson = device()
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho; echo usage: other; echo and more of it\n")
    other.chmod(0o755)
    jetson.trtexec = other
    done = jetson.build()
    assert done.returncode == 4
    assert done.stderr.endswith("is not TensorRT's trtexec, or cannot start: usage: other\n")
    assert not (jetson.out / ".lock").exists()


def test_too_little_disk_is_told_before_the_build(device: Make, tmp_path: Path) -> None:
    jetson = device()
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "df").write_text(
        "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted on'\n"
        "echo '/dev/a disk 1000000 999000 1000 100% /mnt'\n"
    )
    (fake / "df").chmod(0o755)
    done = jetson.build(env={"PATH": f"{fake}:{os.environ['PATH']}"})
    assert done.returncode == 4
    assert "0 MB are free" in done.stderr
    assert "about 64 MB are needed" in done.stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [(("--nothing",), "unknown option: --nothing"), (("--out",), "--out wants a value"),
     (("--out=",), "--out wants a value"), (("--time-limit", "soon"), "whole seconds"),
     (("--time-limit", "0"), "whole seconds")],
)  # fmt: skip
@pytest.mark.parametrize("shell", SHELLS)
def test_wrong_use(device: Make, shell: tuple[str, ...], words: tuple[str, ...], what: str) -> None:
    done = device(shell=shell).build(*words)
    assert done.returncode == 2
    assert what in done.stderr


def test_help_and_running_it_from_elsewhere(device: Make, tmp_path: Path) -> None:
    jetson = device()
    done = subprocess.run(
        ["sh", str(jetson.folder / "build.sh"), "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--time-limit" in done.stdout
    done = subprocess.run(
        [str(jetson.folder / "build.sh"), "--trtexec", str(jetson.trtexec), "--no-profile"],
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert jetson.results.is_file()
