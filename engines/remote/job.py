"""What to have a device do, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from graphopt.errors import UsageError
from graphopt.files import sha256


@dataclass(frozen=True, slots=True)
class Job:
    """A command to be run in a folder of its own on the device.

    Every name is that of a file in that folder: relative, below it. The command sees it as its
    working directory, so its words name files as here.

    Attributes:
        words: the command; no shell reads them.
        inputs: name -> the file here that is laid there. The command must not write to it.
        outputs: name -> where to put it here, once the command has ended with 0.
        optional: those outputs that need not be there.
        caches: name -> the name under which the device keeps it from one job to the next, laid
            there if it has one and taken back if the command ended with 0.
        title: what it does, for whoever waits for the device.
        time_limit_s: the most seconds the command may run; watched over there too.
        output_limit: the most bytes one output may have.
    """

    words: tuple[str, ...]
    inputs: Mapping[str, Path] = field(default_factory=dict)
    outputs: Mapping[str, Path] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    caches: Mapping[str, str] = field(default_factory=dict)
    title: str = "a job"
    time_limit_s: float = 3600.0
    output_limit: int = 8 << 30

    def __post_init__(self) -> None:
        """Refuse names that lead out of the folder.

        Raises:
            ValueError: a name is absolute, empty, or has ``..``; the command is empty.
        """
        if not self.words or any("\0" in w for w in self.words):
            raise ValueError(f"not a command: {self.words!r}")
        for name in (*self.inputs, *self.outputs, *self.caches):
            path = PurePosixPath(name)
            plain = str(path) == name and not path.is_absolute() and ".." not in path.parts
            if not plain or name == "." or "\0" in name:
                raise ValueError(f"not a name for a file in a job's folder: {name!r}")
        for own in self.caches.values():
            if not own or own.startswith(".") or "/" in own or "\0" in own:
                raise ValueError(f"not a name for a cache: {own!r}")

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each input, in the order of names.

        Raises:
            UsageError: one cannot be read.
        """
        found = {}
        for name in sorted(self.inputs):
            try:
                found[name] = sha256(self.inputs[name])
            except OSError as problem:
                why = problem.strerror or problem
                raise UsageError(f"cannot read {self.inputs[name]}: {why}") from problem
        return found

    def identity(self, digests: Mapping[str, str]) -> str:
        """Return what makes two requests the same: a digest of words, inputs and outputs."""
        what = [list(self.words), sorted(digests.items()), sorted(self.outputs)]
        told = json.dumps([*what, sorted(self.caches.items())])
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that came to its end, well or not.

    Attributes:
        status: its exit status; 128 + N where signal N ended it.
        log: what it printed, without control characters; of a long one the first and last parts.
        outputs: name -> the file here, of those it wrote (none where ``status`` is not 0).
        missing: names of outputs it should have written and did not.
        seconds: how long it ran, in whole seconds.
        resumed: an earlier client had started it.
    """

    status: int
    log: str
    outputs: Mapping[str, Path]
    missing: tuple[str, ...]
    seconds: int
    resumed: bool

    @property
    def problem(self) -> str:
        """What went wrong, in a few words; empty where nothing did."""
        if self.status == 137:
            return "was killed (signal 9), as the kernel does when memory runs out"
        if self.status > 128:
            return f"was ended by signal {self.status - 128}"
        if self.status in (126, 127):
            return "could not be started there: no such command, or it may not be run"
        if self.status:
            return f"ended with exit status {self.status}"
        if self.missing:
            return f"ended well but did not write {', '.join(self.missing)}"
        return ""


@dataclass(frozen=True, slots=True)
class Waits:
    """How long to wait for what, in seconds, and how much to keep.

    Attributes:
        reconnect_s: a lost link is tried again for so long.
        orphan_s: a job that no client asks after for so long is stopped and removed there.
        quiet_s: a client not heard of for so long may be succeeded by another with the same
            request.
        queue_s: the longest wait for the device.
        remind_s: how often to say that one waits.
        poll_s, poll_most_s: from the one to the other while the log stands still: asking takes
            time from the device, which is measuring.
        tick_s: how often the device looks after the job.
        grace_s: between asking a process to end and ending it.
        copy_s: the longest one copy may take.
        log_limit: the most bytes of log; a command that prints more is stopped.
        store_limit: the most bytes of files kept on the device for the next job.
        store_days: and for how long, in days, since they were last used.
        root: the folder on the device; empty: this user's cache folder.
        lock: the lock on the device, the same for all who use it.
    """

    reconnect_s: float = 90.0
    orphan_s: int = 600
    quiet_s: int = 30
    queue_s: float = 3600.0
    remind_s: float = 60.0
    poll_s: float = 1.0
    poll_most_s: float = 5.0
    tick_s: float = 1.0
    grace_s: int = 5
    copy_s: float = 3600.0
    log_limit: int = 64 << 20
    store_limit: int = 2 * 10**9
    store_days: int = 7
    root: str = ""
    lock: str = "/tmp/graphopt.lock"
