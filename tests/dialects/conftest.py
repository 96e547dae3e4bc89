"""Small nets in ONNX text, and one way to quantize them that checks whatever comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from helpers import rtx_refuses, run, sqnr

from graphopt.calibrators import CalibrationTable
from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import collect
from graphopt.calibrators.minmax import MinMax
from graphopt.coverage import optimized_ops
from graphopt.dialects import DIALECTS
from graphopt.dialects.heads import label
from graphopt.graph import producer
from graphopt.model import Feeds, Model
from graphopt.passes.base import Skip
from graphopt.passes.insert_qdq import InsertQDQ, excluded_nodes


def minmax_table(model: Model, feeds: list[Feeds], patterns: tuple[str, ...] = ()):
    """Ranges of every tensor that either dialect wants."""
    exclude = excluded_nodes(model, patterns)
    wanted: dict[str, None] = {}
    for name in DIALECTS.names():
        wanted |= dict.fromkeys(DIALECTS.load(name)().wanted(model, exclude))
    collected = collect(model, feeds, list(wanted))
    return calibrate(collected, MinMax(), method="minmax", model_digest=model.digest())


@dataclass
class Net:
    """A float model with random weights and inputs.

    ``weights`` gives shapes; values are drawn so that activations keep their size with depth.
    A node is named after its first output.
    """

    text: str
    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    opset: int = 17
    sizes: Mapping[str, int] = field(default_factory=dict)

    def model(self) -> Model:
        proto = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : {self.opset}, "other" : 1]>\n{self.text}'
        )
        for node in proto.graph.node:
            node.name = node.output[0]
        rng = np.random.default_rng(11)
        for name, shape in self.weights.items():
            fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
            std = 0.2 if len(shape) == 1 else (1.6 / fan) ** 0.5
            value = rng.normal(0, std, shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return Model.from_onnx(proto)

    def feeds(self, count: int = 4) -> list[Feeds]:
        rng = np.random.default_rng(3)
        shapes = {
            name: tuple(d if isinstance(d, int) else self.sizes.get(str(d), 2) for d in shape)
            for name, (_, shape) in self.model().inputs().items()
        }
        return [
            {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
            for _ in range(count)
        ]


@dataclass
class Quantized:
    """What came out of one dialect, checked."""

    model: Model
    counts: dict[str, int]
    skipped: tuple[Skip, ...]
    quantized: set[str]
    sqnr: dict[str, float]
    ort: dict[str, int]

    def reads_int8(self) -> set[tuple[str, int]]:
        """(node, input index) of every activation that arrives through a DequantizeLinear."""
        found = set()
        for node in self.model.graph.nodes:
            if node.op in ("QuantizeLinear", "DequantizeLinear"):
                continue
            for i, tensor in enumerate(node.inputs):
                source = producer(tensor)
                if source is None or source.op != "DequantizeLinear":
                    continue
                raw = source.inputs[0].inputs[0].inputs[0]
                if not isinstance(raw, gs.Constant):
                    found.add((label(node), i))
        return found

    def pairs(self) -> int:
        """How many QuantizeLinear nodes there are."""
        return sum(node.op == "QuantizeLinear" for node in self.model.graph.nodes)

    def scale_of(self, name: str) -> float:
        """The scale that an activation is quantized with."""
        for node in self.model.graph.nodes:
            if node.op == "QuantizeLinear" and node.inputs[0].name in (name, f"{name}_float"):
                return float(node.inputs[1].values)
        raise AssertionError(f"{name} is not quantized")

    def reason(self, where: str) -> str:
        """Why a node was left in float."""
        return next(skip.reason for skip in self.skipped if skip.where == where)


def quantize(
    model: Model,
    dialect: str,
    feeds: list[Feeds],
    *,
    exclude: tuple[str, ...] = (),
    table: CalibrationTable | None = None,
) -> Quantized:
    """Quantize with minmax ranges; every checker there is must accept the result."""
    digest = model.digest()
    result = InsertQDQ(dialect, table or minmax_table(model, feeds, exclude), exclude)(model)
    assert model.digest() == digest, "the input model was changed"
    proto = result.model.to_onnx()
    standard_only = all(node.domain in ("", "ai.onnx") for node in proto.graph.node)
    if standard_only:
        onnx.checker.check_model(proto, full_check=True)
    sqnrs: dict[str, float] = {}
    ort: dict[str, int] = {}
    if standard_only:
        before = [run(model, feed) for feed in feeds]
        after = [run(result.model, feed, optimize=dialect == "onnxruntime") for feed in feeds]
        for i, output in enumerate(model.graph.outputs):
            assert result.model.graph.outputs[i].name == output.name
            assert all(a[i].dtype == b[i].dtype for a, b in zip(before, after, strict=True))
            sqnrs[output.name] = sqnr(
                np.concatenate([a[i].ravel() for a in before]),
                np.concatenate([a[i].ravel() for a in after]),
            )
        ort = optimized_ops(result.model)
        if dialect == "tensorrt":
            assert rtx_refuses(result.model) is None
    return Quantized(
        result.model,
        result.counts(),
        result.skipped,
        {change.where for change in result.changes},
        sqnrs,
        ort,
    )


@pytest.fixture(scope="session")
def tensorrt() -> Callable[..., Quantized]:
    """Quantize a :class:`Net` in the tensorrt dialect."""
    return lambda net, **options: quantize(net.model(), "tensorrt", net.feeds(), **options)


@pytest.fixture(scope="session")
def onnxruntime() -> Callable[..., Quantized]:
    """Quantize a :class:`Net` in the onnxruntime dialect."""
    return lambda net, **options: quantize(net.model(), "onnxruntime", net.feeds(), **options)


@pytest.fixture(scope="session")
def net() -> type[Net]:
    """The class that makes float models from ONNX text."""
    return Net


@pytest.fixture(scope="session")
def quantizer() -> Callable[..., Quantized]:
    """:func:`quantize`, for models that are no :class:`Net`."""
    return quantize


@pytest.fixture(scope="session")
def table_of() -> Callable[..., CalibrationTable]:
    """:func:`minmax_table`."""
    return minmax_table


@pytest.fixture
def rtx_build(tmp_path) -> Callable[[Model, Feeds], None]:
    """Build an engine with TensorRT-RTX, for the shapes of the feeds; skip without it."""
    pytest.importorskip("tensorrt_rtx")
    from graphopt.engines import BuildOptions, ShapeRange
    from graphopt.engines.tensorrt_rtx import TensorRTRTX
    from graphopt.profiles import DeviceProfile

    def build(model: Model, feeds: Feeds) -> None:
        shapes = {
            name: ShapeRange(*[feeds[name].shape] * 3)
            for name, (_, shape) in model.inputs().items()
            if not all(isinstance(size, int) for size in shape)
        }
        host = DeviceProfile(name="host", title="a machine without a GPU")
        artifact = TensorRTRTX().build(model, tmp_path / "m.engine", BuildOptions(host, shapes))
        assert artifact.facts["precision"] == "int8"

    return build
