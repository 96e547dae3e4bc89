"""What a DLA runs, by the documents: every limit from both sides, and what the pieces are."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from helpers import SHARED, needs_shared, parse

from graphopt.engines import ShapeRange
from graphopt.engines.dla import DlaReport, dla_report
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.model import Model
from graphopt.profiles import load_device

XAVIER, ORIN = load_device("jetson-agx-xavier"), load_device("jetson-agx-orin")


def model_of(
    body: str,
    weights: dict[str, tuple[int, ...]] | None = None,
    *,
    x: str = "float[1,8,64,64] x",
    y: str = "float[a,b,c,d] y",
    opset: int = 13,
) -> Model:
    """A net of the text, whose nodes are named after their first output; weights are ones."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "other" : 1]>\n'
        f"net ({x}) => ({y}) {{ {body} }}"
    )
    for node in proto.graph.node:
        node.name = node.output[0]
    for name, shape in (weights or {}).items():
        values = np.full(shape, 0.5, dtype=np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return Model.from_onnx(proto)  # fmt: skip


def report(body: str, weights=None, *, device=XAVIER, int8=True, fp16=False, **more) -> DlaReport:
    return dla_report(model_of(body, weights, **more), device, int8=int8, fp16=fp16)


def conv(attributes: str, weight: tuple[int, ...], op: str = "Conv") -> tuple[str, dict]:
    said = f"<{attributes}>" if attributes else ""
    return f"y = {op}{said}(x, w)", {"w": weight}


def const(name: str, values: str, kind: str = "float[4]") -> str:
    return f"{name} = Constant<value = {kind} {{{values}}}>()"


RUNS = {
    "conv": conv("pads=[1,1,1,1]", (16, 8, 3, 3)),
    "conv 32": conv("pads=[31,31,31,31], strides=[8,8]", (4, 8, 32, 32)),
    "conv dilation": conv("dilations=[31,31]", (4, 8, 2, 2)),
    "depthwise": conv("group=8, pads=[1,1,1,1]", (8, 1, 3, 3)),
    "same": conv('auto_pad="SAME_UPPER", strides=[2,2]', (8, 8, 3, 3)),
    "8192 filters": conv("", (8192, 8, 1, 1)),
    "deconv": conv("strides=[2,2]", (8, 4, 2, 2), "ConvTranspose"),
    "deconv 1x64": conv("", (8, 4, 1, 64), "ConvTranspose"),
    "pool": "y = MaxPool<kernel_shape=[8,8], strides=[16,16], pads=[7,7,7,7]>(x)",
    "average": "y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)",
    "relu": "y = Relu(x)",
    "leaky": "y = LeakyRelu<alpha=0.1>(x)",
    "relu6": f"{const('l', '0.0', 'float')} {const('h', '6.0', 'float')} y = Clip(x, l, h)",
    "sigmoid": "a = Sigmoid(x) y = Tanh(a)",
    "add": "a = Relu(x) y = Add(a, x)",
    "sum": "a = Relu(x) b = Tanh(x) y = Sum(a, b, x)",
    "max": "a = Tanh(x) y = Max(a, x)",
    "abs": "y = Abs(x)",
    "lrn": "y = LRN<size=5>(x)",
    "concat": "a = Relu(x) y = Concat<axis=-3>(a, x)",
    "resize": f"{const('s', '1.,1.,32.,2.')} y = Resize<mode=\"nearest\">(x, , s)",
    "resize linear": f"{const('s', '1.,1.,4.,2.')} y = Resize<mode=\"linear\">(x, , s)",
    "transpose": "y = Transpose<perm=[0,2,3,1]>(x)",
    "reshape": f"{const('s', '1, 16, 32, 64', 'int64[4]')} y = Reshape(x, s)",
}  # fmt: skip
RUNS["scale"] = ("y = Mul(x, w)", {"w": (1, 8, 1, 1)})
RUNS["one number"] = ("y = Add(x, w)", {"w": ()})
RUNS["each element"] = ("y = Sub(x, w)", {"w": (8, 64, 64)})
RUNS["prelu"] = ("y = PRelu(x, w)", {"w": (8, 1, 1)})


def split(case) -> tuple[str, dict | None]:
    return case if isinstance(case, tuple) else (case, None)


@pytest.mark.parametrize("device", [XAVIER, ORIN], ids=["xavier", "orin"])
@pytest.mark.parametrize("name", RUNS)
def test_what_runs(name, device):
    found = report(*split(RUNS[name]), device=device)
    assert found.unsupported == ()
    assert (found.segments, found.transitions) == (1, 0)
    found.require(gpu_fallback=False)


STAYS = {
    "kernel 33": (conv("", (8, 8, 33, 1)), "kernel of 33x1 is outside [1, 32]"),
    "stride 9": (conv("strides=[9,1]", (8, 8, 1, 1)), "stride of 9x1 is outside [1, 8]"),
    "padding": (conv("pads=[3,0,0,0]", (8, 8, 3, 3)), "padding of 3 is not less than its kernel"),
    "dilation 33": (conv("dilations=[33,1]", (8, 8, 2, 2)), "dilation of 33x1 is outside"),
    "8193 filters": (conv("", (8193, 8, 1, 1)), "a dimension of 8193"),
    "dynamic weight": (
        ("w = AveragePool<kernel_shape=[64,64]>(x) y = Conv(x, w)", {}), "computed at run time"
    ),
    "deconv padding": (
        conv("pads=[1,1,1,1]", (8, 4, 3, 3), "ConvTranspose"), "it has padding"
    ),
    "deconv group": (conv("group=2", (8, 4, 2, 2), "ConvTranspose"), "it has groups"),
    "deconv dilation": (conv("dilations=[2,2]", (8, 4, 2, 2), "ConvTranspose"), "dilations"),
    "deconv 24": (conv("", (8, 4, 24, 24), "ConvTranspose"), "switched off"),
    "deconv stride 23": (
        conv("strides=[23,23]", (8, 4, 2, 2), "ConvTranspose"), "switched off"
    ),
    "deconv 2x64": (conv("", (8, 4, 2, 64), "ConvTranspose"), "kernel of 2x64"),
    "deconv output padding": (
        conv("strides=[2,2], output_padding=[1,1]", (8, 4, 2, 2), "ConvTranspose"),
        "output padding",
    ),
    "window 9": (("y = MaxPool<kernel_shape=[9,1]>(x)", {}), "window of 9x1 is outside [1, 8]"),
    "pool stride": (
        ("y = AveragePool<kernel_shape=[1,1], strides=[17,1]>(x)", {}), "stride of 17x1"
    ),
    "indices": (("y, i = MaxPool<kernel_shape=[2,2]>(x)", {}), "it gives indices"),
    "global": (("y = GlobalAveragePool(x)", {}), "TensorRT reduces it on the GPU"),
    "clip from -1": (
        (f"{const('l', '-1.0', 'float')} {const('h', '6.0', 'float')} y = Clip(x, l, h)", {}),
        "clips to -1.0 .. 6.0",
    ),
    "clip to 128": (
        (f"{const('l', '0.0', 'float')} {const('h', '128.0', 'float')} y = Clip(x, l, h)", {}),
        "clips to 0.0 .. 128.0",
    ),
    "clip open": ((f"{const('l', '0.0', 'float')} y = Clip(x, l)", {}), "clips to 0.0 .. None"),
    "broadcast": (
        ("a = MaxPool<kernel_shape=[64,64]>(x) b = Relu(a) y = Mul(x, b)", {}),
        "different shapes: 1x8x1x1 and 1x8x64x64",
    ),
    "rows": (("y = Mul(x, w)", {"w": (64, 1)}), "no scale of a channel or element"),
    "max const": (("y = Max(x, w)", {"w": (1,)}), "a constant"),
    "const minus": (("y = Sub(w, x)", {"w": (1,)}), "subtracts from a constant"),
    "lrn 11": (("y = LRN<size=11>(x)", {}), "window of 11"),
    "concat rows": (("a = Relu(x) y = Concat<axis=2>(a, x)", {}), "along axis 2"),
    "resize 33": (
        (f"{const('s', '1.,1.,33.,1.')} y = Resize<mode=\"nearest\">(x, , s)", {}), "[1, 32]"
    ),
    "resize 2.5": (
        (f"{const('s', '1.,1.,2.5,1.')} y = Resize<mode=\"nearest\">(x, , s)", {}), "2.5 and 1"
    ),
    "resize linear 8": (
        (f"{const('s', '1.,1.,8.,8.')} y = Resize<mode=\"linear\">(x, , s)", {}), "[1, 4]"
    ),
    "resize cubic": (
        (f"{const('s', '1.,1.,2.,2.')} y = Resize<mode=\"cubic\">(x, , s)", {}), "mode is cubic"
    ),
    "resize channels": (
        (f"{const('s', '1.,2.,2.,2.')} y = Resize(x, , s)", {}), "batch or channels"
    ),
    "resize sizes": (
        (f"{const('s', '1,8,128,128', 'int64[4]')} y = Resize(x, , , s)", {}), "by sizes"
    ),
    "exp": (("y = Exp(x)", {}), "not among the layers"),
    "softmax": (("y = Softmax<axis=1>(x)", {}), "Xavier's DLA has no Softmax"),
    "slice": (
        (
            f"{const('s', '0', 'int64[1]')} {const('e', '4', 'int64[1]')} "
            f"{const('k', '1', 'int64[1]')} y = Slice(x, s, e, k)", {}
        ),
        "FP16 only: allow it with --fp16",
    ),
    "transpose batch": (("y = Transpose<perm=[1,0,2,3]>(x)", {}), "moves the batch"),
    "reshape batch": (
        (f"{const('s', '8,1,64,64', 'int64[4]')} y = Reshape(x, s)", {}), "changes the batch"
    ),
    "q": (
        (
            f"{const('s', '1.0', 'float')} {const('z', '0', 'int8')} q = QuantizeLinear(x, s, z) "
            "y = DequantizeLinear(q, s, z)", {}
        ),
        "implicit INT8 only",
    ),
    "custom": (("y = other.Thing(x)", {}), "domain 'other'"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_on_the_gpu(name):
    case, said = STAYS[name]
    found = report(*case)
    assert any(said in each.reason for each in found.unsupported), found.unsupported
    with pytest.raises(UnsupportedModelError) as problem:
        found.require(gpu_fallback=False)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ("float[4097,8,4,4] x", "a batch of 4097"),
        ("float[1,8,1,8193] x", "a dimension of 8193"),
        ("float[8,4,4] x", "3 dimensions"),
        ("float[1,1,8,4,4] x", "5 dimensions"),
    ],
)
def test_sizes_beyond_those_of_every_layer(x, said):
    y = x.replace(" x", " y")
    (stays,) = report("y = Relu(x)", x=x, y=y).unsupported
    assert said in stays.reason


def test_fp16_allows_more_and_orin_yet_more():
    softmax = "y = Softmax<axis=1>(x)"
    assert report(softmax, device=ORIN, fp16=True).unsupported == ()
    assert report(softmax, device=ORIN, int8=False).unsupported == ()
    assert "FP16 only" in report(softmax, device=ORIN).unsupported[0].reason
    wide = {"x": "float[1,1025,2,2] x", "y": "float[1,1025,2,2] y"}
    assert "1025 values" in report(softmax, device=ORIN, fp16=True, **wide).unsupported[0].reason
    alone = {"x": "float[1,1025,1,1] x", "y": "float[1,1025,1,1] y"}
    assert report(softmax, device=ORIN, fp16=True, **alone).unsupported == ()
    channels = (
        f"{const('s', '0', 'int64[1]')} {const('e', '4', 'int64[1]')} "
        f"{const('k', '1', 'int64[1]')} y = Slice(x, s, e, k)"
    )
    assert report(channels, fp16=True).unsupported == ()
    (stays,) = report(
        channels.replace("int64[1] {1}", "int64[1] {0}"), fp16=True, x="float[8,8,4,4] x"
    ).unsupported
    assert stays.reason == "it slices the batch"


def test_pieces_and_what_passes_between():
    found = report("a = Relu(x) b = Exp(a) c = Relu(b) y = Add(a, c)")
    assert [u.node for u in found.unsupported] == ["b"]
    assert found.supported == ("a", "c", "y")
    # a is apart from c and y: a piece with all three would have to wait for itself.
    assert (found.segments, found.transitions) == (2, 2)
    beside = report("a = Relu(x) b = Exp(x) c = Tanh(a) d = Mul(b, b) y = Add(c, d)")
    assert (beside.segments, beside.transitions) == (1, 1)  # b first, then all the others
    apart = report("y = Relu(x) z = Tanh(w)", x="float[1,8,4,4] x, float[1,8,4,4] w",
                   y="float[1,8,4,4] y, float[1,8,4,4] z")  # fmt: skip
    assert apart.segments == 2


def test_many_pieces_are_told():
    body = "a0 = Relu(x) " + " ".join(f"e{i} = Exp(a{i}) a{i + 1} = Relu(e{i})" for i in range(17))
    found = report(body + " y = Abs(a17)")
    assert found.segments == 18
    assert any("holds 16 pieces: of 18" in note for note in found.notes)
    assert found.transitions == 34


def test_the_share_of_the_work():
    body = "a = Conv(x, v) y = Conv(a, w)"
    found = report(body, {"v": (8, 8, 1, 1), "w": (8, 8, 33, 33)})
    first, second = 8 * 8 * 64 * 64, 8 * 8 * 33 * 33 * 32 * 32
    assert found.macs_share == pytest.approx(first / (first + second))
    assert report("y = Relu(x)").macs_share == 0


def test_constants_and_shapes_are_folded_first():
    found = report(
        "s = Shape(x) one = Constant<value = float {1.0}>() c = Expand(one, s) y = Add(x, c)"
    )
    assert found.unsupported == ()


def test_q_dq_where_the_dla_reads_it():
    body = (
        f"{const('s', '1.0', 'float')} {const('z', '0', 'int8')} q = QuantizeLinear(x, s, z) "
        "d = DequantizeLinear(q, s, z) qw = QuantizeLinear(w, s, z) "
        "dw = DequantizeLinear(qw, s, z) y = Conv(d, dw)"
    )
    model = model_of(body, {"w": (8, 8, 1, 1)})
    found = dla_report(model, ORIN, int8=True, explicit=True)
    assert (found.unsupported, found.segments) == ((), 1)
    implicit = dla_report(model, ORIN, int8=True)
    assert {u.op for u in implicit.unsupported} == {"QuantizeLinear", "DequantizeLinear"}


def test_lines_and_json():
    found = report("a = Exp(x) b = Exp(a) y = Relu(b)")
    lines = found.lines(1)
    assert lines[0].startswith("DLA of jetson-agx-xavier, by NVIDIA's documents: 1 of 3 nodes")
    assert lines[1:] == [
        "not on the DLA: Exp 'a': not among the layers of a DLA",
        "not on the DLA: 1 more",
    ]
    assert json.loads(json.dumps(found.to_json()))["unsupported"][0] == {
        "node": "a", "op": "Exp", "reason": "not among the layers of a DLA",
    }  # fmt: skip
    found.require(gpu_fallback=True)
    with pytest.raises(UnsupportedModelError, match=r"does not run Exp 'a': .* \(and 1 more\)"):
        found.require(gpu_fallback=False)
    with pytest.raises(UnsupportedModelError, match="nothing of the model runs on the DLA"):
        report("y = Exp(x)").require(gpu_fallback=True)


def test_shapes_must_be_fixed():
    model = parse("net (float[N,8,4,4] x) => (float[N,8,4,4] y) { y = Relu(x) }")
    one, two = (1, 8, 4, 4), (2, 8, 4, 4)
    assert dla_report(model, XAVIER, int8=True, shapes={"x": ShapeRange(two, two, two)}).supported
    with pytest.raises(UsageError, match="takes fixed shapes, and input 'x'"):
        dla_report(model, XAVIER, int8=True, shapes={"x": ShapeRange(one, two, two)})
    with pytest.raises(UsageError, match="--opt-shapes"):
        dla_report(model, XAVIER, int8=True)
    with pytest.raises(UsageError, match="NVIDIA T4 has no DLA"):
        dla_report(model, load_device("t4"), int8=True)


def test_the_model_is_left_as_it_was():
    model = parse("net (float[1,8,4,4] x) => (float[1,8,4,4] y) { a = Identity(x) y = Relu(a) }")
    digest = model.digest()
    dla_report(model, XAVIER, int8=True)
    assert model.digest() == digest


@needs_shared
@pytest.mark.parametrize(
    ("name", "shape", "least"),
    [
        ("resnet20_cifar10", (1, 3, 32, 32), 0.99),
        ("resnet56_cifar10", (1, 3, 32, 32), 0.99),
        ("face_rfb320", (1, 3, 240, 320), 0.9),
        ("face_yunet_n", (1, 3, 320, 320), 0.99),
    ],
)
def test_real_nets_run_almost_whole(name, shape, least):
    model = Model.load(SHARED / "models" / f"{name}.onnx")
    (given,) = model.inputs()
    shapes = {given: ShapeRange(shape, shape, shape)}
    xavier = dla_report(model, XAVIER, int8=True, shapes=shapes)
    orin = dla_report(model, ORIN, int8=True, fp16=True, shapes=shapes)
    assert xavier.macs_share > least
    assert set(xavier.supported) <= set(orin.supported)
    assert 1 <= xavier.segments <= 16
