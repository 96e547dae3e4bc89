"""The tables of docs/deploy.md, from the code that decides: what is written for which TensorRT.

python tools/deploy_tables.py            say whether the page is up to date
python tools/deploy_tables.py --write    bring it up to date

``tests/deploy/test_tables.py`` builds every cell that says *stand-in* or *run*, and compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pages import table, up_to_date, with_tables

from graphopt.engines import ENGINES, ShapeRange
from graphopt.engines.releases import DLA, RELEASES, Version, spell_version
from graphopt.engines.target import Target, rtx_target, target_of
from graphopt.engines.trtexec.command import Request, Timing, command
from graphopt.engines.trtexec.features import Features
from graphopt.errors import GraphoptError, UsageError
from graphopt.profiles import DeviceProfile, load_device

PAGE = Path(__file__).resolve().parent.parent / "docs" / "deploy.md"
DEVICES = ("t4", "jetson-agx-xavier", "jetson-agx-orin", "a10", "l4")
MODES = ("--int8", "--int8 --fp16", "--int8 --quantization implicit", "--int8 --dla 0")
RTX = "TensorRT-RTX 1.7"
DECIDES = (
    "--int8",
    "--fp16",
    "--stronglyTyped",
    "--calib",
    "--useDLACore",
    "--allowGPUFallback",
)
"""The flags of trtexec that decide what an engine computes, and where."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What comes of one request for one device and TensorRT.

    Attributes:
        device: the device.
        version: of TensorRT; None stands for TensorRT-RTX.
        mode: the options of the request.
        target: how the model is written, or None where the request is refused.
        flags: what trtexec is told, of :data:`DECIDES`.
        refused: why not, or empty.
    """

    device: str
    version: Version | None
    mode: str
    target: Target | None = None
    flags: tuple[str, ...] = ()
    refused: str = ""

    @property
    def text(self) -> str:
        """The cell of the table."""
        if self.target is None:
            return "refused"
        return f"{self.form}; {self.told} *{'run' if self.version is None else 'stand-in'}*"

    @property
    def form(self) -> str:
        """What the file holds."""
        assert self.target is not None
        if self.target.quantization == "implicit":
            return "cache"
        weights = "int8" if self.target.int8_weights else "fp32"
        casts = " and casts" if "--fp16" in self.mode and self.target.fp16_in_graph else ""
        return f"Q/DQ{casts}, {weights} weights"

    @property
    def told(self) -> str:
        """What trtexec is told."""
        words = " ".join(flag.partition("=")[0] for flag in self.flags)
        return f"`{words}`" if words else "no flag"


def versions() -> list[Version]:
    """Return each version from which on something may differ, oldest first."""
    since = {release.version for release in RELEASES}
    for first, last in DLA:
        since.add(first)
        if last is not None:
            since.add((last[0], last[1] + 1, 0))
    return sorted(since)


def versions_of(device: DeviceProfile) -> list[Version]:
    """Return those that a device runs; where it starts between two, that one."""
    found = []
    for version in versions():
        meant = version
        if device.oldest_tensorrt and version[:2] == device.oldest_tensorrt[:2]:
            meant = max(version, device.oldest_tensorrt)
        try:
            target_of(device, version=meant)
        except UsageError:
            continue
        found.append(meant)
    return found


def cell(device: DeviceProfile, version: Version, mode: str) -> Cell:
    """Return what the code makes of a request."""
    fp16, dla = "--fp16" in mode, 0 if "--dla" in mode else None
    implicit = "implicit" in mode
    try:
        target = target_of(
            device,
            version=version,
            int8=True,
            fp16=fp16,
            quantization="implicit" if implicit else None,
            dla=dla,
        )
        asked = Request(
            onnx="model.onnx",
            save="model.engine",
            int8=target.quantization == "explicit",
            fp16=fp16,
            calibration="calibration.cache" if target.quantization == "implicit" else None,
            dla=dla,
        )
        words = command(asked, Features.of(version)).words
    except GraphoptError as problem:
        return Cell(device.name, version, mode, refused=str(problem))
    flags = tuple(w for w in words if w.partition("=")[0] in DECIDES)
    return Cell(device.name, version, mode, target, flags)


def rtx_cell(device: DeviceProfile, mode: str) -> Cell:
    """Return what TensorRT-RTX makes of a request."""
    engine = ENGINES.load("tensorrt-rtx")
    refused = engine().cannot_build(device, "int8") or ""
    for option, field in (("--dla", "dla"), ("implicit", "implicit")):
        if option in mode and field not in engine.takes:
            refused = f"the engine tensorrt-rtx has no {option}"
    if refused:
        return Cell(device.name, None, mode, refused=refused)
    return Cell(device.name, None, mode, rtx_target(device, int8=True))


def rows_of(device: DeviceProfile) -> Iterator[list[Cell]]:
    """Yield the cells of each version that a device runs, then those of TensorRT-RTX."""
    for version in versions_of(device):
        yield [cell(device, version, mode) for mode in MODES]
    row = [rtx_cell(device, mode) for mode in MODES]
    if not all(each.refused for each in row):
        yield row


def _opset(device: DeviceProfile, version: Version | None) -> int | None:
    target = rtx_target(device) if version is None else target_of(device, version=version)
    return target.max_opset


def devices_table() -> str:
    """Return the table of device, TensorRT, and what is written; equal versions share a row."""
    rows: list[list[str]] = []
    for name in DEVICES:
        device = load_device(name)
        for row in rows_of(device):
            version, opset = row[0].version, str(_opset(device, row[0].version))
            spelled = RTX if version is None else spell_version(version)
            made = [each.text for each in row]
            if rows and rows[-1][0] == name and rows[-1][3:] == made:
                rows[-1][2] = _joined(rows[-1][2], opset, spelled)
                continue
            if version is not None and version == device.newest_tensorrt:
                spelled += " only"
            rows.append([name, spelled, opset, *made])
    return table(["Device", "TensorRT from", "Opset up to", *(f"`{m}`" for m in MODES)], rows)


def _joined(before: str, opset: str, version: str) -> str:
    """Return ``17, 20 from 10.0``; as it was where the opset is the last one."""
    last = before.rpartition(", ")[2].partition(" ")[0]
    return before if last == opset else f"{before}, {opset} from {version}"


_SHAPES = {"x": ShapeRange((1, 3, 32, 32), (8, 3, 32, 32), (16, 3, 32, 32))}
_PLAIN = Request(onnx="model.onnx", save="model.engine")
_LOAD = Request(load="model.engine", timing=Timing())
_ASKED: tuple[tuple[str, Request, Request | None], ...] = (
    ("a build", _PLAIN, None),
    ("dynamic shapes", replace(_PLAIN, profiles=(_SHAPES,)), _PLAIN),
    (
        "a second profile",
        replace(_PLAIN, profiles=(_SHAPES, _SHAPES)),
        replace(_PLAIN, profiles=(_SHAPES,)),
    ),
    ("Q/DQ in the graph", replace(_PLAIN, int8=True), _PLAIN),
    ("Q/DQ, FP16 for the rest", replace(_PLAIN, int8=True, fp16=True), _PLAIN),
    ("a calibration cache", replace(_PLAIN, calibration="calibration.cache"), _PLAIN),
    (
        "a cache, on the DLA",
        replace(_PLAIN, calibration="calibration.cache", dla=0),
        _PLAIN,
    ),
    ("Q/DQ, on the DLA", replace(_PLAIN, int8=True, dla=0), _PLAIN),
    ("`--sparsity 2:4`", replace(_PLAIN, sparsity="enable"), _PLAIN),
    ("`--builder-level`", replace(_PLAIN, level=3), _PLAIN),
    ("`--workspace`", replace(_PLAIN, workspace_bytes=1 << 30), _PLAIN),
    ("a timing cache", replace(_PLAIN, timing_cache="timing.cache"), _PLAIN),
    ("the layers", replace(_PLAIN, layers="layers.json"), _PLAIN),
    ("times", replace(_LOAD, times="times.json"), None),
    ("each layer's time", replace(_LOAD, layer_times="layer-times.json"), _LOAD),
)


def flags_of(version: Version, asked: Request, beside: Request | None) -> tuple[str, ...]:
    """Return the flags that a request adds to another, without their values.

    Raises:
        GraphoptError: this trtexec cannot do it.
    """
    features = Features.of(version)
    words = [w.partition("=")[0] for w in command(asked, features).words]
    known = [] if beside is None else [w.partition("=")[0] for w in command(beside, features).words]
    for word in known:
        if word in words:
            words.remove(word)
    return tuple(dict.fromkeys(words))


def flags_table() -> str:
    """Return the table of what trtexec is told, by version."""
    columns: list[tuple[str, list[str]]] = []
    for release in RELEASES:
        made = [_flags_text(release.version, asked, beside) for _, asked, beside in _ASKED]
        if not columns or columns[-1][1] != made:
            columns.append((release.name, made))
    rows = [[what, *(made[i] for _, made in columns)] for i, (what, _, _) in enumerate(_ASKED)]
    return table(["For", *(f"from {name}" for name, _ in columns)], rows)


def _flags_text(version: Version, asked: Request, beside: Request | None) -> str:
    try:
        flags = flags_of(version, asked, beside)
    except GraphoptError:
        return "refused"
    return " ".join(f"`{flag}`" for flag in flags) or "nothing"


def updated(text: str) -> str:
    """Return the page with each part between its marks made anew.

    Raises:
        ValueError: the page has not the marks.
    """
    return with_tables(text, {"devices": devices_table(), "flags": flags_table()})


if __name__ == "__main__":
    sys.exit(up_to_date(PAGE, updated, __doc__, "deploy_tables.py"))
