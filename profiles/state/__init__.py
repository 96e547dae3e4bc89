"""The state of this machine: read, never changed. What a latency or a power figure depends on.

Every key has a text; what cannot be read is left out, or ``"unknown"`` where its absence matters.
Nothing that names a person or one specimen (serials, UUIDs, host or user names) is read.
"""

from __future__ import annotations

from graphopt.profiles.state.comparable import differences, fingerprint
from graphopt.profiles.state.throttling import throttled


def read_state() -> dict[str, str]:
    """Return all that is recorded of this machine now, by key; never raises."""
    from graphopt.profiles.state.cpu import cpu_state
    from graphopt.profiles.state.jetson import jetson_state
    from graphopt.profiles.state.nvidia import nvidia_state
    from graphopt.profiles.state.software import software_state

    found: dict[str, str] = {}
    for read in (cpu_state, software_state, nvidia_state, jetson_state):
        found.update(read())
    return dict(sorted(found.items()))


__all__ = ["differences", "fingerprint", "read_state", "throttled"]
