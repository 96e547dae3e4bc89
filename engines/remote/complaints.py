"""What ssh complains of, in one line that says what to do."""

from __future__ import annotations

import re

from graphopt.engines.remote.link import LinkLost
from graphopt.errors import EnvironmentProblem
from graphopt.wording import one_line

# The first that is found decides. What a person has to see to is no lost link; what may pass is,
# once there was a connection.
_LASTING = (
    (
        r"could not resolve hostname (?P<it>.*?):",
        "{where}: the name {it} is not known; check its spelling, or name it in ssh_config",
    ),
    (
        r"(no matching .{5,40} found\. their offer: .*)",
        "{where}: no cipher or key in common, {line}; see ssh_config(5), e.g. HostKeyAlgorithms",
    ),
    (
        r"(bad configuration option|terminating, \d+ bad configuration|bad owner or permissions on"
        r"|unsupported option|: line \d+: )",
        "ssh does not accept its configuration: {line}",
    ),
    (
        r"too many authentication failures",
        "{where}: too many keys were tried; name the right one by IdentityFile and IdentitiesOnly "
        "in ssh_config",
    ),
)
_PASSING = (
    (r"connection refused", "{where} refuses the connection: is sshd running on that port?"),
    (
        r"timed out|timeout, server|not responding",
        "{where} does not answer: is it on, and reachable from here?",
    ),
    (r"no route to host|network is (unreachable|down)", "no way to {where}: {line}"),
    (
        r"connection (closed|reset)|broken pipe|kex_exchange_identification|banner|"
        r"control socket|read from master failed|mux_client",
        "the connection to {where} was closed",
    ),
)


def problem_of(where: str, said: str, *, met: bool) -> EnvironmentProblem:
    """Return what to raise where ssh ended without having run a command to its end.

    Args:
        where: what people call the machine.
        said: what ssh wrote to stderr.
        met: whether the machine answered before: then trying again may help.
    """
    text = said[-20_000:]
    if "HOST IDENTIFICATION HAS CHANGED" in text:
        return _changed(where, text)
    if re.search(r"host key verification failed|no .* host key is known for", text, re.I):
        return EnvironmentProblem(
            f"{where}: its host key is not known here; connect once by hand (ssh {where}), compare "
            "the fingerprint and accept it"
        )
    if found := re.search(r"permission denied \((?P<how>[^)]{1,120})\)", text, re.I):
        return EnvironmentProblem(
            f"{where} lets this user not in ({one_line(found['how'])}): check the user's name, and "
            f"try ssh {where}; ssh-copy-id puts a key there"
        )
    lines = [one_line(line) for line in text.splitlines() if one_line(line)]
    for pattern, message in (*_LASTING, *_PASSING):
        for line in lines:
            if found := re.search(pattern, line, re.I):
                it = found.groupdict().get("it", "")
                kind = LinkLost if met and (pattern, message) in _PASSING else EnvironmentProblem
                return kind(message.format(where=where, line=line, it=it))
    last = lines[-1] if lines else "ssh gave no reason"
    if met:
        return LinkLost(f"the connection to {where} broke: {last}")
    return EnvironmentProblem(f"cannot connect to {where}: {last}")


def nothing_ran(where: str, status: int, said: str) -> EnvironmentProblem:
    """Return what to raise where the login worked and no script began."""
    why = one_line(said) or f"exit status {status}"
    if status in (126, 127) or "not found" in said:
        return EnvironmentProblem(f"{where} has no POSIX sh on its PATH: {why}")
    return EnvironmentProblem(
        f"{where} does not run commands: {why}; does its account have a shell, or its key a forced "
        "command?"
    )


def _changed(where: str, text: str) -> EnvironmentProblem:
    """Tell of a host key that is not the one known; never how to get round it unseen."""
    line = re.search(r"Offending .* key in (?P<file>.+):(?P<line>\d+)", text)
    name = re.search(r"Host key for (?P<name>\S+) has changed", text)
    place = f" ({one_line(line['file'])}:{line['line']})" if line else ""
    key = one_line(name["name"]) if name else "HOST"
    return EnvironmentProblem(
        f"{where}: its host key is not the one known here{place}: someone may be listening in. "
        "Only if it was set up anew, and its fingerprint compared: "
        f"ssh-keygen -R '{key}', then connect once by hand"
    )
