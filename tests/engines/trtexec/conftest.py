"""Makes the stand-in trtexec importable, and runs it in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "standins"))

VERSIONS = ((8, 5, 2), (8, 6, 1), (10, 0, 1), (10, 9, 0), (10, 13, 3), (11, 0, 0), (11, 5, 0))


@pytest.fixture(params=VERSIONS, ids=lambda v: ".".join(map(str, v)))
def version(request):
    return request.param


@pytest.fixture
def ran(capsys):
    """Run a stand-in in this process; return its exit status and everything it printed."""
    from trtexec import Behaviour
    from trtexec_run import Trtexec

    def run(version, words, **behaviour):
        capsys.readouterr()
        status = Trtexec(Behaviour(version, **behaviour), ["trtexec", *words]).main()
        printed = capsys.readouterr()
        return status, printed.err + printed.out

    return run
