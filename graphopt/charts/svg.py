"""The ground of every chart: elements, escaped text, numbers of fixed decimals, one frame."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

# Restrained, and apart for every kind of colour vision: grey, blue, orange. ``name: (light,
# dark)``; all but ``grid`` and ``before`` reach a contrast of 4.5 on white and on #14171c.
COLOURS = {
    "ink": ("#1f2328", "#e6e8eb"),
    "soft": ("#59626d", "#a3acb8"),
    "grid": ("#d9dde2", "#363c45"),
    "before": ("#767f8b", "#8b95a3"),
    "after": ("#1a62b5", "#6cabf5"),
    "third": ("#0f766e", "#4cc3b5"),
    "fourth": ("#7a4fa8", "#bd97ea"),
    "warn": ("#b3500b", "#f2a154"),
}
# Series of a chart, in order.
PALETTE = ("after", "warn", "third", "fourth", "before", "soft")


def _sheet() -> str:
    rules = [
        f".go-f-{n}{{fill:var(--go-{n},{light})}}.go-s-{n}{{stroke:var(--go-{n},{light})}}"
        for n, (light, _) in COLOURS.items()
    ]
    dark = "".join(f"--go-{name}:{value};" for name, (_, value) in COLOURS.items())
    return "".join(rules) + f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


STYLE = _sheet()
"""Rules for the classes of all charts, dark colours included."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
SIZE = 12.0
_SPACES = "\t\n\N{NO-BREAK SPACE}"
# The mean advance of a glyph of a sans-serif at size 1: layout only, never correctness.
_ADVANCE = 0.61


def finite(values: Iterable[float], what: str = "a value") -> list[float]:
    """Return floats.

    Raises:
        ValueError: one is NaN or infinite.
    """
    found = [float(value) for value in values]
    if not all(math.isfinite(value) for value in found):
        raise ValueError(f"{what} is not finite")
    return found


