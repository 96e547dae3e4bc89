"""What ``graphopt report`` does: the page of a build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.console import Console
from graphopt.errors import OutputExistsError, UsageError
from graphopt.files import dump_json, write_text
from graphopt.verbs import refuse_overwrite

PAGE = "report.html"


def run_report(folder: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt report``."""
    from graphopt.html import page_of, read_build, render

    built = read_build(folder)
    other = flags["baseline"]
    baseline = None if other is None else read_build(other)
    target = flags["output"] or folder / PAGE
    listed = {one.text("path") for one in built.raw.objects("artifacts")} | {"report.json"}
    if target.name in listed and target.resolve().parent == folder.resolve():
        raise OutputExistsError(f"{target} is part of the build: use another -o")
    if flags["label"] is not None and flags["history"] is None:
        raise UsageError("--label is a name in a history: give --history too")
    refuse_overwrite(target, flags["force"])
    page = page_of(
        built,
        baseline,
        pictures=not flags["no_images"],
        history=flags["history"],
        subject=flags["label"],
    )
    text = render(page)
    write_text(target, text)
    if ui.json:
        names = [section.ident for section in page.sections]
        size = len(text.encode())
        ui.raw(dump_json({"path": str(target), "bytes": size, "sections": names}))
        return
    for line in page.verdict[:1]:
        ui.info(line)
    ui.result(f"wrote {target} ({len(text.encode()) / 1e3:.0f} kB)")
