"""Timing before and after: by turns, opened anew, with an interval."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from helpers import conv_net, image_samples

from graphopt import measure
from graphopt.errors import UnsupportedModelError
from graphopt.profiles.regression import Round, judge
from graphopt.runtime import timing_options


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ROUNDS", 6)
    monkeypatch.setattr(measure, "SECONDS", 0.002)
    monkeypatch.setattr(measure, "_PATIENCE", 1e9)


def names_of_input(model):
    return next(iter(model.inputs()))


@pytest.mark.usefixtures("quick")
def test_models_and_files_are_timed_with_an_interval(tmp_path):
    model = conv_net(8)
    path = model.save(tmp_path / "m.onnx")
    batch = {names_of_input(model): image_samples(1)}
    found = measure.timings({"before": path, "fp32": model, "again": model}, batch, threads=1)
    assert list(found.profiles) == ["before", "fp32", "again"]
    assert {opening for opening, _ in found.turns} == set(range(6))
    for k, profile in enumerate(found.profiles.values()):
        assert profile.samples_ms == tuple(ms for _, turn in found.turns for ms in turn[k])
        assert profile.environment["threads"] == "1"
        assert profile.environment["openings"] == "6"
    verdict = found.compare("before", "again")
    rounds = [Round(turn[0], turn[2], opening) for opening, turn in found.turns]
    assert verdict == judge(rounds, 0.0)
    mirrored = found.compare("again", "before")
    assert 1 + mirrored.change == pytest.approx(1 / (1 + verdict.change))
    with pytest.raises(KeyError, match="nothing"):
        found.compare("before", "nothing")
    assert gc.isenabled()


@pytest.mark.usefixtures("quick")
def test_one_opening_has_no_interval(monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 1)
    model = conv_net(8)
    batch = {names_of_input(model): image_samples(1)}
    found = measure.timings({"a": model, "b": model}, batch)
    assert found.compare("a", "b") is None


@pytest.mark.usefixtures("quick")
def test_many_times_as_much_to_compute_is_seen():
    one, other = conv_net(8), conv_net(192)
    batch = {names_of_input(one): image_samples(1)}
    verdict = measure.timings({"a": one, "b": other}, batch, threads=1).compare("a", "b")
    assert verdict.low > 0.5


@pytest.mark.usefixtures("quick")
def test_what_cannot_run_is_told_in_a_line():
    model = conv_net(8)
    with pytest.raises(UnsupportedModelError, match="cannot run the model"):
        measure.timings({"a": model}, {names_of_input(model): np.zeros((1, 2, 3, 4), np.float32)})
    assert gc.isenabled()


@pytest.mark.usefixtures("quick")
def test_large_models_are_opened_less_often(monkeypatch):
    monkeypatch.setattr(measure, "_PATIENCE", 0.0)
    model = conv_net(8)
    batch = {names_of_input(model): image_samples(1)}
    found = measure.timings({"a": model, "b": model}, batch)
    assert {opening for opening, _ in found.turns} == {0}


def test_threads_spin_in_a_run_and_stop_after_it():
    options = timing_options(2)
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
