"""Layers with weights that no dialect quantizes, and why: nothing is left in float unsaid."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.dialects.heads import WEIGHTED, label
from graphopt.graph import Graph, Node, constant, is_op, is_standard
from graphopt.passes.base import Skip

_RECURRENT = ("LSTM", "GRU", "RNN")


def left_alone(graph: Graph) -> Iterator[Skip]:
    """Yield the layers that hold float weights and can be no head, with the reason.

    These are operators without an integer kernel, operators of other domains and whatever stands
    inside the body of an If, Loop or Scan. Heads and their own reasons are ``find_heads``'s.
    """
    for node in graph.nodes:
        reason = _reason(node)
        if reason:
            yield Skip(label(node), f"{node.op}: {reason}")
        for body in node.subgraphs(recursive=True):
            for inner in body.nodes:
                if _reason(inner) or (is_op(inner, *WEIGHTED) and _has_weight(inner)):
                    yield Skip(
                        label(inner),
                        f"{inner.op}: inside the body of {node.op} '{label(node)}', where no "
                        "range is measured",
                    )


def _reason(node: Node) -> str | None:
    if not _has_weight(node):
        return None
    if not is_standard(node):
        return (
            f"of domain '{node.domain}': only standard operators are quantized"
            if node.op in WEIGHTED or node.op.startswith("Fused")
            else None
        )
    if node.op in _RECURRENT:
        return "recurrent layers have no integer kernel"
    if node.op == "Einsum":
        return "it has no integer kernel; export it as MatMul to have it quantized"
    if node.op == "DeformConv":
        return "it has no integer kernel: its samples are interpolated"
    return None


def _has_weight(node: Node) -> bool:
    """Whether one of the inputs is a constant of two or more dimensions in floating point."""
    for tensor in node.inputs:
        values = constant(tensor) if tensor.name else None
        if values is not None and values.ndim > 1 and values.dtype.kind == "f":
            return True
    return False
