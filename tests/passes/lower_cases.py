"""Small models of newer opsets for the tests of LowerOpset: text, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from graphopt.model import Feeds, Model

X = "float[2,6,8,8] x"


@dataclass(frozen=True)
class Case:
    """One operator: its body in ONNX text, with x read and y written."""

    opset: int
    body: str
    inputs: str = X
    output: str = "float[a,b,c,d] y"
    exact: bool = True

    def model(self) -> Model:
        """Parse it; nodes are named after their first output."""
        ir = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", self.opset)])
        proto = onnx.parser.parse_model(
            f'<ir_version: {ir}, opset_import: ["" : {self.opset}, "other" : 1]>\n'
            f"net ({self.inputs}) => ({self.output}) {{ {self.body} }}"
        )
        for node in proto.graph.node:
            node.name = node.output[0]
        return Model.from_onnx(proto)


def feeds_of(model: Model, seed: int = 0) -> Feeds:
    """Random values for every input; dimensions without a size are 2."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, (dtype, shape) in model.inputs().items():
        size = tuple(d if isinstance(d, int) else 2 for d in shape)
        kind = np.dtype(dtype)
        if kind == np.bool_:
            made[name] = np.asarray(rng.random(size) < 0.5)
        elif kind.kind in "iu":
            made[name] = rng.integers(0, 3, size).astype(kind)
        else:
            made[name] = rng.normal(size=size).astype(kind)
    return made


def reductions() -> dict[str, Case]:
    """Every reduction with its axes as an input, none, or all of them kept."""
    found = {}
    flat = "float[a,b,c,d] y"
    for op in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"):
        before = "p = Abs(x)" if op == "LogSum" else "p = Identity(x)"
        for name, call in (
            ("axes", f"ax = Constant<value = int64[2] {{2, -3}}>() y = Reduce{op}(p, ax)"),
            ("flat", f"ax = Constant<value = int64[1] {{1}}>() y = Reduce{op}<keepdims=0>(p, ax)"),
            ("all", f"y = Reduce{op}(p)"),
            ("empty", f"y = Reduce{op}<noop_with_empty_axes=0>(p, )"),
        ):
            output = "float[a,b,c] y" if name == "flat" else flat
            found[f"Reduce{op}-{name}"] = Case(18, f"{before} {call}", output=output)
    for op in ("Max", "Mean", "Min", "Prod", "LogSumExp", "L1", "L2", "SumSquare", "LogSum"):
        found[f"Reduce{op}-noop"] = Case(
            18,
            f"p = Abs(x) y = Reduce{op}<noop_with_empty_axes=1>(p)",
            exact=not op.startswith("L"),
        )
    for op in ("Max", "Min"):
        found[f"Reduce{op}-bool"] = Case(
            20,
            f"ax = Constant<value = int64[1] {{1}}>() y = Reduce{op}(x, ax)",
            inputs="bool[2,6,8,8] x",
            output="bool[a,b,c,d] y",
        )
    return found


FOUR = "float[2,e,8,8] y0, float[2,f,8,8] y1, float[2,g,8,8] y2, float[2,h,8,8] y3"
AX23 = "ax = Constant<value = int64[2] {2, 3}>()"

