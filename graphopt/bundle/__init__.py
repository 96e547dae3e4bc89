"""Bundles: what a device out of reach builds by itself, and the results that come back."""
