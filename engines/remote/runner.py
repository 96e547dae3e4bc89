"""A job on a device, from here: started or found again, followed, fetched, cleaned up.

The device does the work whether the link is up or not (``runner.sh``); the same request finds it
again, by a digest of the command and its inputs. Every step may be repeated, as a broken link does.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from graphopt.engines.remote.job import Finished, Job, Waits
from graphopt.engines.remote.kept import Log
from graphopt.engines.remote.line import Line
from graphopt.engines.remote.link import Link, LinkLost, Progress
from graphopt.engines.remote.lock import Queue, spell_holder, time_span
from graphopt.engines.remote.store import ask, free_kib, full, opened, script, send
from graphopt.errors import EnvironmentProblem, GraphoptError, OutputError
from graphopt.files import uninterrupted
from graphopt.wording import one_line

OnCopy = Callable[[str, int, int], None]
"""Told the name of the file that is sent or fetched, and how many bytes of how many are there."""

_STATE = re.compile(r"(running|done (\d{1,3}) (exit|limit|log) (\d{1,9}))\n *(\d{1,7})\n")
_FULL = re.compile(r"No space left on device|ENOSPC|Disk quota exceeded", re.IGNORECASE)
# A device that answers nonsense is not asked for ever.
_ATTEMPTS = 8
# Of the log, under an error that has nothing better to tell.
_LAST_LINES = 3
# An offset beyond any log: to be heard of, and told nothing.
_NO_LOG = str(10**12)


def run_job(
    link: Link,
    job: Job,
    *,
    on_line: Callable[[str], None] = lambda _: None,
    on_wait: Callable[[str], None] = lambda _: None,
    on_copy: OnCopy = lambda _name, _at, _size: None,
    waits: Waits | None = None,
) -> Finished:
    """Run ``job`` on the device behind ``link``, alone there, and fetch what it wrote.

    Where the same request was left there, it is taken up. On any error but a lost link, Ctrl-C
    among them, the job is ended there and its folder removed.

    Args:
        link: to the device; the caller closes it. It is used again after it broke.
        job: the command and its files; the folders of its outputs here exist.
        on_line: told each line that the command prints.
        on_wait: told in one line, rarely, who has the device.
        on_copy: told how copies get on.
        waits: how long to wait for what.

    Raises:
        LinkLost: the link is gone for good; the work goes on there for a while.
        OutputError: no space left, there or here.
        EnvironmentProblem: no link; the device is taken; the job took too long, printed too much,
            or was ended there by somebody else.
    """
    waits = waits or Waits()
    line = Line(link, waits.reconnect_s)
    client = _Client(line, job, waits, Log(on_line), on_wait, on_copy)
    try:
        return client.run()
    except LinkLost as problem:
        if not client.begun:
            raise
        raise LinkLost(
            f"the connection to {line.where} was lost and did not come back within "
            f"{time_span(int(waits.reconnect_s))}: the work goes on there for up to "
            f"{time_span(waits.orphan_s)}, and the same command takes it up",
            hint=str(problem),
        ) from problem
    except BaseException:
        with uninterrupted():
            try:
                client.remove()
            except GraphoptError:
                on_wait(
                    f"{line.where} could not be told to end the work: it ends that by itself "
                    f"within {time_span(waits.orphan_s)}"
                )
        raise


class _Client:
    """One client's side of one job."""

    def __init__(
        self,
        line: Line,
        job: Job,
        waits: Waits,
        log: Log,
        on_wait: Callable[[str], None],
        on_copy: OnCopy,
    ) -> None:
        self.line, self.job, self.waits, self.log = line, job, waits, log
        self.on_wait, self.on_copy = on_wait, on_copy
        self.digests: Mapping[str, str] = job.digests()
        self.id = job.identity(self.digests)
        self.token = secrets.token_hex(16)
        self.root = ""
        self.begun = self.resumed = False
        self._offset = 0
        self._since: float | None = None
        self._beaten = 0.0

    def run(self) -> Finished:
        """Attach to the job, see it through, take its outputs, remove it."""
        self.root = self.line.call(lambda link: opened(link, self.waits.root))
        queue = Queue(self.line.where, self.on_wait, self.waits.queue_s, self.waits.remind_s)
        for _ in range(_ATTEMPTS):
            self._attach(queue)
            ended = self._follow(queue)
            if ended is not None:
                finished = self._take(*ended)
                # All is here; what cannot be removed now, the device removes.
                with suppress(GraphoptError):
                    self.remove()
                return finished
        raise EnvironmentProblem(f"{self.line.where} loses each job it is given: is it restarting?")

    def remove(self) -> None:
        """End the job and remove its folder there, unless another client follows it."""
        if self.begun:
            grace = self.waits.grace_s
            words = (self.id, self.token, str(grace))
            self.line.once(
                lambda link: ask(link, self.root, "stop", *words, limit_s=2 * grace + 10)
            )

    def _ask(self, verb: str, *words: str, stdin: bytes | None = None) -> str:
        return self.line.call(lambda k: ask(k, self.root, verb, self.id, *words, stdin=stdin))

    def _attach(self, queue: Queue) -> None:
        """Make the job there or take it up; wait while another client follows it."""
        waits, starting = self.waits, None
        settings = (
            waits.lock,
            one_line(self.job.title, 80),
            str(waits.orphan_s),
            str(waits.quiet_s),
            str(max(1, round(self.job.time_limit_s))),
            str(waits.grace_s),
            str(waits.log_limit),
            f"{waits.tick_s:g}",
            str(waits.store_limit),
            str(waits.store_days),
        )
        text = script("runner.sh").encode()
        while True:
            now = time.monotonic()
            # Whoever began to make it and did not for so long, never will.
            force = "1" if starting is not None and now - starting > waits.quiet_s else "0"
            self.begun = True
            answer = self._ask(
                "attach", self.token, force, *settings, *self.job.words, stdin=text
            ).split()
            if answer[:1] == ["mine"]:
                fresh = answer == ["mine", "new"]
                self.resumed = self.resumed or not fresh
                if fresh:
                    self._offset = 0
                    self.log.clear()
                return
            starting = (starting or now) if answer == ["starting"] else None
            queue.still("the same request is being run there for another client")
            time.sleep(waits.poll_s)

    def _follow(self, queue: Queue) -> tuple[int, str, int] | None:
        """Return exit status, why it ended and its seconds; None: the job is not ours any more."""
        pause, sent = self.waits.poll_s, 0
        while True:
            answer = self._ask("poll", self.token, self.waits.lock, str(self._offset))
            first = answer.partition("\n")[0]
            if first == "inputs":
                queue.over()
                sent += 1
                if sent > _ATTEMPTS:
                    raise self._nonsense(answer)
                self._send()
                continue
            if first in ("none", "lost", "other"):
                if self._since is not None and first != "other":
                    raise EnvironmentProblem(
                        f"the job on {self.line.where} was ended there, by somebody else or by a "
                        "restart: run the same command again",
                        hint=self.log.tail(_LAST_LINES),
                    )
                return None
            if first.startswith("waiting"):
                queue.still(spell_holder(first[8:]))
                time.sleep(self.waits.poll_most_s)  # somebody is measuring there
                continue
            queue.over()
            found = _STATE.match(answer)
            if found is None:
                raise self._nonsense(answer)
            if found[3] == "log":
                return int(found[2]), found[3], int(found[4])
            news = int(found[5])
            self._offset += news
            self.log.take(answer[found.end() :][:news] if news else "")
            if found[2] and not news:
                return int(found[2]), found[3], int(found[4])
            self._in_time()
            pause = self.waits.poll_s if news else min(1.5 * pause, self.waits.poll_most_s)
            if news < 1 << 19:
                time.sleep(0.0 if found[2] else pause)

    def _in_time(self) -> None:
        """Do not rely on the device alone for the time limit."""
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > self.job.time_limit_s + 2 * self.waits.grace_s + 60:
            raise self._too_long()

    def _too_long(self) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"{one_line(self.job.title, 80)} on {self.line.where} took longer than "
            f"{time_span(max(1, round(self.job.time_limit_s)))} and was stopped: allow it more "
            "time",
            hint=self.log.tail(_LAST_LINES),
        )

    def _send(self) -> None:
        """Send what is not there yet, lay it into the job's folder, let the command run."""
        for name in self.digests:
            self.line.call(partial(self._send_one, name))
        inputs = [word for item in self.digests.items() for word in item]
        caches = [word for item in sorted(self.job.caches.items()) for word in item]
        # Where one is missing, somebody cleaned up: the next poll says that inputs are wanted.
        self._ask("go", str(len(self.digests)), *inputs, *caches)

    def _send_one(self, name: str, link: Link) -> None:
        tell = self._progress(link, name)
        local, digest = self.job.inputs[name], self.digests[name]
        send(link, self.root, local, digest, tell, self.waits.copy_s)

    def _fetch_one(self, name: str, link: Link) -> None:
        tell = self._progress(link, name, self.job.output_limit)
        remote = "/".join((self.root, "jobs", self.id, "work", name))
        link.get(remote, self.job.outputs[name], progress=tell, limit_s=self.waits.copy_s)

    def _progress(self, link: Link, name: str, most: int | None = None) -> Progress:
        """Return what shows how a copy gets on, and tells the device that we are still there."""

        def tell(at: int, size: int) -> None:
            if most is not None and max(at, size) > most:
                raise self._too_big(name, size)
            self.line.heard()
            now = time.monotonic()
            if now - self._beaten > self.waits.quiet_s / 3:
                self._beaten = now
                ask(link, self.root, "poll", self.id, self.token, self.waits.lock, _NO_LOG)
            self.on_copy(name, at, size)

        return tell

    def _take(self, status: int, why: str, seconds: int) -> Finished:
        """Return what came of it, its outputs fetched and its caches kept there."""
        where = self.line.where
        if why == "limit":
            raise self._too_long()
        if why == "log":
            raise EnvironmentProblem(
                f"{one_line(self.job.title, 80)} on {where} printed more than "
                f"{self.waits.log_limit >> 20} MiB and was stopped",
                hint=self.log.tail(_LAST_LINES),
            )
        if status:
            self._full_disk()
            return Finished(status, self.log.text(), {}, (), seconds, self.resumed)
        outputs, missing = self._fetch()
        if self.job.caches:
            pairs = [word for item in sorted(self.job.caches.items()) for word in item]
            self._ask("keep", self.token, *pairs)
        return Finished(0, self.log.text(), outputs, missing, seconds, self.resumed)

    def _full_disk(self) -> None:
        """Raise an error that says so where a command failed because the disk is full."""
        told = _FULL.search(self.log.tail(200))
        kib = self.line.call(lambda link: free_kib(link, self.root))
        if told or (kib is not None and kib < 1024):
            raise self.line.call(lambda link: full(link, self.root, self.log.tail(_LAST_LINES)))

    def _fetch(self) -> tuple[dict[str, Path], tuple[str, ...]]:
        """Fetch the outputs there are; return them and the names of those that are not."""
        names = sorted(self.job.outputs)
        sizes = self._ask("sizes", *names).split() if names else []
        if len(sizes) != len(names) or not all(re.fullmatch(r"-|\d{1,18}", s) for s in sizes):
            raise self._nonsense(" ".join(sizes))
        got: dict[str, Path] = {}
        for name, size in zip(names, sizes, strict=True):
            if size == "-":
                continue
            if int(size) > self.job.output_limit:
                raise self._too_big(name, int(size))
            self.line.call(partial(self._fetch_one, name))
            got[name] = self.job.outputs[name]
        return got, tuple(n for n in names if n not in got and n not in self.job.optional)

    def _too_big(self, name: str, size: int) -> OutputError:
        return OutputError(
            f"{one_line(name)} on {self.line.where} has {size} bytes, more than the "
            f"{self.job.output_limit} that are taken"
        )

    def _nonsense(self, answer: str) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"{self.line.where} answers what no job does: {one_line(answer, 80) or 'nothing'}"
        )
