"""Runs the cases of ``bench_recovery.py``: each a process, measured from outside, and judged."""

from __future__ import annotations

import functools
import glob
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detections import Agreement, detect
from recovery_cases import CLASSIFIERS, Case

from graphopt.channels import PrunePlan, analyze
from graphopt.channels.groups import Group
from graphopt.cost import cost
from graphopt.data import Dataset, open_data
from graphopt.data.preprocess import load_preprocess
from graphopt.files import write_text
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.simplify import Simplify
from graphopt.toml import dump_toml
from graphopt.verify import compare_models, opened

HERE = Path(__file__).parent
PREPROCESS = {
    "face_rfb320": 'size = [240, 320]\ncolor = "rgb"\nscale = 1\nmean = 127\nstd = 128\n',
    "face_yunet_n": 'size = [320, 320]\ncolor = "bgr"\nscale = 1\n',
}
DETECTED = "face_rfb320"  # its outputs are scores and boxes, decoded in the graph
STEPS = 64  # onnxsim's sparsity is searched in 64ths
Row = dict[str, Any]


class Failed(Exception):
    """A case could not be run: one line."""


class Bench:
    """Runs cases in a scratch folder.

    Args:
        root: the data.
        scratch: a folder to write to.
        onnxsim: the interpreter that has it, or None.
        samples: for calibration.
    """

    def __init__(self, root: Path, scratch: Path, onnxsim: Path | None, samples: int) -> None:
        self.root, self.scratch, self.onnxsim, self.samples = root, scratch, onnxsim, samples
        self.lock = threading.Lock()
        self.known: dict[str, Any] = {}
        self.versions: dict[str, str] = {}
        for model, text in PREPROCESS.items():
            write_text(scratch / f"{model}.toml", text)
        photos = sorted((root / "faces").iterdir(), key=lambda p: p.name)
        for half in (0, 1):
            folder = scratch / f"faces{half}"
            folder.mkdir()
            for photo in photos[half::2]:
                shutil.copy(photo, folder)

    def model(self, case: Case) -> Path:
        """Return the path of a case's model."""
        return self.root / "models" / f"{case.model}.onnx"

    def data(self, model: str) -> dict[str, Any]:
        """Return the recipe's table: calibrated on images that nothing is measured on."""
        if model in CLASSIFIERS:
            images, preprocess = self.root / "cifar10", "cifar"
            calibration, evaluation = images / "calib", images / "test"
        else:
            calibration, evaluation = self.scratch / "faces0", self.scratch / "faces1"
            preprocess = str(self.scratch / f"{model}.toml")
        return {
            "calibration": str(calibration),
            "evaluation": str(evaluation),
            "preprocess": preprocess,
            "samples": self.samples,
        }

    def run(self, case: Case, rows: dict[str, Row]) -> Row:
        """Measure a case; where it cannot be run, the row says why."""
        row: Row = {"part": case.part, "model": case.model, "case": case.title}
        row["options"] = options(case, self.samples)
        try:
            share = self._share(case, rows)
            measured = self._onnxsim(case, share) if case.onnxsim else self._graphopt(case, share)
        except Failed as problem:
            measured = {"problem": str(problem)}
        return {**row, **measured}

    def _share(self, case: Case, rows: dict[str, Row]) -> float | None:
        if not case.equal:
            return None
        reference = rows.get(case.equal, {"problem": "not measured"})
        if "problem" in reference:
            raise Failed(f"{case.equal}: {reference['problem']}")
        before, after = reference["macs"]
        return float(after / before)

    def _graphopt(self, case: Case, share: float | None) -> Row:
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            folder = Path(name)
            prune = dict(case.prune)
            if case.inner:
                prune["keep"] = self.streams(case.model)
            if share is not None:
                # The next ten-thousandth above: what has exactly this cost meets it.
                prune["to"] = f"macs={math.ceil(share * 1e4) / 1e4:g}"
            recipe = {
                "prune": prune,
                "recover": {} if case.method is None else {"method": case.method},
                "quantize": {"int8": case.int8},
                "data": {**self.data(case.model), "samples": case.samples or self.samples},
                # Q/DQ goes where TensorRT wants it, whatever is installed here.
                "engine": {"name": "tensorrt"} if case.int8 else {},
            }
            write_text(folder / "recipe.toml", dump_toml(recipe))
            words = ["optimize", self.model(case), "--recipe", folder / "recipe.toml", "-q"]
            figures, _ = measured(
                [sys.executable, "-m", "graphopt", *words, "-o", folder / "out"], folder
            )
            return {**self._read(case, folder / "out"), **figures}

    def _read(self, case: Case, out: Path) -> Row:
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        plan = PrunePlan.from_json((out / "prune-plan.json").read_text(encoding="utf-8"))
        costs = {m["name"]: m["values"] for m in report["metrics"]}
        shipped = "int8" if case.int8 else "fp32"
        row = {
            "channels": [sum(getattr(g, k) for g in plan.groups) for k in ("before", "after")],
            "parameters": [costs["parameters"][k] for k in ("before", "fp32")],
            "macs": [costs["MACs"][k] for k in ("before", "fp32")],
            "resolved": {k: report["recipe"][k] for k in ("prune", "recover")},
            **judged(report["fidelity"][shipped]),
            "stages": {},
            "warnings": report["warnings"],
        }
        row["resolved"]["prune"].pop("keep")
        for stage in report["stages"]:
            seconds = row["stages"].get(stage["name"], 0.0) + stage["seconds"]
            row["stages"][stage["name"]] = round(seconds, 3)
        if case.model == DETECTED:
            row["detections"] = self.detections(case, out / "model.onnx")
        return row

    def _onnxsim(self, case: Case, share: float | None) -> Row:
        if self.onnxsim is None:
            raise Failed("--onnxsim was not given")
        source = self.model(case) if case.given else self.folded(case)
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            folder, out = Path(name), Path(name) / "out.onnx"
            words: list[Any] = ["--method", case.onnxsim]
            if case.onnxsim != "l2":
                words += ["--data", self.samples_of(case.model)]
            sparsity = case.ratio if share is None else self._sparsity(case, source, share, folder)
            tool = [self.onnxsim, HERE / "onnxsim_prune.py"]
            command = [*tool, source, out, *words, "--sparsity", sparsity]
            figures, told = measured(command, folder)
            with self.lock:
                self.versions |= json.loads(told.strip().rpartition("\n")[2])
            return {"sparsity": sparsity, **self._judge(case, out), **figures}

    def _sparsity(self, case: Case, source: Path, share: float, folder: Path) -> float:
        """Return the sparsity, in 64ths, that comes nearest to a share of the MACs."""
        with self.lock:  # onnxsim's methods differ in which channels go, not in how many
            if case.equal not in self.known:
                self.known[case.equal] = self._nearest(case, source, share, folder)
            return float(self.known[case.equal])

    def _nearest(self, case: Case, source: Path, share: float, folder: Path) -> float:
        tool = [self.onnxsim, HERE / "onnxsim_prune.py", source]
        dense = counted(self.model(case))["macs"]

        @functools.cache
        def at(step: int) -> float:
            out = folder / f"{step}.onnx"
            measured([*tool, out, "--method", "l2", "--sparsity", step / STEPS], folder)
            return counted(out)["macs"] / dense

        low, high = 1, STEPS - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if at(middle) < share else (middle, high)
        return min((low, high), key=lambda s: abs(at(s) - share)) / STEPS

    def _judge(self, case: Case, out: Path) -> Row:
        before, after = counted(self.model(case)), counted(out)
        fidelity = compare_models(self.model(case), out, self.opened(case, "evaluation"))
        return {
            **{what: [before[what], after[what]] for what in before},
            **judged(fidelity.to_json()),
        }

    def opened(self, case: Case, which: str) -> Dataset:
        """Open a case's calibration or evaluation data."""
        data = self.data(case.model)
        return open_data(
            data[which],
            Model.load(self.model(case)).inputs(),
            preprocess=load_preprocess(data["preprocess"]),
            limit=self.samples if which == "calibration" else None,
        )

    def streams(self, model: str) -> list[str]:
        """Return patterns for the groups that have several producers or consumers, only those."""
        with self.lock:
            if model not in self.known:
                path = self.root / "models" / f"{model}.onnx"
                self.known[model] = keep_streams(analyze(folded(path)).groups)
            return list(self.known[model])

    def folded(self, case: Case) -> Path:
        """Return the model simplified and with BatchNorm folded."""
        path = self.scratch / f"{case.model}-folded.onnx"
        with self.lock:
            return path if path.exists() else folded(self.model(case)).save(path)

    def samples_of(self, model: str) -> Path:
        """Return the calibration samples as a file: the ones graphopt sees."""
        path = self.scratch / f"{model}.npz"
        with self.lock:
            if not path.exists():
                case = Case("", model, 0, "")
                parts = list(self.opened(case, "calibration").batches(64))
                arrays: Any = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
                np.savez(path, **arrays)
        return path

    def detections(self, case: Case, pruned: Path) -> dict[str, int]:
        """Compare detections with the dense model's."""
        agreement = Agreement()
        with opened(self.model(case)) as dense, opened(pruned) as other:
            for feeds in self.opened(case, "evaluation").batches(1):
                both = [run(feeds) for run in (dense, other)]
                agreement.add(*(detect(o["scores"][0, :, 1], o["boxes"][0]) for o in both))
        return agreement.to_json()


