"""What ``graphopt calibrate`` does: measure, resume, import, merge, compare and look at tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import DataError, UsageError
from graphopt.files import dump_json
from graphopt.verbs import open_samples, refuse_overwrite

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.model import Model

ALL = "all"
# What is recorded where all calibrators are compared.
CHOSEN = "auto"
_DEFAULT = "auto"

_DATA = ("data", "preprocess", "samples", "seed", "memory")
_WRITES = ("calibrator", "output", "force", "trt_cache", "trt_version", "trt_algorithm")
_SPELLED = {"source": "--from", "output": "-o"}


def run_calibrate(files: Sequence[Path], flags: dict[str, Any], ui: Console) -> None:
    """``graphopt calibrate``."""
    modes: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
        "merge": (_merge, _WRITES),
        "compare": (_compare, ()),
        "inspect": (_inspect, ()),
        "source": (_import, _WRITES),
        "resume": (_measure, (*_DATA, *_WRITES)),
    }
    asked = [mode for mode in modes if flags[mode]]
    if len(asked) > 1:
        raise UsageError(f"{_flag(asked[0])} and {_flag(asked[1])} are two requests: give one")
    run, known = modes[asked[0]] if asked else (_measure, (*_DATA, *_WRITES))
    for name, value in flags.items():
        if name not in (*asked, *known) and value not in (None, False, ()):
            raise UsageError(f"{_flag(name)} has no effect with {_flag(asked[0])}: leave it out")
    run(files, flags, ui)


def _measure(files: Sequence[Path], flags: dict[str, Any], ui: Console) -> None:
    from graphopt.calibrators import CALIBRATORS, CalibrationTable
    from graphopt.calibrators.stopping import Stopping
    from graphopt.data import EXAMPLES
    from graphopt.honesty import check_repeated, check_scale
    from graphopt.model import Model
    from graphopt.opening import check_inputs
    from graphopt.quantize import activations, calibration_table, resume_table, wanted_tensors
    from graphopt.quantize_options import parse_size

    if len(files) != 1:
        raise UsageError("name one model: graphopt calibrate MODEL --data SPEC")
    (model_path,) = files
    if not flags["data"]:
        raise DataError(
            "calibrate needs --data",
            hint=f"samples of what the model will see, one of:\n{EXAMPLES}",
        )
    resumed: Path | None = flags["resume"]
    out = _Out(flags, keep=[model_path], replaces=resumed)
    partial = _partial_of(out.path)
    if partial != resumed and partial.exists() and not flags["force"]:
        raise UsageError(
            f"{partial} is left of a run that was interrupted: --resume {partial} goes on with "
            "it, --force starts over"
        )
    known = None if resumed is None else CalibrationTable.load(resumed)
    method = CALIBRATORS.canonical(_method(flags, known))
    memory = None if flags["memory"] is None else parse_size(flags["memory"])
    given = Model.load(model_path)
    check_inputs(given)
    model = given if flags["trt_cache"] else _as_built(given)
    if known is not None:
        _require_kind(str(resumed), known, given, model, trt_cache=bool(flags["trt_cache"]))
    data = open_samples(flags, model.inputs())
    ui.info(f"calibration data: {data.summary()}")
    for warning in (*check_repeated(data), *check_scale(given, data)):
        ui.warn(warning)
    with Stopping() as stopping:
        if known is None:
            # TensorRT's implicit mode and DLA want a scale for every tensor; Q/DQ only for some.
            tensors = activations(model) if flags["trt_cache"] else wanted_tensors(model, ())
            table = calibration_table(
                model, data, method, tensors, ui, stopping=stopping, memory=memory
            )
        else:
            table = resume_table(
                model,
                data,
                known,
                method,
                ui,
                where=str(resumed),
                stopping=stopping,
                memory=memory,
            )
        if stopping.number is not None:
            table.save(partial)
            stopping.act(
                f"interrupted after {table.samples} samples, which are kept: go on with "
                f"--resume {partial}"
            )
    out.write(table, ui, compare=flags["calibrator"] == ALL)
    with suppress(OSError):  # what it held is in the table now, or was to be started over
        partial.unlink()


def _require_kind(
    where: str, table: CalibrationTable, given: Model, model: Model, *, trt_cache: bool
) -> None:
    """Refuse a table of the same model, made with ``--trt-cache`` where that is not given, or not.

    Raises:
        UsageError: one line with what to do.
    """
    if table.model_digest == model.digest():
        return
    other = _as_built(given) if trt_cache else given
    if table.model_digest == other.digest():
        made, do = ("without", "leave it out") if trt_cache else ("with", "give it")
        raise UsageError(
            f"{where} was made {made} --trt-cache, which asks for other tensors: {do} here too, "
            "or calibrate from the start"
        )


def _as_built(model: Model) -> Model:
    """Return what ``build --int8`` quantizes."""
    from graphopt.optimize import optimize
    from graphopt.recipe import Recipe
    from graphopt.report import Report

    recipe = Recipe.from_dict({"quantize": {"int8": True}})
    return optimize(model, recipe, 1, Report(), Console(verbosity=-1)).model


def _import(files: Sequence[Path], flags: dict[str, Any], ui: Console) -> None:
    from graphopt.calibrators.sources import OURS, load_table, only
    from graphopt.model import Model
    from graphopt.quantize import wanted_tensors

    if len(files) > 1:
        raise UsageError("name one model at most: graphopt calibrate MODEL --from FILE")
    source: Path = flags["source"]
    out = _Out(flags, keep=[source, *files])
    method = CHOSEN if flags["calibrator"] == ALL else flags["calibrator"] or ""
    given = Model.load(files[0]) if files else None
    built = None if given is None else _as_built(given)
    loaded = load_table(source, calibrator=method)
    if given is None and loaded.origin != OURS:
        raise UsageError(
            f"{source} is {loaded.origin}'s: name the model too, whose tensors it should have, "
            f"graphopt calibrate MODEL --from {source}"
        )
    table = loaded.table
    if given is not None and built is not None:
        # Of the model as it stands (--trt-cache, trtexec), or as build quantizes it.
        as_given = table.model_digest == given.digest() or _known(table, given) > _known(
            table, built
        )
        loaded = load_table(source, given if as_given else built, calibrator=method)
        for warning in loaded.warnings:
            ui.warn(warning)
        table = only(table, [*_activations(given), *_activations(built)])
        if not table.ranges:
            raise UsageError(f"{source} has no range at all: calibrate {files[0]}")
        wanted = wanted_tensors(built, ())
        lacking = [name for name in wanted if name not in table.ranges]
        if lacking:
            ui.warn(
                f"{len(lacking)} of the {len(wanted)} tensors that INT8 would quantize have no "
                f"range, such as '{lacking[0]}'"
            )
    out.write(table, ui, compare=flags["calibrator"] == ALL)


def _activations(model: Model) -> list[str]:
    from graphopt.graph import is_constant

    return [name for name, t in model.graph.tensors().items() if not is_constant(t)]


def _known(table: CalibrationTable, model: Model) -> int:
    """Return how many of a table's tensors a model has."""
    return len(table.ranges.keys() & set(_activations(model)))


