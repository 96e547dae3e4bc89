"""Einsum: what one letter names, in whatever operands, dies together."""

from __future__ import annotations

from graphopt.channels.dims import Dim
from graphopt.channels.trace import Refused, Site
from graphopt.graph import Node, constant


def einsum_labels(node: Node) -> tuple[list[str], str] | None:
    """Return the letters of the operands and of the result; None where they are not plain.

    Plain means no ellipsis and no letter twice in one term (a diagonal).
    """
    equation = node.attrs.get("equation", "")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, arrow, output = text.partition("->")
    operands = left.split(",")
    if not arrow:  # Implied: what occurs once, in alphabetical order.
        output = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    terms = [*operands, output]
    if "." in text or any(len(set(term)) != len(term) for term in terms):
        return None
    return operands, output


def einsum(site: Site) -> None:
    """Einsum: letters missing from the result are summed over, the others pass through."""
    labels = einsum_labels(site.node)
    if labels is None:
        raise Refused("its equation has an ellipsis or a diagonal")
    operands, output = labels
    inputs = [site.dims(i) for i in range(len(site.node.inputs))]
    if [len(dims) for dims in inputs] != [len(term) for term in operands]:
        raise Refused("its equation is for other ranks")
    named: dict[str, Dim] = {}
    for term, dims in zip(operands, inputs, strict=True):
        for letter, dim in zip(term, dims, strict=True):
            if letter not in named or named[letter].size == 1:
                named[letter] = dim
            elif dim.size != 1:
                site.unify(named[letter], dim)
    if any(letter not in named for letter in output):
        raise Refused("its result has a letter of no operand")
    for index, term in enumerate(operands):
        if constant(site.node.inputs[index]) is None:
            continue
        others = "".join(operands[:index] + operands[index + 1 :])
        for axis, letter in enumerate(term):
            if letter not in output:
                site.role(index, axis, "consumer")
            elif letter not in others:
                site.role(index, axis, "producer")
    site.out([named[letter] for letter in output])
