"""Histories: what goes in comes out, whoever writes, whatever happens; strangers' files."""

from __future__ import annotations

import importlib
import random
import resource
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graphopt.errors import EnvironmentProblem, GraphoptError, OutputError, UsageError
from graphopt.profiles.history import History, Query, fingerprint_hash
from graphopt.profiles.history import file as history_file
from graphopt.profiles.history import pack as history_pack
from graphopt.profiles.run import Figure, Gate, Run, Status

TOOLS = ROOT / "tools"
HERE = {"cpu": "one", "cores": "2"}


def run_of(
    value: float = 1.0,
    *,
    subject: str = "net.onnx",
    branch: str = "main",
    status: Status = "none",
    when: str = "2026-11-23T04:12:53Z",
    samples: tuple[float, ...] = (1.5, 1.25),
    verb: str = "profile",
    fingerprint: dict[str, str] | None = None,
) -> Run:
    gates = () if status == "none" else (Gate("max-regression", "p50", 1.0, 3.0, "%", status),)
    return Run(
        verb, subject, figures=(Figure("latency_p50", value, "ms"),), gates=gates,
        samples_ms=samples, fingerprint=HERE if fingerprint is None else fingerprint,
        branch=branch, when=when,
    )  # fmt: skip


def noise(count: int, seed: int = 0) -> tuple[float, ...]:
    """Make samples that hardly get smaller."""
    rng = random.Random(seed)
    return tuple(rng.random() for _ in range(count))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "h.db"


@pytest.fixture
def history(file: Path) -> Iterator[History]:
    with History.open(file) as found:
        yield found


TEXT = st.text(st.characters(), max_size=30)  # NUL, newlines and lone surrogates too
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ENDS = st.none() | FINITE
RUNS = st.builds(
    Run,
    verb=TEXT,
    subject=TEXT,
    sha256=TEXT,
    model_digest=TEXT,
    figures=st.lists(
        st.builds(
            Figure, name=TEXT.filter(bool), value=FINITE, unit=TEXT,
            better=st.sampled_from(["lower", "higher", "neither"]), low=ENDS, high=ENDS, note=TEXT,
        ),
        max_size=4,
    ).map(tuple),
    gates=st.lists(
        st.builds(
            Gate, name=TEXT, metric=TEXT, value=ENDS, limit=FINITE, unit=TEXT,
            status=st.sampled_from(["pass", "fail", "inconclusive", "none"]), low=ENDS, high=ENDS,
            note=TEXT,
        ),
        max_size=3,
    ).map(tuple),
    samples_ms=st.lists(
        st.floats(min_value=0, allow_nan=False, allow_infinity=False)
        | st.integers(0, 10**12).map(lambda n: n / 1e6)
    ).map(tuple),
    batch=st.integers(1, 2**70),
    fingerprint=st.dictionaries(TEXT, TEXT, max_size=3),
    environment=st.dictionaries(TEXT, TEXT, max_size=3),
    commit=TEXT,
    branch=TEXT,
    when=TEXT,
    notes=st.lists(TEXT, max_size=3).map(tuple),
)  # fmt: skip


