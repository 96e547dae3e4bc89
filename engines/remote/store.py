"""What a device keeps of ours: one folder per user, files in it by their content.

``${XDG_CACHE_HOME:-$HOME/.cache}/graphopt/`` over there, for nobody else: ``objects/SHA-256``,
``jobs/ID/``, ``timing/NAME``. ``job.sh`` does the work; each call sends it, so that nothing is
installed and no two versions meet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path

from graphopt.engines.remote.link import Link
from graphopt.errors import EnvironmentProblem, OutputError
from graphopt.wording import one_line

# Reading a file of gigabytes to check it, on a slow disk.
CHECK_S = 900.0


@cache
def script(name: str) -> str:
    """Return a script of this package with what it shares; lines that only comment are left out."""
    here = files(__package__)
    text = "".join((here / part).read_text("utf-8") for part in ("shared.sh", name))
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def ask(
    link: Link, root: str, verb: str, *words: str, stdin: bytes | None = None, limit_s: float = 60.0
) -> str:
    """Have ``job.sh`` do one step in the folder ``root``; return what it prints.

    Raises:
        OutputError: the device's disk is full.
        EnvironmentProblem: it refused; LinkLost where the link broke.
    """
    done = link.run(script("job.sh"), verb, root, *words, stdin=stdin, limit_s=limit_s)
    if done.status == 0:
        return done.stdout
    if "No space left" in done.stderr or "quota" in done.stderr.lower():
        raise full(link, root)
    why = one_line(done.stderr) or f"exit status {done.status}"
    raise EnvironmentProblem(f"{link.where} does not do as asked ({verb}): {why}")


def free_kib(link: Link, root: str) -> int | None:
    """Return the KiB that are free where ``root`` lies; None where ``df`` does not say."""
    done = link.run(script("job.sh"), "room", root)
    found = re.search(r"\s(\d{1,15})\s+(?:\d+%|-)\s", done.stdout[:4096])
    return int(found[1]) if found else None


def full(link: Link, root: str, hint: str = "") -> OutputError:
    """Return the error of a device whose disk is full, with what is free."""
    kib = free_kib(link, root)
    free = "" if kib is None else f" ({kib / 1024:.0f} MiB free)"
    folder = f" in {one_line(root)}" if root else ""
    return OutputError(f"no space left on {link.where}{folder}{free}: free some there", hint=hint)


def opened(link: Link, root: str = "") -> str:
    """Make this user's folder on the device, remove the jobs nobody minds, return its path."""
    path = ask(link, root, "open").rstrip("\n")
    if not path.startswith("/") or "\n" in path or "\0" in path:
        raise EnvironmentProblem(f"{link.where} says its folder is {one_line(path) or 'nowhere'}")
    return path


def send(
    link: Link,
    root: str,
    local: Path,
    digest: str,
    progress: Callable[[int, int], None] | None,
    limit_s: float,
) -> bool:
    """Send ``local`` unless the device has it, whole; return whether it was sent."""
    if ask(link, root, "have", digest, limit_s=CHECK_S).strip() == "have":
        return False
    link.put(local, f"{root}/objects/{digest}", progress=progress, limit_s=limit_s)
    return True
