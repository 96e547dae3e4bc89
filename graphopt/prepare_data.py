"""The samples of a build: opened, and what makes them a poor judge told, before any work."""

from __future__ import annotations

from pathlib import Path

from graphopt.console import Console
from graphopt.data import EXAMPLES, Dataset, Preprocess, open_data, synthetic
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.honesty import check_answers, check_apart, check_repeated
from graphopt.model import Model
from graphopt.plan import Request
from graphopt.recipe import Recipe
from graphopt.report import Report
from graphopt.verify import check_labels, class_output, numeric, opened

SYNTHETIC_SAMPLES = 64

NO_DATA = f"""calibration needs samples of what the model will see; one of:
{EXAMPLES}
  --synthetic                              random data: for latency only, accuracy means nothing"""

NO_GATE = (
    "--max-drop needs an output of class scores, of shape (N, C), and this model has none: "
    "use --min-sqnr, in dB"
)


def read(
    spec: str, model: Model, recipe: Recipe, preprocess: Preprocess | None, *, all_of_it: bool
) -> Dataset:
    """Open a data SPEC for a model; ``--samples`` limits calibration, never evaluation."""
    return open_data(
        spec,
        model.inputs(),
        preprocess=preprocess,
        limit=None if all_of_it else recipe.data.samples,
        seed=recipe.data.seed,
    )


def open_calibration(
    model: Model, recipe: Recipe, preprocess: Preprocess | None, report: Report, ui: Console
) -> Dataset | None:
    """Open the samples to calibrate on; None where nothing needs any."""
    if recipe.data.calibration:
        data = read(recipe.data.calibration, model, recipe, preprocess, all_of_it=False)
        ui.info(f"calibration data: {data.summary()}")
        return data
    if not recipe.quantize.int8 or recipe.quantize.table:
        return None
    report.synthetic = True
    ui.warn(
        "SYNTHETIC calibration data: latency is real, accuracy is meaningless; do not ship this"
    )
    return _synthetic(model, recipe)


def open_evaluation(
    model: Model,
    recipe: Recipe,
    preprocess: Preprocess | None,
    calibration: Dataset | None,
    report: Report,
    ui: Console,
) -> Dataset:
    """Open the samples to measure fidelity on: by default those of calibration, or made up."""
    if recipe.data.evaluation:
        data = read(recipe.data.evaluation, model, recipe, preprocess, all_of_it=True)
        ui.info(f"evaluation data: {data.summary()}")
        if calibration is not None and calibration.digest == data.digest:
            ui.warn("--eval is the calibration data: the accuracy shown is optimistic")
        return data
    if calibration is not None and not calibration.synthetic:
        report.decide("evaluation", "calibration data", "no --eval was given")
        ui.warn("no --eval: fidelity is measured on the calibration data, which is optimistic")
        return calibration
    report.decide("evaluation", "random inputs", "no --eval and no --data was given")
    ui.info("fidelity is measured on random inputs: give --eval for figures that mean something")
    return calibration or _synthetic(model, recipe)


def _synthetic(model: Model, recipe: Recipe) -> Dataset:
    shapes = {name: s.opt for name, s in recipe.engine.shapes.items()}
    count = min(recipe.data.samples, SYNTHETIC_SAMPLES)
    return synthetic(model.inputs(), count, seed=recipe.data.seed, shapes=shapes)


def keep_apart(request: Request, *data: Dataset | None) -> None:
    """Refuse an output folder whose files would overwrite the model, or become a class of data.

    Raises:
        UsageError: one line that says which.
    """
    out, model = request.out.resolve(), request.model.resolve()
    if model.parent == out and model.name.startswith("model."):
        raise UsageError(
            f"{request.model} lies in the output folder and could be overwritten: "
            "use another -o, or another name for the model"
        )
    for dataset in data:
        if dataset is None or not dataset.classes:
            continue
        root = Path(dataset.spec).resolve()
        if out == root or root in out.parents:
            raise UsageError(
                f"{request.out} lies in {dataset.spec}, whose sub-folders are classes: "
                "use an -o outside the data"
            )


def doubts(calibration: Dataset | None, evaluation: Dataset) -> list[str]:
    """Return what makes the samples a poor judge of anything."""
    if calibration is None:
        return []
    return [*check_apart(calibration, evaluation), *check_repeated(calibration)]


def try_out(request: Request, data: Dataset, ui: Console) -> None:
    """Run the model as given on one batch, so that what it refuses is told before any work.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses it, or a gate has nothing to judge by.
        DataError: a label is no class of the model.
    """
    with opened(request.model) as run:
        for warning in check_answers(run, data):
            ui.warn(warning)
        feeds = next(iter(data.batches(1)))
        outputs = {name: numeric(name, value) for name, value in run(feeds).items()}
    output = class_output(outputs, min(len(array) for array in feeds.values()))
    if output is not None and data.labels is not None:
        check_labels(data.labels, output, outputs[output].shape[1])
    if output is None and request.recipe.gate.max_drop is not None:
        raise UnsupportedModelError(NO_GATE)
