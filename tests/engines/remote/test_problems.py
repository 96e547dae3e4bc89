from __future__ import annotations

import pytest
from far_machines import BANNER, DF, T4, XAVIER

from graphopt.engines.remote.probe import Probe, read_probe
from graphopt.engines.remote.problems import problems as problems_of
from graphopt.profiles import load_device


def problems(values, device=None, **changes):
    changed = {**values, **{key.replace("_", "-"): value for key, value in changes.items()}}
    probe = read_probe("there", {k: v for k, v in changed.items() if v is not None})
    return probe.problems(load_device(device) if device else None)


def the_one(values, device=None, **changes):
    (problem,) = problems(values, device, **changes)
    return problem


def test_nothing_is_wrong():
    assert problems(XAVIER) == []
    assert problems(T4) == []
    assert problems(XAVIER, "jetson-agx-xavier") == []
    assert problems(T4, "t4") == []


JETSON = "sudo apt-get update && sudo apt-get install nvidia-tensorrt libnvinfer-bin; "
UBUNTU = "sudo apt-get update && sudo apt-get install libnvinfer-bin; it is in NVIDIA's CUDA rep"


@pytest.mark.parametrize(
    ("values", "release", "remedy"),
    [
        (XAVIER, None, JETSON),
        (T4, None, UBUNTU),
        (T4, 'ID="rocky"\nID_LIKE="rhel centos fedora"\n', "sudo dnf install tensorrt; it is in"),
        (T4, "ID=alpine\n", "install TensorRT from NVIDIA's archive"),
    ],
)
def test_no_trtexec_and_the_command_to_get_it(values, release, remedy):
    changes = {} if release is None else {"os_release": release}
    problem = the_one(values, trtexec=None, help=None, **changes)
    assert (problem.name, problem.blocking) == ("trtexec", True)
    assert problem.remedy.startswith(remedy)
    assert "--trtexec" in problem.remedy


def test_trtexec_that_does_not_start():
    said = "trtexec: error while loading shared libraries: libnvinfer.so.8: cannot open\n"
    problem = the_one(T4, help=said)
    assert problem.blocking
    assert said.strip() in problem.what
    assert problem.remedy.startswith(UBUNTU[:40])
    assert "it says: nothing" in the_one(T4, help="").what


def test_versions_that_the_device_or_graphopt_does_not_take():
    problem = the_one(XAVIER, help=BANNER.format(number="100300"))
    assert problem.blocking
    assert problem.what.startswith("TensorRT 10.3 does not support NVIDIA Jetson AGX Xavier: 8.5.2")
    assert "older than graphopt builds for" in the_one(T4, help=BANNER.format(number="8401")).what
    l4 = {**T4, "gpus": "NVIDIA L4, 8.9, 23034, 535.1\n"}
    assert "which needs 8.6" in the_one(l4, help=BANNER.format(number="8502")).what


def test_another_gpu_than_the_device_asked_for():
    found = problems(T4, "a10")
    assert [p.name for p in found if p.blocking] == ["device"]
    assert found[0].what == "it is Tesla T4 (compute capability 7.5), and not NVIDIA A10 (8.6)"
    assert found[0].remedy == "use --device t4"


def test_a_trtexec_that_was_asked_for_and_is_not_there():
    probe = Probe("jetson", asked="/opt/x/trtexec")
    (found,) = [p for p in problems_of(probe) if p.name == "trtexec"]
    assert found.what.startswith("there is no program /opt/x/trtexec there")


def test_gpus_that_cannot_be_used():
    problem = the_one(T4, gpus=None, nvidia_smi_says="NVIDIA-SMI has failed\n")
    assert problem.blocking
    assert problem.what == "no NVIDIA GPU is seen: nvidia-smi says NVIDIA-SMI has failed"
    problem = the_one(XAVIER, gpu_node_open=None, groups="nvidia sudo")
    assert problem.blocking
    assert problem.what == "nvidia may not use the GPU"
    assert problem.remedy == "sudo usermod -aG video nvidia, and log in again"
    hostile = the_one(XAVIER, gpu_node_open=None, groups="x", user="a; rm -rf $HOME")
    assert "-aG video 'a; rm -rf $HOME'" in hostile.remedy


@pytest.mark.parametrize(("free", "count", "blocking"), [(200_000, 1, True), (1_000_000, 1, False)])
def test_a_full_disk(free, count, blocking):
    problem = the_one(XAVIER, folder_disk=DF.format(free=free))
    assert (problem.name, problem.blocking) == ("disk", blocking)
    assert f"{free / 1024:,.0f} MiB are free in /home/nvidia/.cache" in problem.what
    assert "temporary" in the_one(XAVIER, tmp_disk=DF.format(free=free)).what


def test_what_may_not_be_written_or_hashed():
    assert "may not write in /home/nvidia/.cache" in the_one(XAVIER, folder_writable=None).what
    assert "SHA-256" in the_one(XAVIER, sha256=None).what


@pytest.mark.parametrize(
    ("changes", "name", "remedy"),
    [
        ({"power_mode": "NV Power Mode: MODE_30W_ALL\n3\n"}, "power mode", "sudo nvpmodel -m 0"),
        ({"clocks": "GPU MinFreq=1 MaxFreq=2 CurrentFreq=1"}, "clocks", "sudo jetson_clocks"),
        ({"jobs": "1, python3, 5\n" * 5}, "gpu jobs", "wait"),
        ({"load": "9.5 1 1 1/2 3"}, "load", "wait"),
    ],
)
def test_what_makes_times_vary_is_said_and_blocks_nothing(changes, name, remedy):
    problem = the_one(XAVIER, **changes)
    assert (problem.name, problem.blocking) == (name, False)
    assert problem.remedy.startswith(remedy)


def test_what_only_root_may_ask_is_no_problem():
    assert problems(XAVIER, clocks="Error: Can't access the clocks! Run as root\n") == []
    assert problems(XAVIER, power_mode="NV Power Mode: MAXN_SUPER\n2\n") == []


def test_what_blocks_comes_first():
    found = problems(XAVIER, load="9.5 1 1 1/2 3", sha256=None, trtexec=None)
    assert [p.blocking for p in found] == [True, True, False]