def number(value: float) -> str:
    """Write a coordinate: two decimals at most, no exponent, no negative zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def clean(text: str) -> str:
    """Escape a text, for content and attributes; what XML cannot hold becomes ``?``."""
    kept = "".join(
        c if c in _SPACES or (c.isprintable() and not 0xD800 <= ord(c) <= 0xDFFF) else "?"
        for c in text
    )
    return escape(kept, quote=True)


def shorten(text: str, most: int) -> str:
    """Cut a name in its middle: both ends of a node's name tell it apart."""
    if len(text) <= most:
        return text
    head = max((most - 1) // 2, 1)
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def tell_apart(texts: Sequence[str], most: int) -> list[str]:
    """Cut names that stand together so that those that differ still do, where that can be.

    Where the middles that :func:`shorten` takes are what tells names apart, what they have in
    common at their ends is left out instead.
    """
    cut = [shorten(text, most) for text in texts]
    if len(set(cut)) == len(set(texts)):
        return cut
    head = _alike(texts)
    tail = _alike([text[head:][::-1] for text in texts])
    # Digits before the first difference belong to the number that differs.
    while head and texts[0][head - 1].isdigit():
        head -= 1
    found = []
    for text in texts:
        core = text[head : len(text) - tail]
        spare = max(most - 2 - len(core), 0)
        end = min(len(text), head + len(core) + spare)
        found.append(f"{'…' if head else ''}{shorten(text[head:end], most - 2)}"
                     f"{'…' if end < len(text) else ''}")  # fmt: skip
    return found if len(set(found)) > len(set(cut)) else cut


def _alike(texts: Sequence[str]) -> int:
    """Return how many characters all texts begin with alike."""
    first, last = min(texts), max(texts)
    ends = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return next(ends, min(len(first), len(last)))


def extent(text: str, size: float = SIZE) -> float:
    """Estimate how wide a text is drawn."""
    return len(text) * size * _ADVANCE


@dataclass(slots=True)
class Drawing:
    """An SVG being drawn, in user units with the origin at the upper left.

    Attributes:
        width, height: of the drawing.
        title: its name; assistive technology reads it first.
        desc: what it shows, in words.
        ident: unique within a page; made from the title where it is empty.
        alone: whether the style sheet goes into the SVG.
    """

    width: float
    height: float
    title: str
    desc: str = ""
    ident: str = ""
    alone: bool = False
    parts: list[str] = field(default_factory=list)

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        colour: str,
        *,
        thick: float = 1,
        dash: str = "",
    ) -> None:
        """Draw a straight line."""
        (x1, y1), (x2, y2) = start, end
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
            f'{_paint("s", colour)} stroke-width="{number(thick)}"{dashed}/>'
        )

    def path(
        self,
        points: Iterable[tuple[float, float]],
        colour: str,
        *,
        thick: float = 1.6,
        dash: str = "",
        filled: float | None = None,
    ) -> None:
        """Draw a line through points; with ``filled``, an area of that opacity instead."""
        data = "L".join(f"{number(x)} {number(y)}" for x, y in points)
        if not data:
            return
        if filled is not None:
            style = f'{_paint("f", colour)} fill-opacity="{number(filled)}" stroke="none"'
            self.parts.append(f'<path d="M{data}Z"{style}/>')
            return
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<path d="M{data}" fill="none"{_paint("s", colour)} stroke-width="{number(thick)}" '
            f'stroke-linejoin="round" stroke-linecap="round"{dashed}/>'
        )

    def rect(
        self, x: float, y: float, width: float, height: float, colour: str, *, opacity: float = 1
    ) -> None:
        """Draw a filled rectangle."""
        clear = f' fill-opacity="{number(opacity)}"' if opacity < 1 else ""
        self.parts.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(max(width, 0))}" '
            f'height="{number(max(height, 0))}"{_paint("f", colour)}{clear}/>'
        )

    def dot(
        self,
        at: tuple[float, float],
        radius: float,
        colour: str,
        *,
        opacity: float = 1,
        name: str = "",
        hollow: bool = False,
    ) -> None:
        """Draw a dot; ``name`` shows where the pointer rests on it."""
        tip = f"<title>{clean(name)}</title>" if name else ""
        clear = f' fill-opacity="{number(opacity)}"' if opacity < 1 else ""
        paint = f' fill="none"{_paint("s", colour)} stroke-width="1.6"'
        paint = paint if hollow else f"{_paint('f', colour)}{clear}"
        head = f'<circle cx="{number(at[0])}" cy="{number(at[1])}" r="{number(radius)}"{paint}'
        self.parts.append(f"{head}>{tip}</circle>" if tip else f"{head}/>")

    def text(
        self,
        at: tuple[float, float],
        text: str,
        colour: str = "ink",
        *,
        anchor: str = "start",
        size: float = SIZE,
        bold: bool = False,
        full: str = "",
    ) -> None:
        """Write a text; ``full`` shows where the pointer rests on it, if that is longer."""
        heavy = ' font-weight="600"' if bold else ""
        sized = f' font-size="{number(size)}"' if size != SIZE else ""
        aligned = f' text-anchor="{anchor}"' if anchor != "start" else ""
        tip = f"<title>{clean(full)}</title>" if full and full != text else ""
        self.parts.append(
            f'<text x="{number(at[0])}" y="{number(at[1])}"{aligned}{sized}{heavy}'
            f"{_paint('f', colour)}>{clean(text)}{tip}</text>"
        )

    def finish(self) -> str:
        """Return the element."""
        digest = hashlib.sha256(self.title.encode("utf-8", "replace")).hexdigest()
        ident = clean(self.ident or f"c{digest[:8]}")
        size = f"{number(self.width)} {number(self.height)}"
        style = f"<style>{STYLE}</style>" if self.alone else ""
        told = f'<desc id="{ident}-d">{clean(self.desc)}</desc>' if self.desc else ""
        by = f"{ident}-t {ident}-d" if self.desc else f"{ident}-t"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" '
            f'width="{number(self.width)}" height="{number(self.height)}" role="img" '
            f'aria-labelledby="{by}" font-family="{clean(FONT)}" font-size="{number(SIZE)}">'
            f'<title id="{ident}-t">{clean(self.title)}</title>{told}{style}'
            f"{''.join(self.parts)}</svg>"
        )


def _paint(kind: str, colour: str) -> str:
    attribute = "fill" if kind == "f" else "stroke"
    return f' class="go-{kind}-{colour}" {attribute}="{COLOURS[colour][0]}"'


def nothing(width: float, title: str, desc: str, ident: str, *, alone: bool) -> str:
    """Return a chart that says that there is nothing to show."""
    drawing = Drawing(width, 60, title, desc or "No values.", ident, alone)
    drawing.text((width / 2, 34), "no values", "soft", anchor="middle")
    return drawing.finish()
