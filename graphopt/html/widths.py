"""The widths that pruning left, group by group."""

from __future__ import annotations

from graphopt.channels.plan import GroupPlan, PrunePlan
from graphopt.charts import Bar, bar_chart
from graphopt.errors import UsageError
from graphopt.files import dump_json
from graphopt.html.blocks import Block, Details, Figure, Gallery, Section, Table, Words
from graphopt.html.raw import read_json
from graphopt.html.source import Built
from graphopt.html.terms import share
from graphopt.wording import counted, one_line

PLAN = "prune-plan.json"
WIDTH = 460.0
_BARS, _LONG, _ROWS, _WIDEST = 32, 12, 400, 1 << 24


def section(built: Built) -> Section | None:
    """Return the section, or None where nothing was pruned."""
    path = built.folder / PLAN
    if not path.exists():
        return None
    title = "Pruned widths"
    try:
        plan = PrunePlan.from_json(dump_json(read_json(path)))
        if any(group.before > _WIDEST for group in plan.groups):
            raise UsageError("a width is beyond reason")
    except (UsageError, ValueError) as problem:
        told = f"{PLAN} cannot be read, so widths are left out: {one_line(problem)}"
        return Section("widths", title, [Words(told)])
    if not plan.groups:
        return None
    pruned = [group for group in plan.groups if group.removed]
    total = sum(group.before for group in plan.groups)
    first = (
        f"{plan.removed:,} of {total:,} channels that could be removed are gone "
        f"({share(plan.achieved, 1)}), from {len(pruned)} of {counted(len(plan.groups), 'group')}; "
        f"chosen by {plan.importance or 'an unnamed rule'}, widths shared out "
        f"{plan.allocation}ly, in multiples of {plan.align}."
    )
    blocks: list[Block] = [Words(one_line(first, 600))]
    shown = _chosen(plan.groups)
    if shown:
        blocks.append(_charts(shown, len(plan.groups)))
        some = f" The {len(shown)} groups that lost most." if len(shown) < len(plan.groups) else ""
        legend = f"Blue: channels kept. Grey, to the tick: channels before.{some}"
        blocks.append(Words(legend, soft=True))
    rows = [
        (one_line(g.name, 200), str(g.before), str(g.after), share(g.achieved), one_line(g.note))
        for g in plan.groups[:_ROWS]
    ]
    head = ("group", "before", "now", "removed", "why")
    more = f", the first {_ROWS}" if len(plan.groups) > _ROWS else ""
    table = Table(f"Channels of every group{more}", head, rows, frozenset({1, 2, 3}),
                  frozenset({0}))  # fmt: skip
    blocks.append(Details(f"All {len(plan.groups)} groups{more}", [table]))
    return Section("widths", title, blocks)


def _chosen(groups: tuple[GroupPlan, ...]) -> list[GroupPlan]:
    """The groups that lost most, those that kept everything after them, in graph order."""
    order = sorted(range(len(groups)), key=lambda i: (-groups[i].achieved, i))[:_BARS]
    return [groups[i] for i in sorted(order)]


def _charts(shown: list[GroupPlan], total: int) -> Gallery:
    """Return the bars, in two charts side by side where one would be long, on one scale."""
    bars = [
        Bar(one_line(g.name, 200), g.after, g.before, f"{g.after} of {g.before}") for g in shown
    ]
    some = f" (the {len(shown)} that lost most of {total})" if len(shown) < total else ""
    half = -(-len(bars) // 2) if len(bars) > _LONG else len(bars)
    parts = [bars[i : i + half] for i in range(0, len(bars), half)]
    widest = max(g.before for g in shown)
    figures = []
    for i, part in enumerate(parts):
        of = f", part {i + 1} of {len(parts)}" if len(parts) > 1 else ""
        svg = bar_chart(
            part,
            title=f"Channels kept in each group{some}{of}",
            desc="; ".join(f"{bar.label}: {bar.text}" for bar in part) + ".",
            x_label="channels",
            least=widest,
            width=WIDTH,
            label_most=24,
            room=[bar.label for bar in bars],
            ident=f"widths-{i}",
        )
        figures.append(Figure(svg))
    return Gallery(figures)
