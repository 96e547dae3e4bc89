"""Every option that a message names is one that can be given."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import click
import pytest
from helpers import ROOT

from graphopt.cli import cli
from graphopt.engines.releases import RELEASES
from graphopt.engines.trtexec.features import Features

FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
# Of other programs that messages and commands name: nvidia-smi, docker, tegrastats, jetson_clocks,
# git; and what begins a custom property of CSS.
FOREIGN = {"--query-gpu", "--format", "--gpus", "--interval", "--show"} | {
    "--verify", "--short", "--go-",
}  # fmt: skip
FOLDERS = ("graphopt", "engines", "calibrators", "profiles")


def every(group: click.Group) -> Iterator[click.Command]:
    """Yield all verbs, those of groups too."""
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from every(command)


def options_of(command: click.Command) -> set[str]:
    return {o for p in command.params for o in [*p.opts, *p.secondary_opts]}


def ours() -> set[str]:
    return {option for command in every(cli) for option in options_of(command)}


def spoken(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every text of a module but its docstrings, with its line."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_option_in_a_message_exists(folder: str) -> None:
    theirs = {flag for release in RELEASES for flag in Features.of(release.version).flags}
    known = ours() | theirs | FOREIGN | {"--help", "--version"}
    found, unknown = 0, []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for line, text in spoken(ast.parse(path.read_text(encoding="utf-8"))):
            for flag in FLAG.findall(text):
                found += 1
                if flag not in known:
                    unknown.append(f"{path.relative_to(ROOT)}:{line}: {flag}")
    assert unknown == []
    assert found or folder == "profiles"


@pytest.mark.parametrize("page", ["README.md", *sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))])  # fmt: skip
def test_every_option_of_a_command_in_the_pages_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S))
    commands = re.findall(
        r"^(?:\$ )?graphopt ([a-z-]+) ([^\n|]*)", blocks.replace("\\\n", " "), re.M
    )
    for verb, words in commands:
        assert verb in cli.commands, (page, verb)
        command = cli.commands[verb]
        if isinstance(command, click.Group):
            verb = words.split()[0]
            assert verb in command.commands, (page, verb)
            command = command.commands[verb]
        known = options_of(command)
        for flag in FLAG.findall(words.partition("#")[0]):
            assert flag in known | {"--help"}, (page, verb, flag)
