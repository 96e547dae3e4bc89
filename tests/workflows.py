"""The shell of a workflow file, read by its indentation: the tests need no YAML package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

PIPELINES = ROOT / "examples" / "pipelines"
GITHUB, GITLAB = PIPELINES / "github.yml", PIPELINES / "gitlab-ci.yml"


@dataclass(frozen=True)
class Step:
    """One step: its name (empty in GitLab), when it runs, its shell script."""

    name: str
    condition: str
    script: str


def variables(path: Path) -> dict[str, str]:
    """Return the variables a workflow sets for all its steps."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line in ("env:", "variables:"))
    found: dict[str, str] = {}
    for line in lines[start + 1 :]:
        entry = re.fullmatch(r"  (\w+): (.*)", line)
        if entry is None:
            break
        found[entry[1]] = entry[2].strip('"')
    return found


def _block(lines: list[str], start: int) -> str:
    """Return the literal block that begins after line ``start``."""
    width = len(lines[start + 1]) - len(lines[start + 1].lstrip())
    found = []
    for line in lines[start + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) < width:
            break
        found.append(line[width:])
    return "\n".join(found).rstrip() + "\n"


def github_steps() -> list[Step]:
    """Return the steps of the GitHub example that run a shell."""
    text = GITHUB.read_text(encoding="utf-8")
    steps = []
    for part in re.split(r"\n      - ", text)[1:]:
        lines = ("        " + part).splitlines()
        keys = {m[1]: m[2] for line in lines if (m := re.fullmatch(r" {8}([\w-]+): (.*)", line))}
        if "run" not in keys:
            continue
        script = keys["run"] + "\n"
        if keys["run"] == "|":
            script = _block(lines, next(i for i, line in enumerate(lines) if "run: |" in line))
        steps.append(Step(keys["name"], keys.get("if", ""), script))
    return steps


def gitlab_scripts(key: str = "script") -> list[str]:
    """Return the entries of ``script``, or of another list of commands, of the GitLab example."""
    lines = GITLAB.read_text(encoding="utf-8").splitlines()
    start = lines.index(f"  {key}:")
    scripts = []
    for i, line in enumerate(lines[start + 1 :], start + 1):
        if line.startswith("  ") and not line.startswith("    "):
            break
        if line == "    - |":
            scripts.append(_block(lines, i))
        elif line.startswith("    - "):
            scripts.append(line[6:] + "\n")
    return scripts
