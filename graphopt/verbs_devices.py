"""What ``graphopt devices`` does: list what is known, show one whole, measure this processor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import UsageError
from graphopt.files import dump_json, write_text
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.profiles import DeviceProfile

UNITS = {
    "boost_mhz": "MHz",
    "memory_gb": "GB",
    "bandwidth_gbs": "GB/s",
    "memory_mhz": "MHz",
    "power_w": "W",
    "dla_mhz": "MHz",
    "launch_us": "us",
}
_OF_PRECISION = {"int8": "TOPS", "fp16": "TFLOPS", "fp32": "TFLOPS"}
OWN_NAME = "my-host"


def run_devices(name: str | None, flags: Mapping[str, Any], ui: Console) -> None:
    """``graphopt devices``.

    Raises:
        UsageError: no such device, or options that do not go together.
        OutputExistsError: the file exists.
    """
    from graphopt.profiles import devices, load_device

    if flags["measure"]:
        if name not in (None, "host"):
            raise UsageError(f"--measure is of the machine it runs on: host, not '{name}'")
        _measure(flags, ui)
        return
    for option in ("output", "threads"):
        if flags[option] is not None:
            raise UsageError(f"--{option} goes with --measure")
    if name is None:
        _list([load_device(each) for each in devices()], ui)
        return
    device = load_device(name)
    if ui.json:
        ui.raw(dump_json({**device.to_json(), "unverified": list(device.unverified())}))
        return
    show(device, ui)


def _list(known: list[DeviceProfile], ui: Console) -> None:
    if ui.json:
        ui.raw(dump_json([d.to_json() for d in known]))
        return
    rows = [
        [
            d.name,
            f"{d.sm[0]}.{d.sm[1]}" if d.sm else "-",
            *[f"{d.peaks[p]:.4g}" if p in d.peaks else "-" for p in ("int8", "fp16")],
            f"{d.bandwidth_gbs:.4g}" if d.bandwidth_gbs else "-",
            f"{d.memory_gb:g} GB" if d.memory_gb else "-",
            str(d.dla or "-"),
            span_of(d) or "-",
            " ".join(d.power_modes) or "-",
            d.title,
        ]
        for d in known
    ]
    head = ["name", "SM", "INT8 TOPS", "FP16 TFLOPS", "GB/s", "memory", "DLA", "TensorRT"]
    ui.table("", [*head, "power modes", "what"], rows)


def show(device: DeviceProfile, ui: Console) -> None:
    """Print one device whole: each figure with its source, and what is done with it."""
    ui.result(f"{device.spelled}: {one_line(device.title or device.name)}")
    rows = [[key, value, one_line(source)] for key, value, source in figures(device)]
    if device.mode:
        source = one_line(device.power_modes[device.mode].source or "the file")
        ui.result(
            f"  in power mode {device.mode}, by {source}: "
            "peaks go with the SM and their clock, the bandwidth with that of the memory; the "
            "sources below are those of the figures without the mode"
        )
    ui.table("", ["figure", "value", "source"], rows)
    if device.power_modes and not device.mode:
        ui.table(
            "power modes, as --device " + device.name + ":MODE",
            ["mode", "W", "CPUs", "SM", "GPU MHz", "memory MHz", "DLA MHz", "INT8 TOPS", "GB/s"],
            [_mode_row(device.at(name)) for name in device.power_modes],
        )
        for source in dict.fromkeys(m.source for m in device.power_modes.values() if m.source):
            ui.result(f"  power modes: {one_line(source)}")
    for note in device.notes:
        ui.result(f"  note: {one_line(note)}")
    ui.result(f"what --device {device.spelled} does")
    for line in uses(device):
        ui.result(f"  {line}")


def figures(device: DeviceProfile) -> Iterator[tuple[str, str, str]]:
    """Yield each figure that is known: key as in the file, value with unit, source."""
    unverified = device.unverified()
    plain = {
        "sm": f"{device.sm[0]}.{device.sm[1]}" if device.sm else None,
        "sms": device.sms,
        "boost_mhz": device.boost_mhz,
        **{f"peaks.{p}": device.peaks.get(p) for p in _OF_PRECISION},
        "bandwidth_gbs": device.bandwidth_gbs,
        "memory_mhz": device.memory_mhz,
        "memory_gb": device.memory_gb,
        "power_w": device.power_w,
        "dla": device.dla or None,
        "dla_mhz": device.dla_mhz,
        **{f"dla_peaks.{p}": device.dla_peaks.get(p) for p in _OF_PRECISION},
        "efficiency": device.efficiency,
        "depthwise": device.depthwise,
        "launch_us": device.launch_us,
        "precisions": " ".join(device.precisions),
        **{f"channel_multiple.{p}": device.channel_multiple.get(p) for p in _OF_PRECISION},
        "max_opset": device.max_opset,
        "tensorrt_versions": span_of(device) or None,
    }
    for key, value in plain.items():
        if value is None:
            continue
        table, _, precision = key.partition(".")
        unit = _OF_PRECISION[precision] if table.endswith("peaks") else UNITS.get(key, "")
        text = value if isinstance(value, str) else f"{value:.6g}"
        source = device.sources.get(key, "")
        if key in unverified and "unverified" not in source:
            source += " (unverified)"
        yield key, f"{text} {unit}".rstrip(), source


def span_of(device: DeviceProfile) -> str:
    """Return the TensorRT versions: ``8.5.2 only``, ``8.5 on``, ``8.5 to 10.7``."""
    texts = (".".join(str(part) for part in version) for version in device.tensorrt_versions)
    spelled = [text.removesuffix(".0") for text in texts]
    if not spelled:
        return ""
    if len(spelled) == 1:
        return f"{spelled[0]} on"
    return f"{spelled[0]} only" if spelled[0] == spelled[1] else " to ".join(spelled)


def uses(device: DeviceProfile) -> Iterator[str]:
    """Yield what ``--device`` decides by it, a line each."""
    from graphopt.engines import ENGINES

    widths = ", ".join(f"{device.multiple(p)} for {p}" for p in device.precisions)
    yield f"pruning without --align leaves multiples of channels: {widths}"
    if device.sm is not None:
        refused = ENGINES.load("tensorrt-rtx")().cannot_build(device, "int8")
        of = f"TensorRT-RTX builds for compute capability {device.sm[0]}.{device.sm[1]}"
        yield f"refused: {refused}" if refused else of
    if device.tensorrt_versions or device.max_opset:
        opset = f", opset {device.max_opset} at most" if device.max_opset else ""
        yield f"models are written for TensorRT {span_of(device) or 'of any version'}{opset}"
    without = [p for p in _OF_PRECISION if p not in device.precisions]
    if without and device.sm is not None:
        yield f"refused: {' and '.join(without)}, which it does not have in hardware"
    if device.sparse_kernels is False:
        yield "refused: 2:4 sparsity, for which it has no kernels"
    if device.dla:
        taken = "Q/DQ or implicit INT8, by the version" if device.dla_explicit else "implicit INT8"
        yield f"--dla takes a core below {device.dla}, {taken}; every tensor is calibrated"
    if device.peaks and device.bandwidth_gbs:
        yield f"graphopt estimate uses {', '.join(_estimated(device))}"
        if device.sm is None:
            yield "graphopt estimate takes all else from constants that were fitted to GPUs only"
    else:
        yield "graphopt estimate needs peaks and bandwidth_gbs, which are not known"


def _estimated(device: DeviceProfile) -> Iterator[str]:
    yield from ("peaks", "bandwidth_gbs", "channel_multiple")
    for key in ("efficiency", "depthwise", "launch_us"):
        if getattr(device, key) is not None:
            yield key


def _mode_row(device: DeviceProfile) -> list[str]:
    mode = device.power_modes[device.mode]
    known = (mode.watts, mode.cpus, mode.sms, mode.gpu_mhz, mode.memory_mhz, mode.dla_mhz)
    scaled = (device.peaks.get("int8"), device.bandwidth_gbs)
    cells = [f"{value:g}" if value is not None else "-" for value in known]
    return [device.mode, *cells, *[f"{value:.3g}" if value else "-" for value in scaled]]


def _measure(flags: Mapping[str, Any], ui: Console) -> None:
    from graphopt.machine import cpu_count
    from graphopt.profiles.device_file import device_toml
    from graphopt.profiles.hostpeaks import host_profile, measure_host, spelled
    from graphopt.verbs import refuse_overwrite

    path: Path | None = flags["output"]
    if path is not None:
        if path.suffix.lower() != ".toml":
            raise UsageError(f"{path}: --device knows a file by its end, .toml")
        refuse_overwrite(path, flags["force"])
    count = flags["threads"] or cpu_count()
    others = [each for each in dict.fromkeys((1, cpu_count())) if each != count]
    ui.info(f"measuring this processor: convolutions and a copy, {_said(count)}")
    found = measure_host(count)
    beside = None
    if others:
        ui.info(f"the same, {_said(others[-1])}")
        beside = measure_host(others[-1])
    device = host_profile(found, OWN_NAME, beside=beside)
    if path is not None:
        write_text(path, device_toml(device))
    if ui.json:
        ui.raw(dump_json(device.to_json()))
        return
    if path is None:
        ui.raw(device_toml(device))
        return
    for each in (found, beside):
        if each is not None:
            ui.result(f"{_said(each.threads)}: {spelled(each)}")
    ui.result(f"wrote {path}, {_said(count)}: graphopt estimate MODEL --device {path}")


def _said(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
