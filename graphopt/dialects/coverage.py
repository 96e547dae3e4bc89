"""What ONNX Runtime really runs: the operators left after its graph optimizations."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import onnx

from graphopt.model import Model
from graphopt.runtime import open_session, session_options

# fmt: off
INTEGER_OPS = frozenset({
    "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearAdd",
    "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul", "QLinearSigmoid",
})
# fmt: on
FLOAT_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "NhwcFusedConv"})


def op_counts_after_optimization(model: Model | str | os.PathLike[str]) -> dict[str, int]:
    """Return operator -> count in the graph that ONNX Runtime's CPU provider executes.

    All optimizations are on, layout ones too; sorted by operator.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        path = Path(scratch) / "optimized.onnx"
        options = session_options()
        options.optimized_model_filepath = str(path)
        with open_session(model, options=options):
            pass
        graph = onnx.load(path, load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))
