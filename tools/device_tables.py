"""The tables of docs/devices.md: what our files say of each device, and where each figure is from.

python tools/device_tables.py            say whether the page is up to date
python tools/device_tables.py --write    bring it up to date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pages import table, up_to_date, with_tables

from graphopt.profiles import DeviceProfile, devices, load_device
from graphopt.verbs_devices import figures, span_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "devices.md"


def ours() -> list[DeviceProfile]:
    """Return the devices that have a file of ours."""
    return [load_device(name) for name in devices() if name != "host"]


def devices_table() -> str:
    """Return a row for each device."""
    head = ["Device", "SM", "INT8 / FP16 / FP32", "DLA INT8", "GB/s", "GB", "W", "TensorRT"]
    return table(head, [_row(device) for device in ours()])


def _row(device: DeviceProfile) -> list[str]:
    assert device.sm is not None
    return [
        f"`{device.name}`",
        f"{device.sm[0]}.{device.sm[1]}, {device.sms} x {_number(device.boost_mhz)} MHz",
        " / ".join(_number(device.peaks.get(p)) for p in ("int8", "fp16", "fp32")),
        f"{device.dla} x {_number(device.dla_peaks['int8'] / device.dla)}" if device.dla else "-",
        _number(device.bandwidth_gbs),
        _number(device.memory_gb),
        _number(device.power_w),
        span_of(device),
    ]


def modes_table() -> str:
    """Return a row for each power mode of each device."""
    head = ["`--device`", "W", "CPUs", "SM", "GPU MHz", "memory MHz", "DLA MHz"]
    rows = []
    for device in ours():
        for name, mode in device.power_modes.items():
            at = device.at(name)
            limits = (mode.watts, mode.cpus, mode.sms, mode.gpu_mhz, mode.memory_mhz, mode.dla_mhz)
            scaled = (at.peaks["int8"], at.dla_peaks["int8"], at.bandwidth_gbs)
            cells = [f"{value:.3g}" for value in scaled if value is not None]
            rows.append([f"`{at.spelled}`", *map(_number, limits), *cells])
    return table([*head, "INT8 TOPS", "DLA INT8", "GB/s"], rows)


def sources_list() -> str:
    """Return every source once, with the figures it gives, device by device."""
    return "\n".join(_sources())


def _sources() -> Iterator[str]:
    for device in ours():
        yield f"**{device.title}**"
        yield ""
        given: dict[str, list[str]] = {}
        for key, value, source in figures(device):
            if source:
                given.setdefault(source, []).append(f"{key} {value}")
        for name, mode in device.power_modes.items():
            given.setdefault(mode.source, []).append(f"power mode {name}")
        for source, keys in given.items():
            yield f"- {', '.join(keys)}: {_linked(source)}"
        yield ""


def _linked(text: str) -> str:
    return re.sub(r"(https?://[^\s,]+?)(?=[,:;)]*(?:\s|$))", r"<\1>", text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def updated(text: str) -> str:
    """Return the page with each part between its marks made anew.

    Raises:
        ValueError: the page has not the marks.
    """
    return with_tables(
        text, {"devices": devices_table(), "modes": modes_table(), "sources": sources_list()}
    )


if __name__ == "__main__":
    sys.exit(up_to_date(PAGE, updated, __doc__, "device_tables.py"))
