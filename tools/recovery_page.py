"""The page of ``bench_recovery.py``: tables of what was measured, the unfavourable too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recovery_cases import FAR, METHODS, PARTS, Case, grid_title

from graphopt.channels.importance import IMPORTANCES

Row = dict[str, Any]

# Of a prototype that came before graphopt, not of this code: ResNet-56, block-internal channels,
# 384 calibration images; percent right at none, affine, least-squares.
PROTOTYPE = {
    0.5: {
        "random": (16.1, 67.5, 85.8),
        "l1": (14.6, 66.3, 86.3),
        "geometric-median": (11.4, 70.6, 86.7),
        "bn-gamma": (21.7, 76.6, 87.1),
        "apoz": (29.9, 68.8, 83.4),
        "activation": (56.8, 83.7, 89.3),
        "obs": (55.3, 83.5, 90.3),
    },
    0.3: {
        "random": (58.9, 85.4, 91.5),
        "l1": (60.0, 87.6, 90.9),
        "geometric-median": (60.5, 86.7, 91.3),
        "bn-gamma": (77.5, 89.3, 92.1),
        "apoz": (76.0, 85.3, 89.8),
        "activation": (85.3, 90.8, 91.4),
        "obs": (86.1, 90.5, 92.1),
    },
}
PROTOTYPE_OF = "resnet56_cifar10"
INTRO = """# Accuracy after pruning, and won back without training

Each case is `graphopt optimize` with a recipe, in a process of its own: no labels, no gradients.
The classifiers are calibrated on {samples} images of the training set and measured on the 932 of
the test set, the same images before and after: *right* after (of so many before), *lost* those
that only the model as given has right, *gained* those that only the pruned one has, *same class*
where both say the same, right or wrong. One image is 0.107 points, and the standard error of an
accuracy near 0.92 is 0.9 points: neighbours in a table are often the same. *SQNR* is of the raw
outputs, dB. *Seconds* are wall time of the whole command (with reading, verifying and timing the
model), *CPU* of all its threads; *recover* is what solving took of it, *score* what choosing
channels took; *peak* is resident memory. {jobs}Made by:

