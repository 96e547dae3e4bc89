"""A page from a folder: every section asked whether it has something to say."""

from __future__ import annotations

from pathlib import Path

from graphopt.html import (
    accuracy,
    advice,
    figures,
    glance,
    images,
    latency,
    origin,
    ranges,
    roof,
    runs,
    trend,
    widths,
)
from graphopt.html.blocks import Page
from graphopt.html.source import Built
from graphopt.html.terms import label

_STATUS = {"pass": "limits met", "fail": "a limit was missed"}


def page_of(
    built: Built,
    baseline: Built | None = None,
    *,
    pictures: bool = True,
    history: Path | None = None,
    subject: str | None = None,
) -> Page:
    """Return what is to be said of a build.

    Args:
        built: the build, as :func:`graphopt.html.source.read_build` read it.
        baseline: another build to compare figures with, or None.
        pictures: whether the images it was calibrated on may be shown.
        history: a history, for the builds before this one, or None.
        subject: what its builds are called there; the model's name where None.

    Raises:
        UsageError: its report contradicts what such a report looks like, or the history has no
            such build.
    """
    sections = [
        advice.section(built),
        figures.section(built, baseline),
        latency.section(built),
        accuracy.section(built),
        widths.section(built),
        ranges.section(built),
        roof.section(built),
        runs.section(built),
        None if history is None else trend.section(built, history, subject),
        images.section(built) if pictures else None,
        origin.steps(built),
        origin.files(built),
    ]
    gated = bool(built.raw.items("gates"))
    status = built.raw.text("status") if gated else "none"
    version = built.raw.inner("versions").text("graphopt")
    return Page(
        title=built.raw.inner("source").text("name", "a model"),
        subtitle=_subtitle(built),
        status=status if status in _STATUS else "none",
        status_words=_STATUS.get(status, ""),
        verdict=glance.verdict(built),
        tiles=glance.tiles(built),
        sections=[section for section in sections if section is not None],
        made_by=f"Written by graphopt report; built by graphopt {version}.".replace(" .", "."),
    )


def _subtitle(built: Built) -> str:
    """Return what was made of the model, and for what."""
    recipe = built.raw.inner("recipe")
    parts = []
    prune = recipe.inner("prune")
    if built.facts("prune-channels") is not None or prune.number("ratio"):
        parts.append("pruned")
    if built.last not in ("before", "fp32"):
        parts.append(f"in {label(built.last)}")
    made = " and ".join(parts) or "optimized"
    made = made[:1].upper() + made[1:]
    names = {}
    for one in built.raw.objects("stages"):
        if one.text("name").startswith("build-"):
            names[one.text("name")[6:]] = one.inner("facts")
    for engine, facts in names.items():
        version = facts.text("runtime_version")
        if engine == "bundle":  # built from one, elsewhere
            at = recipe.inner("engine").text("device")
            return f"{made}, for TensorRT {facts.text('tensorrt')} on {at or facts.text('gpu')}"
        device = facts.text("device")
        where = f" on {device}" if device and device != "host" else ""
        return f"{made}, for {engine} {version}{where}".rstrip()
    device = recipe.inner("engine").text("device")
    return f"{made}, for {device}" if device and device != "host" else made
