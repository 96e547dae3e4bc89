"""The options that verbs share: each shown once under a title, values checked as they come in."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from graphopt.cli import cli
from graphopt.cli_measure import MEASURING
from graphopt.cli_options import (
    DECIBELS,
    FILE,
    LIMIT,
    POINTS,
    SHARE,
    TEXT,
    TIME,
    Sectioned,
    section,
)
from graphopt.console import Console

SECTIONED = [name for name, verb in cli.commands.items() if isinstance(verb, Sectioned)]
BUILDING = ["build", "optimize", "bundle"]


def help_of(*verb: str) -> str:
    done = CliRunner().invoke(cli, [*verb, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    return done.output


def sections(text: str) -> dict[str, list[str]]:
    """Title -> the first words of its options, in order."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        heading = re.fullmatch(r"([A-Z][\w ]+):", line)
        if heading:
            title = heading[1]
        option = re.match(r"  (?:-\w, )?(--[\w-]+)", line)
        if option and title:
            found.setdefault(title, []).append(option[1])
    return found


def test_the_long_lists_are_sectioned() -> None:
    assert {"build", "optimize"} <= set(SECTIONED)


@pytest.mark.parametrize("verb", SECTIONED)
def test_every_option_stands_exactly_once_under_a_title(verb: str) -> None:
    shown = Counter(name for names in sections(help_of(verb)).values() for name in names)
    context = click.Context(cli.commands[verb])
    options = [
        p
        for p in cli.commands[verb].get_params(context)
        if isinstance(p, click.Option) and not p.hidden
    ]
    assert len(options) > 40 or verb not in BUILDING
    for option in options:
        spelled = {*option.opts, *option.secondary_opts}
        told = [name for name in shown if name in spelled]
        assert len(told) == 1, (option.opts, told)
        assert shown[told[0]] == 1
    assert len(shown) == len(options)


