"""Power and energy: what a workload draws, by the meters that this machine has."""

from __future__ import annotations

from graphopt.profiles.power.measure import PowerResult, power_pass, summarize

__all__ = ["PowerResult", "power_pass", "summarize"]
