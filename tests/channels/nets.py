"""Builds small networks the way exporters write them, in three styles.

``literal``: batch 2, every size written down (torch.export with static shapes).
``export``: a dynamic batch; shapes are Shape(start, end) and Concat (torch.export).
``traced``: a dynamic batch, opset 13; shapes are Shape, Gather, Unsqueeze and Concat, LayerNorm and
GELU are spelled out (the old TorchScript exporter).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.channels import ChannelAnalysis, analyze
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.simplify import Simplify

STYLES = {"literal": 18, "export": 20, "traced": 13}
NORM = ("LayerNormalization", "ReduceMean")
OUTPUT = ("graph output",)


class Net:
    """A graph under construction; calling it adds a node and returns the name of what it makes."""

    def __init__(self, style: str = "literal", opset: int | None = None, prefix: str = "") -> None:
        self.style, self.opset, self.prefix = style, opset or STYLES[style], prefix
        self.batch: int | str = 2 if style == "literal" else "N"
        self.rng = np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def __call__(self, op: str, *inputs, outs: int = 1, domain: str = "", **attrs):
        names = [f"{self.prefix}{op.lower()}{len(self.nodes)}_{k}" for k in range(outs)]
        given = [x if isinstance(x, str) else self.const(x) for x in inputs]
        name = f"{self.prefix}{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, given, names, name, domain=domain, **attrs))
        return names if outs > 1 else names[0]

    def const(self, value) -> str:
        """Add an initializer; integers become int64, other numbers float32."""
        array = np.asarray(value)
        array = array.astype({"i": np.int64, "f": np.float32, "b": np.bool_}[array.dtype.kind])
        name = f"{self.prefix}c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return self.weights[-1].name

    def weight(self, *shape: int) -> str:
        fan = np.prod(shape[1:]) if len(shape) > 1 else 4
        return self.const(self.rng.standard_normal(shape) / np.sqrt(fan))

    def positive(self, *shape: int) -> str:
        return self.const(self.rng.uniform(0.5, 1.5, shape))

    def input(self, *shape: int, dtype: int = TensorProto.FLOAT) -> str:
        """Add an input; its first axis is the batch."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, dtype, [self.batch, *shape]))
        return name

    def output(self, name: str, *shape: int | str) -> None:
        """Make a tensor an output; its first axis is the batch."""
        known = [self.batch, *shape]
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, known))

    # Shapes.

    def size(self, x: str, axis: int) -> str:
        """Return one size of a tensor, computed, as a tensor of one axis."""
        if self.style == "export":
            return self("Shape", x, start=axis, end=axis + 1)
        return self("Unsqueeze", self("Gather", self("Shape", x), np.int64(axis), axis=0), [0])

    def shape(self, x: str, sizes: Sequence[int | str]) -> str:
        """Return a shape; "N" is the batch, another text the size of that axis of ``x``."""
        if self.style == "literal":
            return self.const([self.batch if n == "N" else n for n in sizes])
        parts = [self.size(x, 0) if n == "N" else self.const([n]) for n in sizes]
        return self("Concat", *parts, axis=0)

    def view(self, x: str, *sizes: int | str, like: str | None = None) -> str:
        """Reshape; the batch is read from ``like`` where ``x`` has none of its own."""
        return self("Reshape", x, self.shape(like or x, sizes))

    def transpose(self, x: str, *perm: int) -> str:
        return self("Transpose", x, perm=perm)

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        return self("Slice", x, [start], [end], [axis], [step])

    def chunk(self, x: str, axis: int, *sizes: int) -> list[str]:
        return self("Split", x, list(sizes), outs=len(sizes), axis=axis)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self("Unsqueeze", x, list(axes))

    def mean(self, x: str, *axes: int, keep: bool = True) -> str:
        given = {"axes": axes} if self.opset < 18 else {}
        inputs = [x] if self.opset < 18 else [x, list(axes)]
        return self("ReduceMean", *inputs, keepdims=int(keep), **given)

    # Layers.

    def conv(self, x: str, c: int, out: int, k: int | Sequence[int] = 1, **attrs) -> str:
        kernel = [k, k] if isinstance(k, int) else list(k)
        groups = attrs.get("group", 1)
        attrs.setdefault("pads", [n // 2 for n in kernel] * 2)
        return self("Conv", x, self.weight(out, c // groups, *kernel), self.weight(out), **attrs)

    def bn(self, x: str, c: int) -> str:
        one = [self.positive(c), self.weight(c), self.weight(c), self.positive(c)]
        return self("BatchNormalization", x, *one)

    def cbr(self, x: str, c: int, out: int, k: int = 1, act: str | None = "Relu", **attrs) -> str:
        """Conv, BatchNorm, activation."""
        y = self.bn(self.conv(x, c, out, k, **attrs), out)
        return self.act(y, act) if act else y

    def act(self, x: str, kind: str) -> str:
        if kind == "SiLU":
            return self("Mul", x, self("Sigmoid", x))
        if kind == "GELU" and self.opset >= 20:
            return self("Gelu", x)
        if kind == "GELU":
            erf = self("Erf", self("Div", x, 1.4142135))
            return self("Mul", self("Mul", x, self("Add", erf, 1.0)), 0.5)
        if kind == "HardSwish" and self.opset < 14:
            return self("Mul", x, self("HardSigmoid", x, alpha=1 / 6))
        return self(kind, x)

    def linear(self, x: str, c: int, out: int, bias: bool = True) -> str:
        y = self("MatMul", x, self.weight(c, out))
        return self("Add", self.weight(out), y) if bias else y

    def gemm(self, x: str, c: int, out: int) -> str:
        return self("Gemm", x, self.weight(out, c), self.weight(out), transB=1)

    def layer_norm(self, x: str, c: int) -> str:
        scale, shift = self.positive(c), self.weight(c)
        if self.opset >= 17:
            return self("LayerNormalization", x, scale, shift, axis=-1)
        centered = self("Sub", x, self.mean(x, -1))
        spread = self.mean(self("Pow", centered, 2.0), -1)
        unit = self("Div", centered, self("Sqrt", self("Add", spread, 1e-5)))
        return self("Add", self("Mul", unit, scale), shift)

    def rms_norm(self, x: str, c: int) -> str:
        spread = self("Add", self.mean(self("Pow", x, 2.0), -1), 1e-6)
        unit = self("Mul", x, self("Reciprocal", self("Sqrt", spread)))
        return self("Mul", self.positive(c), unit)

    def pool(self, x: str) -> str:
        """Global average pooling to ``[N, C]``."""
        if self.style == "traced":
            return self("Flatten", self("GlobalAveragePool", x))
        return self.mean(x, 2, 3, keep=False)

    def attend(self, q: str, k_t: str, v: str, scale: float, mask: str | None = None) -> str:
        scores = self("Mul", self("MatMul", q, k_t), scale)
        scores = self("Add", scores, mask) if mask else scores
        return self("MatMul", self("Softmax", scores, axis=-1), v)

    def model(self) -> Model:
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.weights)
        domains = {node.domain for node in self.nodes} - {""}
        opsets = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(d, 1) for d in domains),
        ]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=not domains)
        return Model.from_onnx(proto)


