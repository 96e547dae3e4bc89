"""Lower the opset to what an older parser reads, without changing a number.

``onnx.version_converter`` goes down too, and is not used: of 97 models of the tests onnx 1.23
lowers 47 rightly to opset 17 (reductions with axes, what differs by types alone), writes 22 that
are not valid (it leaves ``noop_with_empty_axes``, ``saturate``, ``dilations`` where they are) and
stops at 28 (Split, Pad, GridSample, Gelu …).

Here each node is compared with its operator at the ceiling (:mod:`onnx.defs`). What is the same,
or differs by types that the node does not use, stays; what a rule knows is rewritten
(:mod:`graphopt.passes.lower_rules`); what ONNX itself defines by older operators (Gelu,
GroupNormalization, RMSNormalization, Attention …) is replaced by that definition.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx
import onnx.inliner
import onnx_graphsurgeon as gs

from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import Graph, Names, Node, is_standard, walk
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip
from graphopt.passes.lower_rules import RULES
from graphopt.passes.lower_site import Plan, Site, misfit, schema_at, spell_type, type_number
from graphopt.passes.simplify import Simplify
from graphopt.passes.through_proto import inline_functions, through_proto
from graphopt.wording import one_line

LOWEST = 17
"""The oldest opset to lower to: that of TensorRT 8.5, the oldest there is a target for."""
_ROUNDS = 8
# The same signature with another meaning: the definition is what says which.
_REDEFINED = {"GroupNormalization": 21}


@dataclass(frozen=True, slots=True)
class _Stuck:
    """A node that cannot be lowered as it is."""

    node: Node
    why: str

    @property
    def label(self) -> str:
        """Operator and name."""
        output = next((t.name for t in self.node.outputs if t.name), "")
        return f"{self.node.op} '{self.node.name or output}'"


@dataclass(frozen=True)
class LowerOpset(Pass):
    """Lower a model to at most opset ``ceiling``; an older one is left as it is.

    The IR version goes down with it, to the one that came with the opset. Graph inputs and outputs
    keep names and types.

    Attributes:
        ceiling: the newest version of the standard operators that the target reads.
        required: what cannot be lowered is an error; else the model stays as it was, and why is
            told.

    Raises:
        UsageError: the ceiling is below 17.
        UnsupportedModelError: a node has no equivalent at the ceiling.
    """

    name: ClassVar[str] = "lower-opset"

    ceiling: int
    required: bool = True

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        """Lower every node in place, those inside If, Loop and Scan too."""
        if self.ceiling < LOWEST:
            raise UsageError(
                f"models are lowered to opset {LOWEST} and newer, not {self.ceiling}, as the "
                f"device's max_opset asks: export the model with opset {self.ceiling}"
            )
        before = model.opset
        if before > self.ceiling:
            trial = model.clone()
            try:
                done = list(_lowered(trial, self.ceiling))
            except UnsupportedModelError as problem:
                if self.required:
                    raise
                yield Skip("opset", str(problem))
                return
            model.graph, model.metadata = trial.graph, trial.metadata
            yield Change("lowered", "opset", f"opset {before} -> {self.ceiling}")
            yield from done
        _lower_ir(model, self.ceiling)


def _lower_ir(model: Model, ceiling: int) -> None:
    """Bring the IR version down to that of the opset: an older parser may refuse a newer one."""
    imports = [onnx.helper.make_opsetid("", min(model.opset, ceiling))]
    needed = onnx.helper.find_min_ir_version_for(imports)
    if (model.graph.ir_version or 0) > needed:
        model.graph.ir_version = needed


def _lowered(model: Model, ceiling: int) -> Iterator[Change | Skip]:
    if model.metadata.functions:
        yield from inline_functions(model)
    yield from _settle(model, ceiling)
    names = Names(model.graph)
    for part in _parts(model.graph):
        site = Site(part, names, ceiling)
        for node in list(part.nodes):
            plan = _plan(node, site, model.opset)
            if isinstance(plan, str):
                raise _cannot(model.opset, ceiling, [_Stuck(node, plan)])
            if plan is not None:
                op = node.op
                yield Change("lowered", node.name, f"{op}: {plan()}")
    opset = model.opset
    for part in _parts(model.graph):
        part.opset = ceiling
    left = [_Stuck(node, why) for node in walk(model.graph) if (why := _misfit(node, ceiling))]
    if left:
        raise _cannot(opset, ceiling, left)


def _settle(model: Model, ceiling: int) -> Iterator[Change | Skip]:
    """Fold and expand until every node that is left can be lowered by itself."""
    folded = False
    for _ in range(_ROUNDS):
        stuck = list(_stuck(model, ceiling))
        if not stuck:
            return
        if not folded:
            # Axes and sizes that an exporter computes are constants once they are folded.
            folded = True
            yield from Simplify().edit(model)
            continue
        ops = sorted({s.node.op for s in stuck if _definition(s.node, model.opset)})
        if not ops or any(not _definition(s.node, model.opset) for s in stuck):
            raise _cannot(model.opset, ceiling, stuck)
        yield from _expand(model, ceiling, ops)
        yield from Simplify().edit(model)
    raise _cannot(model.opset, ceiling, list(_stuck(model, ceiling)))


def _stuck(model: Model, ceiling: int) -> Iterator[_Stuck]:
    names = Names(model.graph)
    for part in _parts(model.graph):
        for node in part.nodes:
            plan = _plan(node, Site(part, names, ceiling), model.opset)
            if isinstance(plan, str):
                yield _Stuck(node, plan)


def _plan(node: Node, site: Site, opset: int) -> Plan | str | None:
    """Return how to lower a node, why it cannot be by itself, or None where it may stay."""
    if not is_standard(node):
        return None
    now, then = schema_at(node.op, opset), schema_at(node.op, site.ceiling)
    if now is None or (then is not None and then.since_version == now.since_version):
        return None
    if then is None:
        return f"needs opset {_first(node.op)}"
    if then.since_version < _REDEFINED.get(node.op, 0) <= now.since_version:
        return f"means something else before opset {_REDEFINED[node.op]}"
    if node.op in RULES:
        return RULES[node.op](node, site)
    return _misfit(node, site.ceiling)


def _misfit(node: Node, ceiling: int) -> str | None:
    if not is_standard(node):
        return None
    schema = schema_at(node.op, ceiling)
    if schema is None:
        return f"needs opset {_first(node.op)}"
    what = misfit(node, schema)
    return None if what is None else f"{what} is of an opset newer than {ceiling}"


def _first(op: str) -> int:
    """Return the opset that an operator came with."""
    newest = onnx.defs.onnx_opset_version()
    return next((v for v in range(1, newest + 1) if schema_at(op, v) is not None), newest)


def _definition(node: Node, opset: int) -> bool:
    """Whether ONNX defines the operator by others."""
    schema: Any = schema_at(node.op, opset)  # onnx's types do not name these two
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def _expand(model: Model, ceiling: int, ops: list[str]) -> Iterator[Change]:
    """Replace operators by what ONNX defines them to be."""
    if "inline_schema_functions" not in str(inspect.signature(_inline)):
        needs = [_Stuck(n, "is expanded by newer onnx packages only") for n in walk(model.graph)]
        raise _cannot(model.opset, ceiling, [s for s in needs if s.node.op in ops])
    count = {op: sum(n.op == op and is_standard(n) for n in walk(model.graph)) for op in ops}

    def convert(proto: onnx.ModelProto) -> onnx.ModelProto:
        typed = _say_types(proto)
        made = _inline(proto, [("", op) for op in ops], inline_schema_functions=True)
        left = [value for value in made.graph.value_info if value.name not in typed]
        del made.graph.value_info[:]
        made.graph.value_info.extend(left)
        return made

    for node in walk(model.graph):
        if node.op in ops and is_standard(node):
            _write_defaults(node, model.opset)
    try:
        made = through_proto(model, convert)
    except UnsupportedModelError:
        raise
    except Exception as problem:
        raise UnsupportedModelError(
            f"cannot lower the model to opset {ceiling}: onnx cannot expand {', '.join(ops)}: "
            f"{one_line(problem, 160)}; export it again with opset {ceiling}"
        ) from problem
    left = [op for op in ops if any(n.op == op and is_standard(n) for n in walk(made.graph))]
    if left:
        stuck = [_Stuck(n, "could not be expanded") for n in walk(made.graph) if n.op in left]
        raise _cannot(model.opset, ceiling, stuck)
    model.graph, model.metadata = made.graph, made.metadata
    _settle_types(model.graph)
    for op in ops:
        yield Change("expanded", op, f"{count[op]} {op}, by ONNX's own definition")


def _say_types(proto: onnx.ModelProto) -> set[str]:
    """Say the type of each tensor, initializers and those of bodies too; return the names.

    Where onnx's inliner wants a type it looks among the outermost values only. A name that bodies
    give to tensors of several types is left out.
    """
    graph = proto.graph
    known = {value.name for value in (*graph.input, *graph.value_info, *graph.output)}
    found: dict[str, set[int]] = {}
    for part in _graphs(onnx.shape_inference.infer_shapes(proto).graph):
        for value in (*part.input, *part.value_info, *part.output):
            if value.type.HasField("tensor_type"):
                found.setdefault(value.name, set()).add(value.type.tensor_type.elem_type)
        for tensor in part.initializer:
            found.setdefault(tensor.name, set()).add(tensor.data_type)
    types = {name: kinds for name, kinds in found.items() if name not in known and len(kinds) == 1}
    graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, kind, None)
        for name, kinds in types.items()
        for kind in kinds
        if kind
    )
    return set(types)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _write_defaults(node: Node, opset: int) -> None:
    """Say every attribute: onnx 1.23 leaves one that is at its default empty in the definition."""
    schema = schema_at(node.op, opset)
    for name, attribute in (schema.attributes if schema is not None else {}).items():
        default = attribute.default_value
        if name not in node.attrs and default.type:
            node.attrs[name] = onnx.helper.get_attribute_value(default)


def _settle_types(graph: Graph) -> None:
    """Make each CastLike of a known type a Cast: constants fold, and old parsers know no other."""
    for node in walk(graph):
        if node.op == "CastLike" and is_standard(node):
            number = type_number(node.inputs[1])
            if number is not None and spell_type(number) != "undefined":
                node.op, node.attrs = "Cast", {"to": number}
                del node.inputs[1]


def _parts(graph: Graph) -> list[Graph]:
    parts: list[gs.Graph] = [graph, *graph.subgraphs(recursive=True)]
    return parts


def _cannot(opset: int, ceiling: int, stuck: list[_Stuck]) -> UnsupportedModelError:
    first = stuck[0]
    more = f" (and {len(stuck) - 1} more)" if len(stuck) > 1 else ""
    return UnsupportedModelError(
        f"cannot lower the model from opset {opset} to {ceiling}: {first.label} {first.why}{more}; "
        f"export it again with opset {ceiling}, or build for a newer TensorRT"
    )


_inline = onnx.inliner.inline_selected_functions
