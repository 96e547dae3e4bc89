"""A real sshd on loopback that plays a device: its own HOME, PATH, host key and user key.

::

    with ssh_device(tmp_path) as device:
        os.environ["PATH"] = device.path          # so that the product's ``ssh`` finds the device
        SshLink(device.host).run("echo hello")

Nothing of the user's is read or written: the ``ssh`` first on ``device.path`` is the real one with
a configuration of its own.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from proxy import Proxy

if TYPE_CHECKING:
    from graphopt.engines.remote.ssh import SshLink

SSHD_PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"))


def missing() -> str:
    """Return why no device can be played here, or an empty text."""
    lacks = [n for n in ("ssh", "ssh-keygen") if not shutil.which(n)]
    if not shutil.which("sshd", path=SSHD_PLACES):
        lacks.append("sshd (Debian: apt-get install openssh-server)")
    return f"not installed: {', '.join(lacks)}" if lacks else ""


@dataclass(eq=False)
class Device:
    """A machine one reaches over ssh.

    Attributes:
        host: what to pass as ``--host``.
        home: HOME of whoever logs in there, and the folder commands start in; empty at first.
        bin: first on the PATH there: where stand-ins (``trtexec``) go, executable.
        tmp: TMPDIR there; empty at first.
        path: the PATH for this side, on which ``ssh`` knows the device.
        config: the ssh_config of this side; append to it to try options.
        known_hosts: the known_hosts of this side; holds the device's key at first.
        proxy: what all connections pass through: cut, stall, refuse, count.
    """

    host: str
    home: Path
    bin: Path
    tmp: Path
    path: str
    config: Path
    known_hosts: Path
    proxy: Proxy
    folder: Path
    port: int
    server: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The environment for a child process of this side that uses the device."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SSH_")}
        return {**kept, "PATH": self.path}

    def link(self) -> SshLink:
        """Return a new link to it; needs ``PATH`` to be :attr:`path`."""
        from graphopt.engines.remote.ssh import SshLink

        return SshLink(self.host)

    def login_prints(self, text: str) -> None:
        """Have the login shell print ``text`` on stdout and stderr before every command."""
        (self.folder / "noise").write_text(text)

    def login_shell(self, shell: str) -> None:
        """Have every command go through ``shell -c``, as sshd does with the login shell."""
        (self.folder / "shell").write_text(shell)

    def change_host_key(self) -> None:
        """Restart sshd with another host key, as a device set up anew has."""
        self.stop_sshd()
        new_key(self.folder / "host_key")
        self.start_sshd()

    def change_user_key(self) -> None:
        """Let this side have a key that the device does not know."""
        new_key(self.folder / "user_key")

    def forget_host_key(self) -> None:
        """Empty known_hosts, as before the first connection."""
        self.known_hosts.write_text("")

    def start_sshd(self) -> None:
        """Start sshd, on the same port as before if it ran before."""
        if self.server is None:
            self.server = _serve(self.folder, self.port)

    def stop_sshd(self) -> None:
        """Stop sshd and end every connection to it, and what was run over them."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait(10)
            self.server = None
        self.proxy.cut()

    def processes(self) -> dict[int, str]:
        """Return what runs on the device now: process id -> command line."""
        found = {}
        mark = os.fsencode(f"HOME={self.home}")
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    if words:  # a zombie has none
                        found[int(entry.name)] = words.decode(errors="replace").strip()
            except OSError:
                continue
        return found

    def quiet(self, within_s: float = 10.0) -> dict[int, str]:
        """Wait until nothing runs on the device; return what still does after ``within_s``."""
        until = time.monotonic() + within_s
        while (running := self.processes()) and time.monotonic() < until:
            time.sleep(0.05)
        return running

    def clients(self) -> dict[int, str]:
        """Return the ssh processes of this side that are about this device."""
        mark = os.fsencode(str(self.config))
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit():
                    words = (entry / "cmdline").read_bytes()
                    if mark in words:
                        found[int(entry.name)] = words.replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
        return found


