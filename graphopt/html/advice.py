"""What to do next: limits missed, findings, warnings, refusals by their reason."""

from __future__ import annotations

import re
from collections.abc import Iterator

from graphopt.html.blocks import Advice, Advices, Block, Details, Section, Table, Words
from graphopt.html.glance import compared
from graphopt.html.raw import Raw
from graphopt.html.source import Built
from graphopt.html.terms import label, times
from graphopt.wording import counted

_EXAMPLES, _GROUPS = 4, 60
# A p99 beyond so many medians is a sign of a machine that was busy.
_TAIL = 3.0
# Below this SQNR, in dB, outputs are another model's.
_LITTLE = 10.0
# A refusal's reason -> what to do about it. What none fits stands as it is.
_REMEDIES = (
    (r"allocation keeps all", "Nothing: others cost less. [prune.ratios] in a recipe forces one."),
    (r"no smaller multiple of --align", "--align 1 allows it; INT8 kernels may gain nothing."),
    (r"stay: graph output", "Nothing: their number is part of the model's interface."),
    (r"for an int8 kernel to win", "Nothing: INT8 would be slower here."),
    (r"--keep|keeps them|was asked to keep", "Nothing, or leave --keep out."),
    (r"exclude", "Nothing, or leave --exclude-nodes out."),
)
_WARNINGS = (
    (r"^no --eval", "Give --eval samples that the model was not calibrated on."),
    (
        r"samples are few",
        "Give more samples of what the model will see.",
    ),
)
_GATE_WORDS = {"max-drop": ("fell by", "allows"), "min-sqnr": ("is", "asks for")}
_GATES = {
    "max-drop": "Prune less, raise --samples, or let --max-drop leave more layers in float.",
    "min-sqnr": "Prune less, raise --samples, or leave layers in float with --exclude-nodes.",
}


def section(built: Built) -> Section | None:
    """Return the section, or None where there is nothing to say."""
    asked = (_gates, _synthetic, _lost, _unsteady, _findings, _warnings)
    items = [item for ask in asked for item in ask(built)]
    blocks: list[Block] = []
    if items:
        blocks.append(Advices(items))
    else:
        blocks.append(Words("Nothing: no limit was missed and nothing was warned of."))
    refused = _refusals(built)
    if refused is not None:
        blocks.append(refused)
    return Section("todo", "What to do next", blocks)


def _gates(built: Built) -> Iterator[Advice]:
    for gate in built.raw.objects("gates"):
        name, unit = gate.text("name"), gate.text("unit")
        status, value, limit = gate.text("status"), gate.number("value"), gate.number("limit")
        if status == "pass":
            continue
        verb, asks = _GATE_WORDS.get(name, ("is", "sets"))
        found = "could not be measured" if value is None else f"{verb} {value:.4g} {unit}"
        allowed = "" if limit is None else f"; --{name} {asks} {limit:.4g} {unit}"
        what = _sentence(f"{gate.text('metric')} {found}{allowed}.")
        word = "limit missed" if status == "fail" else status or "unknown"
        tone = "bad" if status == "fail" else "note"
        do = gate.text("note") or _GATES.get(name, "")
        yield Advice(tone, word, what, do)  # type: ignore[arg-type]  # one of the two


def _synthetic(built: Built) -> Iterator[Advice]:
    if built.raw.truth("synthetic"):
        yield Advice(
            "bad",
            "random data",
            "It was calibrated on made-up samples: latency is real, accuracy is not.",
            "Build again with --data before shipping.",
        )


def _lost(built: Built) -> Iterator[Advice]:
    """Say so where the outputs have little to do with the original's any more."""
    found = built.metric("SQNR")
    ratio = None if found is None else found.values.get(built.last)
    agree = built.metric("top-1 agreement")
    # Answers may stay while the figures behind them change: as pruning does.
    same = 0.0 if agree is None else agree.values.get(built.last, 0.0)
    if ratio is not None and ratio < _LITTLE and same < 90 and not built.raw.items("gates"):
        yield Advice(
            "bad",
            "outputs differ",
            f"The SQNR of the outputs is {ratio:.1f} dB: little is left of what the model said.",
            "Give --min-sqnr: it leaves the fewest layers in float that meet it. Or prune less.",
        )


def _unsteady(built: Built) -> Iterator[Advice]:
    """Say so where times are too scattered to be quoted."""
    stored = built.raw.inner("latency")
    tails = []
    for name in [c for c in (*built.columns, "engine") if c in stored.data]:
        one = stored.inner(name)
        middle, slow = one.number("p50_ms"), one.number("p99_ms")
        if middle is not None and slow is not None and 0 < middle < slow / _TAIL:
            tails.append(f"{times(slow / middle)} ({label(name)})")
    found = compared(built)
    parts = []
    if found is not None and found.wide:
        sure = f"{times(found.least)} and {times(found.most)}"
        parts.append(f"the change in speed is between {sure}; the runs tell no closer")
    if tails:
        parts.append(f"the 99th percentile of latency is {', '.join(tails)} the median")
    if parts:
        what = _sentence("; ".join(parts))
        yield Advice(
            "note",
            "unsteady times",
            f"{what}: a sign that something else ran on the machine.",
            "Build again on a quiet machine before quoting times.",
        )


def _findings(built: Built) -> Iterator[Advice]:
    for one in built.raw.inner("lint").objects("findings")[:_GROUPS]:
        severity, where = one.text("severity"), one.texts("where")
        if severity == "note":
            continue
        yield Advice("note", severity or "finding", _sentence(one.text("what")),
                     _sentence(one.text("advice")), 1, tuple(where[:_EXAMPLES]))  # fmt: skip


def _warnings(built: Built) -> Iterator[Advice]:
    findings = {one.text("what") for one in built.raw.inner("lint").objects("findings")}
    told = [w for w in built.raw.texts("warnings") if not any(f and f in w for f in findings)]
    if built.raw.truth("synthetic"):
        told = [w for w in told if "SYNTHETIC" not in w]  # said above
    for text in told[:_GROUPS]:
        do = next((do for pattern, do in _WARNINGS if re.search(pattern, text)), "")
        yield Advice("note", "warning", _sentence(text), do)
    if len(told) > _GROUPS:
        yield Advice("note", "warning", f"{len(told) - _GROUPS} more are in report.json.")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text[:2].islower() or text[1:2] == " " else text


def _refusals(built: Built) -> Details | None:
    groups: dict[tuple[str, str], list[Raw]] = {}
    for stage in built.raw.objects("stages"):
        for one in stage.objects("refusals"):
            key = re.sub(r"'[^']*'", "'…'", re.sub(r"\d+(\.\d+)?", "#", one.text("reason")))
            groups.setdefault((stage.text("name"), key), []).append(one)
    if not groups:
        return None
    rows = []
    order = sorted(groups.items(), key=lambda item: -len(item[1]))
    for (step, _), members in order[:_GROUPS]:
        reason = members[0].text("reason")
        do = next((do for pattern, do in _REMEDIES if re.search(pattern, reason)), "")
        names = [m.text("where") for m in members[:_EXAMPLES]]
        names += [f"and {len(members) - _EXAMPLES} more"] if len(members) > _EXAMPLES else []
        rows.append((str(len(members)), step, reason, do, ", ".join(names)))
    total = sum(len(members) for members in groups.values())
    head = ("times", "step", "why", "what to do", "where")
    table = Table("Left alone, by reason", head, rows, frozenset({0}), frozenset({4}))
    reasons = counted(len(groups), "reason")
    return Details(f"{counted(total, 'place')} left alone, for {reasons}", [table])
