"""The page in a real browser: widths, the dark, paper."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from graphopt.html import page_of, read_build, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--virtual-time-budget=4000",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]


def chromium(tmp_path: Path, page: Path, *flags: str) -> str:
    """Open a page; return what the browser printed."""
    profile = tmp_path / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()],
        capture_output=True, timeout=120, check=True, text=True, errors="replace",
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def page(build: Callable[[dict[str, Any]], Path], whole: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(render(page_of(read_build(build(whole)))), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_must_be_scrolled_sideways(page: Path, tmp_path: Path, width: int) -> None:
    # The page forbids scripts, so a copy of it in a frame is measured, with its policy taken out.
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    measure = (
        "<script>addEventListener('load',()=>{const d=document.documentElement;"
        "parent.postMessage([d.scrollWidth,d.clientWidth,d.scrollHeight],'*')})</script></body>"
    )
    (tmp_path / "inner.html").write_text(bare.replace("</body>", measure), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<p id=out></p><script>addEventListener('message',"
        "e=>{out.textContent='w='+e.data.join(',')})</script>"
        f'<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>'
    )
    dom = chromium(tmp_path, outer, "--window-size=1400,1000", "--dump-dom")
    found = re.search(r"w=(\d+),(\d+),(\d+)", dom)
    assert found, dom[:400]
    wide, seen, tall = map(int, found.groups())
    assert seen == width
    assert wide <= seen
    assert tall > 2000


def _shot(tmp_path: Path, page: Path, *flags: str) -> Image.Image:
    target = tmp_path / "shot.png"
    target.unlink(missing_ok=True)
    chromium(tmp_path, page, f"--screenshot={target}", "--window-size=1280,900", *flags)
    return Image.open(io.BytesIO(target.read_bytes())).convert("RGB")


def test_it_is_light_and_in_the_dark_it_is_dark(page: Path, tmp_path: Path) -> None:
    light = _shot(tmp_path, page, "--blink-settings=preferredColorScheme=1")
    dark = _shot(tmp_path, page, "--blink-settings=preferredColorScheme=0")
    assert light.getpixel((5, 5)) == (255, 255, 255)
    assert max(dark.getpixel((5, 5))) < 40  # type: ignore[arg-type]
    for image in (light, dark):
        shades = image.convert("L").histogram()
        assert sum(count > 0 for count in shades) > 50  # text and charts, not a bare page
    lit = sum(dark.convert("L").histogram()[160:])
    assert lit > 2000  # text that can be read


def test_it_prints(page: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.pdf"
    chromium(tmp_path, page, f"--print-to-pdf={target}", "--no-pdf-header-footer")
    data = target.read_bytes()
    assert data.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 2 <= pages <= 20


def test_its_policy_stops_scripts_and_the_network(page: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.html"
    set_title = "document.title='ran'"
    inserted = f'<script>{set_title}</script><img src="file:///x" onerror="{set_title}">'
    evil.write_text(page.read_text().replace("</main>", f"{inserted}</main>"), encoding="utf-8")
    dom = chromium(tmp_path, evil, "--dump-dom")
    assert "<title>ran</title>" not in dom
    assert "graphopt report</title>" in dom