def options(case: Case, samples: int) -> dict[str, Any]:
    """Return what decides a result; kept with it, so that ``--resume`` knows what it is of."""
    chosen = {k: getattr(case, k) for k in ("prune", "method", "int8", "inner", "onnxsim")}
    return {
        **chosen,
        "given": case.given,
        "equal": case.equal,
        "samples": case.samples or samples,
    }


def folded(path: Path) -> Model:
    """Return a model as graphopt prunes it."""
    model = Simplify()(Model.load(path)).model
    return FoldBatchNorm()(model).model


def keep_streams(groups: tuple[Group, ...]) -> list[str]:
    """Return, for each group with several producers or consumers, a pattern of it alone."""
    streams: list[Group] = []
    rest: list[Group] = []
    for group in groups:
        roles = ("producer", "consumer")
        counts = [len({m.tensor for m in group.members if m.role == role}) for role in roles]
        (streams if max(counts) > 1 else rest).append(group)
    elsewhere = {n for g in rest for n in (g.name, *g.nodes, *g.tensors)}
    return [
        glob.escape(next(n for n in (g.name, *g.nodes, *g.tensors) if n not in elsewhere))
        for g in streams
    ]


@functools.cache
def counted(path: Path) -> Mapping[str, int]:
    """Count channels in groups that can be pruned, parameters and MACs of one sample.

    As graphopt's reports count: parameters as the file has them, MACs simplified.
    """
    model = folded(path)
    shapes = {
        name: tuple(d if isinstance(d, int) else 1 for d in s)
        for name, (_, s) in model.inputs().items()
    }
    total = cost(model, shapes)
    channels = sum(g.width for g in analyze(model).groups)
    parameters = Model.load(path).parameters()
    return {"channels": channels, "parameters": parameters, "macs": total.macs}


