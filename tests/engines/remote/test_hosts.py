"""What --host may hold, and what must never reach ssh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.engines.remote.hosts import Host, parse_host
from graphopt.engines.remote.ssh import SshLink
from graphopt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("jetson", Host("jetson")),
        ("my_alias-2.lan", Host("my_alias-2.lan")),
        ("10.0.0.7", Host("10.0.0.7")),
        ("nvidia@jetson", Host("jetson", "nvidia")),
        ("user@corp.example@jetson", Host("jetson", "user@corp.example")),
        ("jetson:2222", Host("jetson", port=2222)),
        ("nvidia@jetson:2222", Host("jetson", "nvidia", 2222)),
        ("ssh://jetson", Host("jetson")),
        ("SSH://nvidia@jetson:22/", Host("jetson", "nvidia", 22)),
        ("ssh://user%40corp@jetson", Host("jetson", "user@corp")),
        ("::1", Host("::1")),
        ("[::1]", Host("::1")),
        ("u@[fe80::1%eth0]:22", Host("fe80::1%eth0", "u", 22)),
        ("ssh://[2001:db8::1]:8022", Host("2001:db8::1", port=8022)),
    ],
)
def test_what_ssh_users_write(text: str, host: Host) -> None:
    assert parse_host(text) == host
    assert parse_host(str(host)) == host  # what is shown can be typed again


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "@jetson",
        "user@",
        "-oProxyCommand=reboot",
        "user@-oProxyCommand=reboot",
        "-l@jetson",
        "ssh://-oProxyCommand=reboot",
        "ssh://%2doProxyCommand=x@jetson",
        "ssh://u%0aser@jetson",
        "jet son",
        "jetson\n",
        "jetson;reboot",
        "$(reboot)",
        "`reboot`@jetson",
        "jetson|x",
        "jetson%h",
        "u'x@jetson",
        "jetson\x1b[2J",
        "jetson\0",
        "jétson",
        "jetson:0",
        "jetson:65536",
        "jetson:22x",
        "jetson:",
        "jetson:٢٢",
        "[jetson]:22",
        "[::1",
        "[::1]22",
        "[::1%$(x)]:22",
        "1:2:3",
        "user:secret@jetson",
        "ssh://jetson/home",
        "x" * 300,
    ],
)
def test_what_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as told:
        SshLink(text)
    message = str(told.value)
    assert message.startswith("--host ")
    assert message.isprintable()
    assert len(message) < 400


@given(st.text(max_size=40))
def test_no_text_becomes_an_option_or_shell_code(text: str) -> None:
    try:
        host = parse_host(text)
    except UsageError:
        return
    *options, dashes, name = host.words()
    assert dashes == "--"
    assert options[::2] in ([], ["-l"], ["-p"], ["-l", "-p"])
    for word in (*options[1::2], name):
        assert word
        assert not word.startswith("-")
        assert not set(word) & set(" \t\n;&|<>()$`\\\"'*?!#~=")


def test_a_password_is_not_repeated_as_a_wrong_name() -> None:
    with pytest.raises(UsageError, match="no password there"):
        parse_host("user:secret@jetson")
