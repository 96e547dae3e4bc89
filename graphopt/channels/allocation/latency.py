"""How long a model takes on a device, from the device's peaks: a roofline, layer by layer.

Williams, Waterman and Patterson, *Roofline: an insightful visual performance model for multicore
architectures*, CACM 52(4), 2009: a layer takes the longer of computing and of moving its tensors.
Channels are padded to the device's multiple first, in what is computed and in what is moved, as
tensor cores and their layouts have it, so a width between two multiples saves nothing. Allocation
needs the *share* that a plan leaves, not milliseconds: no layer reaches its peak, but how far it
falls short is much the same before and after. Layers that only move data are left out, because
TensorRT fuses most of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.channels.allocation.extents import Extents
from graphopt.channels.allocation.layers import Factors, Layer, product
from graphopt.channels.allocation.tally import Product
from graphopt.errors import UsageError
from graphopt.profiles import DeviceProfile

BYTES = {"int8": 1, "fp16": 2, "fp32": 4}
# What a kernel takes that has nothing to do: no layer gets faster than this. In picoseconds, as
# all times here: whole numbers add up to the same in any order.
LAUNCH_PS = 3_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device does in a picosecond.

    Attributes:
        macs: multiply-accumulates, at the peak.
        elements: tensor elements moved, at the peak bandwidth.
        multiple: channels are padded to a multiple of it.
    """

    macs: float
    elements: float
    multiple: int


def rates_of(device: DeviceProfile | None, precision: str) -> Rates:
    """Return what is known of a device.

    Raises:
        UsageError: there is no device, or its profile lacks a figure.
    """
    if device is None:
        raise UsageError("latency=... needs a device: name one with --device, such as t4")
    peak = device.peaks.get(precision)
    if peak is None or device.bandwidth_gbs is None:
        lacks = f"no peak for {precision}" if peak is None else "no bandwidth"
        raise UsageError(
            f"latency=... cannot be estimated on '{device.name}': its profile has {lacks}; use "
            "macs=..., or --device with a profile that has 'peaks' and 'bandwidth_gbs'"
        )
    return Rates(
        peak / 2,
        device.bandwidth_gbs / 1e3 / BYTES[precision],
        device.multiple(precision),
    )


@dataclass(frozen=True, slots=True)
class Padded:
    """A product of sizes, some of them padded to a multiple first."""

    plain: Product
    padded: tuple[int, ...]
    multiple: int

    @classmethod
    def of(cls, extents: Extents, factors: Factors, multiple: int) -> Padded:
        """Return the product of these factors."""
        plain = [e for i, e in enumerate(factors.extents) if i not in factors.channels]
        padded = tuple(factors.extents[i] for i in factors.channels)
        return cls(product(extents, plain), padded, multiple)

    @property
    def extents(self) -> tuple[int, ...]:
        """The extents it depends on."""
        return (*self.plain.extents, *self.padded)

    def cost(self, sizes: Sequence[int], /) -> int:
        """Return the product."""
        value = self.plain.cost(sizes)
        for index in self.padded:
            value *= pad(sizes[index], self.multiple)
        return value


@dataclass(frozen=True, slots=True)
class Roofline:
    """The time of one layer, in picoseconds.

    Attributes:
        rates: of the device.
        macs: the multiply-accumulates.
        moved: the elements of each tensor it reads or writes.
    """

    rates: Rates
    macs: Padded
    moved: tuple[Padded, ...]

    @classmethod
    def of(cls, extents: Extents, layer: Layer, rates: Rates) -> Roofline:
        """Return the time of a layer on a device."""
        multiple = rates.multiple
        moved = tuple(Padded.of(extents, m, multiple) for m in layer.moved)
        return cls(rates, Padded.of(extents, layer.macs, multiple), moved)

    @property
    def extents(self) -> tuple[int, ...]:
        """The extents it depends on."""
        return (*self.macs.extents, *(e for m in self.moved for e in m.extents))

    def cost(self, sizes: Sequence[int], /) -> int:
        """Return the picoseconds at these sizes."""
        elements = sum(m.cost(sizes) for m in self.moved)
        busy = max(self.macs.cost(sizes) / self.rates.macs, elements / self.rates.elements)
        return LAUNCH_PS + round(busy)


def pad(size: int, multiple: int) -> int:
    """Return the size rounded up to a multiple."""
    return -(-size // multiple) * multiple
