from __future__ import annotations

import itertools

import pytest

from graphopt.engines.releases import RELEASES, release_of, releases_between
from graphopt.engines.target import RTX_MAX_OPSET, rtx_target, target_of
from graphopt.errors import UsageError
from graphopt.profiles import DeviceProfile, devices, load_device
from graphopt.profiles.device import version_of

T4, XAVIER, ORIN, L4 = map(load_device, ("t4", "jetson-agx-xavier", "jetson-agx-orin", "l4"))
OURS = [load_device(name) for name in devices() if name != "host"]
VERSIONS = [
    (8, 5, 2), (8, 6, 1), (10, 0, 1), (10, 3, 0), (10, 7, 0), (10, 9, 0), (10, 13, 3),
    (11, 1, 0), (11, 4, 1), (11, 5, 0),
]  # fmt: skip


@pytest.mark.parametrize("device", OURS, ids=lambda d: d.name)
def test_the_devices_agree_with_the_releases(device):
    releases = releases_between(device.oldest_tensorrt, device.newest_tensorrt)
    assert device.max_opset == releases[-1].max_opset
    # The oldest of a device may lie between two releases that are told apart.
    assert release_of(version_of(device.tensorrt.split()[0])) is releases[0]


@pytest.mark.parametrize(
    ("device", "version", "expected"),
    [
        (T4, None, (25, 17, False, "explicit", None, True)),
        (T4, (8, 5, 3), (17, 17, False, "explicit", "weak", False)),
        (T4, (8, 6, 1), (17, 17, False, "explicit", "weak", False)),
        (T4, (10, 3, 0), (20, 20, True, "explicit", "strong", True)),
        (T4, (11, 1, 0), (24, 24, True, "explicit", "strong", True)),
        (XAVIER, None, (17, 17, False, "explicit", "weak", False)),
        (XAVIER, (8, 5, 2), (17, 17, False, "explicit", "weak", False)),
        (ORIN, None, (25, 17, False, "explicit", None, True)),
        (ORIN, (10, 3, 0), (20, 20, True, "explicit", "strong", True)),
        (L4, None, (25, 17, False, "explicit", None, True)),
    ],
)
def test_int8_on_the_gpu(device, version, expected):
    t = target_of(device, version=version, int8=True)
    assert expected == (
        t.max_opset, t.safe_opset, t.int8_weights, t.quantization, t.typing, t.fp16_in_graph,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("device", "version", "expected"),
    [
        (XAVIER, None, (17, 17, "implicit", "weak")),
        (ORIN, None, (20, 17, "implicit", "weak")),
        (ORIN, (8, 5, 2), (17, 17, "implicit", "weak")),
        (ORIN, (10, 7, 0), (20, 20, "implicit", "weak")),
        (ORIN, (11, 4, 1), (24, 24, "explicit", "strong")),
    ],
)
def test_int8_on_a_dla(device, version, expected):
    t = target_of(device, version=version, int8=True, dla=1)
    assert (t.max_opset, t.safe_opset, t.quantization, t.typing) == expected
    assert t.dla == 1
    assert t.int8_weights is (t.quantization == "explicit")


def test_q_dq_on_orins_dla_means_a_tensorrt_that_takes_it():
    t = target_of(ORIN, int8=True, dla=0, quantization="explicit")
    assert (t.safe_opset, t.typing, t.int8_weights) == (24, "strong", True)
    assert t.reasons[0].startswith("for TensorRT 11.4.1 and newer")


def test_implicit_int8_is_for_what_has_it():
    t = target_of(T4, int8=True, quantization="implicit")
    assert (t.max_opset, t.safe_opset, t.typing, t.int8_weights) == (24, 17, "weak", False)
    assert t.reasons == (
        "for TensorRT 8.5 to 10, whichever t4 has: --trt-version names one, and may allow more",
        "implicit INT8, no Q/DQ in the graph: asked for",
        "FP16 for layers without a range, or slower in INT8: implicit INT8 has both",
    )


def test_what_was_decided_is_said():
    assert target_of(T4, int8=True).reasons == (
        "for TensorRT 8.5 and newer, whichever t4 has: --trt-version names one, and may allow more",
        "weights fp32 behind Q/DQ: TensorRT 8.5 on t4 takes no int8 initializers",
    )
    assert target_of(XAVIER, int8=True, fp16=True, dla=0).reasons == (
        "for TensorRT 8.5.2, the only one for jetson-agx-xavier",
        "implicit INT8, no Q/DQ in the graph: the DLA of jetson-agx-xavier takes no Q/DQ",
        "FP16 is a flag of the builder, and the graph stays fp32",
    )
    assert target_of(ORIN, version=(10, 3, 0), int8=True, dla=0).reasons == (
        "implicit INT8, no Q/DQ in the graph: the DLA of jetson-agx-orin takes no Q/DQ before "
        "TensorRT 11.4.1",
        "FP16 for layers without a range, or slower in INT8: implicit INT8 has both",
    )
    assert target_of(T4, version=(10, 3, 0), int8=True).reasons == ()


