"""How many parameters a constant holds once each of its readers has had its share cut out.

Exporters share equal constants between layers. Where two of those lose different channels each
gets a copy, as :func:`graphopt.channels.apply_plan` makes it, and sharing no longer helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.channels.allocation.extents import Extents, Form
from graphopt.graph import Tensor, constant, is_constant, subgraph_outer_names
from graphopt.model import is_floating


@dataclass(frozen=True, slots=True)
class Stored:
    """The elements of one constant, all its copies together.

    Attributes:
        shape: with every channel there.
        counted: whether the whole one counts as parameters (a list in a Constant node does not).
        stays: whether something reads all of it whatever is pruned.
        variants: the extents of its axes, for each way it is read.
    """

    shape: tuple[int, ...]
    counted: bool
    stays: bool
    variants: tuple[tuple[int, ...], ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """The extents it depends on."""
        return tuple(e for variant in self.variants for e in variant)

    def cost(self, sizes: Sequence[int], /) -> int:
        """Return the elements at these sizes."""
        stays, elements = self.stays, 0
        for variant in self.variants:
            now = tuple(sizes[e] for e in variant)
            if now == self.shape:
                stays = True
            else:
                elements += prod(now)
        return elements + (prod(self.shape) if stays and self.counted else 0)


def stored_constants(extents: Extents) -> Iterator[Stored]:
    """Yield the floating-point constants that some plan makes smaller, in graph order.

    Two ways to read a constant that happen to lose the same indices of different groups count as
    two, although ``apply_plan`` then makes one copy of them: the only case in which the count
    depends on which channels go, and not on how many.
    """
    graph = extents.trace.graph
    local = {id(node) for node in graph.nodes}
    # Read by bodies of If, Loop and Scan, or part of the interface: the whole one stays.
    pinned = subgraph_outer_names(graph) | {t.name for t in graph.outputs}
    places: dict[str, dict[tuple[Form, ...], tuple[int, ...]]] = {}
    pruned: dict[str, int] = {}
    tensors: dict[str, Tensor] = {}
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            dims = extents.reads.get((node.name, index))
            if dims is None or not any(extents.parts(d) for d in dims):
                continue
            value = constant(tensor)
            assert value is not None  # Only constants are recorded as read.
            if not is_floating(value.dtype):
                continue
            tensors[tensor.name] = tensor
            pruned[tensor.name] = pruned.get(tensor.name, 0) + 1
            form = tuple(extents.form(d) for d in dims)
            axes = tuple(extents.number(n, d) for n, d in zip(value.shape, dims, strict=True))
            places.setdefault(tensor.name, {}).setdefault(form, axes)
    for name, variants in places.items():
        tensor = tensors[name]
        elsewhere = any(id(reader) not in local for reader in tensor.outputs)
        stays = name in pinned or elsewhere or len(tensor.outputs) > pruned[name]
        value = constant(tensor)
        assert value is not None
        counted = is_constant(tensor) or "value" in tensor.inputs[0].attrs
        yield Stored(value.shape, counted, stays, tuple(variants.values()))
