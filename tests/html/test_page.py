"""The page: what it says, that it is whole and harmless, and what it does with broken folders."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from graphopt.cli import main
from graphopt.errors import UsageError
from graphopt.html import page_of, read_build, render
from graphopt.html.terms import by_chance, change, factor, share, short, times, told
from graphopt.profiles.history import History
from graphopt.profiles.latency import LatencyProfile
from graphopt.profiles.run import Figure, Gate, Run
from graphopt.profiles.sweep import Sweep

Build = Callable[[dict[str, Any]], Path]
VOID = {"meta", "img", "br", "link", "input", "hr", "rect", "line", "path", "circle"}
EVIL = "<script>alert('x')</script>\"><img src=http://e.x/a onerror=1>\x1b[31m{{7*7}}"


class Checker(HTMLParser):
    """Collects what a page is made of, and fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, tag
        assert self.open.pop() == tag


def checked(text: str) -> Checker:
    """Check what holds for every page; return its parts."""
    page = Checker()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    idents = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(idents) == len(set(idents))
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "link")]
    for tag, attrs in page.tags:
        assert not [key for key in attrs if key.startswith("on")], (tag, attrs)
        for key in ("src", "href", "xlink:href", "action"):
            target = attrs.get(key)
            if target is not None:
                assert target.startswith(("#", "data:image/")), (tag, target)
            if target and target.startswith("#"):
                assert target[1:] in idents
        if tag == "img":
            assert attrs.get("alt")
        if tag == "svg":
            by = str(attrs.get("aria-labelledby")).split()
            assert attrs.get("role") == "img"
            assert set(by) <= set(idents)
        if tag == "th":
            assert attrs.get("scope") in ("col", "row")
    for name in ("header", "nav", "main", "footer"):
        assert [tag for tag, _ in page.tags].count(name) == 1
    assert ("html", {"lang": "en"}) in page.tags
    policy = [a for t, a in page.tags if t == "meta" and a.get("http-equiv")]
    assert str(policy[0]["content"]).startswith("default-src 'none'; img-src data:;")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    return page


def made(folder: Path) -> str:
    return render(page_of(read_build(folder)))


def test_everything_is_shown_and_the_page_is_whole(build: Build, whole: dict[str, Any]) -> None:
    text = made(build(whole))
    checked(text)
    plain = text.replace("\N{NO-BREAK SPACE}", " ")
    for told_there in (
        "runs 4.00x faster on this build&#39;s CPU (2.00 ms to 0.500 ms, median; 95 % interval "
        "3.85x to 4.17x)",
        "its weights take 20 % of the memory they did",
        "92.60 % before, 93.00 % now on 932 samples: 6 that were right are now wrong, 10 that",
        "may be chance (exact McNemar test, p = 0.45)",
        "Accuracy fell by 1.2 points; --max-drop allows 1 points.",
        "a limit was missed",
        "Quantize it too",
        "2 places left alone, for 1 reason",
        "56 of 224 channels that could be removed are gone (25.0 %), from 7 of 14 groups",
        "2 tensors got a range from 64 samples; thresholds by entropy.",
        "Estimated, not measured: 78.0 µs for a run, likely between 50.0 µs and 0.100 ms on t4.",
        "changed since the build",
        "unchanged",
        "missing",
        "Throughput against latency",
        "The 2 slowest layers",
        "Check of model.engine, 2026-11-23T04:12:53Z, commit abcdef012345",
        "FAILED",
        "data:image/webp;base64,",
    ):
        assert told_there in plain, told_there
    assert len(text) < 300_000


def test_the_same_folder_gives_the_same_bytes(build: Build, whole: dict[str, Any]) -> None:
    folder = build(whole)
    first = made(folder)
    turned = {key: whole[key] for key in reversed(whole)}
    (folder / "report.json").write_text(json.dumps(turned))
    assert made(folder) == first


