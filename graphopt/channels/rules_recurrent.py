"""Recurrent layers: input channels, and hidden units with the rows of all their gates."""

from __future__ import annotations

from graphopt.channels.dims import Dim
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.trace import Refused, Site
from graphopt.graph import constant

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_LAYOUT = "keeps its directions and the order of its gates"


def recurrent(site: Site) -> None:
    """LSTM, GRU, RNN: W ``[D, g H, C]``, R ``[D, g H, H]``, B ``[D, 2 g H]``, P ``[D, 3 H]``.

    An input channel goes with its column of W. A hidden unit goes with its row of each gate in W,
    R and B, its column of R, its initial state and its place in the outputs, in both directions:
    they are stored as one array.
    """
    x, w, r = site.dims(0), site.dims(1), site.dims(2)
    if len(x) != 3 or len(w) != 3 or len(r) != 3 or r[2].size is None:
        raise Refused("its input and its weights are not of three dimensions")
    gates = _GATES[site.node.op]
    if w[1].size != gates * r[2].size or r[1].size != w[1].size:
        raise Refused("its weights differ in hidden units")
    site.freeze([x[0], x[1]], "steps over it")
    site.freeze([w[0], r[0]], _LAYOUT)
    site.unify(x[2], w[2])
    hidden = _rows(site, w[1], gates, r[2].size)
    site.unify(hidden, _rows(site, r[1], gates, r[2].size))
    site.unify(hidden, r[2])
    for index in (1, 2):
        if constant(site.node.inputs[index]) is not None:
            site.role(index, 2, "consumer")
            site.role(index, 1, "producer")
    side = Dim(None, (), f"{site.why}: {_LAYOUT}")
    _parameters(site, hidden, side, gates)
    _outputs(site, hidden)

    def rewrite(to: Rewriter) -> None:
        if to.changed(hidden):
            site.node.attrs["hidden_size"] = int(to.count(hidden) or 1)

    site.on_apply(rewrite)


def _rows(site: Site, dim: Dim, gates: int, hidden: int) -> Dim:
    if gates == 1:
        return dim
    first, units = site.space.split(dim, [gates, hidden], f"{site.why}: gates")
    site.freeze([first], _LAYOUT)
    return units


def _parameters(site: Site, hidden: Dim, side: Dim, gates: int) -> None:
    """Tie biases, peepholes and initial states to the hidden units."""

    def stacked(times: int) -> Dim:
        return site.space.merge([Dim(times, (), side.why), hidden], site.why)

    site.tie(3, [side, stacked(2 * gates)])
    if site.has(4):
        site.freeze(site.dims(4), "steps over it")
    for index in (5, 6):  # Batch and directions, in the order of the layout.
        site.tie(index, [side, side, hidden])
    site.tie(7, [side, stacked(3)])


def _outputs(site: Site, hidden: Dim) -> None:
    for index in range(len(site.node.outputs)):
        rank = 4 if index == 0 else 3
        site.out([*(site.other(axis, index) for axis in range(rank - 1)), hidden], index)
