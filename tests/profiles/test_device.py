from __future__ import annotations

import dataclasses
import json

import pytest
from helpers import ROOT

from graphopt.errors import UsageError
from graphopt.profiles import DeviceProfile, devices, load_device

OURS = sorted(path.stem for path in (ROOT / "profiles").glob("*.toml"))
SMALL = 'name = "mine"\n'


def test_the_list_of_devices():
    assert devices() == ["host", *OURS]
    assert {"a10", "jetson-agx-orin", "jetson-agx-xavier", "l4", "t4"} <= set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_our_files_state_a_source_for_every_figure(name):
    device = load_device(name)
    assert device.name == name
    assert device.title
    figures = {k for k in ("memory_gb", "bandwidth_gbs") if getattr(device, k) is not None}
    figures |= {f"peaks.{precision}" for precision in device.peaks}
    figures |= {f"channel_multiple.{p}" for p, n in device.channel_multiple.items() if n != 8}
    assert figures <= set(device.sources)
    assert set(device.peaks) <= set(device.precisions)
    if device.sm is not None:
        assert device.multiple("int8") == 32
        assert json.loads(json.dumps(device.to_json()))["sm"] == list(device.sm)


def test_versions_of_tensorrt_and_sparsity():
    xavier, t4 = load_device("jetson-agx-xavier"), load_device("t4")
    assert (xavier.oldest_tensorrt, xavier.newest_tensorrt) == ((8, 5, 2), (8, 5, 2))
    assert (t4.oldest_tensorrt, t4.newest_tensorrt) == ((8, 5, 0), None)
    assert json.loads(json.dumps(xavier.to_json()))["tensorrt_versions"] == [[8, 5, 2], [8, 5, 2]]
    assert [load_device(name).sparse_kernels for name in OURS] == [
        load_device(name).sm >= (8, 0) for name in OURS
    ]
    assert not xavier.dla_explicit


def test_sparsity_is_told_by_the_compute_capability_where_the_file_is_silent():
    assert DeviceProfile("a", sm=(8, 0)).sparse_kernels is True
    assert DeviceProfile("a", sm=(7, 5)).sparse_kernels is False
    assert DeviceProfile("a", sm=(8, 0), sparsity=False).sparse_kernels is False
    assert DeviceProfile("a").sparse_kernels is None
    assert DeviceProfile("a").oldest_tensorrt is DeviceProfile("a").newest_tensorrt is None


def test_what_nobody_checked_is_marked():
    assert "peaks.int8" in load_device("t4").unverified()
    assert "bandwidth_gbs" not in load_device("t4").unverified()


def test_facts_that_decide_something():
    assert load_device("t4").sm == (7, 5)
    assert load_device("jetson-agx-xavier").max_opset == 17
    assert [load_device(n).dla for n in ("t4", "jetson-agx-orin", "jetson-agx-xavier")] == [0, 2, 2]
    assert load_device("t4").multiple("fp16") == load_device("t4").multiple("fp32") == 8


@pytest.mark.parametrize("name", ["T4", " t4 ", "xavier", "Jetson_AGX_Orin", "orin"])
def test_names_are_forgiving(name):
    assert load_device(name).name in OURS


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t40", "unknown device 't40' (did you mean 't4'?)"),
        ("jetson-xavier", "did you mean"),
        ("a-fridge", "or a .toml file of your own"),
    ],
)
def test_an_unknown_name_is_told(name, said):
    with pytest.raises(UsageError) as problem:
        load_device(name)
    assert said in str(problem.value)


