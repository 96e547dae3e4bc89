from __future__ import annotations

import dataclasses
import importlib
import json
import sys

import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.profiles import DeviceProfile, devices, load_device
from graphopt.profiles.device import PowerMode, split_mode
from graphopt.profiles.device_file import _MODE_READERS, _READERS, device_toml, figures_of
from graphopt.toml import load_toml

OURS = sorted(path.stem for path in (ROOT / "profiles").glob("*.toml"))
SMALL = 'name = "mine"\n'


def test_the_list_of_devices():
    assert devices() == ["host", *OURS]
    assert {"a10", "jetson-agx-orin", "jetson-agx-xavier", "l4", "t4"} <= set(OURS)


ORDINARY = ("title", "notes", "tensorrt", "dla_explicit", "sparsity")
"""What needs no source: words, and flags that the notes explain."""
# INT8 operations of an SM in a clock, dense: docs/devices.md.
OPERATIONS = {(7, 2): 2048, (7, 5): 2048, (8, 6): 2048, (8, 7): 4096, (8, 9): 2048, (12, 0): 2048}
FROM_MEMORY = {"jetson-agx-xavier": ("dla_mhz", "dla_peaks.fp16")}


@pytest.mark.parametrize("name", OURS)
def test_our_files_state_a_source_for_every_figure(name):
    device = load_device(name)
    assert device.name == name
    assert device.title
    needed = {f for f in figures_of(device) if f not in ORDINARY}
    needed -= {f"channel_multiple.{p}" for p, n in device.channel_multiple.items() if n == 8}
    needed -= {"dla"} if not device.dla else set()
    assert needed <= set(device.sources)
    assert all(mode.source for mode in device.power_modes.values())
    assert set(device.peaks) == set(device.precisions)
    if device.sm is not None:
        assert device.multiple("int8") == 32
        assert json.loads(json.dumps(device.to_json()))["sm"] == list(device.sm)
    assert bool(device.dla) is bool(device.dla_peaks)


@pytest.mark.parametrize("name", OURS)
def test_what_nobody_checked_is_marked_and_is_not_more_than_this(name):
    assert load_device(name).unverified() == FROM_MEMORY.get(name, ())


@pytest.mark.parametrize("name", OURS)
def test_the_peaks_follow_from_the_chip(name):
    device = load_device(name)
    clock = device.sms * device.boost_mhz / 1e6
    assert device.peaks["int8"] == pytest.approx(OPERATIONS[device.sm] * clock, rel=0.03)
    assert device.peaks["fp16"] == pytest.approx(device.peaks["int8"] / 2, rel=0.01)
    # 128 cores an SM from GA10x on, 64 before, a multiply and an add each.
    cores = 128 if device.sm >= (8, 6) else 64
    assert device.peaks["fp32"] == pytest.approx(2 * cores * clock, rel=0.03)


