"""Weights in 4 or 8 bits, activations in floating point: DequantizeLinear in front of MatMul.

What is saved is memory and the time to read it, which is what products with few rows are made of.
Codes are symmetric, with no zero-point, and scales are numbers that fp16 holds, so that
``to-fp16`` changes nothing in them.

INT4 has a scale for each block of ``block`` rows of a column (opset 21); TensorRT (10 and newer)
documents blocks of 64 and 128, TensorRT-RTX builds 16 to 256, ONNX Runtime makes one MatMulNBits of
it (docs/weight-only.md says where). INT8 has one for each column, which is all that TensorRT
documents, or blocks where they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import (
    Array,
    Graph,
    Names,
    Node,
    constant,
    consumers,
    is_graph_output,
    is_op,
    rank,
    replace_input,
)
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip
from graphopt.passes.blocks import BLOCK, BlockCodes, fitting_block, round_blocks
from graphopt.passes.fp16_ops import QDQ_OPSET
from graphopt.passes.insert_qdq import excluded_nodes
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.reader import dtype_of

OPSET = 21  # the first with blocks and int4
COLUMN_OPSET = 13  # the first with a scale a column

Codes: TypeAlias = "Mapping[str, BlockCodes]"
"""Name of a weight -> how it is rounded; to nearest where there is none."""

_TYPES = {4: dtype_of(onnx.TensorProto.INT4), 8: np.dtype(np.int8)}


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A weight that becomes codes.

    Attributes:
        name: of the constant.
        nodes: who reads it: MatMul, or Gemm without transA.
        transposed: whether it is stored as ``(outputs, features)``: Gemm's transB.
        matrix: the weight as ``(features, outputs)``; a view, never to be written into.
        block: rows to a scale; None for one scale a column.
    """

    name: str
    nodes: tuple[Node, ...]
    transposed: bool
    matrix: Array
    block: int | None


@dataclass(frozen=True)
class WeightOnly(Pass):
    """Write the weights of Gemm and MatMul in 4 or 8 bits.

    Attributes:
        bits: 4 or 8.
        block: rows to a scale; by default 128 for 4 bits, and the whole column for 8.
        least: the smallest block to fall back to where the rows are no multiple of ``block``.
        exclude: patterns over node names and operators; what they match stays as it is.
        codes: name of a weight -> its rounding.
        max_opset: the newest opset the target parses, or None.

    Raises:
        UsageError: the bits or the block make no sense, or codes are of another shape.
        UnsupportedModelError: the target, or the model, cannot have opset 21.
    """

    name: ClassVar[str] = "weight-only"

    bits: int = 4
    block: int | None = None
    least: int = 32
    exclude: tuple[str, ...] = ()
    codes: Codes = field(default_factory=dict)
    max_opset: int | None = None

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        """Replace the weights in place; yield which, and which not and why."""
        if self.max_opset is not None and self.max_opset < OPSET:
            raise UnsupportedModelError(
                f"--weights needs opset {OPSET} (TensorRT 10 and newer), and the target parses up "
                f"to {self.max_opset}: leave it out, or use --int8"
            )
        found, skipped = self.targets(model)
        yield from skipped
        needed = OPSET if any(t.block for t in found) else COLUMN_OPSET
        if any(_is_half(t) for t in found):
            needed = max(needed, QDQ_OPSET)
        if found and model.opset < needed:
            yield from RaiseOpset(needed).edit(model)
            found, _ = self.targets(model)
        names = Names(model.graph)
        for target in found:
            chosen = self.codes.get(target.name)
            if chosen is None:
                chosen = round_blocks(target.matrix, self.bits, target.block)
            _require_fit(chosen, target, self.bits)
            before = target.matrix.nbytes
            _write(model.graph, target, chosen, self.bits, names)
            after = chosen.codes.size * self.bits // 8 + chosen.scales.size * 4
            by = f"blocks of {target.block}" if target.block else "a scale a column"
            for node in target.nodes:
                yield Change(
                    f"int{self.bits}",
                    node.name,
                    f"'{target.name}' {'x'.join(map(str, target.matrix.shape))}, {by}: "
                    f"{before:,} -> {after:,} bytes",
                )

    def targets(self, model: Model) -> tuple[list[Target], list[Skip]]:
        """Return the weights that become codes, and why others do not.

        Raises:
            UsageError: the bits or the block make no sense.
        """
        block = self._block()
        excluded = excluded_nodes(model, self.exclude)
        found: list[Target] = []
        skipped = [
            Skip(pattern, "this exclude pattern matches no node's name or operator")
            for pattern in self.exclude
            if not any(
                fnmatchcase(n.name, pattern) or fnmatchcase(n.op, pattern)
                for n in model.graph.nodes
            )
        ]
        seen: set[str] = set()
        for node in model.graph.nodes:
            if not is_op(node, "Gemm", "MatMul") or len(node.inputs) < 2:
                continue
            reason = _no_target(model.graph, node, excluded)
            if reason is not None:
                skipped.append(Skip(node.name, reason))
                continue
            tensor = node.inputs[1]
            if tensor.name in seen:
                continue
            seen.add(tensor.name)
            transposed = bool(node.op == "Gemm" and node.attrs.get("transB", 0))
            values = constant(tensor)
            assert values is not None
            matrix = values.T if transposed else values
            rows = int(matrix.shape[0])
            fits = None if block is None else fitting_block(rows, block, self.least)
            if block is not None and fits is None:
                skipped.append(
                    Skip(node.name, f"its {rows} rows divide into no blocks of {self.least} up")
                )
                continue
            if fits == rows and matrix.shape[1] == 1:
                skipped.append(
                    Skip(node.name, "its block would be all of it, which TensorRT refuses")
                )
                continue
            readers = tuple(consumers(tensor))
            found.append(Target(tensor.name, readers, transposed, matrix, fits))
        return found, skipped

    def _block(self) -> int | None:
        if self.bits not in _TYPES:
            raise UsageError(f"weights have 4 or 8 bits, not {self.bits}")
        block = self.block if self.block is not None or self.bits == 8 else BLOCK
        if block is not None and (block < 16 or block & (block - 1)):
            raise UsageError(f"a block has 16, 32, 64, 128 … rows, not {block}")
        return block


