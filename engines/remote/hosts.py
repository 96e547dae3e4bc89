"""What people write after ``--host``, checked before ssh sees it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote

from graphopt.errors import UsageError
from graphopt.wording import one_line

# Names that reach a shell through %h and %r of somebody's ProxyCommand: no character means
# anything there. ssh of 9.6 and later refuses such names too; earlier ones do not.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_.])?", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,127}", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_EXAMPLES = "e.g. --host jetson, --host user@jetson, --host ssh://user@jetson:2222"


@dataclass(frozen=True, slots=True)
class Host:
    """A machine as ssh is told of it.

    Attributes:
        name: a name, an address, or an alias of ssh_config.
        user: who logs in there; None: as ssh_config says.
        port: the port; None: as ssh_config says.
    """

    name: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        """Return it as people write it."""
        user = f"{self.user}@" if self.user else ""
        if self.port is None:
            return user + self.name
        return user + (f"[{self.name}]" if ":" in self.name else self.name) + f":{self.port}"

    def words(self) -> list[str]:
        """Return the last words of ssh's command line, before the command to run there.

        None of them can be taken for an option, whatever it begins with.
        """
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port is not None else []
        return [*user, *port, "--", self.name]


def parse_host(text: str) -> Host:
    """Read ``host``, ``user@host``, ``host:port``, ``[v6]:port`` or ``ssh://user@host:port``.

    ssh itself does not take ``host:port``; as no host's name holds a colon, it can mean only one
    thing.

    Raises:
        UsageError: it is none of these.
    """
    uri = text[:6].lower() == "ssh://"
    rest = text[6:].removesuffix("/") if uri else text
    user, at, place = rest.rpartition("@")
    if uri:
        user = unquote(user)
    if at and not _USER.fullmatch(user):
        password = ":" in user
        raise _wrong(
            text,
            "ssh takes no password there: use a key or ssh-agent"
            if password
            else f"{one_line(user)!r} is no user's name",
        )
    name, port = _split(text, place)
    if not (_is_address(name) or _NAME.fullmatch(name)):
        raise _wrong(
            text, f"{one_line(name, 80)!r} is no host's name" if name else "no host is named"
        )
    return Host(name, user or None, port)


def _split(text: str, place: str) -> tuple[str, int | None]:
    """Return the name and the port in ``place``."""
    if place.startswith("["):
        name, closed, rest = place[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")) or ":" not in name:
            raise _wrong(text, "brackets hold an IPv6 address, e.g. [fe80::1%eth0]:22")
        port = rest[1:] if rest else None
    elif place.count(":") == 1:
        name, _, port = place.partition(":")
    else:
        name, port = place, None
    if port is None:
        return name, None
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise _wrong(text, f"{one_line(port, 40)!r} is no port (1 to 65535)")
    return name, int(port)


def _is_address(name: str) -> bool:
    """Whether it is an IPv6 address, perhaps with a zone; IPv4 is a name as well as any."""
    address, zoned, zone = name.partition("%")
    if zoned and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"--host {one_line(text, 120)!r}: {why}", hint=_EXAMPLES)