def test_those_of_the_accelerators_and_the_memory_too():
    xavier, orin = load_device("xavier"), load_device("orin")
    # Two DLA of 2048 multiply-accumulates; 256 bit and two transfers a clock.
    assert xavier.dla_peaks["int8"] == pytest.approx(2 * 2 * 2048 * xavier.dla_mhz / 1e6, rel=0.03)
    for device in (xavier, orin):
        assert device.bandwidth_gbs == pytest.approx(device.memory_mhz * 64 / 1e3, rel=0.03)
    # NVIDIA's own table of sparse TOPS by mode; at 15 W it counts fewer SM.
    for mode, gpu, dla in (("MAXN", 171, 105), ("50W", 109, 92), ("30W", 41, 90)):
        at = orin.at(mode)
        assert at.peaks["int8"] == pytest.approx(gpu / 2, rel=0.03)
        assert at.dla_peaks["int8"] == pytest.approx(dla / 2, rel=0.03)


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
        (SMALL + "sms = 0\n", "'sms' must be a whole number of at least 1, not 0"),
        (SMALL + "boost_mhz = 0\n", "'boost_mhz' must be a number above 0, not 0"),
        (SMALL + "efficiency = 1.5\n", "'efficiency' must be a share of the peaks"),
        (SMALL + "depthwise = 0\n", "'depthwise' must be a number above 0"),
        (SMALL + "dla_mhz = 1\n", "'dla_mhz' is of a DLA, and 'dla' says there is none"),
        (SMALL + "[dla_peaks]\nint8 = 1\n", "'dla_peaks' is of a DLA"),
        (SMALL + "power_modes = 3\n", "'power_modes' must be tables by name"),
        (SMALL + "[power_modes]\na = 3\n", "'a' is 3"),
        (SMALL + '[power_modes."a b"]\n', "has the name 'a b'"),
        (SMALL + '[power_modes."a.toml"]\n', "has the name 'a.toml'"),
        (SMALL + "[power_modes.a]\n[power_modes.A]\n", "differ in case only"),
        (SMALL + "[power_modes.a]\nwats = 3\n", "'a.wats' (did you mean 'watts'?)"),
        (SMALL + "[power_modes.a]\ncpus = 0\n", "has a 'a.cpus' that must be a whole number"),
        (SMALL + "[power_modes.a]\ngpu_mhz = 9\n", "is a share of 'boost_mhz', which is missing"),
        (
            SMALL + "boost_mhz = 8\n[power_modes.a]\ngpu_mhz = 9\n",
            "'power_modes.a.gpu_mhz' must be at most 'boost_mhz', 8, not 9",
        ),
        (SMALL + "extends = 4\n", "'extends' must be the name of a device, not 4"),
        (SMALL + 'extends = "t5"\n', "'extends': unknown device 't5' (did you mean 't4'?)"),
        (SMALL + 'extends = "host"\n', "'host' has none"),
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
    assert device.at("100W").peaks["int8"] == pytest.approx(213 * 1800 / 2175)
    path.write_text(page.split("```toml\n")[2].split("```")[0])
    own = load_device(f"{path}:20w")
    assert (own.name, own.mode, own.memory_gb) == ("xavier-16gb", "20W", 16)
    assert own.sources["memory_gb"] == "the label on it"
    assert own.peaks["int8"] == pytest.approx(22.6 * 800 / 1377)


NUMBER = st.floats(0.01, 1.0)


@given(NUMBER, NUMBER, NUMBER, st.integers(1, 16))
@settings(max_examples=50, deadline=None)
def test_a_mode_scales_what_it_limits_and_nothing_else(gpu, memory, dla, sms):
    whole = DeviceProfile(
        "d", sms=16, boost_mhz=1000.0, memory_mhz=2000.0, dla=2, dla_mhz=500.0, memory_gb=8.0,
        bandwidth_gbs=100.0, peaks={"int8": 80.0, "fp32": 5.0}, dla_peaks={"int8": 40.0},
    )  # fmt: skip
    limits = PowerMode("m", 10.0, 4, sms, 1000.0 * gpu, 2000.0 * memory, 500.0 * dla, "here")
    at = dataclasses.replace(whole, power_modes={"m": limits}).at("M")
    for precision, peak in whole.peaks.items():
        assert at.peaks[precision] == pytest.approx(peak * gpu * sms / 16)
        assert at.peaks[precision] <= peak * (1 + 1e-9)
    assert at.dla_peaks["int8"] == pytest.approx(40 * dla)
    assert at.bandwidth_gbs == pytest.approx(100 * memory)
    assert (at.mode, at.spelled, at.power_w, at.sms) == ("m", "d:m", 10, sms)
    assert (at.memory_gb, at.dla, at.precisions) == (8, 2, whole.precisions)
    with pytest.raises(UsageError, match="in the power mode m already"):
        at.at("m")


def test_a_mode_that_limits_nothing_changes_nothing():
    xavier = load_device("xavier")
    assert dataclasses.replace(xavier.at("MAXN"), mode="") == xavier
    bare = DeviceProfile("d", peaks={"int8": 1.0}, power_modes={"m": PowerMode("m")})
    assert dataclasses.replace(bare.at("m"), mode="") == bare


@pytest.mark.parametrize(
    ("text", "device", "mode"),
    [
        ("t4", "t4", None),
        ("xavier:30W", "xavier", "30W"),
        ("x.toml:15W", "x.toml", "15W"),
        ("./x.toml", "./x.toml", None),
        (r"C:\x.toml", r"C:\x.toml", None),
        (r"C:\x.toml:15W", r"C:\x.toml", "15W"),
        ("C:/x.toml", "C:/x.toml", None),
        ("a:b.toml", "a:b.toml", None),
        ("a/b:c", "a/b", "c"),
        (":30W", ":30W", None),
        ("t4:", "t4", ""),
    ],
)
def test_a_mode_follows_a_name_or_a_file(text, device, mode):
    assert split_mode(text) == (device, mode)


