"""From the dimensions the analysis tracked to sizes as functions of the groups' widths."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.channels.allocation.tally import Extent
from graphopt.channels.dims import Dim
from graphopt.channels.groups import ChannelAnalysis
from graphopt.graph import Tensor, constant, static_shape

Form = tuple[tuple[int, tuple[int, ...]], ...]


class Extents:
    """Numbers the sizes of one model's dimensions; equal ones once.

    Attributes:
        table: the extents, by number.
        reads: (node name, input index) -> the dimensions a constant has where it is read there.
        tensors: the same -> its name.
    """

    def __init__(self, analysis: ChannelAnalysis) -> None:
        self.trace = analysis.trace
        self.table: list[Extent] = []
        self._numbers: dict[Extent, int] = {}
        self._widths = [g.width for g in analysis.groups]
        self._group_of = {a: i for i, g in enumerate(analysis.groups) for a in g.atoms}
        self._parts: dict[int, tuple[tuple[int, int], ...]] = {}
        self.reads: dict[tuple[str, int], tuple[Dim, ...]] = {}
        self.tensors: dict[tuple[str, int], str] = {}
        for use in self.trace.uses:
            # A rule may read a constant twice; apply_plan goes by the last read that prunes it.
            place = (use.node.name, use.index)
            if place not in self.reads or any(self.parts(d) for d in use.dims):
                self.reads[place] = use.dims
                self.tensors[place] = use.node.inputs[use.index].name

    def parts(self, dim: Dim) -> tuple[tuple[int, int], ...]:
        """Return (group, indices that one of its channels takes up) for a dimension."""
        if not dim.slots:
            return ()
        if id(dim) not in self._parts:
            counts: dict[int, int] = {}
            for slot in self.trace.space.resolve(dim):
                times = (dim.size or 0) // len(slot.table)
                for position in slot.table:
                    for root in position:
                        if (group := self._group_of.get(root)) is not None:
                            counts[group] = counts.get(group, 0) + times
            self._parts[id(dim)] = tuple(
                (group, count // self._widths[group]) for group, count in sorted(counts.items())
            )
        return self._parts[id(dim)]

    def form(self, dim: Dim) -> Form:
        """Return what decides which indices of a dimension die: equal forms lose the same."""
        found = []
        for slot in self.trace.space.resolve(dim):
            roots = tuple(
                next((r for r in position if r in self._group_of), -1) for position in slot.table
            )
            if max(roots) >= 0:
                found.append((slot.stride, roots))
        return tuple(found)

    def number(self, size: int, dim: Dim | None) -> int:
        """Return the number of the extent of a dimension of this size."""
        extent = Extent(size, self.parts(dim) if dim is not None else ())
        if extent not in self._numbers:
            self._numbers[extent] = len(self.table)
            self.table.append(extent)
        return self._numbers[extent]

    def of_read(self, node: str, index: int, tensor: Tensor) -> list[int] | None:
        """Return the extents of what a node reads, or None if its shape is not known."""
        dims: Sequence[Dim] | None = self.reads.get((node, index))
        if dims is None and constant(tensor) is None:  # Only reads that a rule saw are sliced.
            dims = self.trace.dims.get(tensor.name)
        return self._of(tensor, dims)

    def of_written(self, tensor: Tensor) -> list[int] | None:
        """Return the extents of what a node writes, or None if its shape is not known."""
        return self._of(tensor, self.trace.dims.get(tensor.name))

    def _of(self, tensor: Tensor, dims: Sequence[Dim] | None) -> list[int] | None:
        shape = static_shape(tensor)
        if shape is None and (value := constant(tensor)) is not None:
            shape = value.shape
        if shape is None:
            return None
        if dims is None or len(dims) != len(shape):
            return [self.number(size, None) for size in shape]
        return [self.number(size, dim) for size, dim in zip(shape, dims, strict=True)]
