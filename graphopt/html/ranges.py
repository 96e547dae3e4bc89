"""What calibration saw, and where each range was cut."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.calibrators.histogram import Histogram
from graphopt.calibrators.table import CalibrationTable
from graphopt.charts import Threshold, histogram
from graphopt.charts.scale import brief
from graphopt.charts.svg import tell_apart
from graphopt.errors import UsageError
from graphopt.html.blocks import Block, Details, Figure, Gallery, Section, Table, Words
from graphopt.html.raw import read_json
from graphopt.html.source import Built
from graphopt.html.terms import share
from graphopt.output import TABLE
from graphopt.wording import counted, one_line

_SHOWN, _ROWS, _LONGEST = 12, 400, 64


@dataclass(frozen=True, slots=True)
class _Cut:
    name: str
    amax: float
    largest: float
    clipped: float
    counts: Histogram | None


def section(built: Built) -> Section | None:
    """Return the section, or None where nothing was calibrated."""
    path = built.folder / TABLE
    if not path.exists():
        return None
    try:
        table = CalibrationTable.from_json(read_json(path), TABLE)
    except (UsageError, ValueError) as problem:
        told = f"{TABLE} cannot be read, so ranges are left out: {one_line(problem)}"
        return Section("calibration", "Calibration", [Words(told)])
    cuts = sorted(_cuts(table), key=lambda c: (-c.clipped, -_reach(c), c.name))
    if not cuts:
        return None
    made_up = ", made up" if table.synthetic else ""
    blocks: list[Block] = [
        Words(
            f"{counted(len(cuts), 'tensor')} got a range from "
            f"{counted(table.samples, 'sample')}{made_up}; thresholds by "
            f"{one_line(table.method, 80)}. {_told(cuts)}"
        )
    ]
    drawn = _distinct(cuts)
    makers = _makers(built)
    if drawn:
        members = drawn[:_SHOWN]
        names = tell_apart([_named(group[0].name, makers) for group in members], _LONGEST)
        figures = [_figure(group, i, names[i]) for i, group in enumerate(members)]
        which = f"the {_SHOWN} that clip most" if len(drawn) > _SHOWN else "all that differ"
        blocks.append(
            Words(
                f"Histograms of |x|, {which}, counts on a logarithmic axis. The line is the "
                "threshold (amax): INT8 spends its 127 steps below it; what lies above, in "
                "orange, is clipped.",
                soft=True,
            )
        )
        blocks.append(Gallery(figures))
    rows = [
        (one_line(c.name, 200), makers.get(c.name, ""), brief(c.amax), brief(c.largest),
         "" if c.counts is None else share(c.clipped, 3))
        for c in cuts[:_ROWS]
    ]  # fmt: skip
    more = f", the first {_ROWS}" if len(cuts) > _ROWS else ""
    inner = Table(f"Ranges, those that clip most first{more}",
                  ("tensor", "made by", "threshold", "greatest |x|", "clipped"), rows,
                  frozenset({2, 3, 4}), frozenset({0, 1}))  # fmt: skip
    blocks.append(Details(f"All {len(cuts)} ranges{more}", [inner]))
    return Section("calibration", "Calibration", blocks)


def _makers(built: Built) -> dict[str, str]:
    """Return tensor -> the layer that makes it, where the report tells and the names differ."""
    found = ((one.text("tensor"), one.text("name")) for one in built.raw.objects("layers"))
    return {tensor: name for tensor, name in found if name and name != tensor}


def _reach(cut: _Cut) -> float:
    return cut.largest / cut.amax if cut.amax > 0 else 0.0


def _told(cuts: list[_Cut]) -> str:
    tight = [c for c in cuts if c.clipped > 0]
    if not tight:
        return "None of them clips a value that was seen."
    most = share(tight[0].clipped, 3)
    return (
        f"{len(tight)} of them clip values on purpose, at most {most} of a tensor's: the others "
        "get finer steps for it."
    )


def _cuts(table: CalibrationTable) -> list[_Cut]:
    found = []
    for name, one in table.ranges.items():
        counts = table.counts.histograms.get(name) if table.counts is not None else None
        largest = max(abs(one.low), abs(one.high))
        found.append(_Cut(name, one.amax, largest, _clipped(counts, one.amax), counts))
    return found


def _clipped(counts: Histogram | None, amax: float) -> float:
    """Return the share of values in bins that lie wholly beyond the threshold."""
    if counts is None or not counts.count:
        return 0.0
    first = min(int(-(-amax // counts.width)), len(counts.counts))
    return int(counts.counts[first:].sum()) / counts.count


def _distinct(cuts: list[_Cut]) -> list[list[_Cut]]:
    """Return the tensors with histograms, those alike together: a view clips as its source does."""
    groups: dict[tuple[float, int, bytes], list[_Cut]] = {}
    for cut in cuts:
        if cut.counts is not None and cut.counts.count:
            key = (cut.amax, cut.counts.exponent, cut.counts.counts.tobytes())
            groups.setdefault(key, []).append(cut)
    return list(groups.values())


def _named(tensor: str, makers: dict[str, str]) -> str:
    """Return what a tensor goes by: with its layer, unless its own name says that."""
    maker = one_line(makers.get(tensor, ""), 120)
    name = one_line(tensor, 240)
    return f"{maker} ({name})" if maker and not name.startswith(maker) else name


def _figure(members: list[_Cut], index: int, name: str) -> Figure:
    cut, counts = members[0], members[0].counts or Histogram.of()
    svg = histogram(
        counts.counts[: counts.occupied()].tolist(),
        counts.width,
        title=f"Values of {one_line(cut.name, 120)}",
        desc=f"Threshold {brief(cut.amax)}, greatest {brief(cut.largest)}, "
        f"{share(cut.clipped, 3)} clipped.",
        thresholds=[Threshold(cut.amax, f"amax {brief(cut.amax)}")],
        width=300,
        height=140,
        ident=f"range-{index}",
    )
    alike = f" (and {len(members) - 1} alike)" if len(members) > 1 else ""
    caption = f"{name}{alike}: {share(cut.clipped, 3)} clipped"
    return Figure(svg, caption, small=True)
