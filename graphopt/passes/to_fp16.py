"""Run what can be run in fp16, in the graph itself: casts, fp16 weights, fp16 scales of Q/DQ.

Strongly typed TensorRT (the only kind from version 11 on) takes precision from the graph. Inputs
and outputs of the model keep their names and types. What stays in fp32 stays for a reason that is
told: a range, a sum, a constant that fp16 does not hold, an operator without an fp16 form, or a
neighbourhood in which casts would cost more than fp16 saves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

from graphopt.calibrators.table import CalibrationTable
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import (
    Graph,
    Node,
    Tensor,
    captured,
    constant,
    consumers,
    is_float,
    is_graph_output,
    is_op,
    is_standard,
    producer,
)
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip
from graphopt.passes.fp16_masks import endless, mask_tensors
from graphopt.passes.fp16_ops import (
    HALF,
    NEUTRAL,
    QDQ_OPSET,
    VIEWS,
    Ports,
    is_dequantize,
    ports,
    touches_float,
)
from graphopt.passes.fp16_ranges import (
    JOIN,
    LARGEST,
    PASS,
    Ranges,
    activations,
    depends_on_data,
    holds_constant,
    rounding_loss,
)
from graphopt.passes.fp16_regions import Crossing, choose
from graphopt.passes.fp16_safety import Safety
from graphopt.passes.fp16_scales import scale_problem
from graphopt.passes.fp16_write import Rewrite
from graphopt.passes.insert_qdq import excluded_nodes
from graphopt.passes.raise_opset import RaiseOpset

__all__ = ["SHARE", "ToFp16", "fp16_tensors"]

SHARE = 0.25
_ALONE = "around it is fp32, and casts would cost more than fp16 saves"
# Bytes: an fp16 element saves two; a cast reads four and writes two, and is started like any
# kernel; a multiply-accumulate in fp16 saves about as much time as a tenth of a byte.
_SAVED, _CAST, _START, _MACS_A_BYTE = 2, 6, 4096, 10
_NEVER = 1 << 50


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which nodes run in fp16, and why the others do not."""

    half: dict[int, Ports]
    reasons: dict[int, str]


