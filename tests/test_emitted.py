"""What is written for a device is what every TensorRT that it may have takes, and is told so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import ROOT, conv_net, sqnr

sys.path.insert(0, str(ROOT / "tests" / "standins"))

import trtexec_run
from trtexec import Behaviour

from graphopt import engine_options, measure, pipeline
from graphopt.calibrators import CalibrationTable
from graphopt.calibrators.cache import read_cache, write_cache
from graphopt.console import Console
from graphopt.engines._job import is_half, is_quantized
from graphopt.engines.network import reader
from graphopt.engines.releases import has_dla
from graphopt.engines.trtexec.command import command
from graphopt.engines.trtexec.features import Features
from graphopt.engines.trtexec.requests import Files, requests
from graphopt.errors import GateError, UsageError
from graphopt.model import Model
from graphopt.output import CACHE, MODEL, TABLE
from graphopt.pipeline import build, file_of
from graphopt.plan import BuildPlan, Request
from graphopt.prepare import prepare
from graphopt.profiles import DeviceProfile
from graphopt.recipe import Recipe
from graphopt.report import Report
from graphopt.runtime import open_session

ALL = [
    (8, 5, 2),
    (8, 6, 1),
    (10, 0, 1),
    (10, 7, 0),
    (10, 9, 0),
    (10, 13, 3),
    (11, 0, 0),
    (11, 5, 0),
]
TEXTS = {
    # A GELU of opset 20, weights by column, a normalization.
    "mlp": (
        20,
        "float[N,6,16] x",
        "a = MatMul(x, w0)  g = Gelu<approximate = \"tanh\">(a)  l = LayerNormalization(g, w1)"
        "  y = MatMul(l, w2)",
        {"w0": (16, 32), "w1": (32,), "w2": (32, 16)},
    ),
    # One weight read by column and by row, and in floating point.
    "shared": (
        17,
        "float[N,16] x",
        "a = Gemm(x, w0)  r = Relu(a)  b = Gemm<transB = 1>(r, w0)  c = Gemm(b, w0)  y = Add(c, x)",
        {"w0": (16, 16)},
    ),
    # Attention and a normalization of opset 23, which older parsers do not know.
    "llm": (
        23,
        "float[2,6,32] x",
        "n = RMSNormalization(x, w0)  q = MatMul(n, w1)  k = MatMul(n, w2)  v = MatMul(n, w3)"
        "  a = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v)  o = MatMul(a, w4)"
        "  y = Add(o, x)",
        {"w0": (32,), "w1": (32, 32), "w2": (32, 32), "w3": (32, 32), "w4": (32, 32)},
    ),
    "transposed": (
        22,
        "float[N,8,8,8] x",
        "c = Conv<pads = [1, 1, 1, 1]>(x, w0)  r = Relu(c)  t = ConvTranspose<strides = [2, 2]>"
        "(r, w1)  p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(t)  k = Concat<axis = 1>"
        "(p, r)  y = Conv(k, w2)",
        {"w0": (8, 8, 3, 3), "w1": (8, 8, 2, 2), "w2": (8, 16, 1, 1)},
    ),
    # The body reads a weight and an activation from outside, by reductions as opset 18 has them.
    "loop": (
        18,
        "float[2,16] x",
        "n = Constant<value = int64 {3}>()  go = Constant<value = bool {1}>()  a = Gemm(x, w0)"
        "  z = Loop(n, go, a) <body = b (int64 i, bool ci, float[2,16] s) => (bool co,"
        " float[2,16] so) { co = Identity(ci)  ax = Constant<value = int64[1] {1}>()"
        "  m = ReduceMean(s, ax)  d = Sub(s, m)  e = MatMul(d, w0)  so = Add(e, a) }>"
        "  y = Gemm(z, w1)",
        {"w0": (16, 16), "w1": (16, 16)},
    ),
}  # fmt: skip


def model_of(name: str) -> onnx.ModelProto:
    if name == "cnn":
        return conv_net(16).to_onnx()
    opset, given, body, weights = TEXTS[name]
    ir = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    outputs = {3: "a,b,c", 2: "a,b", 4: "a,b,c,d"}[given.count(",") + 1]
    proto = onnx.parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n'
        f"net ({given}) => (float[{outputs}] y) {{ {body} }}"
    )
    rng = np.random.default_rng(0)
    for weight, shape in weights.items():
        values = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype("f4"), weight))
    for node in proto.graph.node:
        node.name = node.output[0]
    return proto


@dataclass(frozen=True)
class Built:
    """A build without an engine."""

    out: Path
    plan: BuildPlan
    report: Report
    warnings: list[str]
    source: Path
    feeds: dict[str, np.ndarray]

    @property
    def shipped(self) -> Path:
        implicit = self.plan.implicit or self.plan.precision == "fp32"
        return self.out / (MODEL if implicit else file_of(self.plan.precision))

    def note(self, metric: str) -> str:
        (found,) = [m for m in self.report.metrics if m.name == metric]
        return found.note

    def versions(self) -> list[tuple[int, int, int]]:
        """Every TensorRT that could be meant."""
        plan, device = self.plan, self.plan.device
        oldest, newest = device.oldest_tensorrt or ALL[0], device.newest_tensorrt or ALL[-1]
        meant = [v for v in ALL if oldest <= v <= newest]
        if plan.target.version is not None:
            meant = [plan.target.version]
        if plan.implicit:
            meant = [v for v in meant if v < (11, 0, 0)]
        return [v for v in meant if plan.target.dla is None or has_dla(v)]


Make = Callable[..., Built]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    plans: list[BuildPlan] = []

    def kept(*words: Any) -> BuildPlan:
        plans.append(prepare(*words))
        return plans[-1]

    monkeypatch.setattr(pipeline, "prepare", kept)
    monkeypatch.setattr(measure, "SECONDS", 0.001)

    def run(name: str = "cnn", *, fails: bool = False, **parts: dict[str, Any]) -> Built:
        proto = model_of(name)
        source = tmp_path / f"{name}.onnx"
        onnx.save(proto, source)
        rng = np.random.default_rng(1)
        feeds = {}
        for tensor, (dtype, shape) in Model.from_onnx(proto).inputs().items():
            dims = [d if isinstance(d, int) else 4 for d in shape]
            feeds[tensor] = rng.normal(size=dims).astype(dtype)
        np.savez(tmp_path / "data.npz", **feeds)  # type: ignore[arg-type]
        parts.setdefault("engine", {})
        parts["engine"] = {"name": "tensorrt", **parts["engine"]}
        table = parts.get("quantize", {}).get("table")
        data = "evaluation" if table else "calibration"
        recipe = Recipe.from_dict({"data": {data: str(tmp_path / "data.npz")}, **parts})
        ui, out = Console(verbosity=-1), tmp_path / "out"
        asked = Request(source, recipe, out, force=True, build_engine=False)
        report = Report()
        if fails:
            with pytest.raises(GateError):
                build(asked, ui)
        else:
            report = build(asked, ui)
        return Built(out, plans[-1], report, ui.warnings, source, feeds)

    return run


def outputs(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with open_session(path, optimize=False) as session:
        return [np.asarray(a) for a in session.run(None, feeds)]


INT8, FP16 = {"int8": True}, {"fp16": True}
IMPLICIT = {"int8": True, "quantization": "implicit"}
CASES = [
    ("mlp", "t4", None, INT8, None),
    ("mlp", "jetson-agx-xavier", None, {**INT8, **FP16}, None),
    ("mlp", "l4", "10.0.1", {**INT8, **FP16}, None),
    ("mlp", "a10", "11.5.0", {"weights": "int8"}, None),
    ("llm", "jetson-agx-xavier", None, INT8, None),
    ("llm", "t4", "8.6.1", IMPLICIT, None),
    ("llm", "l4", "11.5.0", FP16, None),
    ("shared", "a10", "8.5.3", INT8, None),
    ("shared", "a10", "10.13.3", {**INT8, **FP16}, None),
    ("shared", "t4", None, IMPLICIT, None),
    ("transposed", "jetson-agx-xavier", None, INT8, 1),
    ("transposed", "jetson-agx-orin", "10.7", {**INT8, **FP16}, 0),
    ("transposed", "jetson-agx-orin", "11.5", INT8, 0),
    ("transposed", "t4", "10.9.0", INT8, None),
    ("transposed", "host", None, FP16, None),
    ("loop", "jetson-agx-xavier", None, INT8, None),
    ("loop", "l4", "8.6.1", IMPLICIT, None),
    ("cnn", "jetson-agx-orin", "8.5.2", FP16, 0),
    ("cnn", "t4", "11.0.0", {**INT8, **FP16}, None),
]


@pytest.mark.parametrize(("name", "device", "version", "quantize", "dla"), CASES)
def test_every_tensorrt_that_could_be_meant_takes_what_is_written(
    name: str, device: str, version: str | None, quantize: dict[str, Any], dla: int | None,
    make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    engine = {"device": device, "tensorrt": version, "dla": dla}
    made = make(name, quantize=quantize, engine=engine)
    proto, model = onnx.load(made.shipped), Model.load(made.shipped)
    onnx.checker.check_model(proto, full_check=True)
    before, after = outputs(made.source, made.feeds), outputs(made.shipped, made.feeds)
    least = 90 if made.plan.implicit or not made.plan.target.fp16_in_graph else 40
    least = 25 if "int8" in quantize and not made.plan.implicit else least
    assert all(
        a.dtype == b.dtype and sqnr(b, a) > least for a, b in zip(after, before, strict=True)
    )
    declared = {t.name: t.shape for t in model.graph.inputs}
    assert made.versions()
    monkeypatch.chdir(made.out)
    for meant in made.versions():
        options = made.plan.options
        if made.plan.implicit:
            check_ranges(made, proto)
            table = CalibrationTable.load(made.out / TABLE)
            options = replace(options, implicit=table)
            write_cache("c.cache", table, version=meant)
        files = Files(onnx=made.shipped.name, cache="c.cache")
        kinds = {"int8": is_quantized(model), "fp16": is_half(model)}
        words = command(
            requests(options, declared, files=files, **kinds)[0], Features.of(meant)
        ).words
        ran = trtexec_run.Trtexec(Behaviour(version=meant, dla_cores=2), ["trtexec", *words]).main()
        said = capfd.readouterr()
        assert ran == 0, said.err
        assert "Recalib" not in said.out
        asked = options.fp16 or is_half(model)
        assert ("--fp16" in words) == (asked and "--stronglyTyped" not in words and meant < (11,))


def check_ranges(made: Built, proto: onnx.ModelProto) -> None:
    """The cache has a range for every float activation that ships, and names no other tensor."""
    header, scales = read_cache(made.out / CACHE)
    assert header.algorithm == "EntropyCalibration2"
    known = onnx.shape_inference.infer_shapes(proto).graph
    values = [*known.input, *known.value_info, *known.output]
    floats = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    assert set(scales) == floats - {i.name for i in known.initializer}


def test_fp16_that_is_the_builders_is_in_no_figure_and_said_so(make: Make) -> None:
    made = make(quantize={**INT8, **FP16}, engine={"device": "jetson-agx-xavier"})
    assert made.plan.precision == "int8"
    assert "without FP16" in made.note("SQNR")
    assert "in fp32" not in made.note("SQNR")
    assert "fp16" not in made.note("latency")
    inside = make(quantize={**INT8, **FP16}, engine={"device": "t4", "tensorrt": "10.9"})
    assert "without FP16" not in inside.note("SQNR")


def test_int8_that_tensorrt_places_is_said_to_be_simulated(make: Make) -> None:
    made = make(quantize=IMPLICIT, engine={"device": "jetson-agx-xavier"})
    assert "stands for implicit INT8" in made.note("SQNR")
    assert "chooses by itself" in made.note("weights")
    # TensorRT runs what has no range in FP16: as much as a build with --fp16.
    assert made.plan.options.fp16


def test_a_limit_beside_implicit_int8_is_said_to_be_judged_without_a_search(make: Make) -> None:
    made = make(
        fails=True,
        quantize=IMPLICIT,
        engine={"device": "jetson-agx-xavier"},
        gate={"min_sqnr": 150},
    )
    (told,) = [w for w in made.warnings if "no layers are searched" in w]
    assert "by itself" in told


def test_a_table_that_lacks_tensors_is_said_to(make: Make, tmp_path: Path) -> None:
    whole = make(quantize=IMPLICIT, engine={"device": "jetson-agx-xavier"})
    assert not [w for w in whole.warnings if "has no range" in w]
    table = CalibrationTable.load(whole.out / TABLE)
    kept = {name: found for name, found in table.ranges.items() if name not in ("g", "c1")}
    less = replace(table, ranges=kept, counts=None).save(tmp_path / "less.json")
    made = make(quantize={**IMPLICIT, "table": str(less)}, engine={"device": "jetson-agx-xavier"})
    (told,) = [w for w in made.warnings if "has no range" in w]
    assert "for 2 of" in told


@pytest.mark.parametrize(
    ("device", "version", "header", "sure"),
    [
        ("jetson-agx-xavier", None, "8.5.2", True),
        ("t4", None, "8.5.2", False),
        ("t4", "8.5", "8.5.2", False),
        ("t4", "8.6.1", "8.6.1", True),
        ("t4", "10.3", "10.3", True),
    ],
)
def test_a_cache_that_another_tensorrt_may_not_read_is_warned_of(
    device: str, version: str | None, header: str, sure: bool, make: Make
) -> None:
    made = make(quantize=IMPLICIT, engine={"device": device, "tensorrt": version})
    told = [w for w in made.warnings if w.startswith(CACHE)]
    assert bool(told) is not sure
    assert sure or f"for TensorRT {header}" in told[0]
    assert header.split(".")[0] in (made.out / CACHE).read_text().splitlines()[0]


def test_integer_weights_that_an_old_tensorrt_refuses_are_warned_of(make: Make) -> None:
    quantize = {"weights": "int8"}
    made = make("mlp", quantize=quantize, engine={"device": "l4"})
    assert [w for w in made.warnings if "--trt-version" in w]
    made = make("mlp", quantize=quantize, engine={"device": "l4", "tensorrt": "10.9"})
    assert not [w for w in made.warnings if "--trt-version" in w]


def test_the_linter_reads_what_is_for_another_tensorrt(make: Make) -> None:
    if reader() is None:
        pytest.skip("no parser of TensorRT is here")
    made = make(quantize={**INT8, **FP16}, engine={"device": "jetson-agx-xavier", "level": None})
    assert not made.report.lint["unread"]


def test_sparse_weights_stay_sparse_in_int8(make: Make) -> None:
    made = make(
        quantize=INT8, weights={"sparsity": "2:4"}, engine={"device": "a10", "tensorrt": "10.9"}
    )
    assert made.plan.options.sparse
    checked = 0
    for initializer in onnx.load(made.shipped).graph.initializer:
        codes = onnx.numpy_helper.to_array(initializer)
        if codes.dtype == np.int8 and codes.ndim == 4 and codes.shape[1] % 4 == 0:
            fours = codes.transpose(0, 2, 3, 1).reshape(-1, 4)
            assert ((fours != 0).sum(axis=1) <= 2).all(), initializer.name
            checked += 1
    assert checked == 2


class Found:
    """An engine whose TensorRT is of another version than was said."""

    name = "trtexec"

    def version(self) -> str:
        return "8.6.1"


def test_what_the_builder_is_not_is_refused_before_any_work() -> None:
    def target(**engine: Any) -> Any:
        recipe = Recipe.from_dict({"quantize": INT8, "engine": engine})
        device = DeviceProfile("host")
        return engine_options.choose_target(recipe, Found(), device, built=True)  # type: ignore[arg-type]

    assert target().version == target(tensorrt="8.6").version == (8, 6, 1)
    with pytest.raises(UsageError, match=r"is 10\.3, and the TensorRT that builds is 8\.6\.1"):
        target(tensorrt="10.3")
    shape = {"x": {"min": [1, 3], "opt": [1, 3], "max": [1, 3]}}
    with pytest.raises(UsageError, match="one optimization profile, and 2 are asked for"):
        target(shapes=shape, more_shapes=[shape])
