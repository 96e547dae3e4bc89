"""OBS: the error that the layers behind a channel are left with once they have made up for it.

The second-order criterion of the Optimal Brain Surgeon (Hassibi & Stork, *Second order derivatives
for network pruning: Optimal Brain Surgeon*, NIPS 1992), with the squared error of each reading
layer in place of the loss, as in Frantar & Alistarh, *Optimal Brain Compression* (NeurIPS 2022,
arXiv:2208.11580): a channel is a block of weights, and blocks are taken out greedily
(:mod:`graphopt.channels.importance.elimination`). It asks just what recovery by least squares does
afterwards: what of this channel can the others not replace?

For a group that several layers read, their errors are added, each over the variance of that
layer's output, or of the sum that it goes into (:mod:`graphopt.channels.importance.sums`). Scores
are therefore estimates: sorted and summed up they are the relative error after least squares,
added over the layers. In a layer that reads other groups as well those are
taken to be kept. Operators between the channels and the layers that sum over them (Relu, pools,
depthwise convolutions) are in the statistics, for those are of the layers' own inputs.

Memory: one layer's matrices, and for each group the sub-blocks of the layers that have been seen,
until the last has. Beyond ``MEMORY`` bytes of those, and for layers with more channels than a Gram
matrix is made of, a channel's cost is taken once, with all others there.

Readers with no constant weight (a product of two activations, recurrent layers) are left out. A
group that has no other (queries and keys) gets the shares of
:mod:`graphopt.channels.importance.unread`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.channels.groups import Group
from graphopt.channels.importance.activation import diagonal_shares
from graphopt.channels.importance.elimination import Reading, eliminate, scores_of
from graphopt.channels.importance.protocol import DATA, criterion, with_samples
from graphopt.channels.importance.readers import Design, Reader, by_node, designs, readers, too_wide
from graphopt.channels.importance.sums import sum_variances
from graphopt.channels.importance.unread import unread_shares
from graphopt.model import Model
from graphopt.statistics.collect import Statistics
from graphopt.statistics.gram import Matrix

DAMPING = 1e-3  # of each feature's own variance
LEAST = 1e-9  # of the mean variance: for features that never vary
MEMORY = 2 << 30  # bytes of sub-blocks held


@dataclass(slots=True)
class _Pending:
    """What has been seen of the layers that read a group."""

    width: int
    waiting: int
    fixed: Matrix
    readings: list[Reading] = field(default_factory=list)
    usable: bool = False


@criterion(DATA, estimates=True)
def obs(
    model: Model, groups: Sequence[Group], /, *, statistics: Statistics | None = None
) -> dict[str, Matrix]:
    """Return group name -> error estimates, shape ``(width,)``: the least goes first.

    Raises:
        DataError: there are no samples.
    """
    statistics = with_samples(statistics, "obs")
    found = readers(model, groups)
    sums = sum_variances(
        model, statistics, {r.layer: None for mine in found.values() for r in mine}
    )
    work = _Work(groups, found, sums)
    for name, shares in diagonal_shares(
        model, statistics, {n: [r for r in rs if too_wide(r.layer)] for n, rs in found.items()}
    ).items():
        work.add_fixed(name, shares)
    for design in designs(model, statistics, found):
        work.add(design)
    scores = work.scores
    missing = [group for group in groups if group.name not in scores]
    scores.update(unread_shares(model, missing, statistics))
    return {group.name: scores[group.name] for group in groups}


class _Work:
    def __init__(
        self,
        groups: Sequence[Group],
        found: Mapping[str, Sequence[Reader]],
        sums: Mapping[str, float],
    ) -> None:
        self.sums = sums
        self.scores: dict[str, Matrix] = {}
        self.held = 0
        self.readers = by_node(found)
        self.pending: dict[str, _Pending] = {}
        for group in groups:
            mine = [r for r in found[group.name] if not too_wide(r.layer)]
            self.pending[group.name] = _Pending(group.width, len(mine), np.zeros(group.width))

    def add_fixed(self, name: str, costs: Matrix) -> None:
        pending = self.pending[name]
        pending.fixed += costs
        pending.usable = True
        self._finish(name)

    def add(self, design: Design) -> None:
        """Take in one layer; groups it was the last to read are ranked, and let go of."""
        mine = self.readers.get(design.layer.node, ())
        if design.usable:
            energy = self.sums.get(design.layer.node) or design.energy
            most = design.energy / energy
            inverses: dict[int, Matrix] = {}
            for name, reader in mine:
                for number, places in reader.parts:
                    if number not in inverses:
                        inverses[number] = inverse_of(design.covariance[number])
                    # Errors are relative to what the layer's output becomes part of.
                    weights = design.weights[number] / np.sqrt(energy)
                    reading = Reading.of(inverses[number], weights, design.features(places), most)
                    self._keep(name, reading)
        for name, _ in mine:
            self.pending[name].waiting -= 1
            self._finish(name)

    def _keep(self, name: str, reading: Reading) -> None:
        pending = self.pending[name]
        pending.usable = True
        if self.held + reading.nbytes > MEMORY:
            pending.fixed += np.maximum(np.nan_to_num(reading.costs()), 0)
        else:
            self.held += reading.nbytes
            pending.readings.append(reading)

    def _finish(self, name: str) -> None:
        pending = self.pending[name]
        if pending.waiting == 0 and pending.usable and name not in self.scores:
            self.held -= sum(reading.nbytes for reading in pending.readings)
            self.scores[name] = scores_of(*eliminate(pending.readings, pending.fixed))
            pending.readings.clear()


def inverse_of(covariance: Matrix, damping: float = DAMPING) -> Matrix:
    """Return the inverse of a damped covariance, positive definite whatever the samples.

    Each feature is damped by a share of its own variance (Marquardt 1963), so that its units do
    not matter: a dead channel is free to go however large the weights that read it.
    """
    diagonal = np.maximum(np.diag(covariance), 0)
    damped = covariance.copy()
    index = np.arange(len(damped))
    damped[index, index] += damping * diagonal + max(LEAST * float(diagonal.mean()), 1e-30)
    return _inverse(damped)


def _inverse(matrix: Matrix) -> Matrix:
    """Invert a positive definite matrix by halves: half the work of the general way."""
    size = len(matrix)
    if size <= 512:
        return np.asarray(np.linalg.inv(matrix))
    half = size // 2
    first = _inverse(matrix[:half, :half])
    across = first @ matrix[:half, half:]
    rest = _inverse(matrix[half:, half:] - matrix[half:, :half] @ across)
    out = np.empty_like(matrix)
    both = across @ rest
    out[half:, half:] = rest
    out[:half, half:] = -both
    out[half:, :half] = -both.T
    out[:half, :half] = first + both @ across.T
    return out
