"""A graph run over all samples piece by piece, each node once, in the order results are asked for.

Sequential recovery looks at the input of one layer after another, each time on the graph with all
layers before it solved. Running the graph from its start for every layer costs the square of its
depth; this keeps the activations at the frontier instead, so that everything together costs one
run over the samples.

Memory: the store's budget, and what one part of the graph makes of one batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.errors import DataError, UnsupportedModelError
from graphopt.graph import Array, Graph, Node, Tensor, captured, is_constant, walk
from graphopt.model import Feeds, Model
from graphopt.reader import copy_graph
from graphopt.runtime import open_session
from graphopt.statistics.spill import Spill
from graphopt.wording import one_line

Progress = Callable[[int], None]


class Replay:
    """Activations of a model over a fixed list of batches.

    Nodes that have been run are history; weights of the others may still be changed.

    Sequences, optionals and maps cannot be kept: the nodes that make them are run again by each
    part of the graph that reads them.

    Args:
        model: the model; its nodes may get other constants between calls.
        batches: the samples, read once.
        targets: every tensor that will ever be asked for, as often as it will be pinned; each is
            kept until then. Nodes no target needs are never run.
        spill: where activations are kept.
        tag: tells the activations of several models in one store apart.
        threads: cores for ONNX Runtime; all by default.

    Raises:
        DataError: there are no samples, or they lack an input.
    """

    def __init__(
        self,
        model: Model,
        batches: Iterable[Feeds],
        targets: Iterable[str],
        spill: Spill,
        *,
        tag: str = "",
        threads: int | None = None,
    ) -> None:
        self.model, self.spill, self.tag, self.threads = model, spill, tag, threads
        self.sizes: list[int] = []
        self._expected = Counter(targets)
        self._pinned: Counter[str] = Counter()
        self._have = {t.name for t in model.graph.inputs}
        self._place = {id(node): i for i, node in enumerate(model.graph.nodes)}
        self._writer = {t.name: n for n in model.graph.nodes for t in n.outputs if t.name}
        self._opaque = _opaque(model)
        self._reads: dict[int, list[str]] = {}
        for node in model.graph.nodes:
            self._reads[id(node)] = self._kept_reads(node)
        self._todo = {id(n) for n in self._behind(self._expected)}
        # How many nodes that are still to run read each tensor.
        self._readers: Counter[str] = Counter()
        for key in self._todo:
            self._readers.update(self._reads[key])
        wanted = [t.name for t in model.graph.inputs if self._needed(t.name)]
        for number, feeds in enumerate(batches):
            for name in wanted:
                if name not in feeds:
                    raise DataError(f"the samples lack the model's input '{name}'")
                spill.put((tag, name, number), np.asarray(feeds[name]))
            first = next(iter(feeds.values()), None)
            self.sizes.append(len(first) if first is not None and np.ndim(first) else 1)
        if not self.sizes:
            raise DataError("there are no samples: --data names an empty source")

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self.sizes)

    def ready(self, name: str) -> bool:
        """Whether the tensor has been computed and is still kept."""
        return name in self._have

    def pin(self, *names: str) -> None:
        """Keep these once computed, until :meth:`unpin`, whoever else reads them."""
        self._pinned.update(names)

    def unpin(self, *names: str) -> None:
        """Take back one :meth:`pin` of each; what nobody waits for is forgotten."""
        self._pinned.subtract(names)
        self.waive(*names)

    def waive(self, *names: str) -> None:
        """Say that a target will be asked for once less than announced."""
        for name in names:
            self._expected[name] = max(self._expected[name] - 1, 0)
            self._release(name)

    def get(self, name: str, batch: int) -> Array:
        """Return a computed tensor of one batch, not to be written into."""
        return self.spill.get((self.tag, name, batch))

    def pending(self, name: str) -> list[Node]:
        """Return the nodes that must still run before the tensor is known, in graph order."""
        return self._behind([name])

    def compute(self, *names: str) -> None:
        """Run what is needed for these tensors to be known; pin them first to keep them.

        Raises:
            UnsupportedModelError: ONNX Runtime refuses a part of the model.
            DataError: it fails on a batch.
            ValueError: one of them was not among the targets, and what it needs is gone.
        """
        missing = [name for name in dict.fromkeys(names) if name not in self._have]
        if not missing:
            return
        nodes = self._behind(missing)
        local = {t.name for n in nodes for t in n.outputs if t.name}
        inputs = sorted({name for n in nodes for name in reads(n)} - local)
        lost = [n for n in inputs if n not in self._have] + [n for n in missing if n not in local]
        if lost:
            raise ValueError(f"'{lost[0]}' is not known (any more): announce targets beforehand")
        for node in nodes:
            if id(node) in self._todo:
                self._todo.discard(id(node))
                self._readers.subtract(self._reads[id(node)])
        outputs = sorted(
            n
            for n in local
            if n in missing or (self._needed(n) and n not in self._have | self._opaque)
        )
        self._run(nodes, inputs, outputs)
        self._have.update(outputs)
        for name in inputs:
            self._release(name)

    def _run(self, nodes: Sequence[Node], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Run nodes over all batches; inputs that nothing needs any more go batch by batch."""
        part = _part(self.model, nodes, {n: self.get(n, 0) for n in inputs}, outputs)
        with open_session(part, threads=self.threads) as session:
            for batch in range(self.batches):
                feeds = {name: self.get(name, batch) for name in inputs}
                try:
                    results = session.run(outputs, feeds)
                except Exception as problem:
                    raise DataError(
                        f"the model cannot run on the samples: {one_line(problem)}"
                    ) from problem
                del feeds
                for name, array in zip(outputs, results, strict=True):
                    if not isinstance(array, np.ndarray):
                        raise UnsupportedModelError(
                            f"'{name}' is no tensor, and cannot be kept between layers"
                        )
                    self.spill.put((self.tag, name, batch), array)
                for name in inputs:
                    if not self._needed(name):
                        self.spill.drop((self.tag, name, batch))

    def _behind(self, names: Iterable[str]) -> list[Node]:
        """Return the nodes that the tensors depend on, back to what is known, in graph order."""
        found: dict[int, Node] = {}
        todo = [name for name in names if name not in self._have]
        while todo:
            node = self._writer.get(todo.pop())
            if node is not None and id(node) not in found:
                found[id(node)] = node
                todo += [name for name in reads(node) if name not in self._have]
        return sorted(found.values(), key=lambda n: self._place[id(n)])

    def _kept_reads(self, node: Node) -> list[str]:
        """Return the tensors that must be there to run the node: through what cannot be kept."""
        names: list[str] = []
        for name in reads(node):
            writer = self._writer.get(name)
            again = name in self._opaque and writer is not None
            names += self._reads[id(writer)] if again else [name]
        return list(dict.fromkeys(names))

    def _needed(self, name: str) -> bool:
        return any(count[name] > 0 for count in (self._readers, self._pinned, self._expected))

    def _release(self, name: str) -> None:
        if name in self._have and not self._needed(name):
            self._have.discard(name)
            for batch in range(self.batches):
                self.spill.drop((self.tag, name, batch))


