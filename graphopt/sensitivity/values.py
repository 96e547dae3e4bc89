"""What was measured: the loss of one change alone, all of them, and the order to follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from graphopt.errors import UsageError
from graphopt.fidelity import Fidelity

Kind = Literal["prune", "int8"]
KINDS: tuple[Kind, ...] = ("prune", "int8")
RATIOS = (0.1, 0.3, 0.5)
SCHEMA = 1
FILE_KIND = "graphopt-sensitivity"


@dataclass(frozen=True, slots=True)
class Loss:
    """How far a model with one change is from the model without, on the same samples.

    Attributes:
        samples: how many.
        sqnr_db: over the elements of all outputs; inf where nothing differs, -inf where the
            model's outputs are zero.
        outputs: output name -> SQNR of that output, in dB, in the model's order.
        max_abs: largest absolute difference.
        broken: elements that are finite in one of the two only, or not finite and not the same.
        agree: how many samples get the same class; None without class scores.
        right_before, right_after: how many samples the model without and the one with the change
            have right; None without labels.
        only_before, only_after: how many one of the two has right and the other has not.
    """

    samples: int
    sqnr_db: float
    outputs: Mapping[str, float]
    max_abs: float
    broken: int = 0
    agree: int | None = None
    right_before: int | None = None
    right_after: int | None = None
    only_before: int | None = None
    only_after: int | None = None

    @classmethod
    def of(cls, found: Fidelity) -> Loss:
        """Return what a comparison found, to the digits that are the same on every run."""
        top = found.top1
        return cls(
            found.samples,
            _rounded(found.total.sqnr_db),
            {name: _rounded(error.sqnr_db) for name, error in found.outputs.items()},
            float(f"{found.total.max_abs:.6g}"),
            found.total.mismatched,
            None if top is None else top.agree,
            None if top is None else top.right_a,
            None if top is None else top.right_b,
            None if top is None else top.only_a,
            None if top is None else top.only_b,
        )

    @property
    def noise(self) -> float:
        """Squared error over squared signal, of all outputs; inf where a value is broken."""
        if self.broken:
            return math.inf
        return 0.0 if self.sqnr_db == math.inf else float(10 ** (-self.sqnr_db / 10))

    @property
    def drop_points(self) -> float | None:
        """What is lost in percentage points: of accuracy, or of agreement without labels.

        Negative where the change does good. None where there are no class scores.
        """
        if self.right_before is not None and self.right_after is not None:
            return 100 * (self.right_before - self.right_after) / self.samples
        return None if self.agree is None else 100 * (1 - self.agree / self.samples)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an infinite SQNR is null, and ``identical`` tells which it is."""
        return {
            "samples": self.samples,
            **_db(self.sqnr_db),
            "outputs": {name: _db(value) for name, value in self.outputs.items()},
            "max_abs": self.max_abs,
            "nonfinite_mismatched": self.broken,
            "agree": self.agree,
            "right_before": self.right_before,
            "right_after": self.right_after,
            "right_only_before": self.only_before,
            "right_only_after": self.only_after,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Loss:
        """Read what :meth:`to_json` gave; KeyError, TypeError or ValueError if it is not that."""
        counts = [value[k] for k in ("agree", "right_before", "right_after", "right_only_before",
                                     "right_only_after")]  # fmt: skip
        return cls(
            int(value["samples"]),
            _from_db(value),
            {str(name): _from_db(part) for name, part in value["outputs"].items()},
            float(value["max_abs"]),
            int(value["nonfinite_mismatched"]),
            *[None if count is None else int(count) for count in counts],
        )


def _rounded(db: float) -> float:
    return round(db, 4) + 0.0 if math.isfinite(db) else db


def _db(value: float) -> dict[str, Any]:
    finite = math.isfinite(value)
    return {"sqnr_db": value if finite else None, "identical": value == math.inf}


def _from_db(value: Mapping[str, Any]) -> float:
    if value["sqnr_db"] is not None:
        return float(value["sqnr_db"])
    return math.inf if value["identical"] else -math.inf


@dataclass(frozen=True, slots=True)
class Item:
    """One change, and what it costs alone.

    Attributes:
        kind: ``prune``: a channel group loses channels; ``int8``: a layer runs in INT8.
        name: of the group or of the node.
        ratio: the fraction of channels asked for; None for ``int8``.
        op: operator of the node; empty for ``prune``.
        width: channels of the group; 0 for ``int8``.
        kept: channels that stay; 0 for ``int8``.
        macs: multiply-accumulates of one run that are saved, or that run in INT8.
        loss: what it costs.
    """

    kind: Kind
    name: str
    ratio: float | None
    op: str
    width: int
    kept: int
    macs: int
    loss: Loss

    @property
    def key(self) -> tuple[str, str, float | None]:
        """What tells it from the others."""
        return self.kind, self.name, self.ratio

    @property
    def macs_per_noise(self) -> float:
        """MACs saved for each unit of :attr:`Loss.noise`; inf where there is none."""
        noise = self.loss.noise
        return self.macs / noise if noise else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "loss"}
        return {**plain, "loss": self.loss.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Item:
        """Read what :meth:`to_json` gave; KeyError, TypeError or ValueError if it is not that."""
        if value["kind"] not in KINDS:
            raise ValueError(f"unknown kind {value['kind']!r}")
        return cls(
            value["kind"],
            str(value["name"]),
            None if value["ratio"] is None else float(value["ratio"]),
            str(value["op"]),
            int(value["width"]),
            int(value["kept"]),
            int(value["macs"]),
            Loss.from_json(value["loss"]),
        )


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What could not be measured, and why."""

    kind: Kind
    name: str
    reason: str
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured, on what, and how: figures of two subjects do not mix.

    Attributes:
        model: digest of the model as given.
        calibration: digest of the samples that scores and INT8 ranges come from.
        measured: digest of the samples that losses are measured on.
        samples: how many those are.
        on_calibration: whether they are among those of the calibration.
        kinds: what was asked for.
        ratios: fractions of channels, ascending.
        importance: what chose the channels; empty where nothing is pruned.
        align: kept widths are multiples of it.
        dialect: whose Q/DQ was placed.
        calibrator: what chose the ranges.
        seed: what chose the samples.
        versions: package -> version, of those that decide the figures.
    """

    model: str
    calibration: str
    measured: str
    samples: int
    on_calibration: bool
    kinds: tuple[Kind, ...]
    ratios: tuple[float, ...]
    importance: str
    align: int
    dialect: str
    calibrator: str
    seed: int
    versions: Mapping[str, str]

    def differs(self, other: Subject) -> str:
        """Return what is not the same, in words; empty where everything is."""
        for name in ("model", "calibration", "measured"):
            if getattr(self, name) != getattr(other, name):
                return {"model": "another model", "calibration": "other --data"}.get(
                    name, "other samples to measure on"
                )
        for part in fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            if mine != theirs:
                return f"{part.name} {_spelled(theirs)} in place of {_spelled(mine)}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **plain,
            "kinds": list(self.kinds),
            "ratios": list(self.ratios),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Subject:
        """Read what :meth:`to_json` gave; KeyError, TypeError or ValueError if it is not that."""
        plain = {f.name: value[f.name] for f in fields(cls)}
        plain["kinds"] = tuple(plain["kinds"])
        plain["ratios"] = tuple(float(r) for r in plain["ratios"])
        plain["versions"] = {str(k): str(v) for k, v in plain["versions"].items()}
        return cls(**plain)


def _spelled(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(str(v) for v in value) or "none"
    if isinstance(value, Mapping):
        return " ".join(f"{k} {v}" for k, v in sorted(value.items()))
    return str(value)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What every change costs alone. Losses of several changes do not add up.

    Attributes:
        subject: what was measured.
        macs: multiply-accumulates of one run of the model.
        items: groups in graph order with their ratios ascending, then layers in graph order.
        left_out: what could not be measured.
        complete: whether everything asked for is there.
    """

    subject: Subject
    macs: int = 0
    items: tuple[Item, ...] = ()
    left_out: tuple[LeftOut, ...] = field(default=())
    complete: bool = False

    def of(self, kind: Kind) -> tuple[Item, ...]:
        """Return the items of one kind, in graph order."""
        return tuple(item for item in self.items if item.kind == kind)

    def order(self, kind: Kind) -> tuple[Item, ...]:
        """Return the items of one kind, the least sensitive first.

        Layers to INT8 by noise. Channels by noise for each MAC saved (by noise where no MACs are
        known); a group's smaller ratios come before its larger ones.
        """
        items = self.of(kind)
        per_mac = kind == "prune" and any(item.macs > 0 for item in items)
        worst: dict[str, float] = {}
        ranked: list[tuple[float, int, Item]] = []
        for place, item in enumerate(items):
            noise = item.loss.noise
            rank = noise / max(item.macs, 1) if per_mac else noise
            worst[item.name] = rank = max(rank, worst.get(item.name, 0.0))
            ranked.append((rank, place, item))
        return tuple(item for _, _, item in sorted(ranked, key=lambda r: r[:2]))

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the same figures, the same values."""
        return {
            "schema": SCHEMA,
            "kind": FILE_KIND,
            "subject": self.subject.to_json(),
            "complete": self.complete,
            "macs": self.macs,
            "items": [item.to_json() for item in self.items],
            "order": {
                "prune": [[item.name, item.ratio] for item in self.order("prune")],
                "int8": [item.name for item in self.order("int8")],
            },
            "left_out": [
                {f.name: getattr(out, f.name) for f in fields(out)} for out in self.left_out
            ],
        }

    @classmethod
    def from_json(cls, value: Any, *, where: str = "the file") -> Sensitivity:
        """Read what :meth:`to_json` gave.

        Raises:
            UsageError: it is something else, or of another version.
        """
        if not isinstance(value, dict) or value.get("kind") != FILE_KIND:
            raise UsageError(f"{where} holds no sensitivities measured by graphopt")
        if value.get("schema") != SCHEMA:
            raise UsageError(
                f"{where} has schema {value.get('schema')}; this graphopt reads {SCHEMA}"
            )
        try:
            return cls(
                Subject.from_json(value["subject"]),
                int(value["macs"]),
                tuple(Item.from_json(item) for item in value["items"]),
                tuple(LeftOut(**out) for out in value["left_out"]),
                bool(value["complete"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise UsageError(f"{where} holds broken sensitivities: {problem!r}") from problem


def parse_ratios(text: str) -> tuple[float, ...]:
    """Read ``0.1,0.3,0.5``.

    Raises:
        UsageError: a part is no number between 0 and 1, or is there twice.
    """
    found: list[float] = []
    for part in text.split(","):
        try:
            ratio = math.nan if "_" in part else float(part)
        except ValueError:
            ratio = math.nan
        if not 0 < ratio < 1:
            raise UsageError(
                f"--ratios {text}: '{part.strip()}' is no number between 0 and 1; "
                "give some, such as 0.1,0.3,0.5"
            )
        if ratio in found:
            raise UsageError(f"--ratios {text}: {part.strip()} is there twice")
        found.append(ratio)
    return tuple(sorted(found))


def check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """Return ratios ascending.

    Raises:
        UsageError: one is out of range, or is there twice.
    """
    return parse_ratios(",".join(repr(float(r)) for r in ratios))