@pytest.mark.parametrize(
    ("device", "asked", "said"),
    [
        (XAVIER, {"version": (10, 3, 0)}, "TensorRT 10.3 does not run on NVIDIA Jetson AGX Xavier"),
        (XAVIER, {"version": (8, 6, 0)}, "for which TensorRT ends at 8.5.2"),
        (L4, {"version": (8, 5, 3)}, "for which TensorRT starts at 8.6"),
        (T4, {"version": (8, 2, 0)}, "is older than graphopt builds for"),
        (T4, {"dla": 0, "int8": True}, "NVIDIA T4 has no DLA: leave --dla out"),
        (XAVIER, {"dla": 2, "int8": True}, "no DLA core 2: its 2 cores are 0 and 1"),
        (XAVIER, {"dla": -1, "int8": True}, "no DLA core -1"),
        (XAVIER, {"dla": 0}, "add --int8, --fp16 or both"),
        (
            XAVIER,
            {"dla": 0, "int8": True, "quantization": "explicit"},
            "takes no Q/DQ: use --quantization implicit",
        ),
        (
            ORIN,
            {"dla": 0, "int8": True, "quantization": "explicit", "version": (10, 3, 0)},
            "takes no Q/DQ: use --quantization implicit",
        ),
        (
            ORIN,
            {"dla": 0, "int8": True, "version": (10, 13, 0)},
            "TensorRT 10.13 builds for no DLA: 10.7 was the last before 11.4.1",
        ),
        (ORIN, {"dla": 0, "fp16": True, "version": (11, 0, 0)}, "builds for no DLA"),
        (
            ORIN,
            {"dla": 0, "int8": True, "quantization": "implicit", "version": (11, 4, 1)},
            "has no implicit INT8",
        ),
        (
            T4,
            {"int8": True, "quantization": "implicit", "version": (11, 0, 0)},
            "TensorRT 11.0 has no implicit INT8, which ended with TensorRT 10",
        ),
        (
            DeviceProfile("new", sm=(10, 0), precisions=("int8",), tensorrt_versions=((11, 0, 0),)),
            {"int8": True, "quantization": "implicit"},
            "TensorRT 11.0 and newer has no implicit INT8",
        ),
        (
            DeviceProfile("old", sm=(6, 0), precisions=("fp32",)),
            {"int8": True},
            "old has no INT8 in hardware: leave --int8 out",
        ),
        (
            DeviceProfile("old", sm=(6, 1), precisions=("int8", "fp32")),
            {"fp16": True},
            "old has no FP16 in hardware: leave --fp16 out",
        ),
        (
            DeviceProfile(
                "thor", sm=(11, 0), precisions=("int8",), dla=1, tensorrt_versions=((11, 5, 0),)
            ),
            {"int8": True, "dla": 0},
            "takes implicit INT8 only, and TensorRT 11.5 and newer has none",
        ),
        (
            DeviceProfile(
                "gap", sm=(8, 7), precisions=("fp16",), dla=1,
                tensorrt_versions=((10, 8, 0), (11, 4, 0)),
            ),
            {"fp16": True, "dla": 0},
            "no TensorRT for gap builds for its DLA",
        ),
        (
            DeviceProfile("one", sm=(8, 7), precisions=("fp16",), dla=1),
            {"fp16": True, "dla": 1},
            "its only core is 0",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(device, asked, said):
    with pytest.raises(UsageError) as problem:
        target_of(device, **asked)
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_last_version_without_a_patch_is_its_whole_line():
    device = DeviceProfile("mine", sm=(7, 5), tensorrt_versions=((8, 5, 0), (10, 3, 0)))
    assert target_of(device, version=(10, 3, 2)).max_opset == 20
    with pytest.raises(UsageError, match=r"ends at 10\.3"):
        target_of(device, version=(10, 4, 0))


def test_a_device_of_which_nothing_is_known_gets_what_all_take():
    t = target_of(DeviceProfile("host"), int8=True)
    assert (t.max_opset, t.safe_opset, t.int8_weights) == (RELEASES[-1].max_opset, 17, False)
    assert t.reasons == (
        "weights fp32 behind Q/DQ: TensorRT 8.5 on host takes no int8 initializers",
    )


def test_max_opset_of_a_users_file_is_heeded():
    device = DeviceProfile("mine", sm=(7, 5), max_opset=15)
    assert (target_of(device).max_opset, target_of(device).safe_opset) == (15, 15)


@pytest.mark.parametrize("device", OURS, ids=lambda d: d.name)
def test_every_request_is_answered_or_refused(device):
    """Whatever is asked: a consistent answer, or one line."""
    flags = (False, True)
    answered = 0
    for version, int8, fp16, how, dla in itertools.product(
        [None, *VERSIONS], flags, flags, (None, "explicit", "implicit"), (None, 0, 5)
    ):
        try:
            t = target_of(device, version=version, int8=int8, fp16=fp16, quantization=how, dla=dla)
        except UsageError as problem:
            assert "\n" not in str(problem)
            continue
        answered += 1
        assert t.safe_opset <= t.max_opset <= device.max_opset
        assert (t.quantization is None) is not int8
        assert not t.int8_weights or t.quantization == "explicit"
        assert how is None or not int8 or t.quantization == how
        assert t.fp16_in_graph or t.typing == "weak"
        if version is not None:
            assert t.safe_opset == t.max_opset
            assert t.typing is not None
            # A version says no more than not knowing it does.
            loose = target_of(device, int8=int8, fp16=fp16, quantization=how, dla=dla)
            assert dla is not None or loose.max_opset >= t.max_opset
            assert dla is not None or loose.safe_opset <= t.safe_opset
    assert answered > 10


def test_rtx_is_alike_everywhere():
    t = rtx_target(load_device("a10"), int8=True)
    assert (t.max_opset, t.int8_weights, t.quantization, t.typing) == (
        RTX_MAX_OPSET, True, "explicit", "strong",
    )  # fmt: skip
    assert rtx_target(T4).quantization is None
