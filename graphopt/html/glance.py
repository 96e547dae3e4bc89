"""The plain verdict, and figures at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.html.blocks import Tile, Tone
from graphopt.html.raw import Raw
from graphopt.html.source import Built
from graphopt.html.terms import (
    BEFORE,
    ESTIMATED,
    NBSP,
    better,
    by_chance,
    change,
    factor,
    label,
    share,
    short,
    times,
    told,
)
from graphopt.wording import counted

_CHANCE = 0.05
# An interval whose ends differ by more than this factor is told in place of one factor.
_WIDE = 1.3
# An interval within this factor of no change is no change.
_SAME = 1.02
# Changes that are written so are none.
_NOTHING = ("as fast", "same", "+0.0 %", "-0.0 %")


def verdict(built: Built) -> list[str]:
    """Return what came of the build in plain words, and then what it cost."""
    found = (_gained(built), _unsteady(built), _estimate(built), _accuracy(built), _cost(built))
    lines = [line for line in found if line]
    return lines or ["The build measured nothing that could be compared."]


def _gained(built: Built) -> str:
    name = built.raw.inner("source").text("name", "The model")
    speed, engine = built.pair("latency"), built.metric("engine latency")
    took = None if engine is None else engine.values.get(built.last)
    parts = []
    if speed is not None:
        parts.append(_speed(built, *speed))
    elif took is not None:
        parts.append(f"runs in {short(took, 'ms')} on its own device")
    weights = built.pair("weights") or built.pair("ONNX size")
    if weights is not None and weights[0] > 0:
        ratio = weights[1] / weights[0]
        less, apart = ratio < 1, abs(ratio - 1) > 0.005
        much = share(ratio) if less else f"{share(ratio - 1)} more"
        if apart and parts:
            memory = "of the memory they did" if less else "memory than before"
            parts.append(f"its weights take {much} {memory}")
        elif apart:
            parts.append(f"takes {much} {'of the' if less else ''} memory for its weights")
    if not parts:
        return ""
    text = f"{name}, built as {label(built.last)}, {', and '.join(parts)}."
    if speed is not None and took is not None:
        text += f" On its own device the engine takes {short(took, 'ms')}."
    return text.replace("  ", " ")


def _speed(built: Built, first: float, last: float) -> str:
    """Say how much faster it runs, as closely as the runs tell and no closer."""
    where, found = "on this build's CPU", compared(built)
    medians = f"{short(first, 'ms')} to {short(last, 'ms')}, median"
    if found is None:
        return f"runs {factor(first, last, brief=True)} {where} ({medians})"
    if max(found.most, 1 / found.least) < _SAME:
        return f"runs as fast {where} as before ({medians}; {found})"
    if found.undecided:
        return f"runs no faster or slower {where} than chance may explain ({medians}; {found})"
    if found.wide:
        low, high = sorted((found.least, found.most) if found.faster else
                           (1 / found.most, 1 / found.least))  # fmt: skip
        way = "faster" if found.faster else "slower"
        sure = f"{share(found.confidence)} interval"
        return f"runs between {times(low)} and {times(high)} {way} {where} ({sure}; {medians})"
    return f"runs {factor(first, last, brief=True)} {where} ({medians}; {found})"


def _unsteady(built: Built) -> str:
    found = compared(built)
    if built.pair("latency") is None or found is None or not found.wide:
        return ""
    return (
        "The interval is wide: the machine was not quiet while it was timed. Build again on a "
        "quiet one before quoting a factor."
    )


def _estimate(built: Built) -> str:
    """Say what the device may take, where nothing was measured on it."""
    found = built.metric(ESTIMATED)
    if found is None or built.last not in found.values or built.metric("engine latency"):
        return ""
    raw = built.raw.inner("roofline")
    low, high = raw.number("low_ms"), raw.number("high_ms")
    took = short(found.values[built.last], "ms")
    between = "" if low is None or high is None else (
        f", likely {short(low, 'ms')} to {short(high, 'ms')}"
    )  # fmt: skip
    text = f"On {raw.text('device', 'its device')} nothing was measured; an estimate is {took}"
    if BEFORE not in found.values:
        return f"{text} for a run{between}."
    before = short(found.values[BEFORE], "ms")
    return f"{text} for a run{between}, where the model as given would take {before}."


@dataclass(frozen=True, slots=True)
class Compared:
    """The interval of a change in speed, as factors.

    Attributes:
        least, most: how many times as fast; below 1 it is slower.
        confidence: of the interval.
    """

    least: float
    most: float
    confidence: float

    @property
    def wide(self) -> bool:
        """Whether it is too wide to quote one factor."""
        return self.most > _WIDE * self.least

    @property
    def undecided(self) -> bool:
        """Whether it holds both faster and slower."""
        return self.least <= 1 <= self.most

    @property
    def faster(self) -> bool:
        """Whether all of it is faster."""
        return self.least > 1

    def __str__(self) -> str:
        """Write it."""
        sure = f"{share(self.confidence)} interval"
        return f"{sure} {times(self.least)} to {times(self.most)}"


def compared(built: Built) -> Compared | None:
    """Return the interval of the change in latency, where it was judged, of what ships."""
    if "comparison" not in built.raw:
        return None
    found = built.raw.inner("comparison").inner("before_to_last")
    low, high, confidence = (found.number(k) for k in ("low", "high", "confidence"))
    if low is None or high is None or confidence is None:
        return None
    if found.text("column", built.last) != built.last:
        return None
    if not (-1 < low <= high < 1e9 and 0 < confidence < 1):
        return None
    return Compared(1 / (1 + high), 1 / (1 + low), confidence)


def top1(built: Built) -> Raw | None:
    """Return the paired answers of what ships, where the samples have labels."""
    last = built.raw.inner("fidelity").inner(built.last)
    if "top1" not in last or "accuracy" not in last.inner("top1"):
        return None
    return last.inner("top1").inner("accuracy")


def _accuracy(built: Built) -> str:
    found = built.pair("accuracy")
    answers = top1(built)
    if found is None:
        return ""
    first, last = found
    text = f"Accuracy: {told(first, '%')} before, {told(last, '%')} now"
    if answers is None:
        return f"{text}."
    samples = built.raw.inner("fidelity").inner(built.last).count("samples")
    lost, won = answers.count("right_only_a"), answers.count("right_only_b")
    if max(lost, won) > 1 << 40:
        return f"{text}."
    p = by_chance(lost, won)
    on = f" on {counted(samples, 'sample')}" if samples else ""
    text += f"{on}: {lost} that were right are now wrong, {won} that were wrong are now right"
    if p >= _CHANCE:
        return f"{text}. So small a difference may be chance (exact McNemar test, p = {p:.2g})."
    return f"{text}. That is more than chance (exact McNemar test, p = {p:.2g})."


def _cost(built: Built) -> str:
    parts = []
    sqnr = built.metric("SQNR")
    if sqnr is not None and built.last in sqnr.values:
        ratio = sqnr.values[built.last]
        parts.append(
            f"outputs differ from the original's by noise {told(ratio, 'dB')} below them"
            if ratio >= 1
            else f"the noise in the outputs is as strong as they are (SQNR {told(ratio, 'dB')})"
        )
    agree = built.metric("top-1 agreement")
    if agree is not None and built.last in agree.values:
        lost = 100 - agree.values[built.last]
        parts.append(f"{told(lost, '%') if lost else 'none'} of the predictions changed")
    seconds = sum(stage.number("seconds") or 0.0 for stage in built.raw.objects("stages"))
    if 0 < seconds < 1e9:
        took = f"{seconds:.0f}{NBSP}s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
        parts.append(f"the build took {took}")
    if not parts:
        return ""
    return f"What it cost: {'; '.join(parts)}."


_TILES = ("latency", "engine latency", "weights", "MACs", "accuracy", "SQNR")


def tiles(built: Built) -> list[Tile]:
    """Return the figures that matter most, each with its change."""
    found = []
    for name in _TILES:
        metric, pair = built.metric(name), built.pair(name)
        if metric is None:
            continue
        if pair is None:
            if built.last in metric.values:
                detail = "signal to noise of the outputs" if name == "SQNR" else label(built.last)
                value = short(metric.values[built.last], metric.unit)
                found.append(Tile(_title(name), value, detail))
            continue
        first, last = pair
        good = better(name, first, last)
        noise = compared(built) if name == "latency" else None
        chance = name == "accuracy" and not _sure(built)
        if chance or (noise is not None and noise.undecided):
            good = None
        same = change(metric.unit, first, last) in _NOTHING
        good = None if same else good
        tone: Tone = "" if good is None else "good" if good else "bad"
        note = "" if good is None else "better" if good else "worse"
        if good is None and first != last and not same:
            note = "within chance"
        if noise is not None and noise.wide and not noise.undecided:
            note = f"{note}: {times(noise.least)} to {times(noise.most)}"
        value = factor(first, last, brief=True) if metric.unit == "ms" else ""
        value = value or ("same" if same else change(metric.unit, first, last))
        value = value or told(last, metric.unit)
        detail = f"{short(first, metric.unit)} → {short(last, metric.unit)}"
        found.append(Tile(_title(name), value, detail, tone, note))
    return found


def _sure(built: Built) -> bool:
    """Whether the change in accuracy is more than chance; True where nothing tells."""
    answers = top1(built)
    if answers is None:
        return True
    lost, won = answers.count("right_only_a"), answers.count("right_only_b")
    return max(lost, won) > 1 << 40 or by_chance(lost, won) < _CHANCE


def _title(name: str) -> str:
    return "weights in memory" if name == "weights" else name