def _merge(files: Sequence[Path], flags: dict[str, Any], ui: Console) -> None:
    from graphopt.calibrators import CalibrationTable
    from graphopt.calibrators.merge import merge_tables

    if len(files) < 2:
        raise UsageError("name two tables or more: graphopt calibrate --merge A B -o C")
    out = _Out(flags, keep=files)
    method = CHOSEN if flags["calibrator"] == ALL else flags["calibrator"] or ""
    table = merge_tables([(str(path), CalibrationTable.load(path)) for path in files], method)
    out.write(table, ui, compare=flags["calibrator"] == ALL)


def _compare(files: Sequence[Path], _flags: dict[str, Any], ui: Console) -> None:
    from graphopt.calibrators.judge import differences
    from graphopt.calibrators.sources import load_table

    if len(files) != 2:
        raise UsageError("name two tables: graphopt calibrate --compare A B")
    a, b = (load_table(path).table for path in files)
    found = differences(a, b)
    if ui.json:
        rows = [{"tensor": d.name, "a": d.a, "b": d.b} for d in found]
        ui.raw(dump_json({"a": str(files[0]), "b": str(files[1]), "differences": rows}))
        return
    if a.model_digest and b.model_digest and a.model_digest != b.model_digest:
        ui.warn("the tables belong to different models")
    cells = [[d.name, *("-" if x is None else f"{x:.6g}" for x in (d.a, d.b)),
              f"{d.ratio:.4f}" if d.ratio < float("inf") else "-"] for d in found]  # fmt: skip
    both = len(a.ranges.keys() & b.ranges.keys())
    if cells:
        ui.table("amax", ["tensor", f"A, {a.method}", f"B, {b.method}", "ratio"], cells)
    ui.result(f"{len(found)} tensors differ; {both} are in both tables")


def _inspect(files: Sequence[Path], _flags: dict[str, Any], ui: Console) -> None:
    if len(files) != 1:
        raise UsageError("name one table: graphopt calibrate --inspect TABLE")
    inspect_table(files[0], ui)


