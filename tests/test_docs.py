"""The pages: every link leads somewhere, every command names verbs and options that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from helpers import ROOT

from graphopt.cli import cli

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
# Pages that tell of the past, or of other programs.
DATED = {"CHANGELOG.md"}
FENCE = re.compile(r"^( *)```.*?\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(text: str) -> list[tuple[str, str]]:
    """Every relative link, of pictures too: its path and its anchor; either may be empty."""
    text = FENCE.sub("", text)
    found = re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", text)
    found += re.findall(r"(?:href|src)=\"([^\"#]*)(?:#([^\"]*))?\"", text)
    return [(path, anchor) for path, anchor in found if "://" not in path]


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ +(.*?) *$", FENCE.sub("", text), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def commands(text: str) -> list[list[str]]:
    """The words after ``graphopt`` of every command in a fenced block, up to a pipe or the like."""
    found = []
    for _, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            # At the start of a line or of what follows `&&`; also below a shell's key in YAML.
            for part in re.split(r"&&|\|\||;|\|", line.partition(" #")[0]):
                told = re.match(r"(?:\$ )?(?:\S*/)?graphopt ((?:[a-z-]+|--?\w).*)", part.strip())
                if told:
                    found.append(_words(told[1]))
    return found


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a line of prose, with an apostrophe
        return []


def verb_of(words: list[str]) -> tuple[click.Command | None, list[str]]:
    """The verb that words name, and what follows it; None where there is no such verb."""
    verb: click.Command | None = cli
    while isinstance(verb, click.Group) and words and not words[0].startswith("-"):
        verb, words = verb.commands.get(words[0]), words[1:]
    return verb, words


def wrong(words: list[str]) -> str:
    """What is wrong with a command: its verb, or its options; empty where nothing is."""
    verb, rest = verb_of(words)
    if verb is None:
        return f"no such verb: graphopt {' '.join(words)}"
    context = click.Context(verb)
    known = {o for p in verb.get_params(context) for o in (*p.opts, *p.secondary_opts)}
    known |= {"-h", "--help"}
    # A rational number below zero would be a value; nothing takes one.
    given = [w.partition("=")[0] for w in rest if re.match(r"--?[a-z]", w)]
    unknown = [option for option in given if option not in known]
    return f"{unknown}: graphopt {' '.join(words)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path, anchor in links(text):
        target = page.parent / path if path else page
        assert target.exists(), f"{name(page)} links to {path}"
        assert target.resolve().is_relative_to(ROOT), f"{path} leaves the repository"
        if anchor:
            there = anchors(target.read_text(encoding="utf-8"))
            assert anchor in there, f"{name(page)}: no #{anchor} in {path or 'itself'}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_has_one_title_and_it_comes_first(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1


@pytest.mark.parametrize("page", [p for p in PAGES if name(p) not in DATED], ids=name)
def test_commands_name_verbs_and_options_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [told for words in commands(text) if (told := wrong(words))] == []


@pytest.mark.parametrize("page", [p for p in PAGES if name(p) not in DATED], ids=name)
def test_verbs_in_the_text_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    told = [_words(words) for words in re.findall(r"`graphopt ([a-z][^`]*)`", text)]
    assert [problem for words in told if (problem := wrong(words))] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        for path, _ in links(page.read_text(encoding="utf-8")):
            target = (page.parent / path).resolve()
            # A link to a folder is one to all that is in it.
            todo += sorted(target.glob("*.md")) if target.is_dir() else [target]
    aside = {ROOT / "CHANGELOG.md"}
    assert sorted(name(p) for p in {*PAGES} - reached - aside) == []


def test_the_index_of_benchmarks_has_every_page() -> None:
    index = ROOT / "docs" / "benchmarks.md"
    told = {path for path, _ in links(index.read_text(encoding="utf-8"))}
    there = {f"benchmarks/{p.name}" for p in (ROOT / "docs" / "benchmarks").glob("*.md")}
    assert there <= told


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(p.name[:3]) for p in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_what_is_wrong_is_found() -> None:
    text = "# A b\n```sh\n$ graphopt lint x.onnx\ngraphopt profile \\\n  x --bach 1 # --foo\n```\n"
    assert commands(text) == [["lint", "x.onnx"], ["profile", "x", "--bach", "1"]]
    assert wrong(["lint", "x.onnx"]).startswith("no such verb")
    assert wrong(["history", "lst", "h.db"]).startswith("no such verb")
    assert wrong(["profile", "x", "--bach", "1"]).startswith("['--bach']")
    assert wrong(["history", "list", "h.db", "--limit=3", "-v"]) == ""
    assert anchors("# A b\n## What's `new`, in [C](d.md)?\n") == {"a-b", "whats-new-in-c"}
    assert links("[a](b.md#c) ![d](e.png) [f](#g) [h](https://i)") == [
        ("b.md", "c"), ("e.png", ""), ("", "g")
    ]  # fmt: skip
