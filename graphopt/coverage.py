"""What ONNX Runtime really runs: the operators left after its graph optimizations."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx

from graphopt.errors import UnsupportedModelError
from graphopt.graph import walk_proto
from graphopt.model import Model
from graphopt.runtime import open_session, session_options

# Operators of optimized graphs that multiply and add, by what they compute in.
# fmt: off
INTEGER_COMPUTE = frozenset({
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QAttention",
    "QGemm", "QLinearConv", "QLinearConvTranspose", "QLinearMatMul",
})
FLOAT_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "NhwcConv", "NhwcFusedConv"})
FLOAT_COMPUTE = FLOAT_CONVOLUTIONS | {
    "Attention", "ConvTranspose", "FusedGemm", "FusedMatMul", "Gemm", "MatMul",
}
# Every operator of an optimized graph that computes in integers.
INTEGER_OPS = INTEGER_COMPUTE | {
    "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
}
# fmt: on


def optimized_ops(
    model: Model | str | os.PathLike[str], *, threads: int | None = None
) -> dict[str, int]:
    """Return operator -> how many nodes of it ONNX Runtime runs for this model on this processor.

    All optimizations are on, layout ones too; bodies of If, Loop and Scan count; sorted by
    operator. Whether INT8 is INT8 shows here: a quantized Conv that ONNX Runtime could not turn
    into an integer kernel is still a ``Conv`` (or ``FusedConv``) between ``DequantizeLinear``
    nodes.

    Args:
        model: a model, or the path of an ONNX file.
        threads: cores to use; all by default.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        saved = Path(scratch) / "optimized.onnx"
        options = session_options(threads=threads)
        options.optimized_model_filepath = str(saved)
        # Weights apart: a message of 2 GiB cannot be saved, and only the nodes are read.
        key = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{key}_file_name", "weights")
        options.add_session_config_entry(f"{key}_min_size_in_bytes", "1024")
        with open_session(model, options=options):
            pass
        if not saved.is_file():
            raise UnsupportedModelError("ONNX Runtime did not say what it made of the model")
        graph = onnx.load_model(saved, load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in walk_proto(graph)).items()))


def count(ops: Mapping[str, int], which: frozenset[str]) -> int:
    """Return how many nodes there are of these operators together."""
    return sum(number for op, number in ops.items() if op in which)
