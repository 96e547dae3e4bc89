"""The processor of a Linux machine: what may be used of it, how fast it runs, who else uses it.

On another system most is left out. The kernel's files: Documentation/ABI/testing/
sysfs-devices-system-cpu, admin-guide/pm/cpufreq, admin-guide/cgroup-v1 and -v2, proc(5).
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from graphopt.machine import cpu_count
from graphopt.profiles.host import cpu
from graphopt.profiles.reading import file_text, line, number, spelled
from graphopt.profiles.state.cgroup import cgroup_state
from graphopt.profiles.state.heat import heat_state

_CPUS = "sys/devices/system/cpu"


def cpu_state(root: Path = Path("/")) -> dict[str, str]:
    """Return the state of the processor; never raises."""
    mine = usable_cpus()
    processor = cpu(root / "proc/cpuinfo")
    found = {
        "cpu": processor.model,
        "cores": str(cpu_count()),
        "kernel": platform.release(),
        **_clocks(root, mine),
        **_switches(root),
        **cgroup_state(root),
        **heat_state(root),
        **_load(root, mine),
    }
    online = number(str(os.cpu_count() or ""))
    if online is not None:
        found["cores_online"] = spelled(online)
    memory = _memory_gb(root)
    if memory is not None:
        found["memory_gb"] = spelled(memory)
    return found


def usable_cpus() -> tuple[int, ...]:
    """Return the numbers of the processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _clocks(root: Path, mine: tuple[int, ...]) -> dict[str, str]:
    """Governors and clocks of the processors that may be used; the fastest, the slowest."""
    folders = [root / _CPUS / f"cpu{n}" / "cpufreq" for n in mine]
    found = {"governor": ", ".join(_words(folders, "scaling_governor")) or "unknown"}
    for key, name in (
        ("cpu_driver", "scaling_driver"),
        ("energy_preference", "energy_performance_preference"),
    ):
        words = _words(folders, name)
        if words:
            found[key] = ", ".join(words)
    for key, name in (
        ("cpu_mhz", "scaling_cur_freq"),
        ("cpu_min_mhz", "scaling_min_freq"),
        ("cpu_max_mhz", "scaling_max_freq"),
    ):
        told = [v for f in folders if (v := number(line(f / name))) is not None and v > 0]
        if told:
            found[key] = spelled((min if key == "cpu_min_mhz" else max)(told) / 1e3)
    return found


def _words(folders: list[Path], name: str) -> list[str]:
    return sorted({word for folder in folders if (word := line(folder / name))})[:8]


def _switches(root: Path) -> dict[str, str]:
    found = {}
    smt = line(root / _CPUS / "smt/active")
    if smt in ("0", "1"):
        found["smt"] = "on" if smt == "1" else "off"
    for name, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        told = line(root / _CPUS / name)
        if told in ("0", "1"):
            found["turbo"] = "on" if told == on else "off"
            break
    if " hypervisor " in f" {file_text(root / 'proc/cpuinfo', 1 << 14)} ".replace("\n", " "):
        found["hypervisor"] = (
            line(root / "sys/hypervisor/type")
            or line(root / "sys/class/dmi/id/sys_vendor")
            or "yes"
        )
    for mark, name in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        try:
            if (root / mark).exists():
                found["container"] = name
        except OSError:
            continue
    return found


def _load(root: Path, mine: tuple[int, ...]) -> dict[str, str]:
    """Return the load, and counters that tell who used the processors between two readings."""
    found = {}
    average = number(line(root / "proc/loadavg").partition(" ")[0])
    if average is not None and average >= 0:
        found["load_1m"] = spelled(average, 2)
    used = processor_seconds(file_text(root / "proc/stat"), mine)
    if used is not None:
        busy, stolen = used
        own = os.times()
        found["counter_at_s"] = spelled(time.monotonic(), 3)
        found["counter_busy_s"] = spelled(busy, 2)
        found["counter_stolen_s"] = spelled(stolen, 2)
        found["counter_own_s"] = spelled(sum(own[:4]), 2)
    hot = 0.0
    for n in mine:
        name = root / _CPUS / f"cpu{n}" / "thermal_throttle/core_throttle_count"
        hot += max(number(line(name)) or 0.0, 0.0)
    if hot or (root / _CPUS / "cpu0/thermal_throttle").exists():
        found["counter_cpu_throttled"] = spelled(hot)
    return found


def processor_seconds(text: str, mine: tuple[int, ...]) -> tuple[float, float] | None:
    """Return for how long some processors were busy, and stolen by a hypervisor, in /proc/stat.

    Returns:
        Seconds since the start, summed over the processors; None where one is not listed.
    """
    try:
        tick = float(os.sysconf("SC_CLK_TCK"))
    except (AttributeError, OSError, ValueError):
        return None
    rows: dict[str, list[float | None]] = {}
    for row in text.splitlines():
        name, _, rest = row.partition(" ")
        if name.startswith("cpu"):
            rows[name] = [number(cell) for cell in rest.split()[:8]]
    busy = stolen = 0.0
    for n in mine:
        cells = [c for c in rows.get(f"cpu{n}", []) if c is not None and c >= 0]
        if len(cells) < 8:
            return None
        user, nice, system, _idle, _waiting, irq, soft, steal = cells
        busy += (user + nice + system + irq + soft) / tick
        stolen += steal / tick
    return busy, stolen


def _memory_gb(root: Path) -> float | None:
    for row in file_text(root / "proc/meminfo", 4096).splitlines():
        if row.startswith("MemTotal:"):
            kib = number(row[9:].replace("kB", ""))
            return None if kib is None else kib * 1024 / 1e9
    return None
