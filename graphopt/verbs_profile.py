"""What ``graphopt profile`` does: time a model or an engine, here or on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import UsageError
from graphopt.files import dump_json, write_text
from graphopt.profiling.points import points
from graphopt.recipe import parse_one_profile
from graphopt.verbs import open_samples, refuse_overwrite
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.profiling.result import Measured

SHOWN_ONLY = Path("-")
"""``--layers`` without a file."""


def run_profile(path: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt profile``."""
    from graphopt.check.artifacts import find
    from graphopt.profiling.show import plot

    path = find(path)
    asked = points(flags["batch"], flags["streams"])
    written = _outputs(path, flags)
    shapes = parse_one_profile((), flags["opt_shapes"], ())
    fixed = {name: tuple(s["opt"]) for name, s in shapes.items()}
    measured: Measured
    if flags["host"] is not None or flags["trtexec"] is not None:
        from graphopt.profiling.there import measure_there

        measured = measure_there(path, asked, fixed, flags, ui)
    else:
        from graphopt.profiling.here import measure_here

        samples = (lambda inputs: open_samples(flags, inputs)) if flags["data"] else None
        measured = measure_here(path, asked, fixed, flags, ui, samples=samples)
    limit, many = flags["max_latency"], len(asked) > 1
    value = measured.to_json(max_latency_ms=limit, many=many)
    texts = {
        "output": lambda: dump_json(value),
        "layers": lambda: dump_json(value["layers"]) if measured.layers else "",
        "plot": lambda: plot(measured, path.name, limit),
    }
    there: list[Path] = []
    try:
        for name, file in written.items():
            text = texts[name]()
            if text:
                write_text(file, text)
                there.append(file)
                ui.info(f"wrote {one_line(file)}")
        _tell(measured, path, value, flags, ui, many=many)
    except KeyboardInterrupt as stopped:
        if there:
            stopped.args = (f"interrupted; {', '.join(map(one_line, there))} written",)
        raise


def _tell(
    measured: Measured,
    path: Path,
    value: Mapping[str, Any],
    flags: dict[str, Any],
    ui: Console,
    *,
    many: bool,
) -> None:
    from graphopt.profiling.show import show
    from graphopt.publish import publish

    for line in measured.all_warnings():
        ui.warn(line)
    if ui.json:
        ui.raw(dump_json(value))
    else:
        show(measured, path.name, ui, max_latency_ms=flags["max_latency"], many=many)
    publish(measured.run(path), flags, ui)


def _outputs(path: Path, flags: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files to write, by their options, once they are known to be writable.

    Raises:
        UsageError: two of them are one file.
        OutputExistsError: one exists, or is what is read.
        OutputError: one cannot be written.
    """
    from graphopt.publish import check_outputs

    written: dict[str, Path] = {}
    for name in ("output", "layers", "plot"):
        file = flags[name]
        if file is None or (name == "layers" and file == SHOWN_ONLY):
            continue
        if name == "plot" and file.suffix.lower() in (".png", ".jpg", ".jpeg", ".pdf"):
            raise UsageError(f"--plot {one_line(file)}: it is drawn as SVG, name it .svg")
        refuse_overwrite(file, flags["force"], keep=[path, *written.values()])
        if any(_same(file, other) for other in written.values()):
            raise UsageError(f"--{name} {one_line(file)} is the file of another output too")
        written[name] = file
    shown = {**flags, "layers": written.get("layers")}
    check_outputs(shown, inputs=[path])
    return written


def _same(a: Path, b: Path) -> bool:
    return a.absolute().resolve() == b.absolute().resolve()
