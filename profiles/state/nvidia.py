"""An NVIDIA GPU as ``nvidia-smi`` tells of it: clocks, power, limits, and what holds its clocks.

Field names: ``nvidia-smi --help-query-gpu`` of drivers 367 to 610. A driver refuses a whole query
for one field it does not know (``Field "x" is not a valid field to query.``), so that is taken
out, or its other name put in, and the query is repeated.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence

from graphopt.profiles.reading import ask, number, spelled
from graphopt.wording import one_line

# Key -> the names of the field, one after the other tried.
FIELDS: dict[str, tuple[str, ...]] = {
    "gpu": ("name",),
    "driver": ("driver_version",),
    "gpu_pstate": ("pstate",),
    "gpu_sm_mhz": ("clocks.sm",),
    "gpu_mem_mhz": ("clocks.mem",),
    "gpu_max_sm_mhz": ("clocks.max.sm",),
    "gpu_app_sm_mhz": ("clocks.applications.graphics",),
    "gpu_app_mem_mhz": ("clocks.applications.memory",),
    "gpu_temp_c": ("temperature.gpu",),
    "gpu_power_w": ("power.draw.instant", "power.draw"),
    "gpu_power_limit_w": ("power.limit",),
    "gpu_persistence": ("persistence_mode",),
    "gpu_compute_mode": ("compute_mode",),
    "gpu_mig": ("mig.mode.current",),
    "gpu_ecc": ("ecc.mode.current",),
    # Renamed in driver 535.
    "gpu_throttle": ("clocks_event_reasons.active", "clocks_throttle_reasons.active"),
}
"""What is asked of every driver."""

COUNTERS: dict[str, str] = {
    "gpu_counter_sw_power_cap_us": "clocks_event_reasons_counters.sw_power_cap",
    "gpu_counter_sw_thermal_slowdown_us": "clocks_event_reasons_counters.sw_thermal_slowdown",
    "gpu_counter_hw_thermal_slowdown_us": "clocks_event_reasons_counters.hw_thermal_slowdown",
    "gpu_counter_hw_power_brake_us": "clocks_event_reasons_counters.hw_power_brake_slowdown",
}
"""Microseconds since the driver was loaded; recent drivers only."""

REASONS: dict[int, str] = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clocks",
}
"""Bits of ``nvmlClocksEventReason*`` (NVML API reference)."""

_NUMBERS = ("_mhz", "_c", "_w", "_us")
_REFUSED = re.compile(r'Field "([\w.]{1,80})" is not a valid field', re.ASCII)
_NOTHING = re.compile(r"\[.*\]|N/A|Unknown.*|Requested functionality.*|", re.IGNORECASE)
_LIMIT_S = 10.0


def nvidia_state() -> dict[str, str]:
    """Return the state of the first GPU this process may use; empty without nvidia-smi.

    Never raises. Nothing that tells one specimen from another (UUID, serial) is asked for.
    """
    until = time.monotonic() + _LIMIT_S
    chosen = {key: names[0] for key, names in FIELDS.items()}
    chosen.update(COUNTERS)
    for _ in range(2 * len(FIELDS)):
        left = until - time.monotonic()
        if not chosen or left <= 0:
            return {}
        query = ",".join(chosen.values())
        answer = ask(
            "nvidia-smi",
            f"--query-gpu={query}",
            "--format=csv,noheader,nounits",
            *("-i", visible_gpu()),
            limit_s=left,
        )
        if answer.status == 0:
            found = parse_row(answer.text, tuple(chosen))
            return {**found, **_limits(until)} if found else {}
        if not _without(chosen, answer.text):
            return {}
    return {}


def parse_row(text: str, keys: Sequence[str]) -> dict[str, str]:
    """Read the first row of ``--format=csv,noheader,nounits``; what has no value is left out."""
    row = next((r for r in text.splitlines() if r.strip()), "")
    cells = [one_line(cell, 80) for cell in row.split(",")]
    if len(cells) != len(keys):
        return {}
    found = {}
    for key, cell in zip(keys, cells, strict=True):
        if key == "gpu_throttle":
            words = decode_reasons(cell)
            if words is not None:
                found[key] = ", ".join(words) or "none"
        elif key.endswith(_NUMBERS):
            value = number(cell)
            if value is not None and value >= 0:
                found[key] = spelled(value, 2)
        elif not _NOTHING.fullmatch(cell):
            found[key] = cell
    return found


def parse_fields(text: str, fields: Sequence[str]) -> dict[str, str]:
    """Read a row by the names of its fields; of two names of one thing the first with a value."""
    names = {name: key for key, group in FIELDS.items() for name in group}
    names.update({name: key for key, name in COUNTERS.items()})
    cells = (next((r for r in text.splitlines() if r.strip()), "")).split(",")
    found: dict[str, str] = {}
    if len(cells) == len(fields):
        for name, cell in zip(fields, cells, strict=True):
            if name in names and names[name] not in found:
                found.update(parse_row(cell, (names[name],)))
    return found


def decode_reasons(mask: str) -> list[str] | None:
    """Return in words why the clocks are held, by a bit mask like ``0x0000000000000004``.

    A bit that is not known is told as it is. None: it is no mask.
    """
    if not re.fullmatch(r"0x[0-9a-fA-F]{1,16}", mask):
        return None
    bits = int(mask, 16)
    return [REASONS.get(1 << n, f"reason {1 << n:#x}") for n in range(64) if bits >> n & 1]


def parse_slowdown(text: str) -> dict[str, str]:
    """Return where the GPU begins to slow down, in ``nvidia-smi -q -d TEMPERATURE``."""
    found = re.search(r"GPU Slowdown Temp +: ([0-9]{1,3}) C", text)
    return {"gpu_slowdown_c": found[1]} if found else {}


def visible_gpu() -> str:
    """Return the GPU to ask after: the first that ``CUDA_VISIBLE_DEVICES`` names, or ``"0"``.

    CUDA counts the fastest first unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` is set; nvidia-smi counts
    by bus. They differ on machines with unlike GPUs only.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return first if re.fullmatch(r"[0-9]{1,3}|GPU-[0-9a-fA-F-]{1,40}", first) else "0"


def _without(chosen: dict[str, str], complaint: str) -> bool:
    """Take refused fields out, or their other names in; False: nothing was refused."""
    refused = set(_REFUSED.findall(complaint))
    keys = [key for key, field in chosen.items() if field in refused]
    for key in keys:
        names = FIELDS.get(key, ())
        later = names[names.index(chosen[key]) + 1 :] if names else ()
        if later:
            chosen[key] = later[0]
        elif key in COUNTERS:  # a driver knows all of them or none
            for counter in COUNTERS:
                chosen.pop(counter, None)
        else:
            del chosen[key]
    return bool(keys)


def _limits(until: float) -> dict[str, str]:
    left = until - time.monotonic()
    if left <= 0:
        return {}
    words = ("nvidia-smi", "-q", "-d", "TEMPERATURE", "-i", visible_gpu())
    answer = ask(*words, limit_s=left)
    return parse_slowdown(answer.text) if answer.status == 0 else {}
