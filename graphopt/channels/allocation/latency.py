"""How long a plan would take on a device: the estimate of :mod:`graphopt.profiles.roofline`.

The same kernels, rates and padding, as functions of the widths that groups keep: with every channel
there it is what ``graphopt estimate`` says of the same model in one precision throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.channels.allocation.extents import Extents
from graphopt.channels.allocation.layers import product
from graphopt.channels.allocation.tally import Product
from graphopt.errors import UsageError
from graphopt.model import Model
from graphopt.profiles import DeviceProfile
from graphopt.profiles.roofline import Rates, pad, rest_of
from graphopt.profiles.roofline.layers import Factors, Work, kernels, work_of


def rates_of(device: DeviceProfile | None, precision: str) -> Rates:
    """Return what is known of a device.

    Raises:
        UsageError: there is no device, or its profile lacks a figure.
    """
    if device is None:
        raise UsageError("latency=... needs a device: name one with --device, such as t4")
    if precision not in device.peaks or device.bandwidth_gbs is None:
        known = precision in device.peaks
        lacks = "no bandwidth" if known else f"no peak for {precision}"
        raise UsageError(
            f"latency=... cannot be estimated on '{device.name}': its profile has {lacks}; use "
            "macs=..., or --device with a profile that has 'peaks' and 'bandwidth_gbs'"
        )
    return Rates.of(device)


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
    """The time of one kernel, in picoseconds.

    Attributes:
        rates: of the device.
        precision: of the kernel.
        macs: the multiply-accumulates, or None.
        moved: the elements of each tensor it reads or writes, and the bytes of one.
        depthwise: whether tensor cores are of no use.
    """

    rates: Rates
    precision: str
    macs: Padded | None
    moved: tuple[tuple[Padded, int], ...]
    depthwise: bool = False

    @classmethod
    def of(cls, extents: Extents, work: Work, rates: Rates) -> Roofline:
        """Return the time of a kernel on a device."""
        multiple = rates.multiples[work.precision]

        def padded(factors: Factors) -> Padded:
            return Padded.of(extents, factors, multiple)

        macs = None if work.macs is None else padded(work.macs)
        moved = tuple((padded(m.elements), m.itemsize) for m in work.moved)
        return cls(rates, work.precision, macs, moved, work.depthwise)

    @property
    def extents(self) -> tuple[int, ...]:
        """The extents it depends on."""
        macs = () if self.macs is None else self.macs.extents
        return (*macs, *(e for m, _ in self.moved for e in m.extents))

    def cost(self, sizes: Sequence[int], /) -> int:
        """Return the picoseconds at these sizes."""
        moving = self.rates.moving(sum(m.cost(sizes) * size for m, size in self.moved))
        computing = 0.0
        if self.macs is not None:
            macs = self.macs.cost(sizes)
            computing = self.rates.computing(self.precision, macs, depthwise=self.depthwise)
        return self.rates.kernel(computing, moving)


def rooflines(
    extents: Extents, model: Model, device: DeviceProfile, precision: str
) -> tuple[Roofline, ...]:
    """Return the time of each kernel whose shapes are known, in graph order.

    Args:
        extents: of the model; grows.
        model: the same, with static shapes.
        device: with a peak for the precision, and a bandwidth.
        precision: of all that can run in it.
    """
    rates = rates_of(device, precision)
    found = []
    for kernel in kernels(model, precision, rest_of(device)):
        work = work_of(kernel, extents.of_read, extents.of_written, precision)
        if work is not None:
            found.append(Roofline.of(extents, work, rates))
    return tuple(found)