def inspect_table(path: Path, ui: Console) -> None:
    """Print what a calibration table says: ranges, clipped shares, expected SQNR, what is odd.

    Args:
        path: a table of graphopt, TensorRT or ONNX Runtime.
        ui: where to.

    Raises:
        UsageError: it is no calibration table.
    """
    from graphopt.calibrators.judge import judge, table_warnings
    from graphopt.calibrators.sources import load_table

    loaded = load_table(path)
    table, found, warnings = loaded.table, judge(loaded.table), table_warnings(loaded.table)
    if ui.json:
        ui.raw(
            dump_json(
                {
                    **table.to_json(histograms=False),
                    "origin": loaded.origin,
                    "histograms": table.counts is not None,
                    "tensors": {
                        j.name: {"clipped": j.clipped, "sqnr_db": j.sqnr_db, "kind": j.kind}
                        for j in found
                    },
                    "warnings": warnings,
                }
            )
        )
        return
    for warning in warnings:
        ui.warn(warning)
    ui.table(
        "",
        ["tensor", "amax", "low", "high", "clipped", "SQNR dB", ""],
        [
            [
                j.name,
                *(f"{x:.6g}" for x in (j.range.amax, j.range.low, j.range.high)),
                "" if j.clipped is None else f"{100 * j.clipped:.4f} %",
                "" if j.sqnr_db is None else f"{j.sqnr_db:.1f}",
                j.kind,
            ]
            for j in found
        ],
    )
    model = f"; model {table.model_digest[:12]}" if table.model_digest else ""
    counts = "" if table.counts is None else "; with histograms"
    samples = f", {table.samples} samples" if table.samples else ""
    ui.result(f"{len(found)} tensors{samples}, {table.method}{model}{counts}")


class _Out:
    """Where a table goes; refused before any work where it may not."""

    def __init__(
        self, flags: dict[str, Any], keep: Sequence[Path], replaces: Path | None = None
    ) -> None:
        from graphopt.calibrators.cache import DEFAULT_ALGORITHM, DEFAULT_VERSION, header_of

        version, algorithm = flags["trt_version"], flags["trt_algorithm"]
        self.cache: Path | None = flags["trt_cache"]
        if self.cache is None and (version or algorithm):
            raise UsageError("--trt-version and --trt-algorithm are of the cache: add --trt-cache")
        self.header = header_of(version or DEFAULT_VERSION, algorithm or DEFAULT_ALGORITHM)
        self.path: Path = flags["output"] or Path("calibration.json")
        if self.path == self.cache:
            raise UsageError(f"-o and --trt-cache both name {self.path}")
        for path in (self.path, self.cache):
            # Resuming a table into itself only adds to it.
            if path is not None and not (path == self.path == replaces):
                refuse_overwrite(path, flags["force"], keep=keep)

    def write(self, table: CalibrationTable, ui: Console, *, compare: bool) -> None:
        """Write the table, and the cache where one is asked for; print what was done."""
        from graphopt.calibrators.cache import write_cache
        from graphopt.calibrators.judge import compare_calibrators, table_warnings

        comparison = None
        if compare and table.counts is not None:
            comparison = compare_calibrators(table.counts)
        table.save(self.path)
        if self.cache is not None:
            write_cache(
                self.cache, table, version=self.header.version, algorithm=self.header.algorithm
            )
        for warning in table_warnings(table):
            ui.warn(warning)
        if ui.json:
            value = table.to_json(histograms=False)
            if comparison is not None:
                value["comparison"] = comparison.to_json()
            ui.raw(dump_json(value))
            return
        if comparison is not None:
            title, head, rows = comparison.rows()
            ui.table(title, head, rows)
        written = ", ".join(str(path) for path in (self.path, self.cache) if path is not None)
        samples = f", {table.samples} samples" if table.samples else ""
        ui.result(f"{len(table.ranges)} tensors{samples}, {table.method}; wrote {written}")
        if comparison is not None:
            ui.info(f"another: graphopt calibrate --from {self.path} --calibrator NAME -o FILE")


def _method(flags: dict[str, Any], known: CalibrationTable | None) -> str:
    if flags["calibrator"] == ALL:
        return CHOSEN
    if flags["calibrator"] is not None:
        return str(flags["calibrator"])
    return _DEFAULT if known is None else known.method


def _partial_of(out: Path) -> Path:
    return out.with_name(f"{out.stem}.partial{out.suffix or '.json'}")


def _flag(name: str) -> str:
    return _SPELLED.get(name, f"--{name.replace('_', '-')}")
