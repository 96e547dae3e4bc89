"""What is published says what was measured, and no name in it can break out of its place."""

from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.profiles.run import Figure, Gate, Run, Status
from graphopt.publish.annotations import PER_KIND, annotate, command
from graphopt.publish.bmf import bmf
from graphopt.publish.junit import element, escaped, junit
from graphopt.publish.metrics import flat, openmetrics
from graphopt.publish.summary import MOST, safe, summary
from graphopt.publish.words import gate_words

TEXT = st.text(max_size=60)
ANY = st.text(st.characters(exclude_categories=()), max_size=60)  # surrogates too


def gate(status: Status, name: str = "max-regression", note: str = "") -> Gate:
    return Gate(name, "median latency", 4.25, 3, "%", status, low=3.5, high=5.0, note=note)


RUN = Run(
    verb="check",
    subject="model.onnx",
    sha256="ab" * 32,
    figures=(
        Figure("latency_p50", 2.1, "ms", low=2.0, high=2.2),
        Figure("latency_p50_before", 2.0, "ms"),
        Figure("throughput", 476.2, "items/s", "higher"),
        Figure("onnx_size", 1_234_567, "bytes"),
    ),
    gates=(
        gate("fail", note="run it again"),
        Gate("min-sqnr", "SQNR", 41.0, 30, "dB", "pass"),
        gate("inconclusive", "max-p99-regression"),
        Gate("max-memory", "peak memory", None, 1e6, "bytes", "none", note="not read here"),
    ),
    environment={"cpu": "AMD EPYC", "cores": "2"},
    commit="c" * 40,
    branch="main",
    when="2026-11-23T04:12:53Z",
    notes=("the interval is wide",),
)


def cases(text: str) -> dict[str | None, ET.Element]:
    return {case.get("name"): case for case in ET.fromstring(text).iter("testcase")}


def test_junit_has_a_suite_for_the_verb_and_a_case_for_each_gate() -> None:
    whole = ET.fromstring(junit(RUN))
    assert whole.tag == "testsuites"
    (suite,) = whole
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    assert suite.get("timestamp") == "2026-11-23T04:12:53"
    found = cases(junit(RUN))
    failure = found["max-regression"].find("failure")
    assert failure is not None
    told = "median latency: 4.25 % [3.5, 5], limit 3.00 %; run it again"
    assert failure.get("message") == failure.text == told
    error = found["max-p99-regression"].find("error")
    assert error is not None and error.get("type") == "inconclusive"
    assert found["max-memory"].find("skipped") is not None
    assert [child.tag for child in found["min-sqnr"]] == ["system-out"]
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties["figure.latency_p50"] == "2.1 ms [2, 2.2]"
    assert properties["machine.cpu"] == "AMD EPYC" and properties["status"] == "fail"


def test_a_limit_of_throughput_is_told_as_the_change_that_is_found() -> None:
    gate = Gate("max-throughput-drop", "throughput", -4.0, 10.0, "%", "pass")
    assert gate_words(gate) == "throughput: -4.00 %, limit -10.00 %"


def test_a_run_without_gates_is_one_test_that_passed() -> None:
    found = cases(junit(replace(RUN, gates=())))
    assert list(found) == ["check went through"] and not list(found["check went through"])


@given(TEXT)
@settings(max_examples=200)
def test_xml_gives_the_same_text_back(text: str) -> None:
    read = ET.fromstring(element("a", {"b": text}, escaped(text)))
    kept = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", text)
    if kept == text:
        assert read.get("b") == text and (read.text or "") == text


@given(ANY, ANY)
@settings(max_examples=200)
def test_junit_is_xml_for_any_text(subject: str, note: str) -> None:
    run = replace(RUN, subject=subject, notes=(note,), gates=(gate("fail", subject, note),))
    junit(run).encode()
    (case,) = cases(junit(run)).values()
    assert [child.tag for child in case] == ["failure"]