def new_key(path: Path) -> None:
    """Make a fresh key pair without a passphrase at ``path`` and ``path.pub``."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "graphopt tests", "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start sshd on ``port`` and wait until it listens."""
    if os.geteuid() == 0:  # where sshd, run as root, puts aside its privileges
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    sshd = shutil.which("sshd", path=SSHD_PLACES) or "sshd"
    with (folder / "sshd.log").open("ab") as log:
        server = subprocess.Popen(
            [sshd, "-D", "-e", "-f", str(folder / "sshd_config"), "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    until = time.monotonic() + 20
    while time.monotonic() < until and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
                if probe.recv(4) == b"SSH-":
                    return server
        except OSError:
            time.sleep(0.01)
    server.kill()
    server.wait()
    raise RuntimeError(f"sshd did not start: {(folder / 'sshd.log').read_text()[-600:]}")


def _write_server(folder: Path, home: Path, bin_: Path, tmp: Path) -> None:
    """Write sshd's configuration, and the forced command that gives the device its own world."""
    login = folder / "login"
    q = shlex.quote
    login.write_text(f"""#!/bin/sh
# What sshd runs in place of the login shell: the same, in the device's own HOME and PATH.
HOME={q(str(home))} PATH={q(str(bin_))}:/usr/local/bin:/usr/bin:/bin TMPDIR={q(str(tmp))}
export HOME PATH TMPDIR
cd "$HOME" || exit 1
if [ -f {q(str(folder / "noise"))} ]; then
    cat {q(str(folder / "noise"))}
    cat {q(str(folder / "noise"))} >&2
fi
shell=/bin/sh
[ -f {q(str(folder / "shell"))} ] && shell=$(cat {q(str(folder / "shell"))})
[ -n "$SSH_ORIGINAL_COMMAND" ] || exec "$shell"
exec "$shell" -c "$SSH_ORIGINAL_COMMAND"
""")
    login.chmod(0o755)
    (folder / "sshd_config").write_text(f"""\
ListenAddress 127.0.0.1
HostKey "{folder / "host_key"}"
AuthorizedKeysFile "{folder / "authorized_keys"}"
ForceCommand {q(str(login))}
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PrintMotd no
UseDNS no
MaxStartups 100
LogLevel VERBOSE
""")


def _write_client(device: Device, wrapper: Path) -> None:
    """Write this side's configuration and the ``ssh`` that reads it and nothing else."""
    device.config.write_text(f"""\
Host {device.host}
    HostName 127.0.0.1
    Port {device.proxy.port}
    User {getpass.getuser()}
    IdentityFile "{device.folder / "user_key"}"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{device.known_hosts}"
    GlobalKnownHostsFile /dev/null
""")
    kind, key = (device.folder / "host_key.pub").read_text().split()[:2]
    device.known_hosts.write_text(f"[127.0.0.1]:{device.proxy.port} {kind} {key}\n")
    real = shutil.which("ssh")
    wrapper.write_text(
        f'#!/bin/sh\nexec {shlex.quote(str(real))} -F {shlex.quote(str(device.config))} "$@"\n'
    )
    wrapper.chmod(0o755)


@contextmanager
def ssh_device(folder: Path, name: str = "jetson") -> Iterator[Device]:
    """Yield a device whose files all lie in ``folder`` (made anew); it is gone afterwards.

    ``name`` is its alias in ssh_config: what to pass as ``--host``.
    """
    folder.mkdir(parents=True)
    home, bin_, tmp, front = (folder / n for n in ("home", "bin", "tmp", "front"))
    for each in (home, bin_, tmp, front):
        each.mkdir()
    for key in ("host_key", "user_key"):
        new_key(folder / key)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    _write_server(folder, home, bin_, tmp)
    for attempt in range(5):
        port = _free_port()
        try:
            server = _serve(folder, port)
            break
        except RuntimeError:  # another process took the port in between
            if attempt == 4:
                raise
    with Proxy(port) as proxy:
        device = Device(
            host=name,
            home=home,
            bin=bin_,
            tmp=tmp,
            path=f"{front}{os.pathsep}{os.environ.get('PATH', '')}",
            config=folder / "ssh_config",
            known_hosts=folder / "known_hosts",
            proxy=proxy,
            folder=folder,
            port=port,
            server=server,
        )
        try:
            _write_client(device, front / "ssh")
            yield device
        finally:
            device.stop_sshd()
            for process in device.processes():
                with suppress(ProcessLookupError):
                    os.kill(process, 9)
