"""The first Ctrl-C ends a pass between two batches, the second at once."""

from __future__ import annotations

import signal

import pytest

from graphopt.calibrators.stopping import Stopping


def test_a_signal_ends_the_batches_and_acts_when_asked() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []
    with Stopping() as stopping:
        for batch in stopping.batches(range(9)):
            seen.append(batch)
            if batch == 2:
                signal.raise_signal(signal.SIGINT)
        assert stopping.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt, match="kept here"):
            stopping.act("kept here")
    assert seen == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_acts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Stopping():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_one_batch_is_always_seen() -> None:
    with Stopping() as stopping:
        signal.raise_signal(signal.SIGINT)
        assert list(stopping.batches(range(5))) == [0]


def test_without_a_signal_nothing_changes() -> None:
    with Stopping() as stopping:
        assert list(stopping.batches(range(5))) == [0, 1, 2, 3, 4]
        with pytest.raises(KeyboardInterrupt, match="why"):
            stopping.act("why")
