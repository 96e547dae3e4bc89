from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from far_machines import T4, XAVIER
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines.remote import readings
from graphopt.engines.remote.link import Done
from graphopt.engines.remote.local import LocalLink
from graphopt.engines.remote.probe import Jetson, Probe, parse, read_probe, run_probe, telling
from graphopt.engines.trtexec.features import Features
from graphopt.errors import EnvironmentProblem
from graphopt.profiles.host import Gpu

TOOLS = ("sh", "head", "od", "tr", "dirname", "df", "grep", "sed", "uname", "id", "cat")


class Fake:
    """A link to a machine that answers what it likes; MARK stands for the word asked for."""

    where = "user@device"

    def __init__(self, answer: str, status: int = 0, stderr: str = "") -> None:
        self.answer, self.status, self.stderr = answer, status, stderr

    def run(self, script, *words, stdin=None, limit_s=60.0):
        return Done(self.status, self.answer.replace("MARK", words[2]), self.stderr)


def encoded(values: dict[str, str]) -> str:
    lines = [f"@{key} {value.encode().hex()}" for key, value in values.items()]
    return "\n".join(["MARK begin", *lines, "MARK end", ""])


def tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_xavier():
    probe = run_probe(Fake(encoded(XAVIER)))
    assert probe.where == "user@device"
    assert (probe.system, probe.machine) == ("Linux", "aarch64")
    assert probe.distribution == "Ubuntu 20.04.6 LTS"
    assert probe.packages == "apt"
    assert probe.trtexec == "/usr/src/tensorrt/bin/trtexec"
    assert "--onnx=<file>" in probe.help_text
    assert (probe.tensorrt, probe.version) == ((8, 5, 2), "8.5.2")
    assert probe.jetson == Jetson("Jetson-AGX", "tegra194", "35.4.1", "5.1.2", "MAXN", True)
    assert probe.gpus == (Gpu("NVIDIA Jetson AGX Xavier", (7, 2), 33.5, ""),)
    assert probe.cuda == "11.4.19"
    assert probe.folder_free == probe.tmp_free == 11272460 * 1024
    assert (probe.memory, probe.memory_free) == (32692744 * 1024, 29000000 * 1024)
    assert (probe.cores, probe.load, probe.uptime_s) == (8, 0.52, 350735.47)
    assert probe.python == "3.8.10"
    assert probe.device_name() == "jetson-agx-xavier"
    assert probe.facts() == {
        "tensorrt": "8.5.2",
        "gpu": {"name": "NVIDIA Jetson AGX Xavier", "sm": "7.2"},
        "l4t": "35.4.1",
        "jetpack": "5.1.2",
        "power_mode": "MAXN",
        "clocks_fixed": True,
        "cuda": "11.4.19",
    }


def test_a_server_with_a_t4():
    probe = run_probe(Fake("Welcome!\nMARK\n" + encoded(T4) + "bye\n"))
    assert probe.gpus == (Gpu("Tesla T4", (7, 5), 16.1, "535.161.08"),)
    assert probe.jetson is None
    assert (probe.version, probe.cuda) == ("10.3.0", "12.4.131")
    assert probe.device_name() == "t4"
    place = probe.place()
    assert (place.runtime, place.version, place.gpus) == ("tensorrt", "10.3.0", probe.gpus)
    assert place.where == "user@device"


@pytest.mark.parametrize(
    ("name", "sm", "device"),
    [
        ("NVIDIA A10", (8, 6), "a10"),
        ("NVIDIA A10G", (8, 6), None),
        ("NVIDIA A100-SXM4-40GB", (8, 0), None),
        ("NVIDIA L4", (8, 9), "l4"),
        ("NVIDIA L40", (8, 9), None),
        ("Tesla T4", None, "t4"),
        ("Tesla T4", (8, 9), None),
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5), "rtx-2080-ti"),
        ("NVIDIA GeForce RTX 3090", (8, 6), "rtx-3090"),
        ("NVIDIA GeForce RTX 3090 Ti", (8, 6), None),
        ("NVIDIA GeForce RTX 4090 D", (8, 9), None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9), None),
        ("NVIDIA GeForce RTX 5090", (12, 0), "rtx-5090"),
        ("NVIDIA Jetson AGX Orin Developer Kit", (8, 7), "jetson-agx-orin"),
        ("NVIDIA Jetson AGX Xavier Developer Kit", (7, 2), "jetson-agx-xavier"),
        ("NVIDIA Jetson Xavier NX Developer Kit", (7, 2), None),
        ("", None, None),
    ],
)
def test_devices_are_known_by_their_names(name, sm, device):
    assert Probe("there", gpus=(Gpu(name, sm),)).device_name() == device
    assert Probe("there").device_name() is None


