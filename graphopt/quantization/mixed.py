"""Mixed precision with a budget: the fewest layers left in float so that INT8 costs little enough.

See docs/mixed-precision.md for how they are found and what the figures mean.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.graph import QUANTIZE_OPS, Node, Tensor, constant, is_op
from graphopt.model import Model
from graphopt.quantization.search_found import Found, Tried
from graphopt.quantization.search_limit import Limit, Verdict
from graphopt.quantization.search_order import measured_alone
from graphopt.quantization.search_place import Extend, Placement, patterns
from graphopt.quantization.search_sets import Candidate, Search, Spent, predicted_length
from graphopt.quantization.search_trial import trials
from graphopt.sensitivity import Item
from graphopt.sensitivity.layers import quantized_layers
from graphopt.wording import counted

__all__ = [
    "EVALUATIONS", "Extend", "Found", "Limit", "Placement", "Tried", "Verdict", "find", "patterns",
]  # fmt: skip

EVALUATIONS = 32
"""Models run over the evaluation samples at most, where nobody says how many."""


def find(
    place: Placement,
    reference: Model | Path,
    evaluation: Dataset,
    limit: Limit,
    *,
    calibration: Dataset | None = None,
    evaluations: int = EVALUATIONS,
    ui: Console | None = None,
    threads: int | None = None,
) -> Found:
    """Find the fewest layers to leave in float so that the INT8 model is within a limit.

    Deterministic: the same inputs give the same set. Nothing but full INT8 is evaluated, and no
    layer measured, where that is within the limit already.

    Args:
        place: the float model, its ranges, and how Q/DQ is placed.
        reference: the model to be held against: as given, or before it was pruned.
        evaluation: the samples to judge on, with labels where there are any.
        limit: what may be lost.
        calibration: the samples to measure what each layer costs alone on; those of
            ``evaluation`` by default.
        evaluations: how many models to run at most, full INT8 and none in INT8 included.
        ui: shows progress, and each set with ``-v``.
        threads: cores for ONNX Runtime; all by default.

    Raises:
        UsageError: a drop is limited, and the model has no class scores.
        UnsupportedModelError: ONNX Runtime refuses a model.
        DataError: a sample is broken, or does not fit.
    """
    ui = ui or Console(verbosity=-1)
    with trials(reference, evaluation, exact=place.exact, threads=threads) as judge:
        state = _State(place, judge, limit, max(evaluations, 1), ui)
        if state.evaluate(frozenset()).met:
            return state.found()
        samples = evaluation if calibration is None else calibration
        order = measured_alone(
            place.model, place(), samples, ui, exact=place.exact, threads=threads
        )
        with ui.progress("searching layers to leave in float", None) as advance:
            state.search(order, lambda: advance(1))
    return state.found()


class _State:
    """What has been evaluated so far."""

    def __init__(
        self,
        place: Placement,
        judge: Callable[[Model], Verdict],
        limit: Limit,
        most: int,
        ui: Console,
    ) -> None:
        self.place, self.judge, self.limit = place, judge, limit
        self.most, self.ui = most, ui
        self.items: dict[str, Item] = {}
        self.tried: dict[frozenset[str], Tried] = {}
        self.verdicts: dict[Hashable, Verdict] = {}
        # Sets with no layer left in INT8: a residual Add goes with its Conv, named or not.
        self.bare: set[frozenset[str]] = set()
        self.layers = 0
        self.chosen: frozenset[str] | None = None
        self.minimal = False
        self.unplaced = 0

    def evaluate(self, names: frozenset[str]) -> Tried:
        """Place, run and judge one set, once.

        Raises:
            Spent: it would have to be run, and there are no evaluations left.
        """
        if names in self.tried:
            return self.tried[names]
        placed = self.place(names)
        quantized = len(list(quantized_layers(self.place.model, placed)))
        if not names:
            self.layers = quantized
        if not quantized:
            self.bare.add(names)
        # A residual Add is in float with its Conv, named or not: many sets give the same model.
        key = _placement(placed.model)
        verdict = self.verdicts.get(key)
        if verdict is None:
            if len(self.verdicts) >= self.most:
                raise Spent
            finish = self.place.finish
            shipped = placed.model if finish is None else finish(placed.model)
            verdict = self.verdicts[key] = self.judge(shipped)
        inside = tuple(name for name in self.items if name in names)
        macs = sum(self.items[name].macs for name in inside)
        tried = self.tried[names] = Tried(inside, verdict, self.limit.met(verdict), macs)
        layers, word = counted(self.layers, "layer"), "met" if tried.met else "missed"
        self.ui.detail(f"{len(names)} of {layers} in float: {verdict}: {word}")
        return tried

    def search(self, order: Sequence[Item], advance: Callable[[], None]) -> None:
        """Choose a set."""
        self.items = {item.name: item for item in order if item.kind == "int8"}
        candidates = [Candidate(i.name, i.loss.noise, i.macs) for i in self.items.values()]
        full = self.tried[frozenset()]
        self.place.ready(*({name} for name in self.items))

        def passes(names: frozenset[str]) -> bool:
            if not self.place.ready(names):
                self.unplaced += 1
                return False
            met = self.evaluate(names).met
            advance()
            return met

        start, additive = 1, self.limit.max_drop is None
        if additive and self.limit.min_sqnr is not None:
            start = predicted_length(
                candidates, _noise(full.verdict.sqnr_db), _noise(self.limit.min_sqnr)
            )
        search = Search(candidates, passes, start, additive)
        self.chosen, self.minimal = search.run()
        if self.chosen in self.bare:
            # Whatever was put back into INT8 missed the limit.
            self.chosen, self.minimal = None, False

    def found(self) -> Found:
        """Return what it came to."""
        full, everything = self.tried[frozenset()], frozenset(self.items)
        best = full
        if self.chosen is not None:
            best = self.tried[self.chosen]
        elif not full.met:
            # A model with no layer in INT8 is none.
            none = self.bare | {everything}
            able = [t for names, t in self.tried.items() if not names or names not in none]
            best = max(able, key=lambda t: (*self.limit.rank(t.verdict), -len(t.names), -t.macs))
        alone = self.tried.get(everything) if everything else None
        return Found(
            self.limit,
            best,
            full,
            steps=tuple(self.tried.values()),
            evaluations=len(self.verdicts),
            minimal=self.minimal or full.met,
            reasons={name: self._reason(name) for name in best.names},
            candidates=self.layers,
            macs=sum(item.macs for item in self.items.values()),
            in_float=alone if alone is not None and not alone.met else None,
            notes=tuple(self._notes(best)),
        )

    def _reason(self, name: str) -> str:
        """Return what a layer costs alone, and where that puts it among all."""
        item = self.items[name]
        noisier = sum(i.loss.noise > item.loss.noise for i in self.items.values())
        place = "the most of all" if not noisier else f"number {noisier + 1} of {len(self.items)}"
        loss = item.loss
        if loss.broken:
            cost = f"{counted(loss.broken, 'value')} NaN or infinite"
        else:
            cost = f"outputs at {loss.sqnr_db:.1f} dB SQNR"
        changed = ""
        if loss.agree is not None:
            samples = counted(loss.samples, "sample")
            changed = f", {loss.samples - loss.agree} of {samples} change class"
        total = sum(i.macs for i in self.items.values())
        share = f"; {100 * item.macs / total:.1f} % of MACs" if total else ""
        return f"{item.op}, alone in INT8 {cost}{changed}, {place}{share}"

    def _notes(self, best: Tried) -> list[str]:
        notes = []
        verdict, allowed = best.verdict, self.limit.max_drop
        error = verdict.standard_error
        if allowed is not None and error is not None and abs(allowed) < 2 * error:
            notes.append(
                f"{allowed:g} points are {allowed * verdict.samples / 100:.1f} of "
                f"{counted(verdict.samples, 'sample')}, and chance alone moves the drop by "
                f"{error:.2f} points (standard error): give more --eval samples for a surer answer"
            )
        if self.unplaced:
            notes.append(
                f"passed over {counted(self.unplaced, 'set')}, for which the calibration table "
                "lacks tensors"
            )
        return notes


def _noise(sqnr_db: float) -> float:
    return float(10 ** (-sqnr_db / 10))


def _placement(model: Model) -> Hashable:
    """Return what tells two placements of Q/DQ on one model apart: edges, and scales."""
    return tuple(
        (node.name, *(t.name for t in node.inputs), *map(_bytes, _scale(node)))
        for node in model.graph.nodes
    )


def _scale(node: Node) -> list[Tensor]:
    return list(node.inputs[1:2]) if is_op(node, *QUANTIZE_OPS) else []


def _bytes(tensor: Tensor) -> bytes:
    values = constant(tensor)
    return b"" if values is None else values.tobytes()
