from __future__ import annotations

import os
import sys
from types import ModuleType

from graphopt.machine import cpu_count, installed, installed_version


def test_cores_are_those_this_process_may_use():
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)


def test_installed_asks_without_importing(monkeypatch, tmp_path):
    assert installed("numpy")
    assert not installed("no_such_module_of_anyone")
    assert not installed("no_such_package.inner")
    (tmp_path / "only_a_folder").mkdir()
    (tmp_path / "a_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not installed("only_a_folder")
    assert installed("a_module")
    assert "a_module" not in sys.modules
    odd = ModuleType("odd")
    odd.__spec__ = None
    monkeypatch.setitem(sys.modules, "odd", odd)
    assert not installed("odd")


def test_versions_come_from_the_first_distribution_found():
    assert installed_version("no-such-distribution", "numpy")
    assert installed_version("no-such-distribution") is None
