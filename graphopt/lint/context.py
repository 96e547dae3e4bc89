"""What every rule of the linter gets to see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphopt.cost import cost
from graphopt.dialects.heads import label
from graphopt.graph import Node
from graphopt.lint import network as kinds
from graphopt.lint.fusion import Accounting
from graphopt.lint.kernels import Kernel
from graphopt.lint.network import Layer, Network
from graphopt.model import Model
from graphopt.profiles import DeviceProfile


class Context:
    """A model, seen three ways.

    Attributes:
        model: the model.
        device: the target, or None.
        network: the model as the linter reads it off the file.
        own: the accounting over it.
        parsed: the accounting over TensorRT's parsed network, or None.
        nodes: label -> node.
    """

    def __init__(
        self,
        model: Model,
        device: DeviceProfile | None,
        own: Accounting,
        parsed: Accounting | None,
    ) -> None:
        self.model = model
        self.device = device
        self.own = own
        self.network: Network = own.network
        self.parsed = parsed
        self.nodes: Mapping[str, Node] = {label(node): node for node in model.graph.nodes}
        self._macs: tuple[int, Mapping[str, int]] | None = None

    @property
    def accounting(self) -> Accounting:
        """The accounting that is told: TensorRT's view where there is one."""
        return self.parsed or self.own

    def macs(self) -> tuple[int, Mapping[str, int]]:
        """Return the multiply-accumulates of the model, and by node."""
        if self._macs is None:
            total = cost(self.model)
            self._macs = (total.macs, total.by_node)
        return self._macs

    def activations(self) -> Iterator[Layer]:
        """Yield the Q and DQ that work on activations, in order."""
        for layer in self.network.quantizers():
            if layer.outputs and layer.outputs[0] not in self.network.constants:
                yield layer

    def heads(self) -> Iterator[Kernel]:
        """Yield the kernels that multiply by a weight, in order."""
        for kernel in self.own.kernels.all:
            if kernel.head.kind in kinds.WEIGHTED:
                yield kernel
