"""Attention in a graph: softmax(Q·Kᵀ)·V, found by its Softmax, and where INT8 could fuse it.

TensorRT fuses the two products and the Softmax between them into one kernel. In FP16 and BF16 it
does so for heads of 16 to 256 channels and any number of tokens, without Q/DQ. In INT8 the
documentation of TensorRT 8.6 to 10 ("Multi-Head Attention Fusion") asks for heads of 16, 32 or 64
channels, at most 512 tokens, and Q/DQ before the first product, behind the Softmax and behind the
second product; otherwise Q/DQ breaks the one kernel into three, slower than FP16
(NVIDIA/TensorRT#3714).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from graphopt.dialects.heads import is_dynamic
from graphopt.graph import Graph, Node, Tensor, consumers, dim, is_op, producer

HEAD_SIZES = (16, 32, 64)
MOST_TOKENS = 512

# Between the scores and the Softmax: scale, mask, soft cap, windows.
_ABOVE = (
    "Add", "Cast", "Clip", "Div", "Dropout", "Identity", "Max", "Mul", "Reshape", "Squeeze",
    "Sub", "Tanh", "Unsqueeze", "Where",
)  # fmt: skip
# Between the Softmax and the second product; exporters replace the NaN of rows all masked.
_BELOW = (
    "Cast", "Dropout", "Identity", "IsNaN", "Mul", "Reshape", "Squeeze", "Unsqueeze", "Where",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """One attention: ``softmax(scores(Q, Kᵀ)) · V``.

    Attributes:
        scores: the MatMul of Q and Kᵀ.
        softmax: the Softmax.
        context: the MatMul of the probabilities and V.
        index: which input of ``context`` holds the probabilities.
    """

    scores: Node
    softmax: Node
    context: Node
    index: int

    @property
    def operands(self) -> list[tuple[Node, int]]:
        """(node, input index) of Q, Kᵀ, the probabilities and V."""
        return [(self.scores, 0), (self.scores, 1), (self.context, 0), (self.context, 1)]


def find_attention(graph: Graph) -> list[Attention]:
    """Return the attentions of a graph, in the order of their Softmax.

    A Softmax that several products lead to or that several read is left out: it is something else.
    """
    found = []
    for node in graph.nodes:
        if not is_op(node, "Softmax"):
            continue
        above = _search([node], _nodes_above, _ABOVE)
        below = _search([node], _nodes_below, _BELOW)
        if len(above) != 1 or len(below) != 1:
            continue
        (scores, _), (context, last) = above[0], below[0]
        index = next(i for i, t in enumerate(context.inputs) if producer(t) is last)
        found.append(Attention(scores, node, context, index))
    return found


def refusal(attention: Attention) -> str | None:
    """Return why an attention would not fuse in INT8, decided from static shapes, or None."""
    size = dim(attention.scores.inputs[0], -1)
    if size is None:
        size = dim(attention.scores.inputs[1], -2)
    if size not in HEAD_SIZES:
        shown = "a head size that is not fixed" if size is None else f"heads of {size} channels"
        return f"{shown}, and INT8 fuses heads of 16, 32 or 64"
    for tokens in (dim(attention.scores.outputs[0], axis) for axis in (-2, -1)):
        if tokens is None:
            return f"the number of tokens is not fixed, and INT8 fuses at most {MOST_TOKENS}"
        if tokens > MOST_TOKENS:
            return f"{tokens} tokens, and INT8 fuses at most {MOST_TOKENS}"
    return None


def is_product(node: Node) -> bool:
    """Whether the node multiplies two activations."""
    return is_op(node, "MatMul") and all(is_dynamic(t) for t in node.inputs)


def _nodes_above(node: Node) -> list[Node]:
    above: list[Tensor | None] = [producer(t) for t in node.inputs if t.name]
    return [n for n in above if n is not None]


def _nodes_below(node: Node) -> list[Node]:
    return [reader for tensor in node.outputs for reader in consumers(tensor)]


def _search(
    start: Iterable[Node], step: Callable[[Node], list[Node]], through: tuple[str, ...]
) -> list[tuple[Node, Node]]:
    """Return the products that can be reached, each with the node it was reached from."""
    found: dict[int, tuple[Node, Node]] = {}
    seen: set[int] = set()
    todo = list(start)
    while todo:
        node = todo.pop()
        for other in step(node):
            if is_product(other):
                found.setdefault(id(other), (other, node))
            elif is_op(other, *through) and id(other) not in seen:
                seen.add(id(other))
                todo.append(other)
    return list(found.values())