def test_a_file_of_the_users(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nsm = "12.1"\nmemory_gb = 128\nprecisions = ["fp16"]\nnotes = ["a note"]\n'
        'tensorrt_versions = ["10.3.0.26", "11"]\ndla = 1\ndla_explicit = true\nsparsity = true\n'
        '[channel_multiple]\nfp16 = 16\n[sources]\nmemory_gb = "the label on it"\n'
    )
    assert load_device(path) == DeviceProfile(
        name="mine",
        sm=(12, 1),
        memory_gb=128.0,
        precisions=("fp16",),
        tensorrt_versions=((10, 3, 0), (11, 0, 0)),
        dla=1,
        dla_explicit=True,
        sparsity=True,
        notes=("a note",),
        channel_multiple={"fp16": 16},
        sources={"memory_gb": "the label on it"},
    )
    assert load_device(str(path)).multiple("int8") == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "is not valid TOML"),
        ('title = "no name"\n', "the key 'name' is missing"),
        (SMALL + "memroy_gb = 1\n", "unknown key 'memroy_gb' (did you mean 'memory_gb'?)"),
        ('name = "My Device"\n', "'name' must be of lower-case letters"),
        ("name = 7\n", "'name' must be a line of text, not 7"),
        (SMALL + 'sm = "7"\n', "'sm' must be a compute capability"),
        (SMALL + "sm = 7.5\n", "'sm' must be a compute capability"),
        (SMALL + 'memory_gb = "16"\n', "'memory_gb' must be a number above 0"),
        (SMALL + "memory_gb = true\n", "'memory_gb' must be a number above 0"),
        (SMALL + "memory_gb = -1\n", "'memory_gb' must be a number above 0"),
        (SMALL + "bandwidth_gbs = nan\n", "'bandwidth_gbs' must be a number above 0"),
        (SMALL + "bandwidth_gbs = inf\n", "'bandwidth_gbs' must be a number above 0"),
        (SMALL + 'precisions = "int8"\n', "'precisions' must be a list of texts"),
        (SMALL + "precisions = []\n", "must name at least one precision"),
        (SMALL + 'precisions = ["int9"]\n', "unknown precision 'int9' (did you mean 'int8'?)"),
        (SMALL + "[peaks]\nint88 = 1\n", "'peaks' names the unknown precision 'int88'"),
        (SMALL + "peaks = 3\n", "'peaks' must be a table by precision"),
        (SMALL + "[channel_multiple]\nint8 = 0\n", "a whole number of at least 1, not 0"),
        (SMALL + "[channel_multiple]\nint8 = 8.0\n", "a whole number of at least 1, not 8.0"),
        (SMALL + "dla = -1\n", "'dla' must be a whole number of at least 0"),
        (SMALL + "dla_explicit = 1\n", "'dla_explicit' must be true or false, not 1"),
        (SMALL + "dla_explicit = true\n", "'dla' says there is none"),
        (SMALL + 'sparsity = "yes"\n', "'sparsity' must be true or false"),
        (SMALL + 'tensorrt_versions = "8.5"\n', "'tensorrt_versions' must be a list of texts"),
        (SMALL + "tensorrt_versions = []\n", "must be the oldest and the newest version"),
        (SMALL + "tensorrt_versions = [8.5]\n", "must be a line of text, not 8.5"),
        (SMALL + 'tensorrt_versions = ["10.3", "8.5"]\n', "must be the oldest and the newest"),
        (SMALL + 'tensorrt_versions = ["8", "9", "10"]\n', "must be the oldest and the newest"),
        (SMALL + 'tensorrt_versions = ["v8.5"]\n', "must be the oldest and the newest"),
        (SMALL + "max_opset = 1\n", "'max_opset' must be a whole number of at least 7"),
        (SMALL + 'notes = "a note"\n', "'notes' must be a list of texts"),
        (SMALL + '[sources]\nmemory_gb = "a"\n', "of which the file says nothing"),
        (SMALL + '[sources]\npeaks.int8 = "a"\n', "write dotted names in quotes"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(text, said, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as problem:
        load_device(path)
    assert said in str(problem.value)
    assert str(path) in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load_device(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UsageError, match="cannot read"):
        load_device(tmp_path / "folder.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError):
        load_device(tmp_path / "binary.toml")


def test_a_profile_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_device("t4").name = "t5"  # type: ignore[misc]


def test_the_example_of_the_documentation_loads(tmp_path):
    page = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    path = tmp_path / "example.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0])
    device = load_device(path)
    assert (device.name, device.sm) == ("rtx-4000-ada", (8, 9))
    assert device.unverified() == ("peaks.int8",)
