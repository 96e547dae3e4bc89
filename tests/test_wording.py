from __future__ import annotations

import pytest

from graphopt.wording import counted, one_line, spell


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (("N", 3, 224, 224), "Nx3x224x224"),
        ([1, None], "1x?"),
        ((), "scalar"),
        (None, "of unknown shape"),
        (iter((2, 3)), "2x3"),
    ],
)
def test_shapes(shape, said):
    assert spell(shape) == said


def test_counts():
    assert [counted(n, "tensor") for n in (0, 1, 2)] == ["0 tensors", "1 tensor", "2 tensors"]


def test_errors_become_one_line():
    assert one_line(ValueError("two\n  lines\tof it")) == "two lines of it"
    assert one_line("x" * 500, 120) == "x" * 120
    assert one_line(MemoryError()) == "MemoryError"


def test_texts_from_elsewhere_do_nothing_to_a_terminal():
    assert one_line("\x1b[2Ja\nb\u202ec \ud800\x00") == "a b?c ??"
    assert one_line(" a  b " * 500, 9) == "a b a b a"
    assert one_line(["x\n"]) == "['x\\n']"
    assert (
        one_line("\x1b]0;title\x07ok \x1b[31mred\x1b[0m\r\n\x9b1m\u202eback") == "ok red ?1m?back"
    )
    assert one_line(ValueError("\x1b[2J\n")) == "ValueError"
    assert one_line("\x1b[2J\n") == ""
