"""What a model costs as a function of the widths its groups keep: exact, and without pruning it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.channels.allocation.extents import Extents
from graphopt.channels.allocation.latency import rates_of, rooflines
from graphopt.channels.allocation.layers import layers_of, product
from graphopt.channels.allocation.stored import stored_constants
from graphopt.channels.allocation.tally import Tally, Term
from graphopt.cost import with_input_shapes
from graphopt.errors import UsageError
from graphopt.model import Model
from graphopt.profiles import DeviceProfile
from graphopt.profiles.roofline import pad

if TYPE_CHECKING:
    from graphopt.channels.groups import ChannelAnalysis


@dataclass(frozen=True, slots=True)
class CostModel:
    """The costs of every plan for one model.

    Attributes:
        widths: of every group of the analysis, with every channel there.
        macs: multiply-accumulates; equal to :attr:`graphopt.cost.Cost.macs` of the pruned model.
        params: floating-point parameters, as :attr:`graphopt.cost.Cost.parameters`, but for
            scalars that rewrites bring.
        unknown: layers whose shapes are not known, so that they count as nothing in ``macs``.
        device: what latency and notes on widths are about, or None.
        precision: ``int8``, ``fp16`` or ``fp32``: of the layers, on that device.
    """

    widths: tuple[int, ...]
    macs: Tally
    params: Tally
    unknown: tuple[str, ...] = ()
    device: DeviceProfile | None = None
    precision: str = "fp32"
    _channels: tuple[int, ...] = ()
    _latency: tuple[Term, ...] = ()

    @classmethod
    def of(
        cls,
        analysis: ChannelAnalysis,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        *,
        device: DeviceProfile | None = None,
        precision: str = "fp32",
    ) -> CostModel:
        """Make the cost model of an analyzed model.

        Args:
            analysis: of the model, which has not been changed since.
            shapes: input name -> shape, for inputs with open dimensions; one that is still open
                counts as 1.
            device: what to estimate latency for, and whose channel multiple to tell of.
            precision: the layers' precision there.
        """
        extents = Extents(analysis)
        model = with_input_shapes(Model(analysis.trace.graph), shapes or {})
        layers, unknown = layers_of(extents, model)
        stored = tuple(stored_constants(extents))
        fixed = Model(analysis.trace.graph).parameters() - sum(
            s.cost([e.size for e in extents.table]) for s in stored
        )
        latency: tuple[Term, ...] = ()
        if device is not None and device.bandwidth_gbs and precision in device.peaks:
            latency = rooflines(extents, model, device, precision)
        widths = tuple(g.width for g in analysis.groups)
        table = tuple(extents.table)
        channels = {n.macs.extents[i]: None for n in layers for i in n.macs.channels}
        return cls(
            widths,
            Tally(widths, table, tuple(product(extents, n.macs.extents) for n in layers)),
            Tally(widths, table, stored, fixed),
            unknown,
            device,
            precision,
            tuple(channels),
            latency,
        )

    def tally(self, kind: str) -> Tally:
        """Return the cost of a kind: ``macs``, ``params`` or ``latency`` (picoseconds).

        Raises:
            UsageError: it is not known for this model or this device.
        """
        if kind == "macs":
            if not self.macs.of_model():
                raise UsageError(
                    "macs=... needs a Conv, ConvTranspose, Gemm or MatMul of known shapes: "
                    "give the shapes of the inputs"
                )
            return self.macs
        if kind == "params":
            return self.params
        if kind != "latency":
            raise UsageError(f"'{kind}' is no cost of a model; known: macs, params, latency")
        rates_of(self.device, self.precision)
        if not self._latency:
            raise UsageError("latency=... needs layers of known shapes: give those of the inputs")
        return Tally(self.widths, self.macs.extents, self._latency)

    def remains(self, kind: str, kept: Sequence[int]) -> float:
        """Return the share of a cost that remains when each group keeps this many channels."""
        tally = self.tally(kind)
        return tally.at(kept) / tally.of_model()

    def speed_notes(self, kept: Sequence[int]) -> list[str]:
        """Return for each group a line where it could keep more channels at no cost on the device.

        A device pads channels to a multiple. What counts is the padded size of every layer's
        dimension that the group is in, beside whatever else is in it (a Concat, halves of a gated
        unit), with the other groups as planned.

        Returns:
            A line a group; an empty one where each channel counts or no device is known.
        """
        wider = list(kept)
        if self.device is None:
            return [""] * len(wider)
        multiple = self.device.multiple(self.precision)
        sizes = self.macs.sizes(kept)
        rooms: dict[int, int] = {}
        for index in self._channels:
            spare = pad(sizes[index], multiple) - sizes[index]
            for group, per_channel in self.macs.extents[index].parts:
                rooms[group] = min(rooms.get(group, spare), spare // per_channel)
        where = f"on {self.device.name} in {self.precision}"
        notes = [""] * len(wider)
        for group, room in rooms.items():
            wider[group] = min(self.widths[group], kept[group] + room)
            if wider[group] > kept[group]:
                notes[group] = (
                    f"{kept[group]} channels cost what {wider[group]} do {where}: "
                    f"--align {multiple}, or keep {wider[group]}"
                )
        return notes