@pytest.mark.parametrize("verb", BUILDING)
def test_titles_come_in_the_order_a_user_decides(verb: str) -> None:
    assert list(sections(help_of(verb))) == [
        "What to do", "Data", "Target", "Limits", "How to quantize", "How to prune", "Output",
        *(["For pipelines"] if verb != "bundle" else []), "Help",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", SECTIONED)
def test_help_comes_last(verb: str) -> None:
    assert list(sections(help_of(verb)).items())[-1] == ("Help", ["--help"])


@pytest.mark.parametrize("verb", SECTIONED)
def test_every_option_has_a_help_line(verb: str) -> None:
    command = cli.commands[verb]
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert getattr(option, "section", None), option.name
            assert option.help.rstrip("]").endswith((".", "]")) or "[" in option.help, option.help


@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_help_fits_a_terminal(verb: str) -> None:
    assert all(len(line) <= 80 for line in help_of(verb).splitlines())


def test_the_first_help_shows_the_way_to_a_server_and_to_a_jetson() -> None:
    text = CliRunner().invoke(cli, ["--help"], env={"COLUMNS": "80"}).output
    assert "--device t4 --host me@server" in text
    assert "graphopt bundle model.onnx --int8 --data images/ --device jetson" in text
    assert "..." not in text.partition("Commands:")[2]  # no verb's line is cut
    assert all(len(line) <= 80 for line in text.splitlines())


def test_the_verbs_that_measure_come_in_the_order_of_their_use() -> None:
    order = [name for name in cli.commands if name in {v.name for v in MEASURING}]
    assert order == ["estimate", "profile", "check", "history", "report", "schema"]


def test_a_group_without_words_shows_its_help() -> None:
    done = CliRunner().invoke(cli, ["history"])
    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")


@pytest.mark.parametrize("words", [["buidl", "x.onnx"], ["history", "lst", "h.db"]])
def test_a_verb_that_is_none_is_answered_once(words: list[str]) -> None:
    said = CliRunner().invoke(cli, words).output
    assert said.lower().count("did you mean") == 1
    assert "no such verb '" in said


def test_the_verbs_of_a_history_are_told_whole() -> None:
    group = cli.commands["history"]
    assert isinstance(group, click.Group)
    assert "..." not in help_of("history").partition("Commands:")[2]
    for name, verb in group.commands.items():
        text = help_of("history", name)
        assert all(len(line) <= 80 for line in text.splitlines())
        if isinstance(verb, Sectioned):
            assert list(sections(text)) == ["Which runs", "Output", "Help"]


@pytest.mark.parametrize(
    "option",
    ["--batch", "--threads", "--opt-shapes", "--data", "--samples", "--seed", "--host",
     "--json", "--history", "--label", "--junit"],
)  # fmt: skip
def test_an_option_has_the_same_words_in_every_verb_that_measures(option: str) -> None:
    told = set()
    for verb in ("estimate", "profile", "check"):
        for param in cli.commands[verb].params:
            if isinstance(param, click.Option) and option in param.opts and param.help:
                told.add(param.help.partition("  [")[0])
    if option == "--batch":
        told.discard("Batch sizes, to sweep.")  # it takes several
    assert len(told) == 1


def test_a_bundle_does_not_offer_what_it_refuses() -> None:
    refused = {"--host", "--trtexec", "--timing-cache", "--calibrate-on-gpu"}
    shown = {name for names in sections(help_of("bundle")).values() for name in names}
    assert not refused & shown
    assert refused <= {name for names in sections(help_of("build")).values() for name in names}


def test_what_shrinks_a_model_comes_first() -> None:
    what = sections(help_of("build"))["What to do"]
    assert {"--int8", "--fp16", "--weights", "--prune"} <= set(what)
    assert set(sections(help_of("build"))["Limits"]) == {"--max-drop", "--min-sqnr"}


def test_options_without_a_title_are_shown_under_help() -> None:
    @click.command(cls=Sectioned)
    @section("Mine", click.option("--one", help="First."), click.option("--two", help="Then."))
    @click.option("--loose", help="Of no section.")
    @click.argument("file")
    def verb(**_: object) -> None: ...

    found = sections(CliRunner().invoke(verb, ["--help"]).output)
    assert found == {"Mine": ["--one", "--two"], "Help": ["--loose", "--help"]}


def test_a_section_takes_its_own_options_alone() -> None:
    @section("B", click.option("--b"))
    @section("A", click.option("--a"))
    @click.option("--before")
    def function(**_: object) -> None: ...

    # Decorators run from the bottom up; click keeps parameters in that order.
    told = {p.opts[0]: getattr(p, "section", None) for p in function.__click_params__}
    assert told == {"--before": None, "--a": "A", "--b": "B"}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (POINTS, ("0", "100", "0.5"), ("-0.1", "100.1", "nan", "inf", "half")),
        (DECIBELS, ("0", "200"), ("-1", "201", "nan", "-inf")),
        (SHARE, ("0.5", "1e-9"), ("0", "1", "nan", "1.5")),
        (TIME, ("0", "1e9"), ("-1", "inf", "nan")),
        (LIMIT, ("0.1", "1e6"), ("0", "-1", "1e12", "nan")),
    ],
)
def test_numbers_are_finite_and_in_range(
    kind: click.ParamType, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    for text in good:
        assert kind.convert(text, None, None) == float(text)
    for text in bad:
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)


def test_names_are_text_that_files_can_carry() -> None:
    assert FILE.convert("a/b.onnx", None, None) == Path("a/b.onnx")
    assert TEXT.convert("bilder/ä", None, None) == "bilder/ä"
    for nothing in ("", "  "):  # a variable of the shell that is not set
        with pytest.raises(click.BadParameter, match="is empty"):
            FILE.convert(nothing, None, None)
    with pytest.raises(click.BadParameter, match="NUL"):
        TEXT.convert("a\0b", None, None)
    with pytest.raises(click.BadParameter, match="not UTF-8"):
        FILE.convert(os.fsdecode(b"\xff.onnx"), None, None)


def test_options_stand_to_the_left_in_a_table_and_figures_to_the_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console().table("", ["n", "words", "x"], [["a", "--int8", "-1.5"], ["b", "--int8 --fp16", "-"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("  a  --int8 ")
    assert lines[2].endswith("     -")