@dataclass(frozen=True)
class ToFp16(Pass):
    """Run the graph in fp16 wherever that is safe and pays.

    Attributes:
        table: ranges of at least the tensors that :func:`fp16_tensors` names, measured on this
            model or on the float model it was quantized from; without one, ranges are taken to be
            safe, and whatever may overflow by itself (Exp, Pow, sums) stays in fp32.
        share: the part of fp16's 65,504 that a measured range may use: data that was not seen may
            reach further.
        exclude: patterns over node names and operators; what they match stays in fp32.
        max_opset: the newest opset the target parses, or None.
        integer_kernels: leave in fp32 what stands beside Q/DQ: ONNX Runtime makes integer kernels
            of Q/DQ with fp32 scales only. Of fp16 ones it makes biases that overflow, and nodes
            that it then refuses itself.

    Raises:
        UsageError: the table knows no tensor of this model, or the share is out of range.
        UnsupportedModelError: the model has Q/DQ, which needs a newer opset for fp16 scales.
    """

    name: ClassVar[str] = "to-fp16"

    table: CalibrationTable | None = None
    share: float = SHARE
    exclude: tuple[str, ...] = ()
    max_opset: int | None = field(default=None)
    integer_kernels: bool = False

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        """Change types in place; yield every node that runs in fp16, and why others do not."""
        if not 0 < self.share <= 1:
            raise UsageError(f"the share of fp16's range is in 0..1, not {self.share:g}")
        if not any(touches_float(node) for node in model.graph.nodes):
            yield Skip(model.graph.name or "graph", "nothing in it is fp32")
            return
        yield from self._raise(model)
        graph = model.graph
        ranges = Ranges(graph, self.table)
        yield from self._warnings(model, ranges)
        masks = mask_tensors(graph, ranges)
        plan = self._plan(model, ranges, masks)
        for node in graph.nodes:
            if id(node) in plan.reasons:
                yield Skip(node.name, f"stays in fp32: {plan.reasons[id(node)]}")
        yield from _told(graph, plan)
        yield from Rewrite(graph, plan.half, masks).apply()

    def _raise(self, model: Model) -> Iterator[Change | Skip]:
        quantized = any(is_op(n, "QuantizeLinear", "DequantizeLinear") for n in model.graph.nodes)
        if not quantized or self.integer_kernels or model.opset >= QDQ_OPSET:
            return
        if self.max_opset is not None and self.max_opset < QDQ_OPSET:
            raise UnsupportedModelError(
                f"fp16 beside INT8 needs opset {QDQ_OPSET} (Q/DQ with fp16 scales), and the target "
                f"parses up to {self.max_opset}: leave --fp16 out, or --int8"
            )
        yield from RaiseOpset(QDQ_OPSET).edit(model)

    def _warnings(self, model: Model, ranges: Ranges) -> Iterator[Skip]:
        if self.table is None:
            yield Skip(
                "ranges", "not checked, for nothing was calibrated: what overflows is not known"
            )
            return
        names = model.graph.tensors()
        if not any(name in names for name in self.table.ranges):
            raise UsageError(
                "the calibration table has no range for any tensor of this model: "
                "it belongs to another one"
            )
        wanted = [name for name in fp16_tensors(model) if name in set(ranges.missing)]
        if wanted:
            yield Skip(
                wanted[0],
                f"no range was measured, nor of {len(wanted) - 1} more tensors: taken as safe",
            )

    def _plan(self, model: Model, ranges: Ranges, masks: frozenset[int]) -> _Plan:
        graph, opset = model.graph, model.opset
        excluded = excluded_nodes(model, self.exclude)
        reached = depends_on_data(graph)
        safety = Safety(graph, ranges, self.share, masks)
        nodes: list[Node] = []
        able: dict[int, Ports] = {}
        reasons: dict[int, str] = {}
        for node in graph.nodes:
            if not touches_float(node) or is_op(node, *NEUTRAL) or is_dequantize(node):
                continue
            if all(holds_constant(t) for t in node.inputs) and is_op(node, "QuantizeLinear"):
                continue  # A weight: its DequantizeLinear is what is read.
            nodes.append(node)
            found: Ports | str | None = ports(node, opset)
            if node.name in excluded:
                found = "it is to stay so"
            elif not any(id(t) in reached for t in node.outputs):
                found = "it depends on shapes alone"
            elif self.integer_kernels and _beside_qdq(node):
                found = "ONNX Runtime makes integer kernels of fp32 Q/DQ only"
            if isinstance(found, Ports):
                able[id(node)] = found
                found = safety.problem(node, found)
                if found is None and node.op == "QuantizeLinear":
                    found = scale_problem(node)
            if found is not None:
                reasons[id(node)] = found
        half = _cheapest(graph, nodes, able, frozenset(reasons), ranges)
        for node in nodes:
            if id(node) not in half:
                reads_fp32 = "what it reads is fp32" if node.op == "QuantizeLinear" else _ALONE
                reasons.setdefault(id(node), reads_fp32)
        return _Plan({i: able[i] for i in half}, reasons)


def _beside_qdq(node: Node) -> bool:
    """Whether it is a QuantizeLinear, feeds one, or reads a DequantizeLinear."""
    if node.op == "QuantizeLinear":
        return True
    sources = (producer(t) for t in node.inputs)
    feeds = (reader for t in node.outputs for reader in consumers(t))
    return any(s is not None and s.op == "DequantizeLinear" for s in sources) or any(
        reader.op == "QuantizeLinear" for reader in feeds
    )