def _is_half(target: Target) -> bool:
    return bool(target.matrix.dtype == np.float16)


def _no_target(graph: Graph, node: Node, excluded: frozenset[str]) -> str | None:
    """Return why the weight of a Gemm or MatMul stays, or None."""
    tensor = node.inputs[1]
    values = constant(tensor)
    if values is None or constant(node.inputs[0]) is not None:
        return "neither input is a constant weight on the right"
    if values.dtype not in (np.float32, np.float16):
        return f"its weight is {values.dtype}"
    if values.ndim != 2:
        return f"its weight has {values.ndim} dimensions, not 2"
    if not np.isfinite(values).all():
        return f"its weight '{tensor.name}' holds NaN or infinity"
    if is_graph_output(graph, tensor):
        return f"its weight '{tensor.name}' is an output of the model"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "Gemm with transA"
    if (rank(node.inputs[0]) or 2) < 2:
        return "a product with a vector"
    local = {id(n) for n in graph.nodes}
    own = node.attrs.get("transB", 0) if node.op == "Gemm" else 0
    for other in consumers(tensor):
        if id(other) not in local or not is_op(other, "Gemm", "MatMul"):
            return f"others than products read its weight '{tensor.name}' too"
        theirs = other.attrs.get("transB", 0) if other.op == "Gemm" else 0
        places = [i for i, t in enumerate(other.inputs) if t is tensor]
        if places != [1] or bool(theirs) != bool(own) or other.attrs.get("transA", 0):
            return f"'{other.name}' reads its weight '{tensor.name}' in another way"
        if other.name in excluded:
            return "it is to stay so" if other is node else f"'{other.name}' shares its weight"
    return None


def _require_fit(chosen: BlockCodes, target: Target, bits: int) -> None:
    """Refuse codes that do not belong to the weight.

    Raises:
        UsageError: the shape or a value is wrong.
    """
    rows, columns = target.matrix.shape
    scales = (1 if target.block is None else rows // target.block, columns)
    if chosen.codes.shape != (rows, columns) or chosen.scales.shape != scales:
        raise UsageError(
            f"the codes of weight '{target.name}' are {chosen.codes.shape} with scales "
            f"{chosen.scales.shape}, where {(rows, columns)} and {scales} are wanted"
        )
    top = 1 << (bits - 1)
    if chosen.codes.size and (chosen.codes.min() < -top or chosen.codes.max() >= top):
        raise UsageError(f"the codes of weight '{target.name}' do not fit {bits} bits")
    if not (np.isfinite(chosen.scales).all() and (chosen.scales > 0).all()):
        raise UsageError(f"the scales of weight '{target.name}' must be finite and > 0")


def _write(graph: Graph, target: Target, chosen: BlockCodes, bits: int, names: Names) -> None:
    """Put DequantizeLinear between the codes, stored ``(features, outputs)``, and who reads them.

    ONNX Runtime fuses no other layout; Gemm loses its transB.
    """
    tensor = target.nodes[0].inputs[1]
    dtype = tensor.dtype
    attrs = {"axis": 0, "block_size": target.block} if target.block else {"axis": 1}
    scales = chosen.scales if target.block else chosen.scales[0]
    inputs = [
        gs.Constant(
            names.fresh(f"{target.name}_int{bits}"),
            np.ascontiguousarray(chosen.codes).astype(_TYPES[bits]),
        ),
        gs.Constant(names.fresh(f"{target.name}_scale"), scales.astype(dtype)),
    ]
    weight = gs.Variable(
        names.fresh(f"{target.name}_dequantized"), np.dtype(dtype), list(chosen.codes.shape)
    )
    graph.nodes.append(
        gs.Node(
            "DequantizeLinear",
            names.fresh(f"{target.name}_DequantizeLinear"),
            attrs,
            inputs,
            [weight],
        )
    )
    for node in target.nodes:
        replace_input(node, 1, weight)
        if target.transposed:
            node.attrs = {**node.attrs, "transB": 0}
