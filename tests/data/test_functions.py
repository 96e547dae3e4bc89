"""Functions: samples and batches from the user's code, and how its failures are told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from small_sets import F32, VECTOR, joined

from graphopt.data import open_data
from graphopt.errors import DataError

LOADER = """
import numpy as np
from dataclasses import dataclass
import beside

@dataclass
class Item:
    n: int

def samples():
    for i in range(beside.COUNT):
        yield {"x": np.full(3, i, dtype=np.float32)}

def batches():
    yield np.zeros((2, 3), np.float32), [1, 0]
    yield np.ones((1, 3), np.float32), 2

def in_dict():
    yield {"x": np.zeros((2, 3), np.float32), "labels": [3, 4]}

def listed():
    return [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]

def forever():
    i = 0
    while True:
        yield np.full(3, i, dtype=np.float32)
        i += 1

calls = 0
def shrinking():
    global calls
    calls += 1
    for i in range(4 - calls):
        yield np.zeros(3, np.float32)

def random():
    yield np.random.default_rng().normal(size=3).astype(np.float32)

def fails():
    yield np.zeros(3, np.float32)
    raise RuntimeError("the disk\\nis gone")

def early():
    return next(iter([]))

def some_labels():
    yield np.zeros(3, np.float32), 1
    yield np.zeros(3, np.float32)

def strings():
    yield {"x": "abc"}

def ragged():
    yield [[1.0], [1.0, 2.0]]

def misspelt():
    yield {"X1": np.zeros(3, np.float32), "x": np.zeros(3, np.float32)}

def nan():
    yield np.full(3, np.nan, np.float32)

def nothing():
    return []

def number():
    return 3

constant = 3
"""


@pytest.fixture
def loader(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("COUNT = 5\n")
    path = tmp_path / "loader.py"
    path.write_text(LOADER)
    return path


def test_function_of_samples(loader: Path) -> None:
    before = list(sys.path)
    data = open_data(f"{loader}:samples", VECTOR)
    assert sys.path == before
    assert len(data) == 5
    got = joined(list(data.batches(2)), "x")
    np.testing.assert_array_equal(got, np.repeat(np.arange(5), 3).reshape(5, 3))
    np.testing.assert_array_equal(got, joined(list(data.batches(5)), "x"))


def test_function_of_batches_with_labels(loader: Path) -> None:
    data = open_data(f"{loader}:batches", VECTOR)
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 2]
    assert [len(b["x"]) for b in data.batches(2)] == [2, 1]
    other = open_data(f"{loader}:in_dict", VECTOR).labels
    assert other is not None
    assert other.tolist() == [3, 4]


def test_function_returning_a_list(loader: Path) -> None:
    (batch,) = open_data(f"{loader}:listed", VECTOR).batches(4)
    assert batch["x"].dtype == F32
    assert batch["x"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_limit_takes_the_first_and_ends_the_endless(loader: Path) -> None:
    data = open_data(f"{loader}:forever", VECTOR, limit=4)
    assert joined(list(data.batches(3)), "x")[:, 0].tolist() == [0, 1, 2, 3]
    assert "the first 4 samples" in data.summary()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sample", "no function 'sample' .did you mean 'samples'"),
        ("constant", "no function 'constant'"),
        ("fails", r"RuntimeError: the disk is gone \(loader\.py, line 42\)"),
        ("early", "StopIteration"),
        ("some_labels", "sample 1 has no label"),
        ("strings", "'x' is str"),
        ("ragged", "ValueError"),
        ("misspelt", "'X1'.*which no input takes"),
        ("nan", "item 0: 'x' has 3 NaN"),
        ("nothing", "holds no samples"),
        ("number", "TypeError"),
    ],
)
def test_functions_that_fail_are_told(loader: Path, name: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        open_data(f"{loader}:{name}", VECTOR)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["shrinking", "random"])
def test_functions_that_change_their_mind_are_told(loader: Path, name: str) -> None:
    data = open_data(f"{loader}:{name}", VECTOR)
    with pytest.raises(DataError, match="must yield the same samples"):
        list(data.batches(1))


def test_files_that_cannot_be_imported_are_told(tmp_path: Path) -> None:
    before = set(sys.modules)
    (tmp_path / "bad.py").write_text("def f(:\n")
    (tmp_path / "raises.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(DataError, match="SyntaxError"):
        open_data(f"{tmp_path}/bad.py:f", VECTOR)
    with pytest.raises(DataError, match=r"ModuleNotFoundError.*raises\.py, line 1"):
        open_data(f"{tmp_path}/raises.py:f", VECTOR)
    with pytest.raises(DataError, match="no such file"):
        open_data(f"{tmp_path}/none.py:f", VECTOR)
    left = [m for m in set(sys.modules) - before if m.startswith("graphopt_data")]
    assert not left, "a module that failed to load was left behind"


def test_two_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    for i in (1, 2):
        (tmp_path / str(i)).mkdir()
        code = f"import numpy as np\ndef f():\n    yield np.full(3, {i}, np.float32)\n"
        (tmp_path / str(i) / "data.py").write_text(code)
    sets = [open_data(f"{tmp_path}/{i}/data.py:f", VECTOR) for i in (1, 2)]
    assert [next(iter(d.batches(1)))["x"][0, 0] for d in sets] == [1, 2]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("sys.exit(0)", "SystemExit: 0"),
        ("raise type('Odd', (BaseException,), {})('x')", "Odd: x"),
        ("os.chdir('/')", "changes the working folder"),
    ],
)
def test_code_that_would_end_or_move_the_program_is_told(
    tmp_path: Path, body: str, told: str
) -> None:
    file = tmp_path / "loader.py"
    file.write_text(f"import os, sys\ndef samples():\n    {body}\n    yield [0.0, 0.0, 0.0]\n")
    before = Path.cwd()
    with pytest.raises(DataError, match=told):
        open_data(f"{file}:samples", VECTOR)
    assert Path.cwd() == before


def test_what_is_printed_goes_to_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "loader.py"
    file.write_text(
        "import os\nprint('loading')\ndef samples():\n    print('python')\n"
        "    os.write(1, b'native\\n')\n    yield [0.0, 0.0, 0.0]\n"
    )
    assert len(open_data(f"{file}:samples", VECTOR)) == 1
    caught = capfd.readouterr()
    assert caught.out == ""
    assert {"loading", "python", "native"} <= set(caught.err.split())


def test_a_syntax_error_is_told_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "loader.py"
    file.write_text("def samples(:\n")
    with pytest.raises(DataError, match=r"SyntaxError: invalid syntax \(loader.py, line 1\)$"):
        open_data(f"{file}:samples", VECTOR)
