"""A vision transformer with random weights, written as torch's exporters write it.

``python tools/vit.py vit_small.onnx`` writes ViT-Small: 12 layers, 384 wide, 6 heads, patches of
16 in 224 x 224. The weights are random but have what makes real ones hard to quantize (Dettmers et
al. 2022, "LLM.int8()"): LayerNorm gains that differ by channel, and a few channels of the residual
stream that are many times the others in every token.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

IR_VERSION = 8
Qkv = Literal["fused", "separate"]
Gelu = Literal["erf", "tanh", "op"]
OUTLIERS = 0.01  # of the channels, at least one
EPSILON = 1e-6


@dataclass(frozen=True)
class Shape:
    """How large a vision transformer is; the defaults are ViT-Small's."""

    size: int = 224
    patch: int = 16
    layers: int = 12
    width: int = 384
    heads: int = 6
    classes: int = 1000

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.size // self.patch) ** 2 + 1


TINY = Shape(size=32, patch=8, layers=2, width=64, heads=2, classes=16)


@dataclass
class _Builder:
    """Appends nodes and weights under the names that torch's exporters give."""

    opset: int
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: Any, dtype: npt.DTypeLike = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def normal(self, name: str, shape: tuple[int, ...], std: float) -> str:
        return self.constant(name, self.rng.normal(0.0, std, shape))

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(
            helper.make_node(op, inputs, [f"{name}_output_0"], name=name, **attributes)
        )
        return f"{name}_output_0"

    def linear(self, x: str, scope: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """MatMul and Add, which is how nn.Linear on three dimensions is exported."""
        weight = self.normal(f"{scope}.weight", (inputs, outputs), gain * inputs**-0.5)
        product = self.node("MatMul", [x, weight], f"/{scope}/MatMul")
        bias = self.normal(f"{scope}.bias", (outputs,), 0.05)
        return self.node("Add", [bias, product], f"/{scope}/Add")

    def layer_norm(self, x: str, scope: str, width: int) -> str:
        """LayerNormalization from opset 17, its nine nodes before."""
        gain = self.constant(f"{scope}.weight", self.rng.lognormal(0.0, 0.35, width))
        bias = self.normal(f"{scope}.bias", (width,), 0.1)
        if self.opset >= 17:
            return self.node(
                "LayerNormalization",
                [x, gain, bias],
                f"/{scope}/LayerNormalization",
                axis=-1,
                epsilon=EPSILON,
            )
        mean = self.mean(x, f"/{scope}/ReduceMean")
        centred = self.node("Sub", [x, mean], f"/{scope}/Sub")
        two = self.constant(f"{scope}.two", 2.0)
        square = self.node("Pow", [centred, two], f"/{scope}/Pow")
        variance = self.mean(square, f"/{scope}/ReduceMean_1")
        epsilon = self.constant(f"{scope}.epsilon", EPSILON)
        safe = self.node("Add", [variance, epsilon], f"/{scope}/Add")
        deviation = self.node("Sqrt", [safe], f"/{scope}/Sqrt")
        normal = self.node("Div", [centred, deviation], f"/{scope}/Div")
        scaled = self.node("Mul", [normal, gain], f"/{scope}/Mul")
        return self.node("Add", [scaled, bias], f"/{scope}/Add_1")

    def mean(self, x: str, name: str) -> str:
        return self.node("ReduceMean", [x], name, axes=[-1], keepdims=1)

    def gelu(self, x: str, scope: str, form: Gelu) -> str:
        if form == "op":
            return self.node("Gelu", [x], f"/{scope}/Gelu")
        half, one = self.constant(f"{scope}.half", 0.5), self.constant(f"{scope}.one", 1.0)
        if form == "erf":
            root = self.constant(f"{scope}.root", 2**0.5)
            inner = self.node("Div", [x, root], f"/{scope}/Div")
            inner = self.node("Erf", [inner], f"/{scope}/Erf")
            inner = self.node("Add", [inner, one], f"/{scope}/Add")
            product = self.node("Mul", [x, inner], f"/{scope}/Mul")
            return self.node("Mul", [product, half], f"/{scope}/Mul_1")
        three, cubic = self.constant(f"{scope}.three", 3.0), self.constant(f"{scope}.c", 0.044715)
        root = self.constant(f"{scope}.root", (2 / np.pi) ** 0.5)
        cube = self.node("Pow", [x, three], f"/{scope}/Pow")
        cube = self.node("Mul", [cube, cubic], f"/{scope}/Mul")
        inner = self.node("Add", [x, cube], f"/{scope}/Add")
        inner = self.node("Mul", [inner, root], f"/{scope}/Mul_1")
        inner = self.node("Tanh", [inner], f"/{scope}/Tanh")
        inner = self.node("Add", [inner, one], f"/{scope}/Add_1")
        product = self.node("Mul", [x, half], f"/{scope}/Mul_2")
        return self.node("Mul", [product, inner], f"/{scope}/Mul_3")


def _embed(net: _Builder, shape: Shape) -> str:
    """Patches, the class token in front, positions added."""
    width, patch = shape.width, shape.patch
    weight = net.normal("patch_embed.weight", (width, 3, patch, patch), (3 * patch**2) ** -0.5)
    bias = net.normal("patch_embed.bias", (width,), 0.05)
    x = net.node(
        "Conv",
        ["input", weight, bias],
        "/patch_embed/Conv",
        kernel_shape=[patch, patch],
        strides=[patch, patch],
    )
    flat = net.constant("patch_embed.flat", [0, width, -1], np.int64)
    x = net.node("Reshape", [x, flat], "/patch_embed/Reshape")
    x = net.node("Transpose", [x], "/patch_embed/Transpose", perm=[0, 2, 1])
    batch = net.node("Shape", ["input"], "/Shape")
    first, zeros = net.constant("first", [0], np.int64), net.constant("axis0", [0], np.int64)
    ends = net.constant("ends", [1], np.int64)
    batch = net.node("Slice", [batch, first, ends, zeros], "/Slice")
    rest = net.constant("rest", [1, width], np.int64)
    target = net.node("Concat", [batch, rest], "/Concat", axis=0)
    token = net.node("Expand", [net.normal("cls_token", (1, 1, width), 0.3), target], "/Expand")
    x = net.node("Concat", [token, x], "/Concat_1", axis=1)
    position = net.rng.normal(0.0, 0.3, (1, shape.tokens, width))
    # The channels that stay large in every token of the residual stream.
    count = max(1, round(OUTLIERS * width))
    position[..., net.rng.choice(width, count, replace=False)] += net.rng.choice([-12, 12], count)
    return net.node("Add", [x, net.constant("pos_embed", position)], "/Add")


def _attention(net: _Builder, x: str, scope: str, shape: Shape, qkv: Qkv) -> str:
    width, heads, tokens = shape.width, shape.heads, shape.tokens
    size = width // heads
    if qkv == "fused":
        # timm: one product, reshape to [batch, tokens, 3, heads, size], unbind.
        joint = net.linear(x, f"{scope}/qkv", width, 3 * width, gain=1.3)
        form = net.constant(f"{scope}.form", [0, tokens, 3, heads, size], np.int64)
        joint = net.node("Reshape", [joint, form], f"/{scope}/Reshape")
        joint = net.node("Transpose", [joint], f"/{scope}/Transpose", perm=[2, 0, 3, 1, 4])
        names = [f"/{scope}/Split_output_{i}" for i in range(3)]
        split = net.constant(f"{scope}.split", [1, 1, 1], np.int64)
        net.nodes.append(
            helper.make_node("Split", [joint, split], names, name=f"/{scope}/Split", axis=0)
        )
        axis = net.constant(f"{scope}.axis", [0], np.int64)
        q, k, v = (
            net.node("Squeeze", [name, axis], f"/{scope}/Squeeze_{i}")
            for i, name in enumerate(names)
        )
        k = net.node("Transpose", [k], f"/{scope}/Transpose_1", perm=[0, 1, 3, 2])
    else:
        form = net.constant(f"{scope}.form", [0, tokens, heads, size], np.int64)
        parts = []
        for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            y = net.linear(x, f"{scope}/{part}", width, width, gain=1.3)
            y = net.node("Reshape", [y, form], f"/{scope}/{part}/Reshape")
            parts.append(net.node("Transpose", [y], f"/{scope}/{part}/Transpose", perm=perm))
        q, k, v = parts
    q = net.node("Mul", [q, net.constant(f"{scope}.scale", size**-0.5)], f"/{scope}/Mul")
    scores = net.node("MatMul", [q, k], f"/{scope}/MatMul")
    chances = net.node("Softmax", [scores], f"/{scope}/Softmax", axis=-1)
    y = net.node("MatMul", [chances, v], f"/{scope}/MatMul_1")
    y = net.node("Transpose", [y], f"/{scope}/Transpose_out", perm=[0, 2, 1, 3])
    flat = net.constant(f"{scope}.flat", [0, tokens, width], np.int64)
    y = net.node("Reshape", [y, flat], f"/{scope}/Reshape_out")
    return net.linear(y, f"{scope}/proj", width, width)


def vit(
    shape: Shape | None = None,
    *,
    opset: int = 17,
    qkv: Qkv = "fused",
    gelu: Gelu = "erf",
    batch: int | str = "N",
    seed: int = 0,
) -> onnx.ModelProto:
    """Return a vision transformer (Dosovitskiy et al. 2021) with random weights.

    Args:
        shape: its size; ViT-Small by default, :data:`TINY` for tests.
        opset: 13 to 20; below 17 LayerNorm is nine nodes, from 17 one. ReduceMean in the form
            that is used below 17 is gone in 18.
        qkv: one MatMul for query, key and value, taken apart by Split, or three.
        gelu: exact by Erf, the tanh approximation, or the operator (opset 20).
        batch: size or name of the batch dimension.
        seed: of the weights; the same seed gives the same bytes.

    Returns:
        A checked model: ``input`` float32 [batch, 3, size, size] -> ``logits`` [batch, classes].

    Raises:
        ValueError: the form of GELU needs a newer opset.
    """
    if gelu == "op" and opset < 20:
        raise ValueError(f"Gelu is an operator from opset 20 on, not in {opset}")
    shape = shape or Shape()
    net = _Builder(opset, np.random.default_rng(seed))
    x = _embed(net, shape)
    for i in range(shape.layers):
        scope = f"blocks.{i}"
        y = net.layer_norm(x, f"{scope}/norm1", shape.width)
        y = _attention(net, y, f"{scope}/attn", shape, qkv)
        x = net.node("Add", [x, y], f"/{scope}/Add")
        y = net.layer_norm(x, f"{scope}/norm2", shape.width)
        y = net.linear(y, f"{scope}/mlp/fc1", shape.width, 4 * shape.width)
        y = net.gelu(y, f"{scope}/mlp/act", gelu)
        y = net.linear(y, f"{scope}/mlp/fc2", 4 * shape.width, shape.width)
        x = net.node("Add", [x, y], f"/{scope}/Add_1")
    x = net.layer_norm(x, "norm", shape.width)
    token = net.node("Gather", [x, net.constant("token", 0, np.int64)], "/Gather", axis=1)
    weight = net.normal("head.weight", (shape.classes, shape.width), shape.width**-0.5)
    bias = net.normal("head.bias", (shape.classes,), 0.1)
    gemm = helper.make_node("Gemm", [token, weight, bias], ["logits"], name="/head/Gemm", transB=1)
    net.nodes.append(gemm)
    info, size = helper.make_tensor_value_info, shape.size
    graph = helper.make_graph(
        net.nodes,
        "vit",
        [info("input", TensorProto.FLOAT, [batch, 3, size, size])],
        [info("logits", TensorProto.FLOAT, [batch, shape.classes])],
        net.weights,
    )
    model = helper.make_model(
        graph,
        producer_name="graphopt-tools",
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION if opset < 19 else 9,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", help="where to write the model")
    parser.add_argument("--tiny", action="store_true", help="two layers, 64 wide")
    parser.add_argument("--opset", type=int, default=17)
    parser.add_argument("--qkv", choices=["fused", "separate"], default="fused")
    parser.add_argument("--gelu", choices=["erf", "tanh", "op"], default="erf")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", default="N", help="a number, or a name for a dynamic batch")
    arguments = parser.parse_args()
    batch = int(arguments.batch) if arguments.batch.isdigit() else arguments.batch
    model = vit(
        TINY if arguments.tiny else None,
        opset=arguments.opset,
        qkv=arguments.qkv,
        gelu=arguments.gelu,
        batch=batch,
        seed=arguments.seed,
    )
    onnx.save(model, arguments.output)


if __name__ == "__main__":
    main()
