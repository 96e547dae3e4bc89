"""Devices to talk to: a real sshd on loopback, and this machine.

``sshd`` is a :class:`sshd.Device`; ``link`` is each kind of link in turn, open, with ``there`` a
folder that commands may use. Reusable elsewhere: ``sshd.ssh_device`` and ``proxy.Proxy``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sshd import Device, missing, ssh_device

from graphopt.engines.remote.local import LocalLink


def ssh_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Yield a device, with its ``ssh`` first on this process's PATH; skip where none can be."""
    if reason := missing():
        pytest.skip(reason)
    with ssh_device(folder) as device:
        monkeypatch.setenv("PATH", device.path)
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        yield device


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device of its own for each test, reached by ``sshd.host``."""
    yield from ssh_to(tmp_path / "device", monkeypatch)


@pytest.fixture(params=["local", "ssh"])
def link(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An open link of each kind: a test that takes it runs twice."""
    if request.param == "local":
        with LocalLink() as local:
            yield local
    else:
        with request.getfixturevalue("sshd").link() as remote:
            yield remote


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """An empty folder on the machine at the other end of ``link`` (which is this one)."""
    folder = tmp_path / "over there"
    folder.mkdir()
    return folder
