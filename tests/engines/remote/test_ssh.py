"""The link over ssh, against a real sshd: what goes wrong, how it is told, what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sshd import Device

from graphopt.engines.remote.complaints import problem_of
from graphopt.engines.remote.link import LinkLost
from graphopt.engines.remote.ssh import SshLink
from graphopt.errors import EnvironmentProblem, MissingDependencyError

WORD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@pytest.fixture(autouse=True)
def nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    """After every test: no ssh of ours, no socket, no folder."""
    sockets = tempfile.TemporaryDirectory(prefix="g", dir="/tmp")
    with sockets as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield
        assert list(Path(place).iterdir()) == []
    device = request.node.funcargs.get("sshd")
    if device is not None:
        assert eventually_no_clients(device) == {}


def eventually_no_clients(device: Device) -> dict[int, str]:
    """Return the ssh processes that are about ``device``, once they had time to end."""
    until = time.monotonic() + 5
    while (left := device.clients()) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def refused(device: Device, *, limit_s: float = 30) -> str:
    """Return the message with which the link fails, which is one printable line."""
    with device.link() as link, pytest.raises(EnvironmentProblem) as told:
        link.run("echo hello", limit_s=limit_s)
    assert str(told.value).isprintable()
    assert not isinstance(told.value, LinkLost)
    return str(told.value)


def test_many_commands_share_one_connection(sshd: Device) -> None:
    with sshd.link() as link:
        for _ in range(3):
            done = link.run('echo "$HOME"; pwd; command -v tool || true')
            assert done.stdout == f"{sshd.home}\n{sshd.home}\n"
    assert sshd.proxy.connections == 1
    assert sshd.quiet() == {}


def test_closing_twice_or_unused_is_nothing(sshd: Device) -> None:
    link = sshd.link()
    link.close()
    assert link.run("echo a").stdout == "a\n"
    link.close()
    link.close()
    assert link.run("echo b").stdout == "b\n"  # it connects anew
    link.close()
    assert sshd.proxy.connections == 2


@pytest.fixture
def opened(sshd: Device):
    with sshd.link() as link:
        yield link


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORD, max_size=4))
@example(words=["\\", "'", "!", "\n", "\\'", "!!", "-oX=y", "$(x)"])
def test_words_round_trip(opened: SshLink, words: list[str]) -> None:
    done = opened.run('for word; do printf "%s\\0" "$word"; done', *words)
    assert done.stdout == "".join(w + "\0" for w in words)


def test_a_noisy_login_shell(sshd: Device) -> None:
    sshd.login_prints("Welcome to JetPack\n\x1b[31mConnection timed out\nno newline")
    with sshd.link() as link:
        assert link.run("echo a; echo b >&2; exit 255") == type(link.run("true"))(255, "a\n", "b\n")
        lines: list[str] = []
        assert link.stream("echo c", on_line=lines.append, limit_s=20) == 0
        assert lines == ["c"]


def test_a_changed_host_key(sshd: Device) -> None:
    sshd.change_host_key()
    message = refused(sshd)
    assert "not the one known here" in message
    assert f"{sshd.known_hosts}:1" in message
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.proxy.port}'" in message


def test_an_unknown_host_key(sshd: Device) -> None:
    sshd.forget_host_key()
    message = refused(sshd)
    assert f"not known here; connect once by hand (ssh {sshd.host})" in message
    assert sshd.known_hosts.read_text() == ""  # nothing was accepted for the user


def test_a_key_that_is_not_let_in(sshd: Device) -> None:
    sshd.change_user_key()
    assert "lets this user not in (publickey)" in refused(sshd)


def test_a_closed_port(sshd: Device) -> None:
    sshd.proxy.refuse()
    assert refused(sshd).startswith("jetson refuses the connection")


def test_a_port_that_says_nothing(sshd: Device) -> None:
    sshd.proxy.stall()
    assert "does not answer" in refused(sshd, limit_s=1)


def test_no_sshd_behind_the_port(sshd: Device) -> None:
    sshd.stop_sshd()
    assert refused(sshd).startswith("the connection to jetson was closed")
    sshd.start_sshd()
    with sshd.link() as link:
        assert link.run("echo back").stdout == "back\n"


def test_a_name_nobody_knows(sshd: Device) -> None:
    with SshLink("nobody.invalid") as link, pytest.raises(EnvironmentProblem) as told:
        link.run("true")
    assert "the name nobody.invalid is not known" in str(told.value)


def test_a_broken_configuration(sshd: Device) -> None:
    with sshd.config.open("a") as config:
        config.write("    Nonsense yes\n")
    assert "ssh does not accept its configuration: " in refused(sshd)


def test_no_ssh_here(sshd: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with sshd.link() as link, pytest.raises(MissingDependencyError, match="openssh-client"):
        link.run("true")


def test_no_sh_there(sshd: Device) -> None:
    sshd.login_shell("/bin/false")
    assert "does not run commands: exit status 1" in refused(sshd)
    sshd.login_shell("/no/such/shell")
    assert "has no POSIX sh" in refused(sshd)


def test_options_meant_for_people_do_not_get_in_the_way(sshd: Device) -> None:
    with sshd.config.open("a") as config:
        config.write(
            "    RemoteCommand tmux attach\n    RequestTTY force\n    LogLevel QUIET\n"
            f"    LocalForward {sshd.port} 127.0.0.1:9\n    ExitOnForwardFailure yes\n"
        )
    with sshd.link() as link:
        assert link.run("[ -t 0 ] || echo no terminal").stdout == "no terminal\n"
    sshd.change_user_key()
    assert "lets this user not in" in refused(sshd)


def test_the_connection_that_the_user_shares_is_used_and_left(
    sshd: Device, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp") as folder:
        with sshd.config.open("a") as config:
            config.write(f"    ControlPath {folder}/%C\n    ControlMaster auto\n")
            config.write("    ControlPersist 60\n")
        try:
            for _ in range(2):
                with sshd.link() as link:
                    assert link.run("echo a; exit 255").stdout == "a\n"
            assert sshd.proxy.connections == 1
            assert len(list(Path(folder).iterdir())) == 1  # not ours to end
        finally:
            subprocess.run(["ssh", "-O", "exit", sshd.host], stderr=subprocess.DEVNULL, check=True)


def test_no_room_for_a_socket(
    sshd: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 80)
    deep.mkdir()
    monkeypatch.setattr("graphopt.engines.remote.ssh._socket_folder", lambda: None)
    with sshd.link() as link:
        assert link.run("echo a").stdout == "a\n"
        assert link.run("echo b").stdout == "b\n"
    assert sshd.proxy.connections == 2


def test_a_long_tmpdir_is_not_used_for_sockets(
    sshd: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with sshd.link() as link:
        assert link.run("echo a").stdout == "a\n"
        assert link.run("echo a").stdout == "a\n"
    assert sshd.proxy.connections == 1


def test_a_link_that_breaks_under_a_command(sshd: Device) -> None:
    with sshd.link() as link:
        with pytest.raises(LinkLost, match="jetson"):
            link.stream("echo begun; sleep 60", on_line=lambda _: sshd.proxy.cut(), limit_s=30)
        assert link.run("echo again").stdout == "again\n"
        sshd.proxy.refuse()
        sshd.proxy.cut()
        with pytest.raises(LinkLost, match="refuses"):  # it was there: it may come back
            link.run("true")
        sshd.proxy.accept()
        assert link.run("echo again").stdout == "again\n"


def test_a_link_that_goes_silent(sshd: Device) -> None:
    with sshd.link() as link:
        link.run("true")
        sshd.proxy.stall()
        with pytest.raises(LinkLost, match="took longer than 2 s"):
            link.run("true", limit_s=2)
        sshd.proxy.resume()
        assert link.run("echo again").stdout == "again\n"


def test_silence_is_noticed_without_a_limit_of_ours(sshd: Device) -> None:
    with sshd.config.open("a") as config:
        config.write("    ServerAliveInterval 1\n    ServerAliveCountMax 1\n")  # the user's stands
    with sshd.link() as link:
        with pytest.raises(LinkLost):
            link.stream("echo x; sleep 99", on_line=lambda _: sshd.proxy.stall(), limit_s=60)
        sshd.proxy.resume()


def test_two_links_at_once(sshd: Device) -> None:
    found: dict[int, str] = {}

    def work(number: int) -> None:
        with sshd.link() as link:
            found[number] = link.run('sleep 0.3; echo "$1"', str(number)).stdout.strip()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: "0", 1: "1"}


CHILD = """
import sys
from graphopt.engines.remote.ssh import SshLink
with SshLink(sys.argv[1]) as link:
    link.stream("echo begun; sleep 60", on_line=lambda line: print(line, flush=True), limit_s=99)
