"""Which commit and branch a run belongs to, and when it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from graphopt.wording import one_line

# In the order of how much each knows: a merge request's own branch before the one it is tried on.
_COMMIT = (
    "GITHUB_SHA",
    "CI_COMMIT_SHA",
    "BUILD_SOURCEVERSION",
    "CIRCLE_SHA1",
    "BITBUCKET_COMMIT",
    "BUILDKITE_COMMIT",
    "DRONE_COMMIT_SHA",
    "GIT_COMMIT",
)
_BRANCH = (
    "GITHUB_HEAD_REF",
    "GITHUB_REF_NAME",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",
    "CI_COMMIT_REF_NAME",
    "SYSTEM_PULLREQUEST_SOURCEBRANCH",
    "BUILD_SOURCEBRANCH",
    "CIRCLE_BRANCH",
    "BITBUCKET_BRANCH",
    "BUILDKITE_BRANCH",
    "DRONE_SOURCE_BRANCH",
    "CHANGE_BRANCH",
    "GIT_BRANCH",
)
_IN_CI = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "JENKINS_URL")
_DIGEST = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SECONDS = 5.0
_LONGEST = 200


def now() -> str:
    """Return the time in UTC: ``"2026-11-23T04:12:53Z"``."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def place(
    folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Return commit and branch: by the variables of a CI system, else by git; empty if unknown.

    Nothing is ever raised, nor waited for longer than some seconds: a run is worth keeping
    without them.

    Args:
        folder: any of the repository; the current one by default.
        environment: variables; the process's own by default.
    """
    found = os.environ if environment is None else environment
    commit = branch = ""
    # Such names are also a user's own (GIT_BRANCH); they count where a CI system says it is one.
    if any(found.get(name, "").lower() not in ("", "false", "0") for name in _IN_CI):
        commit = next((c for c in (_commit(found.get(n, "")) for n in _COMMIT) if c), "")
        branch = next((b for b in (_branch(found.get(n, "")) for n in _BRANCH) if b), "")
    if not commit:
        commit = _commit(_git(folder, found, "rev-parse", "--verify", "--quiet", "HEAD"))
    if not branch:
        # Of a checkout without a branch there is none to tell.
        branch = _branch(_git(folder, found, "symbolic-ref", "--short", "--quiet", "HEAD"))
    return commit, branch


def _commit(text: str) -> str:
    text = text.strip().lower()
    return text if _DIGEST.fullmatch(text) else ""


def _branch(text: str) -> str:
    """Return a branch's name, in one line: it may hold anything but a few characters."""
    return one_line(text.strip().removeprefix("refs/heads/"), _LONGEST)


def _git(folder: Path | None, environment: Mapping[str, str], *words: str) -> str:
    """Return what git prints, or an empty string.

    The two commands used run no hook, filter, pager or credential helper. A repository of another
    owner (a container's usual case) is refused by git, and so has neither commit nor branch here:
    to trust it is for its owner to say, by ``safe.directory``.
    """
    program = shutil.which("git", path=environment.get("PATH", ""))
    if program is None:
        return ""
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [program, "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *words],
            cwd=folder,
            env={**environment, **quiet},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