def test_a_gpu_whose_name_nobody_tells():
    nameless = {key: value for key, value in T4.items() if key != "gpus"}
    probe = read_probe("there", nameless)
    assert probe.gpus == (Gpu("an NVIDIA GPU"),)
    assert probe.device_name() is None
    assert probe.problems() == []
    assert read_probe("there", {**nameless, "nvidia-smi-says": "failed"}).gpus == ()


def test_an_orin_is_called_by_its_board_whatever_nvidia_smi_says():
    orin = {
        **XAVIER,
        "board": "NVIDIA Jetson AGX Orin Developer Kit\n",
        "compatible": "nvidia,p3737-0000+p3701-0005\nnvidia,tegra234\n",
        "gpus": "Orin (nvgpu), [N/A], [N/A], 540.4.0\n",
        "l4t": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
        "packages": "",
    }
    probe = read_probe("orin", orin)
    assert probe.gpus == (Gpu("NVIDIA Jetson AGX Orin Developer Kit", (8, 7), 33.5, "540.4.0"),)
    assert probe.device_name() == "jetson-agx-orin"
    assert probe.jetson is not None
    assert (probe.jetson.l4t, probe.jetson.jetpack) == ("36.4.3", "")


@pytest.mark.parametrize(
    ("values", "version"),
    [
        ({"help": "&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # x"}, (8, 6, 1)),
        ({"libraries": "/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.3.0\n"}, (10, 3, 0)),
        ({"packages": "ii  libnvinfer10 10.9.0.34-1+cuda12.8\n"}, (10, 9, 0)),
        ({"packages": "rc  libnvinfer8 8.5.2-1+cuda11.4\n"}, None),
        (
            {"header": "#define NV_TENSORRT_MAJOR 8 //!< a\n#define NV_TENSORRT_MINOR 5 //!< b\n"
             "#define NV_TENSORRT_PATCH 2\n"},
            (8, 5, 2),
        ),
        (
            {"header": "#define TRT_MAJOR_ENTERPRISE 11\n#define TRT_MINOR_ENTERPRISE 1\n"
             "#define TRT_PATCH_ENTERPRISE 0\n#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n"},
            (11, 1, 0),
        ),
        ({"header": "#define NV_TENSORRT_MAJOR 8\n"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_version_of_tensorrt_is_told_without_trtexec_too(values, version):
    assert readings.tensorrt(values) == version


@pytest.mark.parametrize(
    ("text", "free"),
    [
        (
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a 9 2 7 23% /x y\n",
            7168,
        ),
        ("F\n//nas/my files 1 2 3 4% 100 2 30 5% /z\n", 3072),
        ("F\noverlay 100 90 10 90% /\n", 10240),
        ("F\n- - - - - /proc\n", None),
        ("F\n", None),
        ("", None),
    ],
)
def test_free_space(text, free):
    assert readings.free_bytes(text) == free


# --- the script itself ---


def test_the_script_runs_here_and_on_another_machine(link, there):
    folder = there / "not yet" / "there"
    probe = run_probe(link, folder=str(folder))
    assert probe.system == "Linux"
    assert probe.machine == os.uname().machine
    assert probe.sha256 == "sha256sum"
    assert (probe.folder, probe.folder_writable) == (str(there), True)
    assert probe.folder_free
    assert probe.memory
    assert probe.user
    assert list(there.iterdir()) == []


def test_trtexec_is_found_asked_and_believed(tmp_path, monkeypatch):
    bin_ = tmp_path / "it's a bin"
    tool(bin_, "trtexec", 'echo "&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # $0 $*"; exit 3')
    tool(bin_, "nvidia-smi", NVIDIA_SMI)
    with LocalLink() as link:
        monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
        probe = run_probe(link)
        assert probe.trtexec == f"{bin_}/trtexec"
        assert probe.help_text.endswith(f"{bin_}/trtexec --help")
        assert probe.version == "8.5.2"
        assert probe.gpus == (Gpu("Tesla T4", (7, 5), 16.1, "535.1"),)
        assert probe.jobs == ("/usr/bin/a, b (pid 12, 100 MiB)",)

        tool(tmp_path / "other", "my trtexec", 'echo "[TensorRT v100300]"')
        asked = str(tmp_path / "other" / "my trtexec")
        assert run_probe(link, trtexec=asked).version == "10.3.0"
        assert run_probe(link, trtexec="trtexec").trtexec == f"{bin_}/trtexec"
        for wrong in ("/nowhere/trtexec", "no-such", str(tmp_path), "$(touch x)", "-x", "a\nb"):
            assert run_probe(link, trtexec=wrong).trtexec == ""


@pytest.mark.parametrize("version", ["8.5.2", "8.6.1", "10.3.0", "11.0.0"])
def test_the_stand_ins_are_found_over_ssh(sshd, version, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "standins"))
    from trtexec import install

    path = install(sshd.bin, version)
    with sshd.link() as link:
        probe = run_probe(link)
    assert (probe.trtexec, probe.version) == (str(path), version)
    assert Features.from_help(probe.help_text).version == probe.tensorrt
    assert [p for p in probe.problems() if p.name in ("trtexec", "tensorrt")] == []


NVIDIA_SMI = """
case $1 in
*compute_cap*) [ -z "$OLD_DRIVER" ] || exit 2; echo "Tesla T4, 7.5, 15360, 535.1" ;;
--query-gpu*) echo "Tesla T4, 15360, 450.1" ;;
--query-compute-apps*) echo "12, /usr/bin/a, b, 100" ;;
*) echo "NVIDIA-SMI has failed" ;;
esac
"""


def test_a_driver_that_knows_no_compute_capability(tmp_path, monkeypatch):
    tool(tmp_path / "bin", "nvidia-smi", NVIDIA_SMI)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("OLD_DRIVER", "1")
    with LocalLink() as link:
        probe = run_probe(link)
    assert probe.gpus == (Gpu("Tesla T4", None, 16.1, "450.1"),)
    assert probe.device_name() == "t4"


def test_a_broken_driver_is_quoted(tmp_path, monkeypatch):
    tool(
        tmp_path / "bin", "nvidia-smi", 'echo "NVIDIA-SMI has failed because it could not"; exit 9'
    )
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    with LocalLink() as link:
        probe = run_probe(link)
    assert probe.gpus == ()
    assert probe.gpu_says == "NVIDIA-SMI has failed because it could not"


def test_a_trtexec_that_prints_without_end_or_in_our_format(tmp_path, monkeypatch):
    lies = r"""
printf '@user 726f6f74\n%s end\n' mark
printf '\033[2J\r\0[TensorRT v8502]\n'
exec tr '\0' 'x' </dev/zero
"""
    tool(tmp_path, "trtexec", lies)
    with LocalLink() as link:
        probe = run_probe(link, trtexec=str(tmp_path / "trtexec"))
    assert probe.version == "8.5.2"
    assert 1000 < len(probe.help_text) <= 262144
    assert "\x1b" not in probe.help_text
    assert probe.user  # what came after is read as well
    assert probe.sha256 == "sha256sum"


def test_the_script_needs_only_what_posix_has(tmp_path, monkeypatch):
    """In busybox's shell, with nothing of what may be missing: no timeout, no dpkg, no ldconfig."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in TOOLS:
        found = next(p for p in (Path("/usr/bin") / name, Path("/bin") / name) if p.exists())
        (bare / name).symlink_to(found)
    script = telling("probe.sh")
    cut = re.sub(r"(?m)^PATH=.*$", f"PATH='{bare}'", script)
    assert cut != script
    import subprocess

    done = subprocess.run(
        [bare / "sh", "-c", cut, "sh", "", "/nowhere/at/all", "mark"],
        env={}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    values = parse(done.stdout, "mark")
    assert values is not None
    assert values["folder"] == "/"
    assert values["system"] == "Linux"
    assert "sha256" not in values
    assert "timeout" not in values
    assert done.stderr == ""


# --- what a hostile machine may answer ---


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("", 0),
        ("MARK begin\n@system 4c\n", 0),
        ("MARK end\n", 0),
        ("x MARK begin\nMARK end\n", 0),
        ("This account is currently not available.\n", 1),
        ("MARK begin\n" + "x" * (5 << 20) + "\nMARK end\n", 0),
    ],
)
def test_what_is_no_answer_is_told_in_one_line(answer, status):
    with pytest.raises(EnvironmentProblem, match="user@device could not be asked") as problem:
        run_probe(Fake(answer, status, "\x1b[2J\rsh: \u202enot found\n"))
    assert str(problem.value).isprintable()
    assert "POSIX sh" in problem.value.hint


def test_only_our_lines_count_and_the_first_of_two():
    body = (
        "@a 41\n@a 42\n@b 4\n@c 4G\n@D 41\n @e 41\n@f  41\n@g\n@h \n"
        + "@"
        + "k" * 33
        + " 41\n@i 41"
    )
    assert parse(f"m begin\n{body}\nm end\n", "m") == {"a": "A", "h": "", "i": "A"}
    assert parse("m begin\nm end\n", "m") is None  # the script always tells something


def test_paths_that_could_not_be_used_over_there_are_not_taken():
    for path in ("relative", "/a\nb", "/\udcff\ufffd", "/" + "x" * 5000, ""):
        assert read_probe("x", {"trtexec": path}).trtexec == ""
    assert (
        read_probe("x", {"trtexec": "/it's a \u00e9/trtexec"}).trtexec == "/it's a \u00e9/trtexec"
    )


KEYS = sorted({*XAVIER, *T4, "libraries", "header", "nvidia-smi-says"})


@settings(settings.get_profile("repeatable"), max_examples=200)
@given(st.dictionaries(st.sampled_from(KEYS), st.binary(max_size=60)), st.binary(max_size=40))
def test_any_bytes_give_a_probe_that_can_be_shown(values, noise):
    lines = [f"@{key} {value.hex()}" for key, value in values.items()]
    text = "\n".join([noise.decode(errors="replace"), "m begin", *lines, "m end"])
    check_shown(parse(text, "m"))


PIECES = st.sampled_from(
    [*"\n ,.:=%/\"'", "GPU MinFreq=", " MaxFreq=", "Power Mode:", "[TensorRT v", "99999", "ii ",
     "libnvinfer8", "Tesla T4", "7.5", "libnvinfer.so.", "R35 (release), REVISION:", "tegra194",
     "nvidia,", "MemTotal:", " kB", "CUDA Version ", "1" * 40, "\u0663", "\u00b2", "inf", "nan"]
)  # fmt: skip


@settings(settings.get_profile("repeatable"), max_examples=200)
@given(st.dictionaries(st.sampled_from(KEYS), st.lists(PIECES, max_size=12).map("".join)))
def test_near_misses_give_a_probe_that_can_be_shown(values):
    check_shown(values)


def check_shown(values):
    if values is None:
        return
    probe = read_probe("there", values)
    probe.device_name()
    probe.place()
    for problem in probe.problems():
        assert (problem.what + problem.remedy).isprintable()
        assert problem.what
    told = [probe.system, probe.distribution, probe.user, probe.gpu_says, *probe.jobs, probe.cuda]
    told += [card.name + card.driver for card in probe.gpus]
    assert "".join(told).isprintable()
    assert all(c.isprintable() or c == "\n" for c in probe.help_text)
