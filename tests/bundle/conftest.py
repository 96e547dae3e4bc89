"""Makes ``bundle_devices`` and the stand-ins importable; bundles, and devices that run them."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, conv_net, image_samples

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(ROOT / "tests" / "standins"))

from bundle_devices import Device


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folders of ``graphopt optimize``: explicit, implicit, dla, t4."""
    from graphopt import measure
    from graphopt.console import Console
    from graphopt.pipeline import build
    from graphopt.plan import Request
    from graphopt.recipe import Recipe

    folder = tmp_path_factory.mktemp("outputs")
    model = folder / "my 'net' $HOME.onnx"
    conv_net(16).save(model)
    np.savez(folder / "calib.npz", image=image_samples(8))
    conv_net(16, batch=1).save(folder / "fixed.onnx")
    for name, device, quantize in (
        ("explicit", "jetson-agx-xavier", {"int8": True}),
        ("implicit", "jetson-agx-xavier", {"int8": True, "quantization": "implicit"}),
        ("dla", "jetson-agx-xavier", {"int8": True, "fp16": True}),
        ("t4", "t4", {"int8": True, "fp16": True}),
    ):
        recipe = Recipe.from_dict(
            {
                "quantize": quantize,
                "data": {"calibration": str(folder / "calib.npz")},
                "engine": {"device": device, "dla": 0 if name == "dla" else None},
            }
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measure, "SECONDS", 0.01)
            given = folder / "fixed.onnx" if name == "dla" else model
            build(Request(given, recipe, folder / name, build_engine=False), Console(verbosity=-1))
    return folder


@pytest.fixture(scope="session")
def bundles(outputs: Path) -> Path:
    """One bundle for each of them."""
    from graphopt.bundle.pack import pack

    for name in ("explicit", "implicit", "dla", "t4"):
        pack(outputs / name, outputs / f"{name}.tar.gz")
    return outputs


@pytest.fixture
def device(tmp_path: Path, bundles: Path) -> Callable[..., Device]:
    """Unpack a bundle beside a stand-in trtexec."""
    from trtexec import install

    def make(
        bundle: str = "explicit",
        version: str = "8.5.2",
        shell: tuple[str, ...] = ("sh",),
        **behaviour: Any,
    ) -> Device:
        place = tmp_path / "a device's disk" / f"{bundle} {version}"
        with tarfile.open(bundles / f"{bundle}.tar.gz") as archive:
            archive.extractall(place, filter="data")
            folder = place / archive.getnames()[0].partition("/")[0]
        settings = {"gpu": "Xavier", "sm": "7.2", "dla_cores": 2, **behaviour}
        return Device(folder, install(place / "bin", version, **settings), shell)

    return make


@pytest.fixture(scope="session")
def built(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the bundle "explicit", as a Xavier sends them."""
    from trtexec import install

    place = tmp_path_factory.mktemp("built")
    with tarfile.open(bundles / "explicit.tar.gz") as archive:
        archive.extractall(place, filter="data")
        folder = place / archive.getnames()[0].partition("/")[0]
    made = Device(folder, install(place / "bin", "8.5.2", gpu="Xavier", sm="7.2"))
    assert made.build().returncode == 0
    return made.results
