"""What was done, in steps; what was decided; the files, and the versions that made them."""

from __future__ import annotations

import json
from pathlib import Path

from graphopt.errors import UsageError
from graphopt.files import sha256
from graphopt.html.blocks import Block, Details, Section, Steps, Table
from graphopt.html.raw import Raw
from graphopt.html.source import Built
from graphopt.wording import one_line, spell

_ROWS = 300
_STEPS = {
    "raise-opset": "Raised the opset",
    "lower-opset": "Lowered the opset",
    "simplify": "Simplified the graph",
    "fold-batchnorm": "Folded BatchNormalization into weights",
    "analyze-channels": "Found which channels can be removed",
    "score-channels": "Scored channels",
    "prune-channels": "Removed channels",
    "recover": "Recovered weights without training",
    "prepare-weights": "Evened out channels and moved outliers",
    "calibrate": "Calibrated",
    "round-weights": "Rounded weights, corrected biases",
    "insert-qdq": "Inserted Q/DQ",
    "to-fp16": "Wrote the rest in FP16",
    "lint": "Checked what TensorRT makes of Q/DQ",
    "verify": "Compared with the model as given",
    "verify-layers": "Compared layer by layer",
    "time": "Timed",
    "sparsify": "Zeroed weights",
    "low-rank": "Factorized layers",
    "search": "Searched for layers to leave in float",
}


def steps(built: Built) -> Section | None:
    """Return the section of what was done, or None."""
    items = [_step(stage) for stage in built.raw.objects("stages")[:_ROWS]]
    blocks: list[Block] = [Steps(items)] if items else []
    decisions = [
        (one.text("what"), one.text("value"), one.text("reason"))
        for one in built.raw.objects("decisions")[:_ROWS]
    ]
    if decisions:
        table = Table("Decided by the tool", ("what", "chosen", "why"), decisions)
        blocks.append(Details(f"{len(decisions)} decisions that were left to the tool", [table]))
    return Section("steps", "What was done", blocks) if blocks else None


def _step(stage: Raw) -> tuple[str, str]:
    name = stage.text("name")
    what = _STEPS.get(name)
    if what is None:
        what = f"Built with {name[6:]}" if name.startswith("build-") else name
    counts = [
        f"{value:,.0f} {kind.replace('-', ' ')}" for kind, value in stage.numbers("counts").items()
    ]
    facts = stage.inner("facts")
    if name == "calibrate":
        counts.append(f"{facts.count('tensors')} tensors, {facts.count('samples')} samples")
    if name == "analyze-channels":
        counts.append(f"{facts.count('prunable')} groups can, {facts.count('frozen')} must stay")
    if name == "score-channels":
        counts.append(f"by {facts.text('importance')}")
    left = len(stage.items("refusals"))
    counts += [f"{left} left alone"] if left else []
    seconds = stage.number("seconds")
    counts += [f"{seconds:.1f} s"] if seconds is not None and seconds >= 0.05 else []
    return what, ", ".join(counts)


def files(built: Built) -> Section | None:
    """Return the section of files and versions."""
    raw = built.raw
    blocks: list[Block] = []
    rows = []
    for one in raw.objects("artifacts")[:_ROWS]:
        name, digest = one.text("path"), one.text("sha256")
        rows.append((name, one.text("kind"), _state(built.folder, name, digest), digest[:16]))
    if rows:
        head = ("file", "what", "state", "SHA-256 begins")
        table = Table("Files of the build", head, rows, code=frozenset({0, 3}))
        blocks.append(table)
    source = raw.inner("source")
    inputs = source.inner("inputs")
    about = [(key, source.text(key)) for key in ("name", "digest") if source.text(key)]
    about += [(f"input {one_line(n, 80)}", _shape(inputs.data[n])) for n in list(inputs.data)[:32]]
    if source.number("opset") is not None:
        about.append(("opset", f"{source.sure('opset'):.0f}"))
    if about:
        blocks.append(Details("The model as given", [Table("The model as given", ("", ""), about)]))
    versions = list(raw.words("versions").items())[:_ROWS]
    if versions:
        table = Table("Versions that decide what comes out", ("package", "version"), versions)
        blocks.append(Details("Versions", [table]))
    options = _options(raw.inner("recipe"))
    if options:
        table = Table("The recipe: every option in use", ("option", "value"), options,
                      code=frozenset({0, 1}))  # fmt: skip
        blocks.append(Details("The recipe", [table]))
    return Section("files", "Files and provenance", blocks) if blocks else None


def _shape(value: object) -> str:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], list):
        raise UsageError("report.json: an input of the source is not a dtype and a shape")
    return one_line(f"{spell(value[1][:32])} {value[0]}", 200)


def _options(recipe: Raw) -> list[tuple[str, str]]:
    found = []
    for part in sorted(recipe.data):
        inner = recipe.data[part]
        for key in sorted(inner) if isinstance(inner, dict) else []:
            value = inner[key]
            if value is None or value in ([], {}, ""):
                continue
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            found.append((one_line(f"{part}.{key}", 100), one_line(text, 300)))
    return found[:_ROWS]


def _state(folder: Path, name: str, digest: str) -> str:
    """Say whether a file is there and still what the report vouches for."""
    path = folder / name
    if not name or Path(name).name != name:
        return "not a file of the folder"
    if not path.is_file():
        return "missing"
    try:
        return "unchanged" if sha256(path) == digest else "changed since the build"
    except OSError as problem:
        return f"unreadable: {one_line(problem.strerror or problem, 80)}"
