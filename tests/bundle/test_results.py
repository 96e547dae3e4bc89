"""Results taken in: the round trip, and everything that is refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from bundle_devices import Device
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.bundle.take import Taken, import_results
from graphopt.engines.sidecar import check_sidecar, read_sidecar
from graphopt.errors import EnvironmentProblem, GraphoptError, OutputExistsError, UsageError
from graphopt.files import sha256
from graphopt.profiles import LatencyProfile

Make = Callable[..., Device]


def take(device: Device, bundles: Path, out: Path, bundle: str = "explicit") -> Taken:
    return import_results(device.results, bundles / f"{bundle}.tar.gz", out, force=False)


def repacked(path: Path, change: Callable[[dict[str, bytes]], None], *, sums: bool = True) -> Path:
    """Pack results again with other files in them, their sums made to fit."""
    import hashlib

    with tarfile.open(path) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
    change(files)
    if sums and "results.sha256" in files:
        files["results.sha256"] = "".join(
            f"{hashlib.sha256(data).hexdigest()}  {name}\n"
            for name, data in files.items()
            if name != "results.sha256"
        ).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def edited(files: dict[str, bytes], **values: str) -> None:
    told = json.loads(files["results.json"])
    files["results.json"] = json.dumps({**told, **values}).encode()


@pytest.mark.parametrize(
    ("bundle", "version"), [("explicit", "8.5.2"), ("implicit", "8.5.2"), ("t4", "10.9.0")]
)
def test_the_round_trip(
    device: Make, bundles: Path, tmp_path: Path, bundle: str, version: str
) -> None:
    jetson = device(bundle, version)
    assert jetson.build().returncode == 0
    out = tmp_path / "taken"
    taken = take(jetson, bundles, out, bundle)
    assert (out / "model.engine").read_bytes() == (jetson.out / "model.engine").read_bytes()
    assert check_sidecar(out / "model.engine") == []
    facts = read_sidecar(out / "model.engine")
    assert facts["runtime_version"] == version
    assert facts["gpu"] == {"name": "Xavier", "sm": "7.2"}
    assert ("--int8" in facts["trtexec"]) == (version == "8.5.2")
    assert "--onnx=model.onnx" in facts["trtexec"]
    profile = LatencyProfile.from_json(json.loads((out / "latency.json").read_text()))
    assert profile == taken.latency
    assert profile.environment["engine_version"] == version
    times = json.loads((jetson.out / "times.json").read_text())
    assert list(profile.samples_ms) == [run["computeMs"] for run in times]
    report = json.loads((out / "report.json").read_text())
    assert {a["path"] for a in report["artifacts"]} | {"report.json"} == {
        p.name for p in out.iterdir()
    }
    for artifact in report["artifacts"]:
        assert sha256(out / artifact["path"]) == artifact["sha256"]
    kinds = {a["kind"] for a in report["artifacts"]}
    assert {"engine", "sidecar", "latency", "layers", "layer-times", "engine-log"} <= kinds
    (metric,) = [m for m in report["metrics"] if m["name"] == "engine latency"]
    assert list(metric["values"].values()) == [profile.p50]
    assert report["stages"][-1]["name"] == "build-bundle"
    with pytest.raises(OutputExistsError):
        take(jetson, bundles, out, bundle)
    again = import_results(jetson.results, bundles / f"{bundle}.tar.gz", out, force=True)
    assert again.report == taken.report


def test_results_of_another_bundle_are_refused(device: Make, bundles: Path, tmp_path: Path) -> None:
    jetson = device()
    jetson.build("--no-profile")
    with pytest.raises(UsageError, match="belongs to another bundle"):
        take(jetson, bundles, tmp_path / "out", "implicit")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match=r"does not belong there|not a bundle"):
        import_results(jetson.results, jetson.results, tmp_path / "out", force=False)


def test_an_engine_that_was_not_timed_is_taken(device: Make, bundles: Path, tmp_path: Path) -> None:
    jetson = device()
    jetson.build("--no-profile")
    taken = take(jetson, bundles, tmp_path / "out")
    assert taken.latency is None
    assert taken.warnings == ("the device did not time the engine",)
    assert not (tmp_path / "out" / "latency.json").exists()


def test_a_failed_build_is_told_by_its_reason(device: Make, bundles: Path, tmp_path: Path) -> None:
    jetson = device(fail={"build": "Error[10]: Could not find any implementation for node conv1"})
    assert jetson.build().returncode == 3
    with pytest.raises(EnvironmentProblem, match="Could not find any implementation") as caught:
        take(jetson, bundles, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert "build.log" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_device_without_hashing_tools(device: Make, bundles: Path, tmp_path: Path) -> None:
    jetson = device()
    jetson.build("--no-profile")

    def unhashed(files: dict[str, bytes]) -> None:
        del files["results.sha256"]
        edited(files, hashes="")

    repacked(jetson.results, unhashed)
    assert any("are not checked" in w for w in take(jetson, bundles, tmp_path / "out").warnings)
    repacked(jetson.results, lambda files: edited(files, hashes="sha256sum"))
    with pytest.raises(UsageError, match=r"lacks results\.sha256"):
        take(jetson, bundles, tmp_path / "out2")


CHANGES: list[tuple[str, Callable[[dict[str, bytes]], None]]] = [
    ("engine was built by TensorRT 8.5", lambda f: (
        f.pop("build.log"), edited(f, tensorrt="8.6.1", banner="8601"))[1]),
    ("its log is of TensorRT 8.5.2", lambda f: edited(f, tensorrt="8.6.1", banner="8601")),
    ("trtexec said v9999", lambda f: edited(f, banner="9999")),
    ("does not tell which TensorRT", lambda f: edited(f, tensorrt="new")),
    ("is not a TensorRT engine", lambda f: f.update({"model.engine": b"ELF" * 100})),
    ("is one of tensorrt-rtx", lambda f: f.update({"model.engine": b"vtrt" + bytes(12)
                                                  + (28).to_bytes(8, "little") + b"\1\7\1\0"})),
    ("has no results.json", lambda f: f.pop("results.json") and None),
    ("has no manifest.json", lambda f: f.pop("manifest.json") and None),
    ("of an engine and has none", lambda f: f.pop("model.engine") and None),
    ("tells of times and has none", lambda f: f.pop("times.json") and None),
    ("not a results.json", lambda f: f.update({"results.json": b"{"})),
    ("was not written by build.sh", lambda f: f.update({"results.json": b"[]"})),
    ("lacks 'status'", lambda f: f.update(
        {"results.json": b'{"kind": "graphopt-results", "schema": 1}'})),
    ("is of schema 7", lambda f: f.update(
        {"results.json": b'{"kind": "graphopt-results", "schema": 7}'})),
    ("is not what trtexec writes", lambda f: f.update({"times.json": b'[{"computeMs": -1}]'})),
    ("belongs to another bundle", lambda f: f.update({"manifest.json": b"{}"})),
    ("does not belong there", lambda f: f.update({"../x": b""})),
    ("does not belong there", lambda f: f.update({"evil.sh": b""})),
    ("does not build by TensorRT 8.5.2 as by 10.0", lambda f: edited(f, line="10.0")),
    ("x.tar.gz: model.engine is not a", lambda f: f.update({"model.engine": b""})),
    ("x.tar.gz: results.json is not a", lambda f: f.update({"results.json": b"[" * 100_000})),
    ("ended with status 1$", lambda f: edited(f, status="failed", exit="9" * 900)),
    ("its log is of TensorRT 10.0.0", lambda f: f.update(
        {"build.log": b"&&&& RUNNING TensorRT.trtexec [TensorRT v100000] # trtexec\n"})),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change"), CHANGES, ids=[w[:30] for w, _ in CHANGES])
def test_what_was_changed_is_refused(
    built: Path,
    bundles: Path,
    tmp_path: Path,
    what: str,
    change: Callable[[dict[str, bytes]], None],
) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(built.read_bytes())
    repacked(path, change)
    with pytest.raises(GraphoptError, match=what) as caught:
        import_results(path, bundles / "explicit.tar.gz", tmp_path / "out", force=False)
    assert str(caught.value).isprintable()
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar.gz"]


def test_sums_that_do_not_fit_are_refused(built: Path, bundles: Path, tmp_path: Path) -> None:
    for what, change in (
        ("times.json is not what the device packed", lambda f: f.update({"times.json": b"[]"})),
        ("does not list time.log", lambda f: f.update(
            {"results.sha256": b"".join(line for line in f["results.sha256"].splitlines(True)
                                        if b"time.log" not in line)})),
        ("lists times.json, which is not there", lambda f: f.pop("times.json") and None),
        ("is not a list of SHA-256 sums", lambda f: f.update({"results.sha256": b"0  x\n"})),
        ("names build.log twice", lambda f: f.update(
            {"results.sha256": f["results.sha256"] + b"0" * 64 + b"  build.log\n"})),
    ):  # fmt: skip
        path = tmp_path / "x.tar.gz"
        path.write_bytes(built.read_bytes())
        repacked(path, change, sums=False)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=what):
            import_results(path, bundles / "explicit.tar.gz", tmp_path / "out", force=False)


def test_another_gpu_than_the_bundle_was_made_for_is_told(
    built: Path, bundles: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(built.read_bytes())
    taken = import_results(path, bundles / "explicit.tar.gz", tmp_path / "1", force=False)
    assert taken.warnings == ()
    repacked(path, lambda f: edited(f, gpu="Orin", sm="8.7"))
    taken = import_results(path, bundles / "explicit.tar.gz", tmp_path / "2", force=False)
    assert taken.warnings == (
        "it was built on Orin of compute capability 8.7, and the bundle is for jetson-agx-xavier, "
        "whose is 7.2",
    )


def test_another_tensorrt_than_the_device_has_is_told(
    device: Make, bundles: Path, tmp_path: Path
) -> None:
    jetson = device(version="8.6.1")
    jetson.build("--no-profile")
    taken = take(jetson, bundles, tmp_path / "out")
    assert any("TensorRT 8.6.1, which jetson-agx-xavier is not" in w for w in taken.warnings)


def test_control_characters_of_a_device_do_not_reach_the_terminal(
    built: Path, bundles: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(built.read_bytes())
    repacked(path, lambda f: edited(f, model="\x1b[31mred\nJetson", gpu="\x07" * 5000))
    taken = import_results(path, bundles / "explicit.tar.gz", tmp_path / "out", force=False)
    assert all(value.isprintable() and len(value) <= 1000 for value in taken.results.told.values())


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.sampled_from(
            ["status", "reason", "timed", "tensorrt", "banner", "hashes", "exit", "gpu"]
        ),
        st.none() | st.integers() | st.text(max_size=8) | st.lists(st.integers(), max_size=2),
    )
)
def test_whatever_the_device_tells_ends_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, built: Path, bundles: Path, told: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("told")
    path = folder / "x.tar.gz"
    path.write_bytes(built.read_bytes())

    def change(files: dict[str, bytes]) -> None:
        files["results.json"] = json.dumps({**json.loads(files["results.json"]), **told}).encode()

    repacked(path, change)
    try:
        import_results(path, bundles / "explicit.tar.gz", folder / "out", force=False)
    except GraphoptError as problem:
        assert str(problem).isprintable()


def test_a_bundle_that_was_changed_is_refused(built: Path, bundles: Path, tmp_path: Path) -> None:
    with tarfile.open(bundles / "explicit.tar.gz") as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
    top = next(iter(files)).partition("/")[0]

    def packed(changes: Mapping[str, bytes | None]) -> Path:
        path = tmp_path / "bundle.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, data in {**files, **{f"{top}/{k}": v for k, v in changes.items()}}.items():
                if data is not None:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return path

    for what, changes in (
        (r"recipe\.toml is not what its manifest says", {"recipe.toml": b""}),
        ("tells of recipe.toml, which is not there", {"recipe.toml": None}),
        (r"does not tell of calibration\.cache", {"calibration.cache": b""}),
        ("not a bundle made by graphopt", {"manifest.json": b"{}"}),
        ("not a bundle made by graphopt", {"manifest.json": None}),
        ("its manifest is damaged", {
            "manifest.json": b'{"kind": "graphopt-bundle", "schema": 1}'}),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=what):
            import_results(built, packed(changes), tmp_path / "out", force=False)