@dataclass(frozen=True)
class Family:
    """A network, and what is expected of its channels.

    Attributes:
        build: adds the nodes and the outputs.
        widths: of the groups that can be pruned, sorted.
        frozen: how many channels cannot.
        why: the words, one of which every reason has.
        styles: how exporters write it.
    """

    build: Callable[[Net], None]
    widths: tuple[int, ...]
    frozen: int
    why: tuple[str, ...] = OUTPUT
    styles: tuple[str, ...] = tuple(STYLES)


def cases(families: dict[str, Family]) -> list[tuple[str, str]]:
    return [(name, style) for name, family in families.items() for style in family.styles]


def built(family: Family, style: str) -> Model:
    net = Net(style)
    family.build(net)
    return net.model()


def prepared(model: Model) -> Model:
    """As the pipeline does before pruning."""
    return FoldBatchNorm()(Simplify()(model).model).model


def check(tools, family: Family, style: str, plans: int = 2) -> ChannelAnalysis:
    """Assert what can be pruned, and that pruned equals masked, simplified or not."""
    raw = built(family, style)
    model = prepared(raw)
    analysis = analyze(model)
    assert tuple(sorted(g.width for g in analysis.groups)) == family.widths, analysis.frozen
    assert sum(g.width for g in analysis.frozen) == family.frozen, analysis.frozen
    for group in analysis.frozen:
        assert any(word in reason for word in family.why for reason in group.reasons), group
    for seed in range(plans):
        tools.prove(model, tools.random_plan(analysis, seed), seed=seed)
    tools.prove(raw, tools.random_plan(analyze(raw), plans), seed=plans)
    return analysis
