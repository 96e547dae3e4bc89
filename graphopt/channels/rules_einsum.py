"""Einsum: what one letter names, in whatever operands, dies together."""

from __future__ import annotations

from graphopt.channels.dims import Dim
from graphopt.channels.trace import Refused, Site
from graphopt.graph import Node, constant

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def einsum_labels(node: Node) -> tuple[list[str], str] | None:
    """Return the letters of the operands and of the result; None where they are not plain.

    An ellipsis becomes letters of its own. Not plain is a letter twice in one term (a diagonal),
    or an ellipsis over an input of unknown rank.
    """
    equation = node.attrs.get("equation", "")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, arrow, output = text.partition("->")
    operands = left.split(",")
    if not arrow:  # Implied: the ellipsis, then what occurs once, in alphabetical order.
        once = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
        output = ("..." if "..." in left else "") + "".join(once)
    spare = [c for c in _LETTERS if c not in text]
    terms: list[str] = []
    longest = 0
    for term, tensor in zip(operands, node.inputs, strict=False):
        if "..." in term:
            if tensor.shape is None or len(tensor.shape) < len(term) - 3:
                return None
            count = len(tensor.shape) - (len(term) - 3)
            longest = max(longest, count)
            term = term.replace("...", "".join(spare[:count][::-1]))
        terms.append(term)
    output = output.replace("...", "".join(spare[:longest][::-1]))
    if any("." in term or len(set(term)) != len(term) for term in [*terms, output]):
        return None
    return terms, output


def einsum(site: Site) -> None:
    """Einsum: letters missing from the result are summed over, the others pass through."""
    labels = einsum_labels(site.node)
    if labels is None:
        raise Refused("its equation has a diagonal")
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
