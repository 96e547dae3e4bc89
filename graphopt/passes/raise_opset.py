"""Raise the opset, by onnx.version_converter, without what the converter loses.

Tried against onnx 1.23, the converter drops local functions and node metadata, leaves Hardmax its
old axis under the new meaning, and turns Upsample and Resize-10, whose sampling is asymmetric, into
a Resize of half pixels with an output of another name. So functions are inlined first, Hardmax is
rewritten, Resize is put right, and metadata is put back; weights do not pass through the converter
at all. Softmax and LogSoftmax of unknown rank become four nodes that hide the rank from whoever
comes after: ranks that shape arithmetic hides (every attention of a dynamic batch) are worked out
first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx.version_converter
import onnx_graphsurgeon as gs

from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import Graph, Names, constant, is_constant, is_op, rank, walk
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip
from graphopt.passes.simplify import Simplify
from graphopt.passes.through_proto import inline_functions, through_proto
from graphopt.reader import SparseInitializer
from graphopt.wording import one_line

_REASONS = {13: ": per-channel Q/DQ needs 13"}


@dataclass(frozen=True)
class RaiseOpset(Pass):
    """Raise a model to at least opset ``minimum``; a newer one is left as it is.

    Attributes:
        minimum: version of the standard operators to reach (8 and up).

    Raises:
        UsageError: ``minimum`` is newer than the onnx package knows.
        UnsupportedModelError: an operator has no equivalent at the new opset.
    """

    minimum: int = 13
    name: ClassVar[str] = "raise-opset"

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        """Replace the graph by a converted one."""
        newest = onnx.defs.onnx_opset_version()
        if self.minimum > newest:
            raise UsageError(
                f"opset {self.minimum} is newer than this onnx package knows: {newest}"
            )
        before = model.opset
        if before >= self.minimum:
            return
        if model.metadata.functions:
            yield from inline_functions(model)
        if before < 13 <= self.minimum and _hides_ranks(model.graph):
            yield from Simplify().edit(model)
        _refuse(model, self.minimum)
        _rewrite_hardmax(model.graph)
        old = model.graph
        model.graph = _converted(model, self.minimum)
        if before < 11 <= self.minimum:
            _set_resize_modes(model, old, self.minimum)
        yield Change(
            "raised", "opset", f"opset {before} -> {self.minimum}{_REASONS.get(self.minimum, '')}"
        )
        yield from _differences(old, model.graph)


def _hides_ranks(graph: Graph) -> bool:
    softmax = [n for n in graph.nodes if is_op(n, "Softmax", "LogSoftmax", "Hardmax")]
    return any(rank(node.inputs[0]) is None for node in softmax)


def _refuse(model: Model, target: int) -> None:
    for node in walk(model.graph):
        for tensor in node.inputs:
            if is_constant(tensor) and isinstance(tensor._values, SparseInitializer):
                raise _cannot(model, target, f"initializer '{tensor.name}' is sparse")


def _cannot(model: Model, target: int, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"cannot raise the model from opset {model.opset} to {target}: {why}; "
        f"export it again with opset {target} or newer"
    )


def _rewrite_hardmax(graph: Graph) -> None:
    """Below opset 13 Hardmax works on the input flattened to 2-D at ``axis`` (1 by default)."""
    names = Names(graph)
    for part in [graph, *graph.subgraphs(recursive=True)]:
        for node in list(part.nodes):
            if not is_op(node, "Hardmax"):
                continue
            axis, data = node.attrs.get("axis", 1), node.inputs[0]
            dims = rank(data)
            node.attrs["axis"] = axis
            if dims is not None and axis % dims == dims - 1:
                continue
            shape, flat, hard = (
                gs.Variable(names.fresh(f"{node.outputs[0].name}_{part_name}"), dtype)
                for part_name, dtype in (
                    ("shape", np.dtype(np.int64)), ("flat", data.dtype), ("hard", data.dtype)
                )
            )  # fmt: skip
            output = node.outputs[0]
            node.inputs, node.outputs, node.attrs["axis"] = [flat], [hard], 1
            at = next(i for i, other in enumerate(part.nodes) if other is node)
            part.nodes[at:at] = [
                gs.Node("Shape", inputs=[data], outputs=[shape]),
                gs.Node("Flatten", attrs={"axis": axis}, inputs=[data], outputs=[flat]),
            ]
            part.nodes.insert(at + 3, gs.Node("Reshape", inputs=[hard, shape], outputs=[output]))


def _set_resize_modes(model: Model, old: Graph, target: int) -> None:
    """Give each Resize the sampling of the Upsample or Resize-10 it was.

    Those map pixel ``x`` to ``x / scale`` and, for nearest, take the floor where they enlarge and
    the ceiling where they shrink (ONNX Runtime; the operators' text leaves it open).
    """
    before = [n for n in walk(old) if is_op(n, "Upsample", "Resize")]
    after = [n for n in walk(model.graph) if is_op(n, "Upsample", "Resize")]
    if [n.attrs.get("mode", "nearest") for n in before] != [
        n.attrs.get("mode", "nearest") for n in after
    ]:
        model.graph = old
        raise _cannot(model, target, "onnx.version_converter lost track of an Upsample or Resize")
    # In order: the converter gives a new Resize a new output, except where the graph returns it.
    for was, node in zip(before, after, strict=True):
        node.name, node.outputs[0].name = was.name, was.outputs[0].name
        scales = was.attrs.get("scales") or constant(was.inputs[1])
        # Scales computed at run time are taken to enlarge: the nets that do so are decoders.
        shrinks = scales is not None and bool(np.any(np.asarray(scales) < 1))
        if shrinks and bool(np.any(np.asarray(scales) > 1)) and was.attrs.get("mode") != "linear":
            model.graph = old
            raise _cannot(
                model, target, f"{was.op} '{was.name}' enlarges one axis, shrinks another"
            )
        node.attrs["coordinate_transformation_mode"] = "asymmetric"
        if node.attrs.get("mode", "nearest") == "nearest":
            node.attrs["nearest_mode"] = "ceil" if shrinks else "floor"


def _converted(model: Model, target: int) -> Graph:
    def convert(proto: onnx.ModelProto) -> onnx.ModelProto:
        return onnx.version_converter.convert_version(proto, target)

    try:
        return through_proto(model, convert).graph
    except UnsupportedModelError:
        raise
    except Exception as problem:
        said = f"onnx.version_converter says: {one_line(problem, 200)}"
        raise _cannot(model, target, said) from problem


def _differences(old: Graph, new: Graph) -> Iterator[Change]:
    ops = {node.outputs[0].name: node.op for node in walk(old) if node.outputs}
    for node in walk(new):
        before = ops.get(node.outputs[0].name) if node.outputs else None
        if before is not None and before != node.op:
            yield Change("converted", node.name, f"{before} became {node.op}")
