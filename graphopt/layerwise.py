"""Where fidelity is lost: the signal to noise ratio at the output of every layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from graphopt.cost import cost
from graphopt.data import Dataset
from graphopt.graph import is_constant, is_op
from graphopt.model import Feeds, Model
from graphopt.runtime import open_session
from graphopt.verify import Runner, compare

SAMPLES = 32
BATCH = 4
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """What one layer's output lost, the errors of all layers before it included.

    Attributes:
        name: of the node.
        op: its operator.
        tensor: its output, which both models name alike.
        sqnr_db: signal to quantization-noise ratio over all samples, in dB; None where nothing
            differs, or one of the two is not finite.
        identical: whether nothing differs.
        macs: multiply-accumulates of the layer for one run; None where its shapes are not known.
    """

    name: str
    op: str
    tensor: str
    sqnr_db: float | None
    identical: bool
    macs: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {n: getattr(self, n) for n in ("name", "op", "tensor", "sqnr_db", "identical")} | {
            "macs": self.macs
        }


def layer_losses(
    base: Model,
    candidate: Model,
    data: Dataset,
    *,
    samples: int = SAMPLES,
    exact: bool = True,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[LayerLoss]:
    """Compare the outputs of the layers that two models share, in the order of the graph.

    Args:
        base: float32.
        candidate: the same layers in fewer bits, made from ``base``: tensors keep their names.
        data: of which ``samples`` are used, evenly spread.
        samples: how many.
        exact: run the candidate as written, without ONNX Runtime's rewrites.
        shapes: input name -> shape that MACs are counted for; open dimensions count as 1.
        progress: called after each batch with the number of samples in it.
    """
    there = {name for name, t in candidate.graph.tensors().items() if not is_constant(t)}
    layers = [
        node
        for node in base.graph.nodes
        if is_op(node, *_LAYERS)
        and node.outputs[0].name in there
        and (node.outputs[0].dtype is None or str(node.outputs[0].dtype) in _FLOATS)
    ]
    if not layers:
        return []
    names = list(dict.fromkeys(node.outputs[0].name for node in layers))
    few = data.at_most(samples)
    with _reading(base, names, True) as run_a, _reading(candidate, names, not exact) as run_b:
        found = compare(run_a, run_b, few, batch=BATCH, progress=progress)
    macs = cost(base, shapes).by_node
    losses = []
    for node in layers:
        error = found.outputs[node.outputs[0].name]
        known = math.isfinite(error.sqnr_db) and not error.mismatched
        losses.append(
            LayerLoss(
                node.name,
                node.op,
                node.outputs[0].name,
                round(error.sqnr_db, 4) if known else None,
                error.identical,
                macs.get(node.name),
            )
        )
    return losses


@contextmanager
def _reading(model: Model, names: Sequence[str], optimize: bool) -> Iterator[Runner]:
    """Open a model that returns these tensors and nothing else, as float32."""
    with open_session(model, extra_outputs=names, only=True, optimize=optimize) as session:
        inputs = [value.name for value in session.get_inputs()]

        def run(feeds: Feeds) -> dict[str, Any]:
            values = session.run(list(names), {n: feeds[n] for n in inputs})
            return dict(zip(names, values, strict=True))

        yield run
