"""What was lost: by answers, by outputs, by layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.charts import Bar, Mark, Series, bar_chart, line_chart
from graphopt.html.blocks import Block, Details, Figure, Gallery, Section, Table, Words
from graphopt.html.source import Built
from graphopt.html.terms import BEFORE, label, told
from graphopt.wording import one_line

WIDTH = 460.0
_WORST, _ROWS = 12, 400


@dataclass(frozen=True, slots=True)
class _Layer:
    index: int
    name: str
    op: str
    sqnr: float | None
    identical: bool
    macs: int


def section(built: Built) -> Section | None:
    """Return the section, or None where nothing was compared."""
    fidelity = built.raw.inner("fidelity")
    blocks: list[Block] = []
    compared = [name for name in built.columns if name in fidelity]
    data = fidelity.text("data")
    if compared and data:
        reference = fidelity.text("reference", "the model as given")
        blocks.append(Words(f"Compared with {reference}, on {data}.", soft=True))
    blocks += _answers(built, compared)
    blocks += _outputs(built, compared)
    blocks += _layers(built)
    return Section("accuracy", "Accuracy and SQNR", blocks) if blocks else None


def _answers(built: Built, compared: Sequence[str]) -> list[Block]:
    rows = []
    for name in compared:
        one = built.raw.inner("fidelity").inner(name)
        if "top1" not in one or "accuracy" not in one.inner("top1"):
            continue
        found = one.inner("top1").inner("accuracy")
        first, last = found.number("a"), found.number("b")
        keys = ("right_both", "right_only_a", "right_only_b", "right_neither")
        counts = [f"{found.count(key):,}" for key in keys]
        rows.append((
            label(name),
            "" if first is None else told(100 * first, "%"),
            "" if last is None else told(100 * last, "%"),
            *counts,
        ))  # fmt: skip
    if not rows:
        return []
    head = ("", "before", "now", "right in both", "now wrong", "now right", "wrong in both")
    return [Table("Answers on the same samples, before and now", head, rows,
                  frozenset(range(1, 7)))]  # fmt: skip


def _outputs(built: Built, compared: Sequence[str]) -> list[Block]:
    rows = []
    for name in compared:
        outputs = built.raw.inner("fidelity").inner(name).inner("outputs")
        for output in list(outputs.data)[:_ROWS]:
            one = outputs.inner(output)
            sqnr, cosine, most = (one.number(k) for k in ("sqnr_db", "cosine", "max_abs"))
            quality = "identical" if one.truth("identical") else ""
            rows.append((
                one_line(output, 200),
                label(name),
                quality or ("" if sqnr is None else told(sqnr, "dB")),
                "" if cosine is None else f"{cosine:.6f}",
                "" if most is None else f"{most:.4g}",
            ))  # fmt: skip
    if not rows:
        return []
    head = ("output", "of", "SQNR", "cosine", "greatest difference")
    figures, code = frozenset({2, 3, 4}), frozenset({0})
    table = Table("Outputs compared, value by value", head, rows[:_ROWS], figures, code)
    return [table] if len(rows) <= 6 else [Details(f"{len(rows)} comparisons of outputs", [table])]


def _layers(built: Built) -> list[Block]:
    layers = [
        _Layer(i, one.text("name") or one.text("tensor"), one.text("op"), one.number("sqnr_db"),
               one.truth("identical"), one.count("macs"))
        for i, one in enumerate(built.raw.objects("layers"))
    ]  # fmt: skip
    known = [one for one in layers if one.sqnr is not None]
    if not known:
        return []
    blocks: list[Block] = [Gallery([_along(known, built), _worst(known)])]
    order = sorted(known, key=lambda one: (one.sqnr or 0.0, one.index))
    unknown = [one for one in layers if one.sqnr is None]
    rows = [
        (one.name, one.op, str(one.index + 1),
         "identical" if one.identical else "" if one.sqnr is None else told(one.sqnr, "dB"),
         f"{one.macs:,}" if one.macs else "")
        for one in [*order, *unknown][:_ROWS]
    ]  # fmt: skip
    more = f", the {_ROWS} lowest" if len(layers) > _ROWS else ""
    table = Table(
        f"SQNR of every layer{more}", ("layer", "operator", "place", "SQNR", "MACs"), rows,
        frozenset({2, 3, 4}), frozenset({0}),
    )  # fmt: skip
    blocks.append(Details(f"All {len(layers)} layers{more}", [table]))
    return blocks


def _along(known: Sequence[_Layer], built: Built) -> Figure:
    points = [(float(one.index + 1), one.sqnr or 0.0) for one in known]
    metric = built.metric("SQNR")
    final = None if metric is None else metric.values.get(built.last)
    base = None if metric is None else metric.values.get(BEFORE)
    marks = (
        []
        if final is None or base is not None
        else [Mark(final, f"output: {told(final, 'dB')}", across=True)]
    )
    low = min(known, key=lambda one: (one.sqnr or 0.0, one.index))
    svg = line_chart(
        [Series("SQNR", points)],
        title="SQNR along the network",
        desc=f"From the first layer to the last; the least is {told(low.sqnr or 0.0, 'dB')} at "
        f"{low.name}.",
        x_label="layer, in the order of the graph",
        y_label="SQNR, dB",
        marks=marks,
        width=WIDTH,
        height=300,
        ident="sqnr-along",
    )
    return Figure(svg, "How error builds up from layer to layer: a steep fall marks the layer "
                       "that loses most.")  # fmt: skip


def _worst(known: Sequence[_Layer]) -> Figure:
    order = sorted(known, key=lambda one: (one.sqnr or 0.0, one.index))[:_WORST]
    bars = [Bar(one.name, one.sqnr or 0.0, None, told(one.sqnr or 0.0, "dB")) for one in order]
    title = f"The {len(order)} layers of lowest SQNR" if len(known) > _WORST else "SQNR by layer"
    svg = bar_chart(bars, title=title, desc="Lowest first.", x_label="dB; more is better",
                    width=WIDTH, ident="sqnr-worst")  # fmt: skip
    return Figure(svg, f"{title}; errors of the layers before are included.")
