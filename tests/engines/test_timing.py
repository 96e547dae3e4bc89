"""Timing caches: their place, their lock, and two builds at once."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from trt_machine import V8_6, V10, set_up

from graphopt.engines import _timing
from graphopt.engines._timing import TimingCache, default_cache


def test_its_place(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = default_cache("tensorrt", "8.5.2.2", "Quadro RTX 4000 / Max-Q")
    assert found == tmp_path / "graphopt/timing/tensorrt-8.5.2.2-Quadro-RTX-4000-Max-Q.cache"
    assert default_cache("tensorrt", "8.5", "../../x").name == "tensorrt-8.5-x.cache"
    assert default_cache("tensorrt", "8.5", "").name == "tensorrt-8.5-unknown.cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache("t", "1", "g").is_relative_to(tmp_path / "home/.cache")

    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert default_cache("t", "1", "g") is None


@pytest.fixture
def config(monkeypatch, tmp_path):
    """Returns a new ``IBuilderConfig`` of a version of the stand-in."""

    def made(version=V10):
        set_up(monkeypatch, tmp_path, version)
        import tensorrt

        logger = tensorrt.Logger()
        logger.log = lambda *words: None
        return tensorrt.Builder(logger).create_builder_config()

    return made


def use(config, path: Path, what: dict[str, int], *, own: bool = True) -> tuple[TimingCache, dict]:
    cache = TimingCache(path, own=own)
    cache.load(config)
    found = dict(config.get_timing_cache()._times)
    config.get_timing_cache()._times.update(what)
    return cache, found


def test_what_another_build_added_meanwhile_is_kept(config, tmp_path):
    path = tmp_path / "deep" / "a.cache"
    first_config, second_config = config(), config()
    first, _ = use(first_config, path, {"conv": 1})
    second, _ = use(second_config, path, {"relu": 2})
    assert first.save(first_config)
    assert second.save(second_config)
    _, found = use(config(), path, {})
    assert found == {"conv": 1, "relu": 2}
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.cache", "a.cache.lock"]


def test_another_versions_cache_is_not_mixed_in(config, tmp_path):
    path = tmp_path / "a.cache"
    old = config(V8_6)
    use(old, path, {"old": 1})[0].save(old)
    mine = config()
    cache, found = use(mine, path, {"new": 1})
    assert found == {}
    assert cache.save(mine)
    assert use(config(), path, {})[1] == {"new": 1}


def hold(path: Path, ready, done) -> None:
    with _timing._locked(path):
        ready.set()
        done.wait(30)


def test_a_lock_that_is_held_is_waited_for_and_then_told(config, monkeypatch, tmp_path):
    path = tmp_path / "a.cache"
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    ready, done = context.Event(), context.Event()
    mine = config()
    cache, _ = use(mine, path, {"conv": 1})
    other = context.Process(target=hold, args=(path, ready, done))
    other.start()
    try:
        assert ready.wait(30)
        monkeypatch.setattr(_timing, "_PATIENCE_S", 0.1)
        assert not cache.save(mine)
        assert "another process has held its lock" in cache.notes[0]
        assert not path.exists()
    finally:
        done.set()
        other.join()
    # Whoever held it is gone: it is free.
    assert cache.save(mine)


def test_a_killed_build_leaves_no_lock(config, tmp_path):
    path = tmp_path / "a.cache"
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, ready, done))
    other.start()
    assert ready.wait(30)
    other.kill()
    other.join()
    mine = config()
    assert use(mine, path, {})[0].save(mine)