def test_a_part_that_is_missing_leaves_no_hole(build: Build, whole: dict[str, Any]) -> None:
    needed = ("kind", "schema")
    for key in [k for k in whole if k not in needed]:
        folder = build({k: v for k, v in whole.items() if k != key})
        checked(made(folder))
    bare = folder.parent / "bare"
    bare.mkdir()
    (bare / "report.json").write_text(json.dumps({k: whole[k] for k in needed}))
    text = made(bare)
    page = checked(text)
    assert page.headings == [1, 2, 2]
    assert "measured nothing that could be compared" in text


def _strings(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v if k in ("kind", "status") else _strings(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_strings(v) for v in value]
    return EVIL if isinstance(value, str) else value


def test_text_from_elsewhere_does_nothing(build: Build, whole: dict[str, Any]) -> None:
    metrics, stages = whole["metrics"], whole["stages"]
    evil = _strings(whole)
    for old, new in zip(metrics, evil["metrics"], strict=True):
        new["name"], new["unit"] = old["name"], old["unit"]
    for old, new in zip(stages, evil["stages"], strict=True):
        new["name"] = old["name"]
    evil["lint"]["findings"].append({EVIL: EVIL, "what": EVIL})
    evil["versions"][EVIL] = EVIL
    evil["metrics"][0]["values"][EVIL] = 1.0
    evil["fidelity"]["int8"]["outputs"] = {EVIL: evil["fidelity"]["int8"]["total"]}
    folder = build(evil)
    for name in ("calibration.json", "prune-plan.json", "check.json", "layers.json"):
        text = (folder / name).read_text()
        quoted = json.dumps(EVIL)[1:-1]
        for word in ("t0", "layer3.conv1", "model.engine", "look"):
            text = text.replace(f'"{word}"', f'"{quoted}"')
        (folder / name).write_text(text)
    text = made(folder)
    page = checked(text)
    assert "\x1b" not in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "{{7*7}}" in text
    assert not [a for t, a in page.tags if t == "img" and "e.x" in str(a.get("src"))]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:2]):
            found += _places(inner, (*path, i))
    return found


BAD: tuple[Any, ...] = (7, "x", [1], {"a": {}}, None, True, 1e400, -3, 10**400)