```
{command}
```
"""


def page(raw: dict[str, Any], quick: bool, output: str) -> str:
    """Write all tables."""
    rows = raw["rows"]
    samples = min((r["options"]["samples"] for r in rows.values()), default=0)
    command = "python tools/bench_recovery.py --data DIR --onnxsim PYTHON"
    command += (" --quick" if quick else "") + (f" --output {output}" if output else "")
    at_once = sorted({r["jobs"] for r in rows.values() if r["jobs"] > 1})
    jobs = ""
    if at_once:
        parts = ", ".join(sorted({r["part"] for r in rows.values() if r["jobs"] > 1}))
        jobs = f"Part {parts} ran {at_once[-1]} cases at a time, which stretches seconds. "
    lines = [INTRO.format(samples=samples, jobs=jobs, command=command)]
    if quick:
        lines += ["**A quick run: few cases, few samples. Not for publication.**", ""]
    cases = {part: list(make(quick)) for part, make in PARTS.items()}
    lines += [*_part_a(rows, cases["A"]), *_part_b(rows, cases["B"]), *_part_c(rows, cases["C"])]
    machine = raw["machine"]
    lines += ["## Versions", "", f"{machine['cpu']}, {machine['cores']} cores.", ""]
    told: dict[str, list[str]] = {}
    for part, known in sorted(raw["parts"].items()):
        told.setdefault(", ".join(f"{k} {v}" for k, v in known.items()), []).append(part)
    lines += [f"{', '.join(parts)}: {text}" for text, parts in told.items()]
    return "\n".join([*lines, ""])


def _tables(cases: list[Case]) -> Iterator[tuple[str, float, list[Case]]]:
    """Yield model, ratio and cases of each table, in order."""
    found: dict[tuple[str, float], list[Case]] = {}
    for case in cases:
        found.setdefault((case.model, case.ratio), []).append(case)
    for (model, ratio), some in found.items():
        yield model, ratio, some


def _part_a(rows: dict[str, Row], cases: list[Case]) -> list[str]:
    lines = [
        "## A: channels inside the blocks",
        "",
        "The residual streams are kept (`keep` names every group with several producers or",
        "consumers), `--align 1`. *default* is what `--prune` does: as many MACs go as if that",
        "fraction of every other group went, where the error is least, in two steps. In the other",
        "rows the same fraction of every other group goes, in one step where nothing else is said.",
        "onnxsim prunes the model that graphopt simplified and folded,",
        "except *as given*.",
        "",
    ]
    for model, ratio, some in _tables(cases):
        lines += [f"### {model}, {100 * ratio:g} %", "", *_dense(rows, some)]
        if ratio != FAR:
            lines += [*_grid(rows, model, ratio, some), ""]
        lines += [*_full(rows, some), ""]
    return lines


def _dense(rows: dict[str, Row], cases: list[Case]) -> list[str]:
    row = next((r for c in cases if (r := rows.get(c.key)) and "right" in r), None)
    if row is None:
        return []
    before = f"{row['right'][0]} of {row['samples']}"
    channels, parameters, macs = (row[k][0] for k in ("channels", "parameters", "macs"))
    return [
        f"As given: {before} right, {channels:,} channels that can be pruned, {parameters:,} "
        f"parameters, {macs / 1e6:.2f} M MACs.",
        "",
    ]


def _grid(rows: dict[str, Row], model: str, ratio: float, cases: list[Case]) -> list[str]:
    """Criteria down, recoveries across; beside them the prototype's figures."""
    known = PROTOTYPE[ratio] if model == PROTOTYPE_OF else {}
    lines = [
        f"| right after | {' | '.join(METHODS)} |"
        + (" prototype: none, affine, least squares |" if known else ""),
        "|" + "---|" * (len(METHODS) + 1 + bool(known)),
    ]
    there = {c.title: c.key for c in cases}
    for name in IMPORTANCES.names():
        keys = [there.get(grid_title(name, method), "") for method in METHODS]
        if not any(keys):
            continue
        cells = [_accuracy(rows.get(key)) for key in keys]
        if known:
            figures = known.get(name)
            cells.append(" / ".join(f"{v:.1f}" for v in figures) + " %" if figures else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if known:
        lines += [
            "",
            "The prototype came before graphopt and is not part of it: other code, 384 calibration",
            "images.",
        ]
    return lines


def _accuracy(row: Row | None) -> str:
    if row is None:
        return "not measured"
    if "problem" in row:
        return "refused"
    right = row["right"][1]
    return f"{right} ({100 * right / row['samples']:.2f} %)"


def _full(rows: dict[str, Row], cases: list[Case]) -> list[str]:
    heads = "channels | parameters | MACs | right | lost | gained | same class | SQNR | seconds"
    lines = [f"| case | {heads} (CPU; score; recover) | peak MB |", "|" + "---|" * 11]
    problems: list[str] = []
    for case in cases:
        row = rows.get(case.key)
        if row is None or "problem" in row:
            cell = "not measured" if row is None else "refused"
            lines.append(f"| {case.title} | {cell} |" + " |" * 9)
            problems += [] if row is None else [f"- {case.title}: {row['problem']}"]
            continue
        changed = "" if row["macs"][0] != row["macs"][1] else " (nothing changed)"
        lines.append(
            f"| {case.title}{_sparsity(row)}{changed} | {_sizes(row)} | {row['right'][1]} "
            f"| {row['lost']} | {row['gained']} | {row['agree']} | {_db(row, 'all')} "
            f"| {_costs(row)} |"
        )
    return [*lines, *(["", "Refused:", "", *problems] if problems else [])]


def _sparsity(row: Row) -> str:
    return f", sparsity {row['sparsity']:g}" if "sparsity" in row else ""


def _sizes(row: Row) -> str:
    """Three cells: what is left of channels, parameters and MACs."""
    left = [100 * row[k][1] / row[k][0] for k in ("channels", "parameters", "macs")]
    return (
        f"{row['channels'][1]:,} | {row['parameters'][1]:,} ({left[1]:.1f} %) | "
        f"{row['macs'][1] / 1e6:.2f} M ({left[2]:.1f} %)"
    )


def _costs(row: Row) -> str:
    """Two cells: seconds and memory."""
    stages = row.get("stages", {})
    parts = [row["cpu_s"], *(stages[k] for k in ("score-channels", "recover") if k in stages)]
    told = "; ".join(f"{v:.1f}" for v in parts)
    return f"{row['seconds']:.1f} ({told}) | {row['peak_mb']:.0f}"


def _db(row: Row, output: str) -> str:
    value = row["sqnr_db"][output]
    return "exact" if value is None else f"{value:.1f}"


def _part_b(rows: dict[str, Row], cases: list[Case]) -> list[str]:
    lines = [
        "## B: the defaults, over all groups",
        "",
        "`graphopt optimize MODEL --prune R --align 1 --data DIR`, everything else left alone, and",
        "others at the MACs that gave (`--prune-to macs=X`; for onnxsim, which leaves the residual",
        "streams alone, the sparsity in 64ths that comes nearest). INT8 is judged with the Q/DQ",
        "where TensorRT wants it, computed as written.",
        "",
    ]
    for model, ratio, some in _tables(cases):
        lines += [f"### {model}, `--prune {ratio:g}`", "", *_dense(rows, some)]
        row = rows.get(some[0].key)
        if row and "resolved" in row:
            prune = row["resolved"]["prune"]
            chosen = ", ".join(f"{k} {prune[k]}" for k in ("importance", "allocation", "steps"))
            lines += [f"The default is {chosen}, {row['resolved']['recover']['method']}.", ""]
        lines += [*_full(rows, some), ""]
    return lines


def _part_c(rows: dict[str, Row], cases: list[Case]) -> list[str]:
    lines = [
        "## C: face detectors",
        "",
        "Calibrated on every other photograph, by name, and measured on the rest; all groups,",
        "`--align 1`, other options left alone. There are no labels: what counts is how far the",
        "pruned model's outputs are from the original's. *Found*: of RFB's detections (score above",
        "0.7, non-maximum suppression at an overlap of 0.3), those the pruned model makes too",
        "(overlap above 0.5); *its own*: how many the pruned model makes in all. YuNet's outputs",
        "are compared raw.",
        "",
    ]
    by_model: dict[str, list[Case]] = {}
    for case in cases:
        by_model.setdefault(case.model, []).append(case)
    for model, some in by_model.items():
        lines += [f"### {model}", "", *_detector(rows, some), ""]
    return lines


def _detector(rows: dict[str, Row], cases: list[Case]) -> list[str]:
    heads = "ratio | recovery | channels | parameters | MACs | SQNR, all | SQNR, each output"
    lines = [f"| {heads} | found | its own | seconds (CPU; score; recover) | peak MB |"]
    lines.append("|" + "---|" * 11)
    problems = []
    for case in cases:
        row = rows.get(case.key)
        if row is None or "problem" in row:
            cell = "not measured" if row is None else "refused"
            lines.append(f"| {100 * case.ratio:g} % | {case.title} | {cell} |" + " |" * 8)
            where = f"{100 * case.ratio:g} %, {case.title}"
            problems += [] if row is None else [f"- {where}: {row['problem']}"]
            continue
        names = [name for name in row["sqnr_db"] if name != "all"]
        each = ", ".join(f"{n} {_db(row, n)}" for n in names)
        if len(names) > 3:
            worst = min(names, key=lambda n: row["sqnr_db"][n] or 0.0)
            each = f"worst of {len(names)}: {worst} {_db(row, worst)}"
        found = own = "–"
        if "detections" in row:
            counts = row["detections"]
            found, own = f"{counts['same']} of {counts['reference']}", str(counts["candidate"])
        lines.append(
            f"| {100 * case.ratio:g} % | {case.title} | {_sizes(row)} | {_db(row, 'all')} | {each} "
            f"| {found} | {own} | {_costs(row)} |"
        )
    return [*lines, *(["", "Refused:", "", *problems] if problems else [])]
