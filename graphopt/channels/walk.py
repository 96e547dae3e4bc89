"""One walk over the graph in topological order, a rule at each node."""

from __future__ import annotations

from graphopt.channels.rules import SIZE_INPUTS, Rules
from graphopt.channels.rules_einsum import einsum_labels
from graphopt.channels.sizes import freeze_read_sizes, propagate
from graphopt.channels.trace import Refused, Site, Trace, op_and_name, untracked
from graphopt.graph import Graph, Node, constant, is_op, subgraph_outer_names


def walk(graph: Graph) -> Trace:
    """Return what is known about the channels of a graph; the graph is not changed."""
    trace, rules = Trace(graph), Rules()
    for tensor in graph.inputs:
        trace.dims[tensor.name] = untracked(tensor, f"graph input '{tensor.name}'")
    for node in in_order(graph):
        for tensor in [*node.inputs, *node.outputs]:
            if not tensor.is_empty():
                trace.touching.setdefault(tensor.name, []).append(node.name)
        _visit(Site(trace, node), rules)
    tensors = graph.tensors()
    for name in sorted(subgraph_outer_names(graph)):
        trace.freeze_tensor(tensors[name], f"the body of a control-flow node reads '{name}'")
    for tensor in graph.outputs:
        trace.freeze_tensor(tensor, f"graph output '{tensor.name}'")
    return trace


def in_order(graph: Graph) -> list[Node]:
    """Return the nodes so that each comes after what it reads; otherwise in the graph's order."""
    local = {id(node) for node in graph.nodes}
    done: set[int] = set()
    order: list[Node] = []
    for root in graph.nodes:
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                order.append(node)
                continue
            stack.append((node, True))
            before = [t.inputs[0] for t in node.inputs if t.inputs]
            stack.extend(
                (n, False) for n in reversed(before) if id(n) in local and id(n) not in done
            )
    return order


def _visit(site: Site, rules: Rules) -> None:
    node = site.node
    if is_op(node, "Constant") and constant(node.outputs[0]) is not None:
        return
    try:
        if propagate(site):
            return
        for index in range(len(node.inputs)):
            if index not in SIZE_INPUTS.get(node.op, ()):
                freeze_read_sizes(site, index)
        rule = rules.of(node)
        if rule is None:
            raise Refused("graphopt has no rule for it")
        rule(site)
        _find_heads(site)
    except Refused as refusal:
        _opaque(site, f"{op_and_name(node)}: {refusal}")
    for tensor in node.outputs:
        if not tensor.is_empty() and tensor.name not in site.trace.dims:
            site.trace.dims[tensor.name] = untracked(tensor, site.why)


def _find_heads(site: Site) -> None:
    """A product of two activations is one matrix product a head."""
    node = site.node
    if not is_op(node, "MatMul", "Einsum") or any(constant(t) is not None for t in node.inputs):
        return
    if node.op == "MatMul":
        for index in range(2):
            site.heads(site.dims(index)[:-2])
    elif (labels := einsum_labels(node)) is not None:
        operands, output = labels
        shared = set(output).intersection(*operands)
        for index, term in enumerate(operands):
            dims = zip(term, site.dims(index), strict=True)
            site.heads([dim for letter, dim in dims if letter in shared])


def _opaque(site: Site, why: str) -> None:
    """Freeze everything that the node touches."""
    for index, tensor in enumerate(site.node.inputs):
        if not tensor.is_empty():
            site.trace.freeze_tensor(tensor, why)
            freeze_read_sizes(site, index)
    for tensor in site.node.outputs:
        site.trace.dims[tensor.name] = untracked(tensor, why)
