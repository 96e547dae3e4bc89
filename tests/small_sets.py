"""What the tests of data share: small image folders, inputs to feed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from graphopt.data.preprocess import Preprocess
from graphopt.model import Feeds

F32 = np.dtype(np.float32)
IMAGE = {"image": (F32, ("N", 3, 4, 6))}
VECTOR = {"x": (F32, ("N", 3))}
RAW = Preprocess(scale=1.0)


def paint(path: Path, seed: int = 0, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    """Write a random image, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def labelled(root: Path, counts: dict[str, int]) -> Path:
    seed = 0
    for name, count in counts.items():
        for i in range(count):
            seed += 1
            paint(root / name / f"{i:03}.png", seed)
    return root


def joined(batches: list[Feeds], name: str) -> np.ndarray:
    return np.concatenate([b[name] for b in batches])
