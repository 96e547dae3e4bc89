"""``graphopt history``: what is said, in which order, with which exit code."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from graphopt.cli import main
from graphopt.profiles.history import History
from graphopt.profiles.run import Figure, Gate, Run

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["history", *map(str, words)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err

    return call


def commit(number: int) -> str:
    return f"{random.Random(number).getrandbits(160):040x}"


def fill(name: str = "h.db", count: int = 40, shift: int = 30) -> None:
    rng = random.Random(7)
    with History.open(name) as history:
        for i in range(count):
            value = (1.5 if i < shift else 1.6) * rng.lognormvariate(0, 0.004)
            fails = i == count - 1
            gate = Gate("max-regression", "p50", 7.0, 3.0, "%", "fail" if fails else "pass")
            history.add(
                Run(
                    "profile", "net.onnx", sha256="ab" * 32,
                    figures=(
                        Figure("latency_p50", value, "ms", low=value * 0.99, high=value * 1.01),
                        Figure("sqnr", 30.0, "dB", "higher"),
                    ),
                    gates=(gate,) if i % 2 else (), samples_ms=(value, value * 1.5),
                    fingerprint={"cpu": "one"}, environment={"cpu": "one", "heat": "40"},
                    commit=commit(i), branch="main" if i % 3 else "topic",
                    when=f"2026-01-{1 + i % 28:02}T00:00:00Z", notes=("a note",),
                )
            )  # fmt: skip


def test_figures_are_shown_as_people_write_them(cli: Cli) -> None:
    with History.open("h.db") as history:
        figures = (
            Figure("size", 245_528, "bytes"),
            Figure("latency_change", -0.041884, "%"),
            Figure("latency_p50", 0.264387, "ms"),
        )
        history.add(Run("check", "net.onnx", figures=figures))
    out = cli("show", "h.db", "1")[1]
    assert "245.53 kB" in out
    assert "-0.04 %" in out
    assert "0.26439 ms" in out


def test_list_shows_the_newest_first(cli: Cli) -> None:
    fill()
    code, out, err = cli("list", "h.db", "--limit", "3")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "40", "39", "38"]
    assert "fail" in lines[1]
    assert commit(39)[:9] in lines[1]
    assert "--limit shows more" in err
    code, out, _ = cli("list", "h.db", "--branch", "topic", "--json", "--figure", "sqnr")
    rows = json.loads(out)
    assert {row["branch"] for row in rows} == {"topic"}
    assert {row["value"] for row in rows} == {30.0}
    assert cli("list", "h.db", "--subject", "other")[1] == "no such run in h.db\n"


def test_show_tells_all_of_one(cli: Cli) -> None:
    fill()
    code, out, _ = cli("show", "h.db", "40")
    assert code == 0
    for part in (
        "run 40",
        commit(39),
        "max-regression",
        "raw samples of batch 1",
        "a note",
        "heat",
    ):
        assert part in out
    assert cli("show", "h.db", "last-good")[1].startswith("run 39")
    assert cli("show", "h.db", "branch:topic")[1].startswith("run 37")
    found = json.loads(cli("show", "h.db", "run:1", "--json")[1])
    assert found["id"] == 1
    assert Run.from_json(found).samples_ms


def test_plot_draws_dots_and_a_file(cli: Cli) -> None:
    fill()
    code, out, _ = cli("plot", "h.db", "--ascii")
    assert code == 0
    assert out.isascii()
    assert "latency_p50 of net.onnx, profile, batch 1" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = cli("plot", "h.db", "--figure", "latency_p50", "-o", "p.svg")
    assert (code, out) == (0, "wrote p.svg\n")
    assert Path("p.svg").read_text().startswith("<svg")
    code, _, err = cli("plot", "h.db", "--plot", "p.svg")
    assert code == 2
    assert "--force" in err
    (series,) = json.loads(cli("plot", "h.db", "--json", "--limit", "5")[1])
    assert [p["run"] for p in series["points"]] == [36, 37, 38, 39, 40]
    code, _, err = cli("plot", "h.db", "--figure", "latency_p5")
    assert code == 2
    assert "did you mean 'latency_p50'" in err
    code, _, err = cli("plot", "h.db", "--subject", "net.onn")
    assert code == 2
    assert "did you mean 'net.onnx'" in err


def test_shifts_name_run_and_commits(cli: Cli) -> None:
    fill()
    code, out, _ = cli("shifts", "h.db")
    assert code == 0
    assert "from run 31 " in out
    assert f"git log {commit(29)}..{commit(30)}" in out
    (found,) = json.loads(cli("shifts", "h.db", "--json")[1])
    assert found["first_after"]["run"] == 31
    assert 6 < found["low"] < found["change"] < found["high"] < 7.5
    assert found["unit"] == "%"
    assert json.loads(cli("shifts", "h.db", "--json", "--least", "50")[1]) == []
    assert "no shift of sqnr in 40 runs" in cli("shifts", "h.db", "--figure", "sqnr")[1]


def test_runs_of_another_machine_are_another_series(cli: Cli) -> None:
    with History.open("h.db") as history:
        for i in range(40):
            machine = {"cpu": "slow" if i >= 20 else "fast"}
            value = (1.0 + i % 4 / 1000) * (2 if i >= 20 else 1)
            figures = (Figure("latency_p50", value, "ms"),)
            history.add(Run("profile", "n", figures=figures, fingerprint=machine))
    assert "no shift" in cli("shifts", "h.db")[1]
    assert cli("plot", "h.db")[1].count("20 runs") == 2


def test_a_commit_that_is_none_makes_no_line_to_copy(cli: Cli) -> None:
    with History.open("h.db") as history:
        for i in range(40):
            figures = (Figure("latency_p50", 1.0 + i % 4 / 1000 + (i > 25), "ms"),)
            history.add(Run("profile", "n", figures=figures, commit=f"$(touch x{i})"))
    out = cli("shifts", "h.db")[1]
    assert "from run 27" in out
    assert "git log" not in out


def test_baselines_are_set_listed_and_forgotten(cli: Cli) -> None:
    fill()
    assert "no baseline" in cli("baseline", "h.db")[1]
    assert cli("baseline", "h.db", "v1", "7")[1] == "'v1' of 'net.onnx' is run 7\n"
    assert cli("baseline", "h.db", "v2", "last-good")[1] == "'v2' of 'net.onnx' is run 39\n"
    assert [b["run"] for b in json.loads(cli("baseline", "h.db", "--json")[1])] == [7, 39]
    assert cli("show", "h.db", "v1")[1].startswith("run 7")
    code, _, err = cli("baseline", "h.db", "v3", "--remove")
    assert code == 2
    assert "did you mean" in err
    assert cli("baseline", "h.db", "v1", "--remove")[0] == 0
    assert cli("baseline", "h.db", "v1", "9", "--remove")[0] == 2
    assert cli("baseline", "h.db", "--remove")[0] == 2
    assert cli("baseline", "none.db", "v1", "1")[0] == 2
    assert not Path("none.db").exists()


def test_exports_are_read_back(cli: Cli) -> None:
    fill()
    assert cli("export", "h.db", "-o", "x.jsonl")[0] == 0
    assert cli("export", "h.db")[1] == Path("x.jsonl").read_text()
    assert "added 40 runs to new.db; 0 were there" in cli("import", "new.db", "x.jsonl")[1]
    assert "added 0 runs to new.db; 40 were there" in cli("import", "new.db", "h.db")[1]
    with History.open("h.db", write=False) as a, History.open("new.db", write=False) as b:
        assert [a.get(n) for n in range(1, 41)] == [b.get(n) for n in range(1, 41)]
    assert cli("import", "h.db", "h.db")[0] == 2
    Path("x.jsonl").write_text(Path("x.jsonl").read_text() + "{}\n")
    code, _, err = cli("import", "third.db", "x.jsonl")
    assert code == 2
    assert "x.jsonl, line 41: not a run" in err
    assert cli("list", "third.db")[1] == "no such run in third.db\n"
    assert cli("export", "h.db", "-o", "x.xml")[0] == 2
    assert cli("export", "h.db", "-o", "x.jsonl")[0] == 2


def test_a_spreadsheet_runs_nothing_of_an_export(cli: Cli) -> None:
    with History.open("h.db") as history:
        history.add(
            Run(
                "profile", "=cmd|'/c calc'!A1", figures=(Figure("@x", -1.5), Figure("b", 1e-7)),
                branch="+1\udcff", commit='a,"b"\nc', when="-1",
            )
        )  # fmt: skip
        history.set_baseline("-v", 1)
    assert cli("export", "h.db", "-o", "x.csv")[0] == 0
    (row,) = csv.DictReader(io.StringIO(Path("x.csv").read_bytes().decode()))
    assert row["subject"] == "'=cmd|'/c calc'!A1"
    assert row["branch"] == "'+1\\udcff"
    assert row["when"] == "'-1"
    assert row["commit"] == 'a,"b"\nc'
    assert row["baselines"] == "'-v"
    assert float(row["'@x"]) == -1.5
    assert float(row["b"]) == 1e-7
    assert cli("export", "h.db", "--format", "csv")[1].splitlines()[0].startswith("id,when,")


def test_prune_says_what_goes(cli: Cli) -> None:
    fill()
    assert (
        "would remove 35 runs of h.db; 5 are left"
        in cli("prune", "h.db", "--keep", "5", "--dry-run")[1]
    )
    assert json.loads(cli("prune", "h.db", "--keep", "5", "--json")[1])["left"] == 5
    assert "removed 3 runs" in cli("prune", "h.db", "--older-than", "1d")[1]
    assert cli("prune", "h.db")[0] == 2
    assert cli("prune", "none.db", "--keep", "1")[0] == 2
    for wrong in ("90", "d", "-1d", "9999999d", "1s"):
        code, _, err = cli("prune", "h.db", f"--older-than={wrong}")
        assert code == 2
        assert "is no age" in err
    assert cli("prune", "h.db", "--older-than", "999999y")[0] == 0


def test_verify_tells_a_whole_file_from_a_damaged_one(cli: Cli) -> None:
    fill(count=5)
    assert "h.db is whole: 5 runs" in cli("verify", "h.db")[1]
    content = bytearray(Path("h.db").read_bytes())
    at = content.rindex(b"f\x02\x00\x00\x00")  # the samples of a run
    content[at + 12] ^= 255
    Path("h.db").write_bytes(content)
    code, _, err = cli("verify", "h.db")
    assert code == 2
    assert "is damaged" in err


def test_a_stranger_s_words_do_nothing_to_a_terminal(cli: Cli) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\n[red]x[/red]"
    with History.open("h.db") as history:
        history.add(
            Run(
                evil, evil, evil, evil, figures=(Figure(evil, 1.0, evil, note=evil),),
                gates=(Gate(evil, evil, 1.0, 1.0, evil, "pass", note=evil),), commit=evil,
                branch=evil, when=evil, notes=(evil,), environment={evil: evil},
            )
        )  # fmt: skip
    for words in (["list"], ["plot", "--figure", evil], ["baseline"], ["prune", "--keep", "1"]):
        code, out, err = cli(words[0], "h.db", *words[1:])
        assert code == 0, err
        assert "\x1b" not in out + err
    assert "\x1b" not in cli("show", "h.db", "1")[1]
    assert "\x1b" not in cli("show", "h.db", "v")[2]


@pytest.mark.parametrize("verb", ["list", "plot", "shifts", "baseline", "export", "verify"])
def test_what_is_no_history_is_told(cli: Cli, verb: str) -> None:
    Path("a.txt").write_text("nothing of the kind" * 100)
    Path("dir").mkdir()
    for name in ("missing.db", "a.txt", "dir"):
        code, out, err = cli(verb, name)
        assert (code, out) == (2, "")
        assert name in err
    assert not Path("missing.db").exists()


def test_a_verb_that_is_mistyped_is_suggested(cli: Cli) -> None:
    code, _, err = cli("lst", "h.db")
    assert code == 2
    assert "did you mean 'list'" in err


def test_with_json_every_verb_prints_one_document(cli: Cli) -> None:
    fill()
    for words, kind in (
        (("list", "h.db"), list),
        (("show", "h.db", "last-good"), dict),
        (("plot", "h.db"), list),
        (("plot", "h.db", "-o", "p.svg"), list),
        (("shifts", "h.db"), list),
        (("baseline", "h.db"), list),
        (("baseline", "h.db", "v1", "3"), dict),
        (("baseline", "h.db", "v1", "--remove"), dict),
        (("export", "h.db", "-o", "x.jsonl"), dict),
        (("import", "new.db", "h.db"), dict),
        (("prune", "h.db", "--keep", "9"), dict),
        (("verify", "h.db"), dict),
    ):
        code, out, err = cli(*words, "--json")
        assert code == 0, err
        assert isinstance(json.loads(out), kind), words


def test_an_import_of_nothing_makes_no_file_and_tells_of_baselines(cli: Cli) -> None:
    fill(count=4)
    cli("baseline", "h.db", "v1", "2")
    for source in ("missing.db", "."):
        code, _, err = cli("import", "new.db", source)
        assert code == 2
        assert "no such file" in err
    assert not Path("new.db").exists()
    code, _, err = cli("import", "new.db", "h.db")
    assert code == 0
    assert "baselines of h.db were not taken: 'v1' (run 2 there)" in err
    Path("same.db").hardlink_to("h.db")
    assert "is the history itself" in cli("import", "h.db", "same.db")[2]


def test_a_format_at_odds_with_its_file_is_refused(cli: Cli) -> None:
    fill(count=2)
    for words in (("--format", "json", "-o", "x.csv"), ("--format", "csv", "-o", "x.jsonl")):
        code, _, err = cli("export", "h.db", *words)
        assert code == 2
        assert "are at odds" in err
        assert not Path(words[-1]).exists()
    assert cli("export", "h.db", "--format", "csv", "-o", "x")[0] == 0
    assert Path("x").read_text().startswith("id,when,")


def test_a_plot_marks_where_a_level_shifted(cli: Cli) -> None:
    fill()
    out = cli("plot", "h.db")[1].splitlines()
    assert sum(line.strip() == "^" for line in out) == 1
    assert out[-1].startswith("  ^ +6.") and out[-1].endswith("% from run 31")
    cli("plot", "h.db", "-o", "p.svg")
    drawn = Path("p.svg").read_text()
    assert "from run 31" in drawn and "latency_p50, ms" in drawn
    assert "run of net.onnx, profile, batch 1" in drawn


def test_a_spike_does_not_flatten_a_drawing(cli: Cli) -> None:
    with History.open("h.db") as history:
        for i in range(60):
            value = 1.0 + i % 5 / 1000 if i != 30 else 5000.0
            history.add(Run("profile", "n", figures=(Figure("latency_p50", value, "ms"),)))
    cli("plot", "h.db", "-o", "p.svg")
    drawn = Path("p.svg").read_text()
    assert "1 spike cut off, the farthest 5000 ms" in drawn
    assert "000<" not in drawn  # no such tick


def test_series_are_named_by_what_differs(cli: Cli) -> None:
    with History.open("h.db") as history:
        for name in ("one", "two"):
            history.add(Run("profile", name, figures=(Figure("latency_p50", 1.0, "ms"),)))
    cli("plot", "h.db", "-o", "p.svg")
    drawn = Path("p.svg").read_text()
    assert ">one<" in drawn and ">two<" in drawn
