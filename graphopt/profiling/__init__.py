"""What ``graphopt profile`` is made of: points, measured here or there, as a value, shown."""
