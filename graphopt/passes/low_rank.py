"""Replace layers by two smaller ones in a row, where that saves operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.cost import cost, with_input_shapes
from graphopt.errors import UsageError
from graphopt.graph import Array, Names, Node, constant, consumers, is_graph_output, static_shape
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip
from graphopt.passes.factors import SEPARABLE, Factors, factors_of
from graphopt.passes.ranks import Choice, allocate, choices
from graphopt.passes.sparsity import named
from graphopt.statistics.layers import Layer, bias_of, layers, set_weights

Shapes = Mapping[str, "tuple[int, ...]"]
AllFactors = Mapping[str, "Sequence[Factors]"]


@dataclass(frozen=True, slots=True)
class LowRank(Pass):
    """Low-rank factorization of Conv, Gemm and MatMul; ranks are chosen for the model as a whole.

    The second of two layers has the name, the output and the bias of the old one; the first is
    ``<name>_rank``. ConvTranspose, grouped convolutions and shared weights stay.

    Attributes:
        macs: the share of the model's multiply-accumulates that is to be left, in (0, 1).
        align: ranks are multiples of it.
        keep: ``fnmatch`` patterns of nodes and weights to leave alone.
        factors: node -> its factors, from samples (:func:`graphopt.recovery.weights.low_rank`);
            by default of the weights alone.
        shapes: input name -> shape, for dynamic inputs; an open dimension counts as 1.
    """

    name: ClassVar[str] = "low-rank"

    macs: float = 0.75
    align: int = 8
    keep: tuple[str, ...] = ()
    factors: AllFactors | None = None
    shapes: Shapes = field(default_factory=dict)

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        """Replace layers in place.

        Raises:
            UsageError: an option is out of range, or the target is out of reach.
        """
        if not 0 < self.macs < 1:
            raise UsageError(f"--low-rank is a share of MACs between 0 and 1, not {self.macs:g}")
        if self.align < 1:
            raise UsageError(f"ranks are multiples of a positive number, not of {self.align}")
        found, skipped = factorable(model, self.keep)
        yield from skipped
        fixed = with_input_shapes(model, self.shapes)
        before = cost(model, self.shapes)
        nodes = {node.name: node for node in model.graph.nodes}
        work: list[tuple[Layer, list[Choice]]] = []
        for layer in found:
            dense = before.by_node.get(layer.node)
            each = None if not dense else _each_rank(fixed, layer, dense)
            if dense is None or each is None:
                yield Skip(layer.node, "stays whole: the shapes around it are not known")
                continue
            forms = _forms(layer, nodes[layer.node], self.factors)
            options = choices(dense, [(f, each[f.form]) for f in forms], align=self.align)
            if len(options) == 1:
                yield Skip(
                    layer.node,
                    f"stays whole: no rank in {self.align}s is less work than {layer.features} x "
                    f"{layer.outputs}",
                )
                continue
            work.append((layer, options))
        total = before.macs
        rest = total - sum(options[0].macs for _, options in work)
        picked = allocate([options for _, options in work], int(self.macs * total) - rest)
        if picked is None:
            least = rest + sum(min(c.macs for c in options) for _, options in work)
            raise UsageError(
                f"--low-rank {self.macs:g} is out of reach: with the least ranks "
                f"{least / max(total, 1):.2f} of the MACs are left; "
                "prune channels as well, or ask for less"
            )
        names = Names(model.graph)
        for (layer, options), choice in zip(work, picked, strict=True):
            if choice.factors is None:
                yield Skip(
                    layer.node, "stays whole: the operations are saved at less loss elsewhere"
                )
                continue
            _split(model, layer, choice, nodes, names)
            saved = 1 - choice.macs / options[0].macs
            yield Change(
                "factorized",
                layer.node,
                f"{choice.factors.form}, rank {choice.rank}: {saved:.0%} fewer MACs, "
                f"{choice.factors.left[choice.rank]:.2%} of its variance lost",
            )


def factorable(model: Model, keep: Sequence[str] = ()) -> tuple[list[Layer], list[Skip]]:
    """Return the layers that can become two, and why others cannot.

    Args:
        model: the model, simplified and with BatchNorm folded, before Q/DQ.
        keep: ``fnmatch`` patterns of nodes and weights to leave alone.
    """
    found: list[Layer] = []
    skipped: list[Skip] = []
    nodes = {node.name: node for node in model.graph.nodes}
    for layer in layers(model):
        tensor = nodes[layer.node].inputs[1]
        if any(named(layer, pattern) for pattern in keep):
            reason = "it is to be kept"
        elif layer.op == "ConvTranspose" or layer.groups > 1:
            reason = "ConvTranspose and grouped convolutions are not factorized"
        elif len(consumers(tensor)) > 1 or is_graph_output(model.graph, tensor):
            reason = f"others read its weights '{layer.weight}' too"
        else:
            found.append(layer)
            continue
        skipped.append(Skip(layer.node, f"stays whole: {reason}"))
    return found, skipped


def kernel_of(node: Node) -> tuple[int, ...]:
    """Return the sizes of a convolution's kernel; of a matrix product, nothing."""
    return tuple(int(n) for n in node.inputs[1].shape[2:]) if node.op == "Conv" else ()


