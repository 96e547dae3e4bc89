"""Passes over the graph: each is one file here and one line in :data:`PASSES`."""

from __future__ import annotations

from graphopt.passes.base import Change, Pass, PassResult, Skip
from graphopt.registry import Registry

PASSES = Registry(
    "pass",
    {
        "simplify": "graphopt.passes.simplify:Simplify",
        "fold-batchnorm": "graphopt.passes.fold_batchnorm:FoldBatchNorm",
        "raise-opset": "graphopt.passes.raise_opset:RaiseOpset",
        "lower-opset": "graphopt.passes.lower_opset:LowerOpset",
        "prune-channels": "graphopt.passes.prune_channels:PruneChannels",
        "low-rank": "graphopt.passes.low_rank:LowRank",
        "sparsify": "graphopt.passes.sparsify:Sparsify",
        "insert-qdq": "graphopt.passes.insert_qdq:InsertQDQ",
        "to-fp16": "graphopt.passes.to_fp16:ToFp16",
        "weight-only": "graphopt.passes.weight_only:WeightOnly",
    },
)

__all__ = ["PASSES", "Change", "Pass", "PassResult", "Skip"]
