"""Take the pictures of reports that the docs show, with a headless Chromium.

python tools/report_images.py RESNET56_BUILD RFB_BUILD

Each is a folder that ``graphopt build`` left; build them on a quiet machine, from relative paths.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from graphopt.html import page_of, read_build, render

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip
WIDTH, MOST = 1100, 250_000
SEARCHED = 700  # rows above the end to look for a gap in


def shoot(browser: str, folder: Path, height: int, *, dark: bool) -> Image.Image:
    """Return the upper part of a build's report."""
    with tempfile.TemporaryDirectory() as scratch:
        page, shot = Path(scratch, "page.html"), Path(scratch, "shot.png")
        page.write_text(render(page_of(read_build(folder))), encoding="utf-8")
        subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={scratch}/profile", f"--screenshot={shot}",
             f"--window-size={WIDTH},{height}",
             f"--blink-settings=preferredColorScheme={0 if dark else 1}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        return trimmed(Image.open(io.BytesIO(shot.read_bytes())).convert("RGB"))


def trimmed(image: Image.Image) -> Image.Image:
    """Cut a picture where the page has a gap: at the end of a section, not within a table."""
    last, blank, best = image.height - 1, 0, (0, image.height)
    for y in range(image.height - SEARCHED, image.height):
        row = image.crop((0, y, image.width, y + 1)).getcolors(2)
        blank = blank + 1 if row is not None and len(row) == 1 else 0
        if y < last and blank >= best[0]:
            best = (blank, y)
    return image.crop((0, 0, image.width, best[1]))


def save(image: Image.Image, target: Path) -> int:
    """Write a PNG of few colours; return its size in bytes."""
    few = image.quantize(192, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    target.parent.mkdir(parents=True, exist_ok=True)
    few.save(target, optimize=True)
    return target.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("resnet56", type=Path)
    parser.add_argument("rfb", type=Path)
    args = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("there is no chromium here", file=sys.stderr)
        return 4
    large = False
    for folder, name, height, dark in (
        (args.resnet56, "report-resnet56.png", 3500, False),
        (args.rfb, "report-rfb.png", 2600, True),
    ):
        size = save(shoot(browser, folder, height, dark=dark), IMAGES / name)
        print(f"{name}: {size / 1e3:.0f} kB")
        large = large or size > MOST
    return int(large)


if __name__ == "__main__":
    sys.exit(main())
