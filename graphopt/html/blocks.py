"""What a page is made of: values that the template knows how to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

Tone = Literal["", "good", "bad", "note"]


@dataclass(frozen=True, slots=True)
class Words:
    """A paragraph."""

    kind: ClassVar[str] = "words"
    text: str
    soft: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Pill:
    """A word that marks a row: ``tone`` is ``"pass"``, ``"fail"`` or ``"soft"``."""

    word: str
    tone: Literal["pass", "fail", "soft"] = "soft"


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        caption: what it shows.
        head: names of the columns.
        rows: of as many cells.
        figures: the columns that hold figures: they stand to the right.
        code: the columns that hold names of the model or files.
        pills: row -> what marks it.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: frozenset[int] = frozenset()
    code: frozenset[int] = frozenset()
    pills: Mapping[int, Pill] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart.

    Attributes:
        svg: made by :mod:`graphopt.charts`, which escapes what it is given.
        caption: how to read it.
        small: one of many.
    """

    kind: ClassVar[str] = "figure"
    svg: str
    caption: str = ""
    small: bool = False


@dataclass(frozen=True, slots=True)
class Gallery:
    """Small charts side by side."""

    kind: ClassVar[str] = "gallery"
    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as a ``data:`` address, made here from pixels."""

    kind: ClassVar[str] = "picture"
    address: str
    width: int
    height: int
    alt: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Details:
    """What is folded away until it is asked for."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Steps:
    """A numbered list: what was done, with what came of it."""

    kind: ClassVar[str] = "steps"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Advice:
    """Something to do, or to know.

    Attributes:
        tone: ``"bad"`` a limit was missed, ``"note"`` worth a thought.
        label: the tone in a word, because colour is not for everybody.
        what: what was found.
        do: what to do; empty where nothing is.
        count: how many alike.
        where: examples, by name.
    """

    kind: ClassVar[str] = "advice"
    tone: Tone
    label: str
    what: str
    do: str = ""
    count: int = 1
    where: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Advices:
    """A list of :class:`Advice`."""

    kind: ClassVar[str] = "advices"
    items: Sequence[Advice]


Block: TypeAlias = (
    "Words | Heading | Table | Figure | Gallery | Picture | Details | Steps | Advices"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure at a glance.

    Attributes:
        name: what it is: ``latency``.
        value: the change, in a few characters: ``3.40x faster``.
        detail: from what to what.
        tone: whether that is good.
        note: the tone in words, for those who do not see colour.
    """

    name: str
    value: str
    detail: str
    tone: Tone = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under a heading.

    Attributes:
        ident: unique within the page.
        title: its heading.
        blocks: what it says.
    """

    ident: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Page:
    """The whole page.

    Attributes:
        title: what is reported on.
        subtitle: what was made of it.
        status: ``"pass"``, ``"fail"`` or ``"none"``: whether limits were met.
        verdict: paragraphs, the first one the plainest.
        tiles: figures at a glance.
        sections: in the order to read them in.
        made_by: the program and its version.
    """

    title: str
    subtitle: str
    status: str
    status_words: str
    verdict: Sequence[str]
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    made_by: str
