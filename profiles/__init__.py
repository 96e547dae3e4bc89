"""Profiles: what is known of a device, and what was measured on one."""

from __future__ import annotations

from graphopt.profiles.device import DeviceProfile, devices, load_device
from graphopt.profiles.latency import LatencyProfile, measure

__all__ = ["DeviceProfile", "LatencyProfile", "devices", "load_device", "measure"]