@given(runs=st.lists(RUNS, min_size=1, max_size=3))
@settings(max_examples=60)
@example(runs=[Run("", "\0\ud800\n", branch="\udcff", notes=("x" * 3_000_000,))])
@example(runs=[Run("v", "s", samples_ms=(-0.0, 5e-324, 1.7e308, 0.1))])
def test_a_run_comes_out_as_it_went_in(
    runs: list[Run], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with History.open(tmp_path_factory.mktemp("h") / "h.db") as history:
        numbers = [history.add(run) for run in runs]
        for number, run in zip(numbers, runs, strict=True):
            found = history.get(number)
            assert found == run
            assert list(map(repr, found.samples_ms)) == list(map(repr, run.samples_ms))
            query = Query(subject=run.subject, branch=run.branch, verb=run.verb)
            assert number in [entry.id for entry in history.entries(query)]
            assert history.baseline(f"run:{number}", subject=run.subject)[1] == run
        without = [(n, r) for n, r in history.runs()]
        assert [n for n, _ in without] == numbers[::-1]
        assert all(not r.samples_ms for _, r in without)
        assert history.check() == []


def test_samples_of_a_nanosecond_clock_take_little_room() -> None:
    samples = tuple((1_500_000 + 997 * i % 30_000) / 1e6 for i in range(5000))
    packed = history_pack.pack_samples(samples)
    assert history_pack.unpack_samples(packed) == samples
    assert len(packed) < 3 * len(samples)


def test_too_large_a_run_is_refused(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_pack, "MOST_SAMPLES", 1)
    with pytest.raises(UsageError, match="1 raw samples of a run; this has 2"):
        history.add(run_of())
    monkeypatch.setattr(history_pack, "MOST_RECORD", 20)
    with pytest.raises(UsageError, match="this is longer"):
        history.add(run_of(samples=()))
    assert history.count() == 0


def test_fingerprints_hash_by_what_is_in_them() -> None:
    assert fingerprint_hash({"a": "1", "b": "2"}) == fingerprint_hash({"b": "2", "a": "1"})
    assert fingerprint_hash({"a": "1"}) != fingerprint_hash({"a": "2"})
    assert len(fingerprint_hash({"a": "\ud800"})) == 16


def test_runs_are_found_by_what_they_are(history: History) -> None:
    history.add(run_of(1, branch="main", status="pass"))
    history.add(run_of(2, branch="topic", status="fail", verb="check"))
    history.add(run_of(3, subject="other.onnx", fingerprint={"cpu": "two"}))

    def ids(query: Query | None = None, limit: int | None = None) -> list[int]:
        return [entry.id for entry in history.entries(query, limit=limit)]

    assert ids() == [3, 2, 1]
    assert ids(limit=2) == [3, 2]
    assert ids(Query(branch="topic")) == [2]
    assert ids(Query(verb="check", status="fail")) == [2]
    assert ids(Query(machine=fingerprint_hash(HERE))) == [2, 1]
    assert ids(Query(subject="none")) == []
    assert [p.value for p in history.series("latency_p50")] == [1, 2, 3]
    assert [p.value for p in history.series("latency_p50", limit=2)] == [2, 3]
    assert history.series("nothing") == []
    assert history.measured() == [("latency_p50", 3)]
    assert history.values("latency_p50", [1, 3, 9]) == {1: (1.0, "ms"), 3: (3.0, "ms")}


def test_a_figure_told_twice_counts_as_the_run_tells_it(history: History) -> None:
    run = Run("profile", "x", figures=(Figure("a", 1.0), Figure("a", 2.0)))
    history.add(run)
    assert [p.value for p in history.series("a")] == [1.0]
    assert history.get(1) == run


def test_a_read_only_history_makes_and_changes_nothing(file: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        History.open(file, write=False)
    assert not file.exists()
    with History.open(file) as history:
        history.add(run_of())
    before = file.read_bytes()
    with History.open(file, write=False) as history:
        assert history.count() == 1
        with pytest.raises(OutputError, match="may not write"):
            history.add(run_of())
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_folders_above_it_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b %41?mode=ro#é.db"
    with History.open(path) as history:
        history.add(run_of())
    assert path.is_file()


# Baselines.


def test_a_baseline_goes_by_name_and_subject(history: History) -> None:
    for run in (run_of(1), run_of(2, subject="other"), run_of(3)):
        history.add(run)
    history.set_baseline("v1", 1)
    history.set_baseline("v1", 2)
    assert history.baseline("v1", subject="net.onnx")[0] == 1
    assert history.baseline("v1", subject="other")[0] == 2
    with pytest.raises(UsageError, match=r"set for 'net.onnx', 'other': say which"):
        history.baseline("v1")
    history.set_baseline("v1", 3)
    assert history.baseline("v1", subject="net.onnx") == (3, run_of(3))
    assert history.baselines() == [("v1", "net.onnx", 3), ("v1", "other", 2)]
    assert history.entries()[0].baselines == ("v1",)
    with pytest.raises(UsageError, match="not for 'third'"):
        history.baseline("v1", subject="third")
    with pytest.raises(UsageError, match=r"did you mean 'v1'\?.*last-good, v1, branch:NAME"):
        history.baseline("v2")
    assert history.drop_baseline("v1", "other") == 1
    assert history.baselines() == [("v1", "net.onnx", 3)]
    assert history.drop_baseline("v1") == 1
    assert history.drop_baseline("v1") == 0


@pytest.mark.parametrize("name", ["", " a", "last-good", "branch:x", "run:1", "a\nb", "x" * 201])
def test_names_that_mean_something_else_are_refused(history: History, name: str) -> None:
    history.add(run_of())
    with pytest.raises(UsageError):
        history.set_baseline(name, 1)


@pytest.mark.parametrize("number", [0, -1, 7, 10**30, -(10**30)])
def test_a_run_that_is_not_there_is_told(history: History, number: int) -> None:
    with pytest.raises(UsageError, match="has no run"):
        history.get(number)
    with pytest.raises(UsageError, match="has no run"):
        history.set_baseline("a", number)


def test_the_last_good_one_has_not_failed(history: History) -> None:
    for status, branch in (
        ("pass", "main"), ("none", "main"), ("pass", "topic"), ("fail", "main"),
        ("inconclusive", "main"),
    ):  # fmt: skip
        history.add(run_of(status=status, branch=branch))  # type: ignore[arg-type]
    assert history.baseline("last-good")[0] == 3
    assert history.baseline("branch:main")[0] == 2
    assert history.baseline("last-good", branch="main")[0] == 2
    assert history.baseline("branch:topic")[0] == 3
    assert history.baseline("last-good", verb="profile")[0] == 3
    with pytest.raises(UsageError, match="is no run of the branch"):
        history.baseline("branch:main", branch="topic")
    with pytest.raises(UsageError, match=r"branch 'mian'.*did you mean 'main'"):
        history.baseline("branch:mian")
    with pytest.raises(UsageError, match=r"no run of 'nets.onnx'.*did you mean 'net.onnx'"):
        history.baseline("last-good", subject="nets.onnx")


def test_the_last_good_one_is_of_this_machine_and_has_samples(history: History) -> None:
    history.add(run_of(fingerprint={"cpu": "two"}))
    with pytest.raises(UsageError, match=r"on this machine in .*; the newest of others is run 1"):
        history.baseline("last-good", fingerprint=HERE)
    history.add(run_of(samples=()))
    assert history.baseline("last-good", fingerprint=HERE)[0] == 2
    with pytest.raises(UsageError, match="with raw samples on this machine"):
        history.baseline("last-good", fingerprint=HERE, with_samples=True)
    history.set_baseline("a", 1)
    with pytest.raises(UsageError, match=r"'a' is run 1 .* of machine"):
        history.baseline("a", fingerprint=HERE)
    history.set_baseline("b", 2)
    with pytest.raises(UsageError, match="no raw samples"):
        history.baseline("b", with_samples=True)
    with pytest.raises(UsageError, match="of verb 'profile', not 'check'"):
        history.baseline("run:2", verb="check")
    for wrong in ("run:", "run:x", "run:-1", "run:" + "9" * 30, "run:١"):
        with pytest.raises(UsageError, match="is no run"):
            history.baseline(wrong)


def test_where_all_failed_there_is_no_good_one(history: History) -> None:
    history.add(run_of(status="fail"))
    with pytest.raises(UsageError, match=r"no run of 'net.onnx' has passed"):
        history.baseline("last-good", subject="net.onnx")


# Pruning.


def test_pruning_keeps_baselines_and_the_last_good_one(history: History) -> None:
    for i in range(10):
        history.add(run_of(status="fail" if i >= 5 else "pass"))
    history.add(run_of(subject="rare"))
    history.set_baseline("first", 1)
    with pytest.raises(UsageError, match="what to keep"):
        history.prune()
    assert history.prune(keep=2, dry_run=True) == [2, 3, 4, 6, 7, 8]
    assert history.count() == 11
    assert history.prune(keep=2) == [2, 3, 4, 6, 7, 8]
    assert [e.id for e in history.entries()] == [11, 10, 9, 5, 1]
    assert history.baseline("last-good", subject="net.onnx")[0] == 5
    assert history.check() == []
    assert history.add(run_of()) == 12  # a number is never given twice


def test_pruning_by_age_leaves_runs_of_unknown_age(history: History) -> None:
    for when in ("2025-01-01T00:00:00Z", "", "long ago", "2026-01-01T00:00:00Z"):
        history.add(run_of(when=when, status="fail"))
    assert history.prune(before="2025-06-01T00:00:00Z", keep=9) == []
    assert history.prune(before="2025-06-01T00:00:00Z") == [1]


def test_pruning_gives_room_back(file: Path, history: History) -> None:
    for i in range(30):
        history.add(run_of(samples=noise(5000, i), status="fail"))
    before = file.stat().st_size
    history.prune(keep=1)
    assert file.stat().st_size < before / 5


def test_pruning_beside_a_reader_is_done_all_the_same(file: Path, history: History) -> None:
    for _ in range(3):
        history.add(run_of(status="fail"))
    history._connection.execute("PRAGMA busy_timeout = 50")
    history.prune(keep=1)
    assert history.count() == 1


# Merging.


def test_runs_are_merged_once(history: History) -> None:
    runs = [run_of(1), run_of(2)]
    assert history.add_missing(runs) == (2, 0)
    assert history.add_missing([*runs, run_of(3)]) == (1, 2)
    with pytest.raises(UsageError, match="later"):
        history.add_missing(_fails_after(run_of(4)))
    assert history.count() == 3


def _fails_after(run: Run) -> Iterator[Run]:
    yield run
    raise UsageError("later")


# Several writers.


@pytest.mark.parametrize("seconds", [2.0, pytest.param(10.0, marks=pytest.mark.slow)])
def test_eight_writers_killed_at_random_lose_and_tear_nothing(
    file: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    found = importlib.import_module("killed_writers").hammer(file, 8, seconds)
    assert found.lost == found.torn == 0
    assert found.problems == ()
    assert found.kills > 8
    assert found.kept >= found.acknowledged > 0


def test_the_judge_of_killed_writers_sees_what_is_lost_and_torn(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    killed = importlib.import_module("killed_writers")
    with History.open(file) as history:
        history.add(killed.run_of("a"))
        history.add(killed.run_of("strange"))
    log = file.with_name("log")
    log.write_text("begun a\ndone a 1\nbegun b\ndone b 2\nbegun c\n")
    found = killed._judge(file, log, 1, 1.0, 0)
    assert (found.lost, found.torn, found.rolled_back, found.unseen) == (1, 1, 2, 1)


def test_eight_threads_make_one_history_at_once(file: Path) -> None:
    ready, errors = threading.Barrier(8), []

    def work(i: int) -> None:
        try:
            ready.wait()
            with History.open(file) as history:
                history.add(run_of(i))
        except Exception as problem:  # noqa: BLE001
            errors.append(problem)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with History.open(file, write=False) as history:
        assert sorted(p.value for p in history.series("latency_p50")) == list(range(8))


def test_a_locked_file_is_told_and_waited_for(file: Path) -> None:
    with History.open(file) as history:
        history.add(run_of())
    with (
        closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other,
        History.open(file, wait_s=0.1) as history,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(EnvironmentProblem, match="locked by another program") as caught:
            history.add(run_of())
        assert caught.value.exit_code == 4
        with History.open(file, wait_s=20) as patient:
            timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
            timer.start()
            assert patient.add(run_of()) == 2
            timer.join()


def test_a_full_disk_is_told_and_what_was_there_stays(file: Path, history: History) -> None:
    history.add(run_of())
    (pages,) = history._connection.execute("PRAGMA page_count").fetchone()
    history._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(OutputError, match="no space left"):
        history.add(run_of(samples=noise(9999)))
    assert history.count() == 1
    assert history.check() == []


def test_a_file_that_may_not_grow_is_told(file: Path, history: History) -> None:
    history.add(run_of())
    size = file.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, before[1]))
        with pytest.raises(OutputError):
            history.add(run_of(samples=noise(9999)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, kept)
    assert history.add(run_of()) == 2
    assert history.check() == []


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    for path, error in (
        (tmp_path, UsageError),
        (Path("/dev/null"), UsageError),
        (Path("/proc/history.db"), OutputError),
        (tmp_path / "file" / "h.db", OutputError),
        (tmp_path / ("x" * 300), OutputError),
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(error) as caught:
            History.open(path)
        assert "\n" not in str(caught.value)


# Other files, and those of strangers.


def make(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def edited(path: Path, *statements: str) -> None:
    """Add a run, then change the file as anybody with SQLite can."""
    with History.open(path) as history:
        history.add(run_of())
    make(path, "PRAGMA foreign_keys = OFF", "PRAGMA ignore_check_constraints = ON", *statements)


def refusal(path: Path, write: bool = True) -> str:
    with pytest.raises(GraphoptError) as caught:
        History.open(path, write=write)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("write", [True, False])
def test_files_of_others_are_left_alone(tmp_path: Path, write: bool) -> None:
    text, other = tmp_path / "a.txt", tmp_path / "other.db"
    text.write_text("A text that is longer than the header of an SQLite file. " * 9)
    make(other, "CREATE TABLE runs (id)", "PRAGMA user_version = 1")
    for path, what in ((text, "not an SQLite file"), (other, "another program")):
        before = path.read_bytes()
        assert what in refusal(path, write)
        assert path.read_bytes() == before


def test_an_empty_file_becomes_a_history(file: Path) -> None:
    file.write_bytes(b"")
    assert "empty" in refusal(file, write=False)
    with History.open(file) as history:
        assert history.add(run_of()) == 1


def test_a_newer_schema_is_refused_and_an_older_one_brought_up(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with History.open(file) as history:
        history.add(run_of())
    old, steps = file.read_bytes(), history_file.STEPS
    more = ("ALTER TABLE runs ADD COLUMN host TEXT NOT NULL DEFAULT ''", "CREATE TABLE more (x)")
    monkeypatch.setattr(history_file, "STEPS", (*steps, more))
    for write in (True, False):
        file.write_bytes(old)
        with History.open(file, write=write) as history:
            assert history.get(1) == run_of()
            assert history.rows("SELECT host FROM runs") == [("",)]
        with History.open(file, write=False) as history:
            assert history.check() == []
    monkeypatch.setattr(history_file, "STEPS", steps)
    assert "newer graphopt (schema 2; this reads 1)" in refusal(file)


def test_a_step_that_fails_leaves_the_older_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with History.open(file) as history:
        history.add(run_of())
    steps = (*history_file.STEPS, ("CREATE TABLE more (x)", "CREATE TABLE runs (x)"))
    with monkeypatch.context() as patch:
        patch.setattr(history_file, "STEPS", steps)
        refusal(file)
    with History.open(file) as history:
        assert history.get(1) == run_of()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE extra (x)",
        "CREATE INDEX i ON runs (abs(id))",
        "DROP INDEX runs_by_subject",
        "ALTER TABLE runs ADD COLUMN x GENERATED ALWAYS AS (zeroblob(1000000000))",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
        "DROP TABLE baselines",
        "PRAGMA user_version = -1",
    ],
)
def test_other_tables_are_refused(file: Path, statement: str) -> None:
    edited(file, statement)
    for write in (True, False):
        assert str(file) in refusal(file, write)


def test_a_view_in_place_of_a_table_runs_nothing(file: Path) -> None:
    edited(
        file,
        "DROP TABLE baselines",
        "CREATE VIEW baselines AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) "
        "SELECT x AS name, x AS subject, x AS run FROM n",
    )
    assert "view 'baselines'" in refusal(file)


def test_what_analyze_makes_is_allowed(file: Path) -> None:
    edited(file, "ANALYZE")
    with History.open(file) as history:
        assert history.add(run_of()) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET subject = 7",
        "UPDATE runs SET subject = x'ff'",
        "UPDATE runs SET moment = CAST(x'ff' AS TEXT)",
        "UPDATE runs SET status = 'fine'",
        "UPDATE runs SET samples = 'many'",
        "UPDATE runs SET batch = 1.5",
        "UPDATE runs SET batch = x'00'",
    ],
)
def test_other_types_in_lists_are_told(file: Path, statement: str) -> None:
    edited(file, statement)
    with History.open(file, write=False) as history:
        for read in (history.entries, lambda: history.series("latency_p50")):
            unread = "status" in statement or "samples" in statement
            if "subject = 7" in statement or (unread and read != history.entries):
                read()  # the column makes a text of it, or a series does not look at it
                continue
            with pytest.raises(UsageError, match="damaged"):
                read()


BOMB = "x'78da' || zeroblob(40)"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE details SET record = 'text'",
        "UPDATE details SET record = x''",
        "UPDATE details SET record = x'789c030000000001'",
        f"UPDATE details SET record = {BOMB}",
        "UPDATE details SET samples = x'66ffffffff'",
        "UPDATE details SET samples = x'6602000000789c030000000001'",
        "UPDATE details SET samples = zeroblob(100000)",
        "UPDATE details SET samples = 5",
        "UPDATE runs SET digest = 'no'",
        "UPDATE details SET samples = substr(samples, 1, length(samples) - 1)",
    ],
)
def test_other_bytes_of_a_run_are_told(file: Path, statement: str) -> None:
    edited(file, statement)
    with History.open(file, write=False) as history:
        with pytest.raises(UsageError, match=r"is damaged"):
            history.get(1)
        assert history.check() != []


def test_a_figure_that_is_none_is_told(file: Path) -> None:
    edited(file, "UPDATE figures SET value = 9e999")
    with (
        History.open(file, write=False) as history,
        pytest.raises(UsageError, match="damaged"),
    ):
        history.series("latency_p50")


@pytest.mark.parametrize(
    "text",
    [b"null", b"[" * 100_000, b"{}", b'{"kind": "graphopt-run", "schema": 9}', b"\xff", b"1e999"],
)
def test_a_record_that_is_no_run_is_told(file: Path, text: bytes) -> None:
    import zlib

    edited(file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE details SET record = ?", (zlib.compress(text),))
        connection.commit()
    with (
        History.open(file, write=False) as history,
        pytest.raises(UsageError, match=r"damaged|schema 9|not a run"),
    ):
        list(history.runs())


def test_samples_that_unpack_to_more_than_they_say_are_not_unpacked() -> None:
    import zlib

    bomb = b"f" + (4).to_bytes(4, "little") + zlib.compress(b"\0" * (1 << 26))
    with pytest.raises(ValueError, match="longer than it may be"):
        history_pack.unpack_samples(bomb)
    for values in (b"\0" * 6 + b"\xf8\x7f", b"\0" * 6 + b"\xf0\xbf"):  # NaN, -1
        shuffled = bytes(values)
        packed = b"f" + (1).to_bytes(4, "little") + zlib.compress(shuffled)
        with pytest.raises(ValueError, match="finite"):
            history_pack.unpack_samples(packed)


@given(data=st.data())
@settings(max_examples=60)
def test_damaged_files_end_in_one_line_or_in_what_was_added(
    data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("h") / "h.db"
    runs = [run_of(i, samples=tuple(i + k / 7 for k in range(300))) for i in range(4)]
    with History.open(file) as history:
        for run in runs:
            history.add(run)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(1, len(content)))]
    file.write_bytes(content)

    def prune(h: History) -> object:
        h._connection.execute("PRAGMA synchronous = OFF")
        return h.prune(keep=1)

    reads: list[Callable[[History], object]] = [
        lambda h: h.entries(), lambda h: list(h.runs()), lambda h: h.series("latency_p50"),
        lambda h: h.baseline("last-good"), lambda h: h.check(), prune,
    ]  # fmt: skip
    for read in reads:
        try:
            with History.open(file) as history:
                read(history)
                for entry in history.entries():
                    assert history.get(entry.id) in runs
        except GraphoptError as problem:
            assert "\n" not in str(problem)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET moment = '2026-03-14T00:00:00Z'",
        "UPDATE runs SET revision = 'f' || substr(revision, 2)",
        "UPDATE runs SET branch = 'nain'",
        "UPDATE runs SET machine = '0123456789abcdef'",
        "UPDATE runs SET samples = 3",
        "UPDATE runs SET status = 'pass'",
        "UPDATE figures SET value = value + 1e-9",
        "UPDATE figures SET name = 'latdncy_p50'",
        "UPDATE figures SET unit = 's'",
        "DELETE FROM figures",
        "DELETE FROM details",
        "INSERT INTO figures VALUES (1, 'more', 1.0, '')",
        "INSERT INTO baselines VALUES ('v1', 'another', 1)",
    ],
)
def test_what_lists_and_plots_read_is_held_against_the_record(file: Path, statement: str) -> None:
    edited(file, statement)
    with History.open(file, write=False) as history:
        assert len(history.check()) == 1
        if "runs" in statement or "details" in statement:
            with pytest.raises(UsageError, match=r"run 1 of .* is damaged"):
                history.get(1)


def test_a_run_whose_figures_are_told_twice_is_whole(history: History) -> None:
    figures = (Figure("a", -0.0), Figure("a", 2.0), Figure("\udcff", 1.0), Figure("\\udcff", 2.0))
    number = history.add(Run("profile", "net", figures=figures, batch=2**70))
    assert history.check() == []
    assert history.get(number).figures == figures


def test_a_number_is_no_name(history: History) -> None:
    number = history.add(run_of())
    with pytest.raises(UsageError, match="number of a run"):
        history.set_baseline("17", number)
