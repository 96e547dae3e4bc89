from __future__ import annotations

import pytest

from graphopt.wording import counted, one_line, printable, spell


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
    assert printable("\x1b[2Ja\nb\u202ec \ud800\x00") == "?[2Ja b?c ??"
    assert printable(" a  b " * 500, 9) == "a b a b a"
    assert printable(["x\n"]) == "['x\\n']"
