"""The contact sheet: checked, decoded and written anew, so that only pixels get into the page."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

from PIL import Image, features

from graphopt.errors import UsageError
from graphopt.html.blocks import Picture, Section, Words
from graphopt.html.source import Built
from graphopt.wording import one_line

SHEET = "contact-sheet.webp"
_LARGEST, _PIXELS, _SIDE = 16 << 20, 24_000_000, 1600
_FORMATS = ("WEBP", "PNG", "JPEG")


def section(built: Built) -> Section | None:
    """Return the section, or None where there is no contact sheet."""
    path = built.folder / SHEET
    if not path.exists():
        return None
    title = "Calibration images"
    try:
        address, width, height = _encoded(path)
    except UsageError as problem:
        return Section("images", title, [Words(f"Left out: {one_line(problem)}")])
    picture = Picture(
        address,
        width,
        height,
        "Contact sheet: images the network was calibrated on, side by side, as it sees them.",
        "As the network sees them: after resizing, cropping and colour order, normalization taken "
        "back. Swapped colours or a missed subject show here and nowhere else.",
    )
    return Section("images", title, [picture])


def _encoded(path: Path) -> tuple[str, int, int]:
    """Return an image as a ``data:`` address, and its size in pixels.

    Raises:
        UsageError: it is no image that may be shown.
    """
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise UsageError(f"{path.name} is no plain file of at most {_LARGEST >> 20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(path.read_bytes()), formats=_FORMATS)
        if image.width * image.height > _PIXELS:
            raise UsageError(f"{path.name} has more pixels than a page can bear")
        image.load()
        kept = image.convert("RGBA" if image.mode in ("RGBA", "LA", "P") else "RGB")
    except UsageError:
        raise
    except Exception as problem:  # decoders raise whatever they like
        raise UsageError(f"{path.name} is no image: {one_line(problem)}") from problem
    if max(kept.size) > _SIDE:
        kept.thumbnail((_SIDE, _SIDE))
    # A fresh image: neither metadata nor further frames come along.
    bare = Image.new(kept.mode, kept.size)
    bare.paste(kept)
    out = io.BytesIO()
    webp = features.check("webp")
    bare.save(out, **({"format": "WEBP", "quality": 80} if webp else {"format": "PNG"}))
    kind = "webp" if webp else "png"
    text = base64.b64encode(out.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{text}", bare.width, bare.height
