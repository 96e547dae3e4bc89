"""Another machine: reached over the system's ssh, or this one, by the same calls."""
