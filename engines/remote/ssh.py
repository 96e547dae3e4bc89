"""Another machine, through the system's ssh, as its user has set that up.

Configuration, keys, agent, jump hosts and known hosts are ssh's own business; no check of it is
turned off. Many commands share one connection: the user's, where ssh_config names a ControlPath,
else one of our own, in a private folder, ended by :meth:`SshLink.close`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.engines.remote.complaints import nothing_ran, problem_of
from graphopt.engines.remote.hosts import Host, parse_host
from graphopt.engines.remote.link import LinkLost
from graphopt.engines.remote.process import NotStarted, Talk, TimeUp, converse
from graphopt.engines.remote.scripted import ScriptLink
from graphopt.engines.remote.talk import NOISE, Frame, Tail
from graphopt.errors import EnvironmentProblem, MissingDependencyError
from graphopt.files import uninterrupted

if TYPE_CHECKING:
    from graphopt.engines.remote.link import Link

CONNECT_S = 60.0
ASKING_S = 180.0  # a person types a password, or compares a fingerprint
FAILED = 255  # ssh's exit status for any trouble of its own

# sun_path holds 104 bytes on some systems, and ssh adds 17 while it makes the socket.
_SOCKET_PATH = 85
# What ssh_config may hold for people's own sessions and commands cannot have: what it must be.
_FOR_COMMANDS = {
    "remotecommand": "none",
    "sessiontype": "default",
    "stdinnull": "no",
    "forkafterauthentication": "no",
}
# -N and -f say the rest, and -N bears no SessionType beside it.
_FOR_MASTER = {"remotecommand": "none"}


class SshLink(ScriptLink):
    """Runs scripts on another machine; connects when the first one is run.

    One connection that does not answer in time is given up, and the next script makes another;
    so one link is for one task at a time, and two tasks take two links.

    Args:
        host: a value of ``--host``, or one that was read already.

    Raises:
        UsageError: no host is named by that.
    """

    def __init__(self, host: str | Host) -> None:
        self.host = parse_host(host) if isinstance(host, str) else host
        self.where = str(self.host)
        self._settings: dict[str, str] | None = None
        self._folder: Path | None = None
        self._shares = True
        self._met = False
        self._terminal = False

    def __enter__(self) -> SshLink:
        """Return itself; the connection is made when it is needed."""
        return self

    def close(self) -> None:
        """End our own connection; what was started over there is left."""
        with uninterrupted():
            folder, self._folder = self._folder, None
            if folder is None:
                return
            try:
                self._end_master(folder / "s")
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    # -- what ScriptLink asks ------------------------------------------------------------------

    def _words(self, line: str) -> list[str]:
        return [*self._options(), *self._control(), *self.host.words(), line]

    def _detached(self) -> bool:
        return self._folder is not None or not self._terminal

    def _broken(self) -> None:
        self.close()

    def _absent(self, why: str) -> Exception:
        return MissingDependencyError(
            f"ssh cannot be started ({why}): install it, e.g. apt-get install openssh-client"
        )

    def _failed(self, status: int, out: Frame, err: Frame) -> Exception:
        said = err.outside.text()
        if out.begun:
            self._met = True
            problem: Exception = problem_of(self.where, said, met=True)
            if not isinstance(problem, LinkLost):  # its login's noise looked like a complaint
                problem = LinkLost(f"the connection to {self.where} broke")
        elif status in (FAILED, -signal.SIGTERM, -signal.SIGKILL):
            problem = problem_of(self.where, said, met=self._met)
        else:
            return nothing_ran(self.where, status, said or out.outside.text())
        self._broken()
        return problem

    def _ready(self, limit_s: float) -> None:
        """Make our own connection unless it stands, or the user's is to be used."""
        if self._settings is None:
            self._terminal = _may_ask_on_terminal()
            self._settings = self._read_settings()
            self._shares = self._settings.get("controlpath", "none") == "none" and (
                self._settings.get("controlmaster", "false") in ("false", "no")
            )
        if not self._shares or (self._folder is not None and (self._folder / "s").exists()):
            return
        self.close()
        with uninterrupted():
            self._folder = _socket_folder()
        if self._folder is None:
            self._shares = False
            return
        try:
            self._start_master(limit_s)
        except BaseException:
            self.close()
            raise

    # -- ssh's words ---------------------------------------------------------------------------

    def _options(self, overruled: Mapping[str, str] = _FOR_COMMANDS) -> list[str]:
        """Return ssh and the options that every call has."""
        settings = self._settings or {}
        words = ["ssh", "-T"]
        if not self._terminal and not _has_askpass():
            words += ["-o", "BatchMode=yes"]
        if settings.get("connecttimeout", "none") == "none":
            words += ["-o", "ConnectTimeout=15"]
        if settings.get("serveraliveinterval", "0") == "0":
            words += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        if settings.get("loglevel", "INFO") in ("SILENT", "QUIET", "FATAL"):
            words += ["-o", "LogLevel=ERROR"]  # else nobody could say what went wrong
        for name, value in overruled.items():
            if settings.get(name, value) != value:
                words += ["-o", f"{name}={value}"]
        return words

    def _control(self) -> list[str]:
        """Return the options that name the connection to share."""
        if self._folder is not None:
            return ["-o", "ControlMaster=no", "-S", str(self._folder / "s")]
        return ["-o", "ClearAllForwardings=yes"] if self._shares else []

    def _read_settings(self) -> dict[str, str]:
        """Return what ssh_config says of this host, by ssh itself: lower-case names."""
        status, out, err = self._ssh(["ssh", "-G", *self.host.words()], 20.0)
        if status:
            problem = problem_of(self.where, err, met=False)
            raise problem
        pairs = (line.partition(" ") for line in out.splitlines())
        return {name.lower(): value.strip() for name, _, value in pairs}

    def _start_master(self, limit_s: float) -> None:
        """Make the connection; ssh goes to the background once it stands."""
        # Ended by close(); should this process be killed, it ends itself when not used.
        own = ["-o", "ControlMaster=yes", "-o", "ControlPersist=600", "-S", *self._control()[-1:]]
        options = self._options(_FOR_MASTER)
        words = [*options, *own, "-o", "ClearAllForwardings=yes", "-f", "-N"]
        limit = ASKING_S if self._terminal or _has_askpass() else min(limit_s, CONNECT_S)
        try:
            status, _, err = self._ssh(
                [*words, *self.host.words()], limit, own_session=not self._terminal
            )
        except TimeUp:
            kind = LinkLost if self._met else EnvironmentProblem
            raise kind(f"{self.where} does not answer: no connection in {limit:g} s") from None
        if status == 0:
            self._met = True
        elif re.search(r"unix_listener|muxserver_listen|ControlSocket|ControlPath", err):
            self.close()  # no socket can be had there: a connection for each script, then
            self._shares = False
        else:
            raise problem_of(self.where, self._reason(limit) or err, met=self._met)

    def _reason(self, limit_s: float) -> str:
        """Return what a jump host's ssh says, which ssh keeps to itself with ControlPersist."""
        settings = self._settings or {}
        if all(settings.get(name, "none") == "none" for name in ("proxyjump", "proxycommand")):
            return ""
        words = [*self._options(), "-o", "ControlMaster=no", "-o", "ControlPath=none"]
        words += ["-o", "ClearAllForwardings=yes", "-o", "BatchMode=yes"]  # nobody is asked twice
        with suppress(TimeUp):
            status, _, err = self._ssh(
                [*words, *self.host.words(), "exit 0"], limit_s, own_session=not self._terminal
            )
            return err if status == FAILED else ""
        return ""

    def _end_master(self, socket: Path) -> None:
        """End the connection that listens at ``socket``."""
        ask = ["ssh", "-S", str(socket), "-O"]
        with suppress(NotStarted, TimeUp, EnvironmentProblem):
            _, _, said = self._ssh([*ask, "check", *self.host.words()], 5.0)
            self._ssh([*ask, "exit", *self.host.words()], 5.0)
            until = time.monotonic() + 2.0
            while socket.exists() and time.monotonic() < until:
                time.sleep(0.01)
            running = re.search(r"\(pid=(\d+)\)", said)
            if socket.exists() and running:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(running[1]), signal.SIGKILL)

    def _ssh(
        self, words: list[str], limit_s: float, *, own_session: bool = True
    ) -> tuple[int, str, str]:
        """Run ssh for something else than a script; return its status, stdout and stderr."""
        out, err = Tail(NOISE), Tail(NOISE)
        try:
            status = converse(words, Talk(out, err), limit_s, own_session=own_session)
        except NotStarted as problem:
            raise self._absent(str(problem)) from problem
        return status, out.text(), err.text()


def _may_ask_on_terminal() -> bool:
    """Whether ssh can ask a person: there is a terminal, and this process has it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _has_askpass() -> bool:
    """Whether ssh can ask a person by a program of its user."""
    shows = ("DISPLAY", "WAYLAND_DISPLAY", "SSH_ASKPASS_REQUIRE")
    return bool(os.environ.get("SSH_ASKPASS")) and any(os.environ.get(n) for n in shows)


def _socket_folder() -> Path | None:
    """Make a private folder whose path is short enough for a socket; None where there is none."""
    for place in (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp"):
        # ssh expands % and ${ in the path of a socket.
        if place and len(os.fsencode(place)) < _SOCKET_PATH - 25 and not set(place) & set("%$"):
            with suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="graphopt-ssh-", dir=place))
    return None


if TYPE_CHECKING:
    _: Link = SshLink("")