def _forms(layer: Layer, node: Node, known: AllFactors | None) -> Sequence[Factors]:
    if known is not None and layer.node in known:
        return known[layer.node]
    weight = constant(node.inputs[1])
    assert weight is not None
    return list(factors_of(layer, layer.matrix(weight, node)[0], kernel_of(node)))


def _each_rank(fixed: Model, layer: Layer, dense: int) -> dict[str, int] | None:
    """Return the multiply-accumulates of one rank in each form."""
    places = dense // (layer.features * layer.outputs)
    found = {"outputs": places * (layer.features + layer.outputs)}
    if layer.op != "Conv":
        return found
    tensors = fixed.graph.tensors()
    node = next(n for n in fixed.graph.nodes if n.name == layer.node)
    x, y = static_shape(tensors[layer.input]), static_shape(node.outputs[0])
    if x is None or y is None:
        return None
    if len(x) == 4:
        high, wide = kernel_of(node)
        # Between the factors the image is as wide as the input: only rows have been joined.
        between = y[0] * y[2] * x[3]
        found[SEPARABLE] = between * layer.channels * high + places * wide * layer.outputs
    return found


# --- the graph -------------------------------------------------------------------------------


def _split(
    model: Model, layer: Layer, choice: Choice, nodes: Mapping[str, Node], names: Names
) -> None:
    """Put a node of its own for the first factor before the layer, which becomes the second."""
    factors, rank = choice.factors, choice.rank
    assert factors is not None
    node = nodes[layer.node]
    old = constant(node.inputs[1])
    assert old is not None
    kernel = kernel_of(node)
    matrix = layer.matrix(old, node)[0]
    if layer.bias is not None:
        missing = factors.mean @ (matrix - factors.product(rank, layer, kernel))
        bias = bias_of(layer, nodes) + missing
        set_weights(model, layer, matrix[None], bias, nodes, names)
    first, second = factors.first[:, :rank], factors.second[:rank]
    attrs = dict(node.attrs)
    if layer.op == "Conv":
        before, after, u, v = _convolutions(layer, attrs, kernel, factors.form, first, second)
    else:
        before, after, u, v = {}, {}, first, second
    middle = gs.Variable(names.fresh(f"{node.name}_rank_out"), dtype=node.inputs[0].dtype)
    weights = [
        gs.Constant(names.fresh(f"{layer.weight}_{part}"), np.ascontiguousarray(w, dtype=old.dtype))
        for part, w in (("first", u), ("second", v))
    ]
    made = gs.Node(
        op=node.op,
        name=names.fresh(f"{node.name}_rank"),
        attrs=before,
        inputs=[node.inputs[0], weights[0]],
        outputs=[middle],
    )
    node.attrs = after
    node.inputs = [middle, weights[1], *node.inputs[2:]]
    at = next(i for i, other in enumerate(model.graph.nodes) if other is node)
    model.graph.nodes.insert(at, made)


def _convolutions(
    layer: Layer,
    attrs: dict[str, Any],
    kernel: tuple[int, ...],
    form: str,
    first: Array,
    second: Array,
) -> tuple[dict[str, Any], dict[str, Any], Array, Array]:
    """Return attributes and weights of both convolutions."""
    rank, size = first.shape[1], len(kernel)
    if form != SEPARABLE:
        u = first.T.reshape(rank, layer.channels, *kernel)
        v = second.T.reshape(layer.outputs, rank, *[1] * size)
        return attrs, {"kernel_shape": [1] * size}, u, v
    u = first.T.reshape(rank, layer.channels, kernel[0], 1)
    v = second.reshape(rank, kernel[1], layer.outputs).transpose(2, 0, 1)[:, :, None]
    halves: list[dict[str, Any]] = []
    for axis in (0, 1):
        part = {"kernel_shape": [kernel[0], 1] if axis == 0 else [1, kernel[1]]}
        for name in ("strides", "dilations"):
            if attrs.get(name):
                part[name] = [int(n) if i == axis else 1 for i, n in enumerate(attrs[name])]
        if attrs.get("pads"):
            pads = [int(n) for n in attrs["pads"]]
            part["pads"] = [n if i % 2 == axis else 0 for i, n in enumerate(pads)]
        if attrs.get("auto_pad"):
            part["auto_pad"] = attrs["auto_pad"]
        halves.append(part)
    return halves[0], halves[1], u, v