def test_junit_survives_the_end_of_a_cdata_section_and_control_characters() -> None:
    run = replace(RUN, notes=("a ]]> b \x1b[31m <b>&amp;",))
    (out,) = [e.text for e in ET.fromstring(junit(run)).findall("./testsuite/system-out")]
    assert out == "a ]]> b \\x1b[31m <b>&amp;"


def test_annotations_tell_failures_first() -> None:
    lines = annotate(RUN)
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::notice"]
    assert lines[0] == (
        "::error title=graphopt check%3A model.onnx::max-regression fail: median latency: "
        "4.25 %25 [3.5, 5], limit 3.00 %25; run it again"
    )


def test_annotations_stay_below_what_github_drops() -> None:
    run = replace(RUN, gates=tuple(gate("fail", f"g{i}") for i in range(25)), notes=())
    lines = annotate(run)
    assert len(lines) == PER_KIND
    assert lines[-1].endswith("::and 16 more")


# What the runner does: lines by \r and \n, then properties by commas up to the first "::".
COMMAND = re.compile(r"::(\w+) title=([^:,]*)::(.*)")


@given(ANY, ANY)
@settings(max_examples=300)
def test_no_name_breaks_out_of_an_annotation(title: str, message: str) -> None:
    line = command("error", title, message)
    assert line.isprintable() and len(line.splitlines()) == 1
    found = COMMAND.fullmatch(line)
    assert found is not None and found[1] == "error"


def test_a_hostile_name_cannot_give_commands() -> None:
    run = replace(RUN, subject="x,file=a.py::\n::error::pwned\r\n::set-output name=a::b")
    for line in annotate(run):
        assert "\n" not in line and "\r" not in line
        found = COMMAND.fullmatch(line)
        assert found is not None and "file=a.py" in found[2]


def test_the_summary_shows_gates_then_figures_before_and_after() -> None:
    text = summary(RUN)
    lines = text.splitlines()
    assert lines[0] == "### graphopt check: ❌ fail (model.onnx)"
    assert (
        "| median latency (max-regression) | ❌ fail | 4.25 % | \\[3.5, 5\\] | 3.00 % "
        "| run it again |" in lines
    )
    assert "| latency p50 | 2 ms | 2.1 ms | +5.0 % | \\[2, 2.2\\] |" in lines
    assert "| onnx size |  | 1.23 MB |  |  |" in lines
    assert "- the interval is wide" in lines
    assert "| cpu | AMD EPYC |" in lines


def test_the_summary_of_a_run_alone_has_values() -> None:
    text = summary(replace(RUN, figures=RUN.figures[2:], gates=()))
    assert text.startswith("### graphopt check (model.onnx)\n")
    assert "| throughput | 476.2 items/s |  |" in text


def test_the_summary_keeps_to_its_room() -> None:
    many = replace(RUN, notes=tuple(f"note {i} " + "x" * 250 for i in range(10_000)))
    text = summary(many)
    assert len(text.encode()) <= MOST and text.endswith("*Shortened: the rest is in the report.*\n")
    assert summary(many, 10) == ""


@given(ANY)
@settings(max_examples=300)
def test_a_cell_stays_a_cell(text: str) -> None:
    cell = safe(text)
    assert "\n" not in cell
    bare = re.sub(r"\\.", "", cell.replace("<!-- -->", ""))
    assert not set(bare) & set("|<>`*[]~$")


def test_markdown_makes_nothing_of_a_name() -> None:
    told = safe("a|b <script> `x` **b** [l](javascript:1) @me https://evil.example $x$ &lt;")
    assert told == (
        "a\\|b \\<script\\> \\`x\\` \\*\\*b\\*\\* \\[l\\](javascript:1) @<!-- -->me "
        "https:<!-- -->//evil.example \\$x\\$ \\&lt;"
    )


def test_bencher_takes_latency_in_nanoseconds() -> None:
    value = json.loads(bmf(RUN))
    assert list(value) == ["model.onnx"]
    assert value["model.onnx"]["latency"] == {
        "value": 2.1e6,
        "lower_value": 2.0e6,
        "upper_value": pytest.approx(2.2e6),
    }
    assert value["model.onnx"]["throughput"] == {"value": 476.2}
    assert all(re.fullmatch(r"[a-z0-9-]{1,64}", slug) for slug in value["model.onnx"])


