"""The plain verdict, and figures at a glance."""

from __future__ import annotations

from graphopt.charts.scale import brief
from graphopt.html.blocks import Tile, Tone
from graphopt.html.raw import Raw
from graphopt.html.source import Built
from graphopt.html.terms import NBSP, better, by_chance, change, factor, label, share, told
from graphopt.wording import counted

_CHANCE = 0.05


def verdict(built: Built) -> list[str]:
    """Return what came of the build in plain words, and then what it cost."""
    lines = [line for line in (_gained(built), _accuracy(built), _cost(built)) if line]
    return lines or ["The build measured nothing that could be compared."]


def _gained(built: Built) -> str:
    name = built.raw.inner("source").text("name", "The model")
    parts = []
    speed = built.pair("latency")
    if speed is not None:
        first, last = speed
        times = f"{told(first, 'ms')} to {told(last, 'ms')}, median{_interval(built)}"
        parts.append(f"runs {factor(first, last)} on this build's CPU ({times})")
    weights = built.pair("weights") or built.pair("ONNX size")
    if weights is not None and weights[0] > 0:
        ratio = weights[1] / weights[0]
        if ratio < 0.995:
            parts.append(f"its weights take {share(ratio)} of the memory they did")
        elif ratio > 1.005:
            parts.append(f"its weights take {share(ratio - 1)} more memory than before")
    text = ", and ".join(parts)
    engine = built.metric("engine latency")
    if engine is not None and built.last in engine.values:
        took = f"On its own device the engine takes {told(engine.values[built.last], 'ms')}."
        text = f"{text}. {took}" if text else took
        return f"{name} {text}" if parts else text
    return f"{name}, built as {label(built.last)}, {text}." if text else ""


def _interval(built: Built) -> str:
    """The interval of the change, as factors of speed."""
    found = compared(built)
    if found is None:
        return ""
    low, high, confidence = found
    if low <= -1:
        return ""
    return f"; {share(confidence)} interval {1 / (1 + high):.2f}x to {1 / (1 + low):.2f}x"


def compared(built: Built) -> tuple[float, float, float] | None:
    """Return the interval of the change in latency and its confidence, where it was judged."""
    if "comparison" not in built.raw:
        return None
    found = built.raw.inner("comparison").inner("before_to_last")
    low, high, confidence = (found.number(k) for k in ("low", "high", "confidence"))
    if low is None or high is None or confidence is None:
        return None
    return (low, high, confidence) if -1 < low <= high and 0 < confidence < 1 else None


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
        parts.append(f"outputs differ from the original's by noise {told(ratio, 'dB')} below them")
    agree = built.metric("top-1 agreement")
    if agree is not None and built.last in agree.values:
        parts.append(f"{told(100 - agree.values[built.last], '%')} of predictions changed")
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
                value = told(metric.values[built.last], metric.unit)
                found.append(Tile(_title(name), value, detail))
            continue
        first, last = pair
        good = better(name, first, last)
        if name == "accuracy" and not _sure(built):
            good = None
        tone: Tone = "" if good is None else "good" if good else "bad"
        note = "" if good is None else "better" if good else "worse"
        if name == "accuracy" and good is None and first != last:
            note = "within chance"
        value = change(metric.unit, first, last) or told(last, metric.unit)
        detail = f"{_short(first, metric.unit)} → {_short(last, metric.unit)}"
        found.append(Tile(_title(name), value, detail, tone, note))
    return found


def _sure(built: Built) -> bool:
    """Whether the change in accuracy is more than chance; True where nothing tells."""
    answers = top1(built)
    if answers is None:
        return True
    lost, won = answers.count("right_only_a"), answers.count("right_only_b")
    return max(lost, won) > 1 << 40 or by_chance(lost, won) < _CHANCE


def _short(value: float, unit: str) -> str:
    """Write a figure, in three digits where it is a count."""
    return told(value, unit) if unit else brief(value)


def _title(name: str) -> str:
    return "weights in memory" if name == "weights" else name
