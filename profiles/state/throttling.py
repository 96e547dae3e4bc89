"""What made a measurement slower or more uneven than the machine can be, and what to do about it.

Told from the states before and after. Only what a user can act on: nothing is said of what cannot
be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from graphopt.profiles.reading import number
from graphopt.profiles.state.comparable import differences
from graphopt.profiles.state.nvidia import REASONS
from graphopt.wording import counted

State = Mapping[str, str]

_HEAT = {REASONS[0x20], REASONS[0x40]}
_POWER = {REASONS[0x04], REASONS[0x80]}
_HARD = {REASONS[0x08]}
_COUNTED = {
    "gpu_counter_sw_power_cap_us": ("its power limit", "power"),
    "gpu_counter_sw_thermal_slowdown_us": ("heat", "heat"),
    "gpu_counter_hw_thermal_slowdown_us": ("heat", "heat"),
    "gpu_counter_hw_power_brake_us": ("a power brake", "power"),
}
_REMEDY = {
    "heat": "cool it, or measure for a shorter time after a pause",
    "power": "take the times for what this limit allows, or raise it (nvidia-smi -pl)",
}
# Less than this is the noise of counters and clocks.
_SHARE_OF_OTHERS = 0.05
_SHARE_STOLEN = 0.01
_SHARE_OF_TIME_HELD = 0.01
_CLOCK_DROP = 0.9


def throttled(before: State, after: State) -> list[str]:
    """Return warnings on what happened between two states, or held throughout; a line each.

    Args:
        before: :func:`~graphopt.profiles.state.read_state` right before the measurement.
        after: the same right after it.
    """
    rules: tuple[Callable[[State, State], Iterator[str]], ...] = (
        _changed,
        _gpu_held,
        _gpu_clock,
        _cpu_held,
        _heat,
        _others,
        _settings,
        _jetson,
    )
    return list(dict.fromkeys(said for rule in rules for said in rule(before, after)))


def _changed(before: State, after: State) -> Iterator[str]:
    for told in differences(before, after):
        said = told.replace(" there, ", " before, ").removesuffix(" here")
        yield f"this changed while it ran: {said} after; measure again"


def _gpu_held(before: State, after: State) -> Iterator[str]:
    """By the counters where a driver has them; else by what holds at the two moments."""
    if any(key in before and key in after for key in _COUNTED):
        took = _grown(before, after, "counter_at_s")
        for key, (why, kind) in _COUNTED.items():
            held = (_grown(before, after, key) or 0.0) / 1e6
            if held > _SHARE_OF_TIME_HELD * (took or 0.0) and held > 0.001:
                yield f"the GPU's clocks were held down for {held:.2g} s by {why}: {_REMEDY[kind]}"
        return
    held_by = {word for state in (before, after) for word in _words(state)}
    if held_by & _HEAT:
        yield f"the GPU slows down for heat ({_listed(held_by & _HEAT)}): {_REMEDY['heat']}"
    if held_by & _POWER:
        yield (
            f"the GPU is held at its power limit ({_listed(held_by & _POWER)}): {_REMEDY['power']}"
        )
    if held_by & _HARD and not held_by & (_HEAT | _POWER):
        yield (
            "the GPU's hardware halves its clocks (hardware slowdown): see to its cooling and its "
            "power cables"
        )


def _words(state: State) -> list[str]:
    return state.get("gpu_throttle", "").split(", ")


def _listed(words: set[str]) -> str:
    return ", ".join(sorted(words))


def _gpu_clock(before: State, after: State) -> Iterator[str]:
    """Only between two states under load: an idle GPU's clock says nothing."""
    busy = all(
        s.get("gpu_pstate") == "P0" and REASONS[0x01] not in _words(s) for s in (before, after)
    )
    was, now = _value(before, "gpu_sm_mhz"), _value(after, "gpu_sm_mhz")
    if busy and was and now is not None and now < _CLOCK_DROP * was:
        yield (
            f"the GPU's clock fell from {was:g} to {now:g} MHz while it ran: hold it (nvidia-smi "
            "-lgc, as root), or measure for a shorter time"
        )