"""


def test_ctrl_c_leaves_no_ssh(sshd: Device, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as place:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, sshd.host],
            env={**sshd.environment, "TMPDIR": place},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"begun\n"
            assert sshd.clients()
            child.send_signal(signal.SIGINT)
            assert child.wait(20) in (1, 130, -signal.SIGINT)
        assert eventually_no_clients(sshd) == {}
        assert list(Path(place).iterdir()) == []


ASKING = """
import os, sys
os.open(sys.argv[2], os.O_RDWR)  # the terminal of this session, from now on
from graphopt.engines.remote.ssh import SshLink
with SshLink(sys.argv[1]) as link:
    print(link.run("echo let in").stdout, flush=True)
"""


def test_a_person_at_a_terminal_is_asked(sshd: Device) -> None:
    """An unknown host key is for the user to accept: by ssh's own question."""
    sshd.forget_host_key()
    near, far = os.openpty()
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", ASKING, sshd.host, os.ttyname(far)],
            env={**sshd.environment, "TMPDIR": tempfile.gettempdir()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        with child:
            asked = b""
            while b"yes/no" not in asked:
                asked += os.read(near, 4096)
            os.write(near, b"yes\n")
            out, err = child.communicate(timeout=30)
        assert out.strip() == b"let in", err.decode()
        assert f"[127.0.0.1]:{sshd.proxy.port}" in sshd.known_hosts.read_text()
    finally:
        os.close(near)
        os.close(far)


def test_complaints_hold_no_control_characters() -> None:
    for text in ("\x1b[2Jssh: Could not resolve hostname \x1b]0;x\x07y: no\n", "\x07\n", ""):
        for met in (True, False):
            assert str(problem_of("h", text, met=met)).isprintable()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ssh: connect to host x port 22: Connection timed out", "does not answer"),
        ("ssh: connect to host x port 22: No route to host", "no way to h"),
        (
            "Unable to negotiate with 1.2.3.4 port 22: no matching host key type found. "
            "Their offer: ssh-rsa,ssh-dss",
            "HostKeyAlgorithms",
        ),
        ("Received disconnect from x: Too many authentication failures", "IdentityFile"),
        ("something new", "cannot connect to h: something new"),
    ],
)
def test_what_ssh_says_in_other_places(said: str, told: str) -> None:
    assert told in str(problem_of("h", said + "\r\n", met=False))


def test_what_a_jump_host_says_is_told(sshd: Device) -> None:
    with sshd.config.open("a") as config:
        config.write("    ProxyJump nosuchjump.invalid\n")
    assert "nosuchjump.invalid is not known" in refused(sshd)


def test_a_session_type_for_people_is_overruled(sshd: Device) -> None:
    with sshd.config.open("a") as config:
        config.write("    SessionType none\n    StdinNull yes\n    ForkAfterAuthentication yes\n")
    with sshd.link() as link:
        assert link.run("cat", stdin=b"here").stdout == "here"
    assert sshd.proxy.connections == 1
