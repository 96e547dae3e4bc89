"""The fewest layers to leave in float, found with few evaluations.

What is known beforehand is the noise of each layer alone (:attr:`Candidate.noise`). If noise simply
added up, leaving the noisiest layers in float would be best, whatever their number: so sets are
taken from that order first, and then made smaller as far as evaluations show that they can be.

1. Full INT8. If that is within the limit, nothing is left in float.
2. No INT8 at all. If that is not, no set can be expected to be.
3. The shortest prefix of the order that passes: steps that double, then halving.
4. Backward elimination: layers of the set go back to INT8, the least noisy first, a quarter of them
   at once and then one by one, until none can: the set is minimal (delta debugging; Zeller and
   Hildebrandt, 2002).
5. Exchange: a layer for one with at most half its multiply-accumulates, where additive noise gives
   that a chance.

Steps 3 and 4 assume that more float is never worse. That is nearly so, and where it is not the
search may miss a smaller set; a set it returns has been evaluated, always.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

EXCHANGES = 6
"""Exchanges tried at most: they save multiply-accumulates, never a layer."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layer that could be left in float.

    Attributes:
        name: of its node.
        noise: squared error over squared signal of the outputs, with this layer alone in INT8.
        macs: its multiply-accumulates.
    """

    name: str
    noise: float = 0.0
    macs: int = 0


Names = frozenset[str]

Passes = Callable[[Names], bool]
"""Evaluates the model with these layers in float and all others in INT8; may raise Spent."""


class Spent(Exception):
    """All evaluations are used up."""


@dataclass(slots=True)
class Search:
    """One search.

    Attributes:
        order: what could be left in float, in graph order; sorted here.
        passes: the evaluation; called once for a set.
        start: length of the first prefix to try.
        additive: whether passing depends on noise alone, so that its sum tells what is hopeless.
        known: sets evaluated, in the order of evaluation, and whether they passed.
        best: the best set that passed.
    """

    order: Sequence[Candidate]
    passes: Passes
    start: int = 1
    additive: bool = False
    known: dict[Names, bool] = field(default_factory=dict)
    best: Names | None = None

    def __post_init__(self) -> None:
        """Put the noisiest first; of equals the one that costs less to leave in float."""
        places = {c.name: i for i, c in enumerate(self.order)}
        self.order = sorted(self.order, key=lambda c: (-c.noise, c.macs, places[c.name]))

    def run(self) -> tuple[Names | None, bool]:
        """Return the set, and whether each layer in it was shown to be needed.

        None where no set passes that leaves a layer in INT8.
        """
        try:
            self._search()
        except Spent:
            return self.best, False
        return self.best, self.best is not None

    def _search(self) -> None:
        if self._try(frozenset()):
            self.best = frozenset()
            return
        if len(self.order) < 2 or not self._try(self._prefix(len(self.order))):
            return
        self._shortest()
        while self.best is not None:
            self._fewer()
            if not self._exchanged():
                return

    def _try(self, names: Names) -> bool:
        if names not in self.known:
            self.known[names] = self.passes(names)
        return self.known[names]

    def _prefix(self, length: int) -> Names:
        return frozenset(c.name for c in self.order[:length])

    def _shortest(self) -> None:
        """Find the shortest prefix that passes; all layers in float is none."""
        most = len(self.order) - 1
        failing, length, step = 0, min(max(self.start, 1), most), 1
        while not self._try(self._prefix(length)):
            if length == most:
                return
            failing, length, step = length, min(length + step, most), 2 * step
        self.best = self._prefix(length)
        while length - failing > 1:
            middle = (failing + length) // 2
            if self._try(self._prefix(middle)):
                length, self.best = middle, self._prefix(middle)
            else:
                failing = middle

    def _fewer(self) -> None:
        """Put layers back to INT8, the least noisy first, as long as the rest passes.

        At the end the set without any one layer has been evaluated, and fails.
        """
        members = [c.name for c in reversed(self.order) if c.name in (self.best or ())]
        for size in (len(members) // 4, 1):
            for first in range(0, len(members), size) if size else ():
                rest = (self.best or frozenset()).difference(members[first : first + size])
                if not self._hopeless(rest, much=size > 1) and self._try(rest):
                    self.best = rest
        # What was hopeless is tried now, so that what is said of the result is known, not supposed.
        while self.best:
            rests = [self.best - {name} for name in members if name in self.best]
            smaller = next((rest for rest in rests if self._try(rest)), None)
            if smaller is None:
                return
            self.best = smaller

    def _hopeless(self, names: Names, *, much: bool) -> bool:
        """Whether a set lies within one that failed, or has as much noise."""
        if any(not passed and names <= other for other, passed in self.known.items()):
            return True
        return much and self.additive and self._left(names) >= self._bar()

    def _exchanged(self) -> bool:
        """Exchange a layer for one that leaves fewer MACs in float; return whether one passed."""
        whole = self.best or frozenset()
        bar = self._bar()
        pairs = [
            (old, new)
            for old in self.order
            for new in self.order
            if old.name in whole and new.name not in whole and old.macs and 2 * new.macs <= old.macs
        ]
        pairs.sort(key=lambda p: p[1].macs - p[0].macs)
        sets = (whole - {old.name} | {new.name} for old, new in pairs)
        hopeful = (names for names in sets if names not in self.known and self._left(names) < bar)
        for names in itertools.islice(hopeful, EXCHANGES):
            if self._try(names):
                self.best = names
                return True
        return False

    def _bar(self) -> float:
        """Return the least noise of the sets that failed: with as much there is little hope."""
        return min(self._left(names) for names, passed in self.known.items() if not passed)

    def _left(self, names: Names) -> float:
        """Return the noise of the layers in INT8, if it adds up."""
        return math.fsum(c.noise for c in self.order if c.name not in names)


def predicted_length(order: Sequence[Candidate], full: float, allowed: float) -> int:
    """Return how many of the noisiest layers to leave in float, if noise adds up.

    Args:
        order: the candidates.
        full: noise with all of them in INT8, as measured.
        allowed: noise there may be.
    """
    noises = sorted((c.noise for c in order), reverse=True)
    total = math.fsum(noises)
    if not (math.isfinite(total) and math.isfinite(full) and total > 0):
        return 1
    rest = total
    for length, noise in enumerate(noises, start=1):
        rest -= noise
        if rest * full / total <= allowed:
            return length
    return len(noises)