def _cpu_held(before: State, after: State) -> Iterator[str]:
    hot = _grown(before, after, "counter_cpu_throttled")
    if hot:
        yield (
            f"the processor slowed down for heat {counted(int(hot), 'time')}: "
            "cool it, or measure for a shorter time after a pause"
        )
    paused = _grown(before, after, "counter_quota_paused")
    if paused:
        yield (
            f"the container's quota of {after.get('cpu_quota', 'its')} cores paused it "
            f"{counted(int(paused), 'time')}: use no more threads than that, or raise the quota"
        )
    if before.get("governor") == "performance":
        was, now = _value(before, "cpu_mhz"), _value(after, "cpu_mhz")
        if was and now is not None and now < _CLOCK_DROP * was:
            yield (
                f"the processor's clock fell from {was:g} to {now:g} MHz while it ran: turbo does "
                "not last; turn it off, or measure for longer"
            )


def _heat(_before: State, after: State) -> Iterator[str]:
    now, limit = _value(after, "gpu_temp_c"), _value(after, "gpu_slowdown_c")
    if now is not None and limit is not None and now >= limit:
        yield f"the GPU is at {now:g} °C and slows down from {limit:g} °C on: {_REMEDY['heat']}"
    for key in sorted(after):
        if key.startswith("temp_c_"):
            zone = key.removeprefix("temp_c_")
            now, limit = _value(after, key), _value(after, f"temp_limit_c_{zone}")
            if now is not None and limit is not None and now >= limit:
                yield (
                    f"{zone} is at {now:g} °C, and the system slows down from {limit:g} °C on: "
                    f"{_REMEDY['heat']}"
                )


def _others(before: State, after: State) -> Iterator[str]:
    took, cores = _grown(before, after, "counter_at_s"), _value(after, "cores")
    busy, own = _grown(before, after, "counter_busy_s"), _grown(before, after, "counter_own_s")
    if took and cores and busy is not None and own is not None:
        others = (busy - own) / took
        # A tick of the counters is 10 ms, on each processor.
        if others > _SHARE_OF_OTHERS * cores + 0.02 * cores / took:
            yield (
                f"other programs used {others:.2g} of {cores:g} cores while it ran: stop them, or "
                "keep them on other cores (taskset)"
            )
        stolen = _grown(before, after, "counter_stolen_s")
        if stolen and stolen > _SHARE_STOLEN * took * cores:
            yield (
                f"the hypervisor gave {100 * stolen / (took * cores):.2g} % of the processors' "
                "time to other machines: measure on a host that is not shared"
            )
        return
    load = _value(before, "load_1m")
    if load is not None and cores and load > cores / 2:
        yield (f"{load:g} processes ran on {cores:g} cores before it began: wait until it is less")


def _settings(_before: State, after: State) -> Iterator[str]:
    if "powersave" in after.get("governor", "").split(", "):
        yield (
            "the processor's governor is powersave: times depend on how busy it was before; "
            "measure with sudo cpupower frequency-set -g performance"
        )


def _jetson(_before: State, after: State) -> Iterator[str]:
    mode = after.get("power_mode", "unknown")
    if mode != "unknown" and not mode.startswith("MAXN"):
        yield (
            f"nvpmodel says {mode}: figures hold for that mode; sudo nvpmodel -m 0, where MAXN is "
            "wanted (the list: /etc/nvpmodel.conf)"
        )
    if after.get("clocks_fixed") == "no":
        yield (
            "the GPU's clock is not held at its maximum: times vary with load and heat; "
            "sudo jetson_clocks, while timing"
        )


def _value(state: State, key: str) -> float | None:
    return number(state.get(key, ""))


def _grown(before: State, after: State, key: str) -> float | None:
    """Return by how much a counter grew; None where one is missing, or it was set back."""
    was, now = _value(before, key), _value(after, key)
    return now - was if was is not None and now is not None and now >= was else None
