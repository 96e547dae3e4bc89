"""Bundles: what a device that cannot be reached builds by itself, and the results that come back."""