@pytest.mark.parametrize("turn", range(3))
def test_whatever_a_report_holds_it_is_a_page_or_one_line(
    tmp_path: Path, whole: dict[str, Any], turn: int
) -> None:
    """Put something else in every place in turn; nothing but a page or one line comes of it."""
    for name in ("before", "fp32", "int8"):
        whole["latency"][name]["samples_ms"] = [1.0, 2.0]
    whole["layers"] = whole["layers"][:2]
    whole["roofline"]["layers"] = whole["roofline"]["layers"][:2]
    text = json.dumps(whole)
    pages = refused = 0
    for i, place in enumerate(_places(whole)):
        value = json.loads(text)
        at = value
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = BAD[(i * 3 + turn + i // 3) % len(BAD)]
        (tmp_path / "report.json").write_text(json.dumps(value))
        try:
            page = render(page_of(read_build(tmp_path)))
        except UsageError as problem:
            refused += 1
            assert "report.json" in str(problem)
            assert "\n" not in str(problem)
        else:
            pages += 1
            assert "<script" not in page
    assert pages > 20
    assert refused > 20


@pytest.mark.parametrize("name", ["calibration.json", "prune-plan.json", "contact-sheet.webp"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b"\xff\xd8\xff", b'{"kind":1}'])
def test_another_file_that_is_broken_is_left_out_and_told(
    build: Build, whole: dict[str, Any], name: str, content: bytes
) -> None:
    folder = build(whole)
    (folder / name).write_bytes(content)
    text = made(folder)
    checked(text)
    assert "left out" in text.lower()


@pytest.mark.parametrize("name", ["check.json", "sweep.json", "layers.json"])
def test_a_run_that_is_broken_is_left_out_and_told(
    build: Build, whole: dict[str, Any], name: str
) -> None:
    folder = build(whole)
    value = json.loads((folder / name).read_text())
    for key in ("figures", "points", "layers"):
        if key in value:
            value[key] = [{"name": 3, "p99_ms": "x"}]
    (folder / name).write_text(json.dumps(value))
    assert f"{name} is left out" in made(folder)


def test_an_image_is_written_anew(build: Build, whole: dict[str, Any]) -> None:
    folder = build(whole)
    image = Image.new("RGB", (5000, 100), (1, 2, 3))
    image.save(folder / "contact-sheet.webp", "PNG", pnginfo=_comment())
    data = (folder / "contact-sheet.webp").read_bytes()
    (folder / "contact-sheet.webp").write_bytes(data + b"<script>")
    page = checked(made(folder))
    (shown,) = [a for t, a in page.tags if t == "img"]
    assert int(str(shown["width"])) == 1600
    image = Image.new("1", (6_000, 6_000))
    image.save(folder / "contact-sheet.webp", "PNG")
    assert "more pixels than a page can bear" in made(folder)


def _comment() -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "a secret")
    return info


def test_a_large_model_gives_a_page_of_a_sane_size(build: Build, whole: dict[str, Any]) -> None:
    name = "module.block.layer." * 8
    whole["layers"] = [{**whole["layers"][0], "name": f"{name}{i}", "sqnr_db": 40 - i % 30}
                       for i in range(2000)]  # fmt: skip
    whole["roofline"]["layers"] = [{**whole["roofline"]["layers"][i % 12], "name": f"{name}{i}"}
                                   for i in range(2000)]  # fmt: skip
    whole["stages"][1]["refusals"] = [{"where": f"{name}{i}", "reason": f"width {i} is odd"}
                                      for i in range(2000)]  # fmt: skip
    whole["latency"]["before"]["samples_ms"] *= 500
    whole["warnings"] = [f"warning {i}" for i in range(2000)]
    text = made(build(whole))
    checked(text)
    assert len(text) < 3_000_000
    assert "All 2000 layers, the 400 lowest" in text


def test_the_other_build_stands_beside(build: Build, whole: dict[str, Any], tmp_path: Path) -> None:
    folder = build(whole)
    other = tmp_path / "other"
    other.mkdir()
    whole["metrics"][4]["values"]["int8"] = 1.0
    (other / "report.json").write_text(json.dumps(whole))
    text = render(page_of(read_build(folder), read_build(other)))
    checked(text)
    assert "2.00x faster" in text
    assert "the other build" in text


Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verb(capfd: pytest.CaptureFixture[str]) -> Verb:
    """Return what runs ``graphopt report``: exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["report", *words])
        seen = capfd.readouterr()
        return int(str(ended.value.code or 0)), seen.out, seen.err

    return run


def test_the_verb(build: Build, whole: dict[str, Any], tmp_path: Path, verb: Verb) -> None:
    folder = build(whole)
    code, out, _ = verb(str(folder))
    assert code == 0
    assert "wrote" in out
    page = folder / "report.html"
    checked(page.read_text())
    code, _, err = verb(str(folder))
    assert code == 2
    assert "--force" in err
    code, out, _ = verb(str(folder), "--force", "--json")
    assert code == 0
    assert json.loads(out)["sections"][0] == "todo"
    elsewhere = tmp_path / "elsewhere.html"
    assert verb(str(folder), "-o", str(elsewhere))[0] == 0
    assert elsewhere.read_bytes() == page.read_bytes()
    code, _, err = verb(str(folder), "-o", str(folder / "report.json"), "--force")
    assert code == 2
    assert "part of the build" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no report.json"),
        ("[]", "not a report written by graphopt build"),
        ("{", "is not JSON"),
        ('{"kind": "graphopt-report", "schema": 99}', "has schema 99"),
        ('{"kind": "graphopt-report", "schema": 1, "metrics": 3}', "'metrics' is not a list"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_folder_without_a_report_is_one_line(
    tmp_path: Path, verb: Verb, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    code, _, err = verb(str(tmp_path))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_no_folder_is_one_line(tmp_path: Path, verb: Verb) -> None:
    code, _, err = verb(str(tmp_path / "nothing"))
    assert code == 2
    assert "is no folder" in err


def plain(folder: Path, **options: Any) -> str:
    page = render(page_of(read_build(folder), **options))
    checked(page)
    text = re.sub(r"<[^>]*>", " ", page.replace("\N{NO-BREAK SPACE}", " "))
    return " ".join(html.unescape(text).split())


def test_an_estimate_is_marked_and_stands_below(build: Build, whole: dict[str, Any]) -> None:
    latency = whole["metrics"].pop()
    estimate = {"name": "ESTIMATED latency", "unit": "ms", "note": "t4: nothing was measured",
                "values": {"before": 0.9, "int8": 0.078}}  # fmt: skip
    whole["metrics"] += [estimate, latency]
    text = plain(build(whole))
    caption = "Every figure, step by step; what is marked an estimate was measured nowhere"
    assert caption in text
    rows = text[text.index(caption) :]
    assert rows.index(" latency 2.000 ms") < rows.index("latency on t4 estimate")
    assert "latency on t4 (estimate): t4: nothing was measured." in text
    assert "On t4 nothing was measured; an estimate is 78.0 µs for a run" in text
    whole["metrics"] = [latency]
    text = plain(build(whole))
    assert "Every figure, step by step as given" in text
    assert "nothing was measured" not in text


@pytest.mark.parametrize(
    ("low", "high", "said", "tile", "warned"),
    [
        (-0.7425, -0.7375, "runs 4.00x faster on this build's CPU (2.00 ms", "better", False),
        (-0.96, -0.5, "runs between 2.00x and 25x faster on", "better: 2.00x to 25x", True),
        (1.0, 9.0, "runs between 2.00x and 10x slower on", "0.10x to 0.50x", True),
        (
            -0.05,
            0.05,
            "no faster or slower on this build's CPU than chance",
            "within chance",
            False,
        ),
        (-0.5, 1.0, "no faster or slower on this build's CPU than chance", "within chance", True),
        (-0.004, 0.004, "runs as fast on this build's CPU as before", "within chance", False),
    ],
)
def test_speed_is_told_as_closely_as_the_runs_tell(
    build: Build, whole: dict[str, Any], low: float, high: float, said: str, tile: str, warned: bool
) -> None:
    whole["comparison"]["before_to_last"].update(low=low, high=high, column="int8")
    text = plain(build(whole))
    assert said in text
    assert tile in text
    assert ("Build again on a quiet machine" in text) == warned
    whole["comparison"]["before_to_last"]["column"] = "fp32"  # another step's: not this one's
    assert "95 % interval 0" not in plain(build(whole))


def test_a_long_tail_is_warned_of(build: Build, whole: dict[str, Any]) -> None:
    assert "unsteady times" not in plain(build(whole))
    whole["latency"]["int8"].update(p50_ms=0.5, p99_ms=5.0)
    text = plain(build(whole))
    assert "The 99th percentile of latency is 10x (INT8) the median: a sign" in text


def test_outputs_that_are_lost_are_said_to_be(build: Build, whole: dict[str, Any]) -> None:
    whole["gates"] = []
    whole["metrics"][3]["values"]["int8"] = 0.4
    whole["metrics"].append({"name": "top-1 agreement", "unit": "%", "values": {"int8": 12.0}})
    text = plain(build(whole))
    assert "the noise in the outputs is as strong as they are (SQNR 0.4 dB)" in text
    assert "little is left of what the model said" in text
    whole["metrics"][-1]["values"]["int8"] = 99.0  # the answers are there still
    assert "little is left" not in plain(build(whole))


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (("floor",), "starting them takes all of the time: a larger batch, or fewer layers"),
        (("floor", "floor", "memory"), "in layers that moving data limits, 6"),
        (("compute", "memory"), "in layers that computing limits, 5"),
    ],
)
def test_what_limits_is_said_in_plain_words(
    build: Build, whole: dict[str, Any], bounds: tuple[str, ...], said: str
) -> None:
    for i, layer in enumerate(whole["roofline"]["layers"]):
        layer.update(bound=bounds[i % len(bounds)], ms=0.01, memory_ms=layer["bytes"] / 560e6)
    whole["roofline"]["ms"] = 0.01 * len(whole["roofline"]["layers"])
    whole["roofline"]["notes"] = ["fp32: every reference point is INT8"]
    text = plain(build(whole))
    assert said in text
    assert "No layer stands out" in text
    assert "fp32: every reference point is INT8." in text
    assert "moves data 1.75 times as fast as the memory does" in text


def test_a_tensor_is_named_with_its_layer(build: Build, whole: dict[str, Any]) -> None:
    whole["layers"][0].update(tensor="t0", name="conv_of_t0")
    text = plain(build(whole))
    assert "conv_of_t0 (t0): " in text
    whole["layers"][0].update(tensor="t0", name="t")  # its name says no more
    assert "t (t0)" not in plain(build(whole))


def test_pictures_may_be_left_out(build: Build, whole: dict[str, Any], verb: Verb) -> None:
    folder = build(whole)
    assert "Calibration images" in plain(folder)
    assert verb(str(folder), "--no-images")[0] == 0
    page = (folder / "report.html").read_text()
    checked(page)
    assert "data:image" not in page.replace("img-src data:", "")
    assert "Calibration images" not in page


def _history(path: Path, builds: int, **changes: Any) -> None:
    with History.open(path) as history:
        for i in range(builds):
            figures = (Figure("latency_p50", 1.0 + i, "ms"), Figure("weights", 2e6, "bytes"))
            run = Run("build", "net.onnx", figures=figures, fingerprint={"cpu": "a"},
                      when=f"2026-11-{i + 1:02}T00:00:00Z", commit="ab" * 20)  # fmt: skip
            history.add(replace(run, **changes))


def test_the_builds_before_are_shown(
    build: Build, whole: dict[str, Any], tmp_path: Path, verb: Verb
) -> None:
    folder, file = build(whole), tmp_path / "runs.db"
    _history(file, 3, fingerprint={"cpu": "b"})  # another machine: its latencies stay out
    _history(file, 4)
    _history(file, 1, verb="check")
    text = plain(folder, history=file)
    assert "The last 7 builds of net.onnx" in text
    assert "Median latency: 4.000 ms in the last, 3.000 ms before it." in text
    assert "Weights: 2.00 MB in the last" in text
    assert "run 7 2026-11-04T00:00:00Z abababababab 4.000 ms 2.00 MB" in text
    assert "run 3 2026-11-03T00:00:00Z abababababab – 2.00 MB" in text
    _history(file, 1, subject=EVIL[:60])
    _history(file, 1, subject="other")
    assert verb(str(folder), "--history", str(file), "--label", "other")[0] == 0
    assert "This is the only build of other so far." in (folder / "report.html").read_text()
    for words, said in (
        (("--history", str(file), "--label", "othr"), "did you mean 'other'"),
        (("--history", str(tmp_path / "none.db")), "no such file"),
        (("--history", str(folder / "report.json")), "report.json"),
        (("--label", "other"), "give --history too"),
    ):
        code, _, err = verb(str(folder), "--force", *words)
        assert code == 2, words
        assert said in err
        assert err.count("\n") == 1
    page = render(page_of(read_build(folder), history=file, subject=EVIL[:60]))
    checked(page)


def test_runs_are_shown_as_the_verbs_wrote_them(build: Build, whole: dict[str, Any]) -> None:
    folder = build(whole)
    (folder / "layers.json").unlink()
    timed = LatencyProfile(
        tuple(1.0 + (i * 7 % 13) / 100 for i in range(60)), batch=4, wall_ms=80.0
    )
    layers = {"schema": 1, "kind": "graphopt-layer-times", "source": "trtexec", "note": "",
              "total_ms": 3.0,
              "layers": [{"name": "a", "op": "Conv", "median_ms": 3.0}]}  # fmt: skip
    value = {**timed.to_json(), "warnings": ["other programs ran"], "layers": layers}
    (folder / "profile.json").write_text(json.dumps(value))
    points = Sweep((timed, LatencyProfile((2.0, 2.1), batch=8)))
    sweep = {**points.to_json(), "best": points.best(1.5), "max_latency_ms": 1.5}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    run = Run(
        "check", "model.onnx",
        figures=(Figure("latency_p50", 1.0, "ms"), Figure("latency_p50_before", 2.0, "ms")),
        gates=(Gate("max-regression", "median latency", -50.0, 2.0, "%", "pass", -51.0, -49.0),
               Gate("outputs", "outputs alike", None, 0.0, "", "inconclusive")),
        notes=("model.onnx against old.onnx",),
    )  # fmt: skip
    (folder / "check.json").write_text(json.dumps(run.to_json()))
    text = plain(folder)
    for said in (
        "median latency passed -50 % -51 to -49 % 2 %",
        "outputs alike inconclusive –",
        "Limits: inconclusive",
        "model.onnx against old.onnx.",
        "median latency 1.000 ms 2.000 ms",
        "Profile (profile.json)",
        "Other programs ran.",
        "The slowest of 1 layer, measured by trtexec.",
        "best: the most items a second within the limit.",
        "limit 1.500 ms",
        "batch 4, 1 stream best",
    ):
        assert said in text, said
    (folder / "layers.json").write_text(json.dumps(layers))
    assert plain(folder).count("The slowest of 1 layer") == 1


def test_an_engine_that_a_device_sent_back(build: Build, whole: dict[str, Any]) -> None:
    whole["metrics"] = [
        whole["metrics"][0],
        {"name": "engine latency", "unit": "ms", "values": {"int8": 0.0177}},
    ]
    whole["latency"] = {"engine": {**whole["latency"]["int8"], "samples_ms": [0.017, 0.018, 0.018]}}
    facts = {"tensorrt": "8.5.2", "gpu": "Xavier"}
    whole["stages"][-1].update(name="build-bundle", facts=facts)
    text = plain(build(whole))
    assert "net.onnx, built as INT8, runs in 17.7 µs on its own device, and its weights" in text
    assert "for TensorRT 8.5.2 on t4" in text
    assert "the engine 18.000" in text
    assert "p50 µs" in text
    assert text.count("What is known of the engine's device") == 1
    whole["metrics"].pop()
    text = plain(build(whole))
    assert "net.onnx, built as INT8, takes 20 % of the memory for its weights." in text


def test_what_hardly_changed_is_neither_good_nor_bad(build: Build, whole: dict[str, Any]) -> None:
    whole["metrics"] = [{"name": "weights", "unit": "bytes",
                         "values": {"before": 1_000_000, "w8+fp16": 1_000_100}}]  # fmt: skip
    text = plain(build(whole))
    assert "weights in memory same 1.00 MB → 1.00 MB What" in text
    assert "INT8 weights + FP16" in text


def test_words() -> None:
    assert factor(3.0, 1.5) == "2.00x faster"
    assert factor(1.0, 1.5) == "1.50x slower"
    assert factor(1.0, 1.001) == "as fast"
    assert factor(17.012, 1.0, brief=True) == "17x faster"
    assert [times(v) for v in (0.5, 3.4, 9.99, 17.25, 123.4, 1234.0)] == [
        "0.50x", "3.40x", "9.99x", "17.2x", "123x", "1,234x"
    ]  # fmt: skip
    assert short(13.226, "ms") == "13.2\N{NO-BREAK SPACE}ms"
    assert short(0.05, "ms") == "50.0\N{NO-BREAK SPACE}µs"
    assert short(123.4, "ms") == "123\N{NO-BREAK SPACE}ms"
    assert change("bytes", 4.0, 1.0) == "-75.0 %"
    assert change("%", 92.6, 93.0) == "+0.40 points"
    assert share(0.0000001, 2) == "<\N{NO-BREAK SPACE}0.01\N{NO-BREAK SPACE}%"
    assert told(0.05, "ms") == "50.0\N{NO-BREAK SPACE}µs"


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [(0, 0, 1.0), (6, 10, 0.454498291015625), (0, 5, 0.0625), (5, 5, 1.0), (1, 20, 2.098083e-05)],
)
def test_the_test_of_paired_answers_is_exact(lost: int, won: int, p: float) -> None:
    assert by_chance(lost, won) == pytest.approx(p, rel=1e-5)
    assert by_chance(won, lost) == by_chance(lost, won)


def test_the_test_of_paired_answers_bears_large_counts() -> None:
    assert 0 <= by_chance(40_000, 60_000) < 1e-300
    assert by_chance(50_000, 50_000) == 1.0