def judged(fidelity: dict[str, Any]) -> Row:
    """Return what a table shows of a report's fidelity; an infinite SQNR is None."""
    outputs = {"all": fidelity["total"], **fidelity["outputs"]}
    sqnr = {name: error["sqnr_db"] for name, error in outputs.items()}
    row: Row = {
        "samples": fidelity["samples"],
        "sqnr_db": {n: v if v is not None and math.isfinite(v) else None for n, v in sqnr.items()},
    }
    top1 = fidelity["top1"]
    if top1 is not None and "accuracy" in top1:
        counts = top1["accuracy"]
        row["right"] = [counts["right_a"], counts["right_b"]]
        row |= {"lost": counts["right_only_a"], "gained": counts["right_only_b"]}
        row["agree"] = top1["agree"]
    return row


def measured(command: list[Any], folder: Path) -> tuple[dict[str, float], str]:
    """Run a command; return seconds, CPU seconds and peak MB, and what it printed.

    Raises:
        Failed: with the last line it wrote.
    """
    target = folder / "figures.json"
    words = [sys.executable, HERE / "measured.py", target, *command]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        told = next((line for line in lines if line.startswith("error: ")), lines[-1])
        raise Failed(f"exit {done.returncode}: {told.removeprefix('error: ')}")
    return json.loads(target.read_text(encoding="utf-8")), done.stdout