def _cheapest(
    graph: Graph,
    nodes: list[Node],
    able: dict[int, Ports],
    fixed: frozenset[int],
    ranges: Ranges,
) -> frozenset[int]:
    """Return the ``id()`` of the nodes to run in fp16."""
    number = {id(node): i for i, node in enumerate(nodes)}
    benefits = [_benefit(n, able[id(n)]) if id(n) in able else 0 for n in nodes]
    inner = {id(t) for n in graph.nodes for t in captured(n)}
    crossings = []
    for tensor in _between(graph):
        source = tensor.inputs[0] if tensor.inputs else None
        if source is not None and is_dequantize(source):
            continue  # Written in each type that is read: DequantizeLinear gives either.
        kept, readers = is_graph_output(graph, tensor) or id(tensor) in inner, set()
        for reader in tensor.outputs:
            places = able.get(id(reader), Ports((), ())).reads
            if id(reader) not in number:
                kept = kept or not is_op(reader, *NEUTRAL)
            elif any(reader.inputs[i] is tensor for i in places):
                readers.add(number[id(reader)])
            else:
                kept = True
        writer = None
        if source is not None and id(source) in able:
            places = able[id(source)].writes
            writer = (
                number[id(source)] if any(source.outputs[i] is tensor for i in places) else None
            )
        if readers or (writer is not None and kept):
            cost = _CAST * _elements(tensor) + _START
            known = ranges.of(tensor)
            if known is not None and known.largest > LARGEST:
                cost = _NEVER  # A mask: cast, its minus infinity would be a true one.
            crossings.append(Crossing(writer, tuple(sorted(readers)), kept, cost))
    chosen = choose(benefits, frozenset(number[i] for i in fixed), crossings)
    return frozenset(id(nodes[i]) for i in chosen if id(nodes[i]) in able)


def _between(graph: Graph) -> Iterator[Tensor]:
    yield from (t for t in graph.inputs if is_float(t))
    for node in graph.nodes:
        if node.op != "Constant":
            yield from (t for t in node.outputs if is_float(t))


def _benefit(node: Node, own: Ports) -> int:
    """Return the bytes that fp16 saves here, of the kernels that move or compute something."""
    if node.op in VIEWS or node.op in ("Cast", "QuantizeLinear"):
        return 0
    tensors = [node.inputs[i] for i in own.reads] + [node.outputs[i] for i in own.writes]
    return _SAVED * sum(_elements(t) for t in tensors) + _macs(node) // _MACS_A_BYTE


def _macs(node: Node) -> int:
    if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Attention"):
        return 0
    if node.op == "Conv":
        return _elements(node.outputs[0]) * prod(_dims(node.inputs[1])[1:])
    if node.op == "ConvTranspose":
        return _elements(node.inputs[0]) * prod(_dims(node.inputs[1])[1:])
    return _elements(node.outputs[0]) * (_dims(node.inputs[0]) or [1])[-1]


def _elements(tensor: Tensor) -> int:
    return prod(_dims(tensor))


def _dims(tensor: Tensor) -> list[int]:
    """The dimensions, each that is not known as 1."""
    return [d if isinstance(d, int) and d > 0 else 1 for d in tensor.shape or ()]


def _told(graph: Graph, plan: _Plan) -> Iterator[Change]:
    """Say what runs in fp16, and how many of its weights that costs."""
    for node in graph.nodes:
        own = plan.half.get(id(node))
        if own is None:
            continue
        lost = []
        for tensor in (node.inputs[i] for i in own.reads):
            values = constant(tensor) if holds_constant(tensor) else None
            gone = 0 if values is None else rounding_loss(values)[1]
            if values is not None and gone:
                lost.append(f"{gone:,} of {values.size:,} values of '{tensor.name}' become 0")
        yield Change("fp16", node.name, "; ".join(lost))


def fp16_tensors(model: Model) -> list[str]:
    """Return the names of the tensors whose range :class:`ToFp16` looks at, in graph order.

    Those that an operator bounds, or that only pass on what another tensor holds, are left out;
    so are those that infinite constants reach (attention masks), for no table holds infinity.
    """
    graph, found = model.graph, Ranges(model.graph, None)
    reached, infinite = depends_on_data(graph), endless(graph)
    wanted = []
    for tensor in activations(graph):
        node = tensor.inputs[0] if tensor.inputs else None
        fits = node is None or (is_standard(node) and node.op in HALF)
        passes = node is not None and is_standard(node) and node.op in (PASS | JOIN)
        read = is_float(tensor) and bool(tensor.name) and id(tensor) in reached - infinite
        if read and fits and not passes and found.of(tensor) is None:
            wanted.append(tensor.name)
    return wanted
