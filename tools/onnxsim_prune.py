"""Prune a model with onnxsim, the way its users do; run by an interpreter that has onnxsim.

    PYTHON tools/onnxsim_prune.py MODEL OUT --method l2|wanda|wanda-finetune --sparsity 0.5 \
        [--data FILE.npz]

Simplifies first. Prints the versions of what did it, as JSON. Knows nothing of graphopt.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import onnx
import onnxruntime
import onnxsim

METHODS = ("l2", "wanda", "wanda-finetune")
BATCH = 64


def prune(
    model: onnx.ModelProto, method: str, sparsity: float, batches: list[dict[str, np.ndarray]]
) -> onnx.ModelProto:
    """Return the pruned model; ``batches`` are not looked at by ``l2``."""
    dense, checked = onnxsim.simplify(model)
    if not checked:
        raise SystemExit("onnxsim's own check of its simplified model failed")
    if method == "l2":
        return onnxsim.apply_structured_pruning(dense, sparsity=sparsity)
    pruned = onnxsim.apply_structured_wanda_pruning(
        dense, calibration_data=batches, sparsity=sparsity
    )
    if method == "wanda":
        return pruned
    return onnxsim.apply_pruning_finetune(dense, pruned, calibration_data=batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--sparsity", type=float, required=True)
    parser.add_argument("--data")
    args = parser.parse_args()
    batches = []
    if args.data:
        samples = dict(np.load(args.data))
        count = len(next(iter(samples.values())))
        batches = [
            {name: array[i : i + BATCH] for name, array in samples.items()}
            for i in range(0, count, BATCH)
        ]
    onnx.save(prune(onnx.load(args.model), args.method, args.sparsity, batches), args.out)
    known = {"onnxsim": onnxsim.__version__, "onnx": onnx.__version__}
    print(json.dumps({**known, "onnxruntime": onnxruntime.__version__}))


if __name__ == "__main__":
    main()