def test_a_file_that_exists_is_one_whatever_it_is_called(tmp_path):
    path = tmp_path / "odd:name"
    path.write_text(SMALL)
    assert load_device(path).name == "mine"
    assert split_mode("a/" + "b" * 9999 + ":c")[1] == "c"
    assert split_mode("a/\0:c")[1] == "c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("xavier:31W", "no power mode '31W' (did you mean '30W'?); it has MAXN, 10W"),
        ("t4:30W", "'t4' has no power modes: leave ':30W' out"),
        ("host:30W", "'host' has no power modes"),
        ("t40:30W", "unknown device 't40' (did you mean 't4'?)"),
        ("t4:", "leave ':' out"),
    ],
)
def test_a_mode_there_is_not_is_told(text, said):
    with pytest.raises(UsageError) as problem:
        load_device(text)
    assert said in str(problem.value)


@pytest.mark.parametrize("name", OURS)
def test_a_device_is_the_same_after_writing_and_reading(name, tmp_path):
    path = tmp_path / "d.toml"
    path.write_text(device_toml(load_device(name)), encoding="utf-8")
    assert load_device(path) == load_device(name)


def test_what_extends_keeps_what_it_does_not_state(tmp_path):
    path = tmp_path / "d.toml"
    path.write_text(
        'name = "mine"\nextends = "Xavier"\n[peaks]\nint8 = 20\n[power_modes.15W]\nwatts = 14\n'
    )
    own, ours = load_device(path), load_device("xavier")
    assert own.peaks == {**ours.peaks, "int8": 20.0}
    assert list(own.power_modes) == list(ours.power_modes)
    assert own.power_modes["15W"] == PowerMode("15W", watts=14.0)
    assert set(ours.sources) - set(own.sources) == {"peaks.int8"}


def schema_agrees(path, right):
    import jsonschema

    from graphopt import schemas

    raw = load_toml(path)
    validator = jsonschema.Draft202012Validator(schemas.load("device"))
    wrong = [error.message for error in validator.iter_errors(raw)]
    assert (wrong == []) is right, wrong


@pytest.mark.parametrize("name", OURS)
def test_the_schema_takes_our_files(name):
    schema_agrees(ROOT / "profiles" / f"{name}.toml", True)


@pytest.mark.parametrize(
    "text",
    [
        'name = "My Device"\n', "name = 7\n", SMALL + "memroy_gb = 1\n", SMALL + "sms = 0\n",
        SMALL + "sm = 7.5\n", SMALL + "memory_gb = -1\n", SMALL + "precisions = []\n",
        SMALL + "[peaks]\nint88 = 1\n", SMALL + "efficiency = 1.5\n",
        SMALL + '[power_modes."a b"]\n', SMALL + "[power_modes.a]\nwats = 3\n",
        SMALL + "tensorrt_versions = []\n", SMALL + 'title = "a\\nb"\n',
    ],
)  # fmt: skip
def test_the_schema_refuses_what_the_reader_refuses(text, tmp_path):
    path = tmp_path / "d.toml"
    path.write_text(text)
    schema_agrees(path, False)
    with pytest.raises(UsageError):
        load_device(path)


def test_the_schema_and_the_reader_know_the_same_keys():
    from graphopt import schemas

    known = schemas.load("device")["properties"]
    assert set(known) - {"extends"} == set(_READERS)
    modes = known["power_modes"]["additionalProperties"]["properties"]
    assert set(modes) == set(_MODE_READERS)


@pytest.fixture
def tables():
    sys.path.insert(0, str(ROOT / "tools"))
    return importlib.import_module("device_tables")


def test_the_page_is_up_to_date(tables):
    text = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    assert tables.updated(text) == text, "run tools/device_tables.py --write"
    assert tables.updated(text.replace("| `t4` | 7.5", "| `t4` | 7.6")) == text
    with pytest.raises(ValueError, match="table: sources"):
        tables.updated(text.replace("<!-- table: sources -->", ""))
