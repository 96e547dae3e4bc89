"""A contact sheet: what the network is shown, for people to look at.

Preprocessing that is wrong (colours swapped, a crop that misses the subject, a mean too much) is
seen at once in pictures and nowhere else, so the samples are shown as the network gets them, with
scale, mean and standard deviation taken back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from graphopt.data.dataset import Dataset
from graphopt.data.preprocess import Preprocess
from graphopt.graph import Array

SHOWN = 48
SIDE = 96
GAP = 2
_ACROSS = 12


def contact_sheet(data: Dataset, *, shown: int = SHOWN, side: int = SIDE) -> bytes | None:
    """Return samples side by side as a lossy WebP picture; None where they are no images.

    Args:
        data: of images; ``shown`` of them are taken, evenly spread.
        shown: how many at most.
        side: the longer side of each, in pixels; small images are enlarged without smoothing.

    Raises:
        DataError: a sample is broken.
    """
    if data.preprocess is None or not len(data):
        return None
    name = next(iter(data.inputs))
    batches = data.at_most(shown).batches(1)
    tiles = [_tile(sample, data.preprocess, side) for feeds in batches for sample in feeds[name]]
    return _joined(tiles)


def _tile(sample: Array, how: Preprocess, side: int) -> Image.Image:
    """Return one sample, (C, H, W) or (H, W, C), as it looked before it was normalized."""
    values = sample.astype(np.float64)
    if how.layout == "nchw":
        values = values.transpose(1, 2, 0)
    values = (values * np.asarray(how.std) + np.asarray(how.mean)) / how.scale
    pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if how.color == "bgr":
        pixels = pixels[:, :, ::-1]
    image = Image.fromarray(
        pixels[:, :, 0] if how.color == "gray" else np.ascontiguousarray(pixels)
    )
    image = image.convert("RGB")
    ratio = side / max(image.size)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    method = Image.Resampling.NEAREST if ratio >= 2 else Image.Resampling.LANCZOS
    return image.resize(size, method)


def _joined(tiles: Sequence[Image.Image]) -> bytes:
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    across = min(_ACROSS, len(tiles))
    down = math.ceil(len(tiles) / across)
    sheet = Image.new(
        "RGBA", (across * (width + GAP) - GAP, down * (height + GAP) - GAP), (0, 0, 0, 0)
    )
    for i, tile in enumerate(tiles):
        left = (i % across) * (width + GAP) + (width - tile.width) // 2
        top = (i // across) * (height + GAP) + (height - tile.height) // 2
        sheet.paste(tile, (left, top))
    out = BytesIO()
    sheet.save(out, "WEBP", quality=80, method=4)
    return out.getvalue()
