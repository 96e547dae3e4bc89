"""How far a quantized model is from the float one: classes, SQNR, the worst layer, boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detections import Agreement, detect

from graphopt.data import Dataset
from graphopt.graph import is_op
from graphopt.model import Model
from graphopt.runtime import open_session

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
STRIDES = (8, 16, 32)
BATCH = 16
Outputs = Mapping[str, np.ndarray]


@dataclass(slots=True)
class Noise:
    """Sums of signal and error, float64."""

    signal: float = 0.0
    error: float = 0.0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take in values and what became of them."""
        x = a.astype(np.float64)
        self.signal += float((x * x).sum())
        self.error += float(((x - b) ** 2).sum())

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise."""
        if not self.error or not self.signal:
            return math.inf if not self.error else -math.inf
        return 10 * math.log10(self.signal / self.error)


@dataclass(slots=True)
class Judged:
    """What one candidate is worth."""

    outputs: dict[str, Noise] = field(default_factory=dict)
    layers: dict[str, Noise] = field(default_factory=dict)
    pairs: dict[tuple[bool, bool], int] = field(default_factory=dict)
    boxes: Agreement = field(default_factory=Agreement)

    def to_json(self) -> dict[str, Any]:
        """Return what a table shows."""
        total = Noise(
            sum(n.signal for n in self.outputs.values()),
            sum(n.error for n in self.outputs.values()),
        )
        worst = min(self.layers, key=lambda n: self.layers[n].sqnr_db, default="")
        row: dict[str, Any] = {
            "sqnr_db": total.sqnr_db,
            "worst_output_db": min(n.sqnr_db for n in self.outputs.values()),
            "worst_layer": worst,
            "worst_layer_db": self.layers[worst].sqnr_db if worst else None,
        }
        if self.pairs:
            row["right"] = self.pairs.get((True, True), 0) + self.pairs.get((False, True), 0)
            row["reference"] = self.pairs.get((True, True), 0) + self.pairs.get((True, False), 0)
            row["lost"] = self.pairs.get((True, False), 0)
            row["gained"] = self.pairs.get((False, True), 0)
            row["samples"] = sum(self.pairs.values())
        if self.boxes.reference:
            row["boxes"] = self.boxes.to_json()
        return row


def boxes_of(outputs: Outputs, feeds: Outputs) -> np.ndarray | None:
    """Return the faces one of the two detectors finds in one image, or None for a classifier."""
    if "scores" in outputs and "boxes" in outputs:
        return detect(outputs["scores"][0, :, 1], outputs["boxes"][0])
    if "cls_8" not in outputs:
        return None
    width = next(iter(feeds.values())).shape[-1]
    scores, found = [], []
    for stride in STRIDES:
        cls, obj, box = (outputs[f"{part}_{stride}"][0] for part in ("cls", "obj", "bbox"))
        scores.append(np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1)))
        row, column = np.divmod(np.arange(len(box)), width // stride)
        middle = (np.stack([column, row], 1) + box[:, :2]) * stride
        half = np.exp(np.minimum(box[:, 2:], 10)) * stride / 2
        found.append(np.concatenate([middle - half, middle + half], 1))
    return detect(np.concatenate(scores), np.concatenate(found))


def judge(
    reference: Path, candidate: Path, data: Dataset, *, as_written: bool, base: Path | None = None
) -> dict[str, Any]:
    """Run both on the same samples.

    Args:
        reference: the float model, BatchNorm folded.
        candidate: the quantized one.
        base: the float model it was made from, whose layers it is held against, where its channels
            were rescaled or pruned; the reference by default.
        data: samples, with labels for a classifier.
        as_written: run the candidate without ONNX Runtime's rewrites, for what TensorRT builds.
    """
    model, other = Model.load(reference), Model.load(candidate)
    started = model if base is None else Model.load(base)
    known = other.graph.tensors()
    made = [n.outputs[0].name for n in started.graph.nodes if is_op(n, *LAYERS)]
    layers = [n for n in made if as_written and n in known and known[n].inputs]
    result = Judged()
    ends = [t.name for t in model.graph.outputs]
    inner = [n for n in layers if n not in ends]
    with (
        open_session(model) as first,
        open_session(started, extra_outputs=inner) as layered,
        open_session(other, extra_outputs=inner, optimize=not as_written) as second,
    ):
        a_run, b_run, c_run = runner(first), runner(second), runner(layered)
        seen = 0
        for feeds in data.batches(1 if data.labels is None else BATCH):
            a, b, c = a_run(feeds), b_run(feeds), c_run(feeds)
            for name in ends:
                result.outputs.setdefault(name, Noise()).add(a[name], b[name])
            for name in layers:
                result.layers.setdefault(name, Noise()).add(c[name], b[name])
            rows = len(a[ends[0]])
            if data.labels is not None:
                truth = data.labels[seen : seen + rows]
                right = [(o[ends[0]].argmax(1) == truth).tolist() for o in (a, b)]
                for pair in zip(*right, strict=True):
                    result.pairs[pair] = result.pairs.get(pair, 0) + 1
            found = [boxes_of(o, feeds) for o in (a, b)]
            if found[0] is not None and found[1] is not None:
                result.boxes.add(found[0], found[1])
            seen += rows
    return result.to_json()


def runner(session: Any) -> Callable[[Outputs], Outputs]:
    """Return a function from feeds to named outputs."""
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))
