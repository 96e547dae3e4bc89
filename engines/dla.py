"""What of a model a Jetson's DLA can run, listed before anything is built.

By NVIDIA's documents (:mod:`graphopt.engines.dla_rules`), not by a DLA: the builder has the last
word, and may leave more to the GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.cost import cost, with_input_shapes
from graphopt.dialects.heads import label
from graphopt.engines.dla_rules import MOST_LOADABLES, Chip, refusal
from graphopt.engines.shapes import resolve_shapes
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import QUANTIZE_OPS, Node, constant, producer, static_shape
from graphopt.passes.simplify import Simplify

if TYPE_CHECKING:
    from graphopt.engines import ShapeRange
    from graphopt.model import Model
    from graphopt.profiles import DeviceProfile

__all__ = ["DlaReport", "Unsupported", "dla_report"]

_ORIN = (8, 7)
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A node that does not run on the DLA."""

    node: str
    op: str
    reason: str

    def line(self) -> str:
        """Return it for a person."""
        return f"{self.op} '{self.node}': {self.reason}"


@dataclass(frozen=True, slots=True)
class DlaReport:
    """What of a model runs on a DLA, by the documents.

    Attributes:
        device: the device's name.
        supported: names of the nodes that run on the DLA, in graph order.
        unsupported: those that do not; they run on the GPU where that is allowed.
        macs_share: the part of all multiply-accumulates that runs on the DLA, 0 to 1.
        segments: how many pieces (loadables) the DLA gets; a core holds 16.
        transitions: how many tensors pass between the DLA and the GPU.
        notes: what cannot be told from here.
    """

    device: str
    supported: tuple[str, ...]
    unsupported: tuple[Unsupported, ...]
    macs_share: float
    segments: int
    transitions: int
    notes: tuple[str, ...] = ()

    def lines(self, most: int = _SHOWN) -> list[str]:
        """Return what a user sees: counts, then the nodes that do not run, the first ``most``."""
        count = len(self.supported)
        total = count + len(self.unsupported)
        pieces = "piece" if self.segments == 1 else "pieces"
        found = [
            f"DLA of {self.device}, by NVIDIA's documents: {count} of {total} nodes, "
            f"{self.macs_share:.1%} of the multiply-accumulates, in {self.segments} {pieces}, "
            f"{self.transitions} tensors to and from the GPU"
        ]
        found += [f"not on the DLA: {each.line()}" for each in self.unsupported[:most]]
        if len(self.unsupported) > most:
            found.append(f"not on the DLA: {len(self.unsupported) - most} more")
        return [*found, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, for reports."""
        return {
            "device": self.device,
            "supported": list(self.supported),
            "unsupported": [
                {"node": u.node, "op": u.op, "reason": u.reason} for u in self.unsupported
            ],
            "macs_share": self.macs_share,
            "segments": self.segments,
            "transitions": self.transitions,
            "notes": list(self.notes),
        }

    def require(self, *, gpu_fallback: bool) -> None:
        """Refuse a build that cannot succeed.

        Raises:
            UnsupportedModelError: nothing runs on the DLA, or something does not and the GPU may
                not help.
        """
        if not self.supported:
            first = self.unsupported[0].line() if self.unsupported else "it has no nodes"
            raise UnsupportedModelError(
                f"nothing of the model runs on the DLA of {self.device} ({first}): leave --dla out"
            )
        if self.unsupported and not gpu_fallback:
            more = len(self.unsupported) - 1
            others = f" (and {more} more)" if more else ""
            raise UnsupportedModelError(
                f"the DLA of {self.device} does not run {self.unsupported[0].line()}{others}; "
                "allow the GPU for those: leave --no-gpu-fallback out"
            )


def dla_report(
    model: Model,
    device: DeviceProfile,
    *,
    int8: bool,
    fp16: bool = False,
    explicit: bool = False,
    shapes: Mapping[str, ShapeRange] | None = None,
) -> DlaReport:
    """Say which nodes of a model run on the DLA of a device.

    Args:
        model: the model as TensorRT will get it; constants are folded first, as TensorRT does.
        device: one with a DLA.
        int8: INT8 is computed.
        fp16: FP16 may be computed: alone, or for what has no INT8.
        explicit: the DLA reads Q/DQ (:attr:`graphopt.engines.target.Target.quantization`).
        shapes: input name -> shapes, of every input that has dynamic dimensions.

    Raises:
        UsageError: the device has no DLA, the shapes do not fit the model, or are a range: a DLA
            takes fixed ones.
    """
    if not device.dla:
        raise UsageError(f"{device.title or device.name} has no DLA: leave --dla out")
    ranges = resolve_shapes(model, shapes or {})
    for name, given in ranges.items():
        if given.min != given.max:
            raise UsageError(
                f"a DLA takes fixed shapes, and input '{name}' has a range: give --opt-shapes "
                "alone, without --min-shapes and --max-shapes"
            )
    fixed = with_input_shapes(model, {name: given.opt for name, given in ranges.items()})
    fixed = Simplify()(fixed).model
    chip = Chip(
        orin=(device.sm or (0, 0)) >= _ORIN, int8=int8, fp16=fp16 or not int8, explicit=explicit
    )
    nodes = [node for node in fixed.graph.nodes if _computes(node)]
    refused: list[Unsupported] = []
    on_dla: set[int] = set()
    for node in nodes:
        reason = refusal(node, chip)
        if reason is None:
            on_dla.add(id(node))
        else:
            refused.append(Unsupported(label(node), node.op, reason))
    macs = cost(fixed).by_node
    total = sum(macs.values())
    ours = sum(macs.get(node.name, 0) for node in nodes if id(node) in on_dla)
    segments = _segments(nodes, on_dla)
    return DlaReport(
        device=device.name,
        supported=tuple(label(node) for node in nodes if id(node) in on_dla),
        unsupported=tuple(refused),
        macs_share=ours / total if total else 0.0,
        segments=segments,
        transitions=_transitions(nodes, on_dla),
        notes=tuple(_notes(nodes, on_dla, segments, chip)),
    )


def _computes(node: Node) -> bool:
    """Whether anything is left of a node once TensorRT has folded constants."""
    if node.op == "Constant" or not node.inputs:
        return False
    if node.op in QUANTIZE_OPS:
        # Of a weight: part of the layer that reads it, or folded.
        source = producer(node.inputs[0])
        of_weight = source is not None and source.op in QUANTIZE_OPS and not _computes(source)
        return constant(node.inputs[0]) is None and not of_weight
    return not all(constant(t) is not None for t in node.inputs if t.name)


def _sources(node: Node, known: set[int]) -> Iterable[Node]:
    for tensor in node.inputs:
        source = producer(tensor)
        if source is not None and id(source) in known:
            yield source


def _segments(nodes: list[Node], on_dla: set[int]) -> int:
    """Count the connected pieces that the DLA could be given, each without a way out and back in.

    A node's depth is how often the way to it came back from the GPU: nodes of one depth that read
    each other can be one piece, for no way between them leaves it. Pieces have one batch size.
    """
    known = {id(node) for node in nodes}
    depth: dict[int, int] = {}
    root: dict[int, int] = {}

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for node in nodes:
        sources = list(_sources(node, known))
        if id(node) not in on_dla:
            depth[id(node)] = max((depth[id(s)] for s in sources), default=-1)
            continue
        levels = [depth[id(s)] + (id(s) not in on_dla) for s in sources]
        depth[id(node)] = max(levels, default=0)
        root[id(node)] = id(node)
        for source in sources:
            same = id(source) in on_dla and depth[id(source)] == depth[id(node)]
            if same and _batch(source) == _batch(node):
                root[find(id(node))] = find(id(source))
    return len({find(i) for i in root})


def _batch(node: Node) -> int | None:
    shape = static_shape(node.outputs[0])
    return shape[0] if shape else None


def _transitions(nodes: list[Node], on_dla: set[int]) -> int:
    known = {id(node) for node in nodes}
    crossing: set[str] = set()
    for node in nodes:
        for tensor in node.inputs:
            source = producer(tensor)
            if source is None or id(source) not in known:
                continue
            if (id(source) in on_dla) != (id(node) in on_dla):
                crossing.add(tensor.name)
    return len(crossing)


def _notes(nodes: list[Node], on_dla: set[int], segments: int, chip: Chip) -> Iterable[str]:
    if segments > MOST_LOADABLES:
        yield (
            f"a DLA core holds {MOST_LOADABLES} pieces: of {segments}, the others run on the GPU"
        )
    ranged = sorted({n.op for n in nodes if id(n) in on_dla and n.op in _ONE_RANGE})
    if chip.int8 and ranged:
        yield (f"in INT8 a DLA wants one range for all that {' and '.join(ranged)} read and write")
    if any(n.op in ("Conv", "Gemm", "MatMul") for n in nodes if id(n) in on_dla):
        yield "not looked at: the DLA's convolution buffer and memory; nothing was run on a DLA"


_ONE_RANGE = ("AveragePool", "Concat", "MaxPool")