def test_flat_figures_are_numbers() -> None:
    value = flat(RUN)
    assert value["latency_p50"] == 2.1 and value["latency_p50_low"] == 2.0
    assert value["gate_max_regression"] == 4.25 and value["gate_max_regression_passed"] == 0
    assert value["gate_min_sqnr_passed"] == 1 and "gate_max_memory" not in value
    assert all(isinstance(v, float | int) for v in value.values())
    json.dumps(value, allow_nan=False)


@given(ANY)
@settings(max_examples=100)
def test_gitlab_reads_every_line(subject: str) -> None:
    run = replace(RUN, subject=subject)
    for line in openmetrics(run).splitlines():
        if not line.startswith("#"):
            name, value = shlex.split(re.sub(r"#.*$", "", line))  # as GitLab's parser does
            assert name.startswith("graphopt_") and float(value) is not None
    assert openmetrics(run).endswith("# EOF\n")


# Of jenkins-junit.xsd, what it says of what is written here: attributes, and children in order.
XSD: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "testsuites": ({"name", "tests", "failures", "errors"}, ("testsuite",)),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "timestamp"},
        ("properties", "testcase", "system-out"),
    ),
    "properties": (set(), ("property",)),
    "property": ({"name", "value"}, ()),
    "testcase": ({"name", "classname"}, ("skipped", "error", "failure", "system-out")),
    "skipped": ({"message"}, ()),
    "error": ({"message", "type"}, ()),
    "failure": ({"message", "type"}, ()),
    "system-out": (set(), ()),
}


def conforms(element: ET.Element) -> None:
    attributes, children = XSD[element.tag]
    assert set(element.attrib) <= attributes, element.tag
    assert attributes - {"timestamp", "message"} <= set(element.attrib), element.tag
    places = [children.index(child.tag) for child in element]
    assert places == sorted(places), element.tag
    for child in element:
        conforms(child)


@pytest.mark.parametrize("notes", [(), ("one", "two")])
def test_junit_is_what_its_schema_says(notes: tuple[str, ...]) -> None:
    one_sided = (Figure("a", 1.0, low=0.5), Figure("b", 1.0, high=2.0))
    for run in (RUN, replace(RUN, gates=(), figures=one_sided), Run("profile", "")):
        whole = ET.fromstring(junit(replace(run, notes=notes)))
        conforms(whole)
        for part in (whole, *whole):
            found = [case[0].tag if len(case) else "" for case in whole.iter("testcase")]
            assert part.get("tests") == str(len(found))
            for name, tag in (("failures", "failure"), ("errors", "error")):
                assert part.get(name) == str(found.count(tag))
        assert whole[0].get("skipped") == str(found.count("skipped"))


OPENMETRICS = re.compile(
    r"# TYPE [a-z_:][a-z0-9_:]* gauge|# EOF"
    r'|[a-z_:][a-z0-9_:]*\{subject="[\w.-]*"\} -?[0-9.]+(?:e[+-]?[0-9]+)?',
    re.ASCII,
)


@given(
    st.lists(
        st.tuples(
            ANY.filter(bool),
            st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=5,
    )
)
@settings(max_examples=100)
def test_any_figures_are_openmetrics_and_bencher_s(
    found: list[tuple[str, float, float | None]],
) -> None:
    figures = tuple(Figure(name, value, "ms", low=low) for name, value, low in found)
    run = replace(RUN, figures=figures)
    lines = openmetrics(run).splitlines()
    assert all(OPENMETRICS.fullmatch(line) for line in lines), lines
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    conforms(ET.fromstring(junit(run)))
    for measures in json.loads(bmf(run)).values():
        for slug, values in measures.items():
            assert re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", slug) and len(slug) <= 64
            assert set(values) <= {"value", "lower_value", "upper_value"} and "value" in values
    summary(run).encode()