def reads(node: Node) -> list[str]:
    """Return the names a node reads that are no constants, bodies included; each once."""
    bodies = list(node.subgraphs(recursive=True))
    inner = {t.name for body in bodies for n in body.nodes for t in n.outputs}
    inner |= {t.name for body in bodies for t in body.inputs}
    names = [t.name for t in node.inputs if t.name and not is_constant(t)]
    names += [
        t.name for t in captured(node) if t.name and not is_constant(t) and t.name not in inner
    ]
    return list(dict.fromkeys(names))


def _opaque(model: Model) -> set[str]:
    """Return the names of sequences, optionals and maps, as far as ONNX infers them."""
    if not any("Sequence" in n.op or "Optional" in n.op or n.op == "ZipMap"
               for n in walk(model.graph)):  # fmt: skip
        return set()
    graph = onnx.shape_inference.infer_shapes(model.to_onnx(largest=4096)).graph
    return {
        value.name
        for value in [*graph.value_info, *graph.output]
        if value.type.WhichOneof("value") not in (None, "tensor_type")
    }


def _part(
    model: Model, nodes: Sequence[Node], inputs: dict[str, Array], outputs: Sequence[str]
) -> Model:
    """Return some nodes of a model as a model of their own; the arrays of constants are shared.

    Args:
        model: the model.
        nodes: of its graph, in order.
        inputs: name -> an example, whose type and rank the part's input gets.
        outputs: names of what the nodes compute.
    """
    own = [t for node in nodes for t in [*node.inputs, *node.outputs]]
    tensors: dict[str, Tensor] = {}
    for tensor in [*own, *(t for node in nodes for t in captured(node))]:
        tensors.setdefault(tensor.name, tensor)
    source: Graph = model.graph
    part = gs.Graph(
        nodes=list(nodes),
        inputs=[tensors[name] for name in inputs],
        outputs=[tensors[name] for name in outputs],
        opset=source.opset,
        import_domains=source.import_domains,
    )
    part.ir_version = source.ir_version
    typed = {
        id(tensors[name]): gs.Variable(name, dtype=a.dtype.type, shape=[None] * a.ndim)
        for name, a in inputs.items()
    }
    return Model(copy_graph(part, typed), model.metadata)