CASES: dict[str, Case] = {
    **reductions(),
    "Split-even": Case(
        18,
        "y0, y1 = Split<axis=1, num_outputs=2>(x)",
        output="float[2,3,8,8] y0, float[2,3,8,8] y1",
    ),
    "Split-rest": Case(18, "y0, y1, y2, y3 = Split<axis=-3, num_outputs=4>(x)",
                       inputs="float[2,7,8,8] x", output=FOUR),
    "Pad-axes": Case(
        18,
        """p = Constant<value = int64[4] {1, 0, 2, 3}>() ax = Constant<value = int64[2] {-1, 1}>()
        v = Constant<value = float {2.5}>() y = Pad(x, p, v, ax)""",
    ),
    "Pad-axes-reflect": Case(
        19,
        """p = Constant<value = int64[2] {3, 2}>() ax = Constant<value = int64[1] {2}>()
        y = Pad<mode="reflect">(x, p, , ax)""",
    ),
    "Pad-21": Case(
        21, "p = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>() y = Pad<mode=\"edge\">(x, p)"
    ),
    "Resize-default": Case(
        19, "s = Constant<value = float[4] {1., 1., 2., 2.}>() y = Resize(x, , s)"
    ),
    "Resize-axes-scales": Case(
        19,
        f's = Constant<value = float[2] {{2.5, 0.5}}>() {AX23} '
        'y = Resize<axes = [3, 2], mode = "linear">(x, , s)',
        exact=False,
    ),
    "Resize-axes-sizes": Case(
        19,
        'z = Constant<value = int64[2] {16, 5}>() y = Resize<axes = [2, 3], mode = "cubic">'
        "(x, , , z)",
        exact=False,
    ),
    "Resize-axes-sizes-dynamic": Case(
        19,
        'z = Constant<value = int64[2] {16, 24}>() y = Resize<axes = [2, -1], mode = "linear">'
        "(x, , , z)",
        inputs="float[N,6,8,8] x",
        exact=False,
    ),
    "Resize-proportions": Case(
        18,
        'z = Constant<value = int64[2] {16, 16}>() y = Resize<axes = [2, 3], mode = "linear", '
        'keep_aspect_ratio_policy = "not_larger">(x, , , z)',
        exact=False,
    ),
    "Resize-antialias-up": Case(
        18,
        's = Constant<value = float[4] {1., 1., 2., 1.5}>() '
        'y = Resize<mode = "linear", antialias = 1>(x, , s)',
        exact=False,
    ),
    "Scatter": Case(
        18,
        """i = Constant<value = int64[1,1,1,2] {1, 2}>()
        u = Constant<value = float[1,1,1,2] {5., 6.}>()
        y = ScatterElements<axis=3, reduction="add">(x, i, u)""",
    ),
    "ScatterND": Case(
        18,
        """i = Constant<value = int64[2,1] {0, 0}>() w = Concat<axis=0>(u, u)
        y = ScatterND<reduction="mul">(x, i, w)""",
        inputs=f"{X}, float[1,6,8,8] u",
    ),
    "Cast": Case(19, "h = Cast<to=10>(x) y = Cast<to=1>(h)"),
    "Equal": Case(19, "e = Equal(x, x) y = Cast<to=1>(e)"),
    "Reshape": Case(
        21, "s = Constant<value = int64[4] {0, -1, 4, 4}>() y = Reshape<allowzero=0>(x, s)"
    ),
    "GridSample": Case(
        20,
        'y = GridSample<mode="linear", padding_mode="border", align_corners=1>(x, g)',
        inputs=f"{X}, float[2,5,5,2] g",
    ),
    "GridSample-cubic": Case(
        22, 'y = GridSample<mode="cubic">(x, g)', inputs=f"{X}, float[2,5,5,2] g"
    ),
    "GridSample-nearest": Case(
        20, 'y = GridSample<mode="nearest">(x, g)', inputs=f"{X}, float[2,5,5,2] g"
    ),
    "GridSample-default": Case(20, "y = GridSample(x, g)", inputs=f"{X}, float[2,5,5,2] g"),
    "AveragePool": Case(
        19,
        "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], dilations=[1,1], "
        "count_include_pad=1>(x)",
        exact=False,
    ),
    "AveragePool-ceil": Case(
        22, "y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)",
        exact=False,
    ),
    "MaxPool": Case(
        22, "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], dilations=[1,2]>(x)"
    ),
    "LpPool": Case(
        18, "y = LpPool<kernel_shape=[2,2], p=2, dilations=[1,1], ceil_mode=0>(x)"
    ),
    "DFT-20": Case(
        20,
        "ax = Constant<value = int64 {1}>() y = DFT<onesided=1>(x, , ax)",
        inputs="float[2,8,8,1] x",
    ),
    "DFT-default": Case(20, "y = DFT(x)", inputs="float[2,8,8,1] x"),
    "QDQ-19": Case(
        19,
        """s = Constant<value = float {0.05}>() z = Constant<value = int8 {0}>()
        q = QuantizeLinear<saturate=1>(x, s, z) y = DequantizeLinear(q, s, z)""",
    ),
    "QDQ-21-dtype": Case(
        21,
        """s = Constant<value = float[6] {0.01, 0.02, 0.03, 0.04, 0.05, 0.06}>()
        q = QuantizeLinear<axis=1, output_dtype=3, block_size=0>(x, s)
        y = DequantizeLinear<axis=1, block_size=0>(q, s)""",
    ),
    "QDQ-23-fp16": Case(
        23,
        """s = Constant<value = float {0.05}>() z = Constant<value = int8 {0}>()
        q = QuantizeLinear<precision=1>(x, s, z) h = DequantizeLinear<output_dtype=10>(q, s, z)
        y = Cast<to=1>(h)""",
    ),
    "Conv-22": Case(22, "y = Conv(x, w)", inputs=f"{X}, float[4,6,3,3] w"),
    "ConvTranspose-22": Case(22, "y = ConvTranspose(x, w)", inputs=f"{X}, float[6,4,3,3] w"),
    "InstanceNorm-22": Case(
        22, "y = InstanceNormalization(x, s, b)", inputs=f"{X}, float[6] s, float[6] b"
    ),
    "HardSwish-22": Case(22, "h = HardSwish(x) e = Elu(h) t = Selu(e) y = Softsign(t)"),
    "Trig-22": Case(22, "s = Sin(x) c = Cos(s) t = Tan(c) y = Atan(t)"),
    "Shape-25": Case(
        25,
        """s = Shape<start=0, end=2>(x) m = Constant<value = int64[1] {-1}>()
        t = Concat<axis=0>(s, m) r = Reshape(x, t) ax = Constant<value = int64[1] {3}>()
        u = Unsqueeze(r, ax) v = Transpose<perm=[0,1,3,2]>(u) y = Identity(v)""",
    ),
    "TopK-24": Case(
        24, "k = Constant<value = int64[1] {3}>() y, i = TopK<axis=1>(x, k)"
    ),
    "LayerNorm": Case(22, "y = LayerNormalization(x, s)", inputs=f"{X}, float[8] s"),
    "IsNaN-20": Case(20, "a = IsNaN(x) b = IsInf(x) c = Or(a, b) y = Cast<to=1>(c)"),
    "If": Case(
        18,
        """y = If (c) <
            then_branch = g1 () => (float[a,b,c,d] t) {
                ax = Constant<value = int64[1] {1}>() t = ReduceMean(x, ax) },
            else_branch = g2 () => (float[a,b,c,d] e) {
                ax = Constant<value = int64[1] {1}>() m = ReduceMax(x, ax) e = Mul(m, m) }
        >""",
        inputs=f"{X}, bool c",
    ),
    "Gelu": Case(20, "y = Gelu(x)", exact=False),
    "Gelu-tanh": Case(20, 'y = Gelu<approximate="tanh">(x)', exact=False),
    "Mish": Case(18, "y = Mish(x)", exact=False),
    "Mish-22": Case(22, "y = Mish(x)", exact=False),
    "GroupNorm-21": Case(
        21,
        "y = GroupNormalization<num_groups=3, epsilon=0.01>(x, s, b)",
        inputs=f"{X}, float[6] s, float[6] b",
        exact=False,
    ),
    "GroupNorm-21-dynamic": Case(
        21,
        "y = GroupNormalization<num_groups=3>(x, s, b)",
        inputs="float[N,6,H,W] x, float[6] s, float[6] b",
        exact=False,
    ),
    "RMSNorm": Case(
        23, "y = RMSNormalization<axis=-1>(x, s)", inputs=f"{X}, float[8] s", exact=False
    ),
    "Swish": Case(24, "y = Swish<alpha=1.5>(x)", exact=False),
    "Attention": Case(
        23,
        "y = Attention(q, k, v)",
        inputs="float[2,3,5,16] q, float[2,3,7,16] k, float[2,3,7,16] v",
        exact=False,
    ),
    "AffineGrid": Case(
        20,
        "s = Constant<value = int64[4] {2, 3, 4, 5}>() y = AffineGrid(t, s)",
        inputs="float[2,2,3] t",
        exact=False,
    ),
}  # fmt: skip
