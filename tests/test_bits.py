"""Fewer bits, from the request to the files: each combination, what is written and said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import conv_net, image_samples, run, sqnr

from graphopt import bits as bits_module
from graphopt import linting, opening, outcome
from graphopt import quantize as quantize_module
from graphopt.calibrators import CalibrationTable
from graphopt.calibrators.cache import write_cache
from graphopt.calibrators.sources import only
from graphopt.cli import cli
from graphopt.console import Console
from graphopt.data import open_data
from graphopt.engines.network import reader
from graphopt.errors import GateError, GraphoptError, UnsupportedModelError, UsageError
from graphopt.files import sha256
from graphopt.lint.recognize import recognize
from graphopt.model import Model
from graphopt.opening import opened
from graphopt.pipeline import build, file_of, preview
from graphopt.plan import Request
from graphopt.quantization.search_place import Placement
from graphopt.quantize import calibration_table, wanted_tensors
from graphopt.recipe import Recipe
from graphopt.report import KINDS, Report

TOKENS, WIDTH, HEADS = 16, 64, 2
CNN, VIT = "cnn.onnx", "vit.onnx"


def attention_net(seed: int = 0) -> Model:
    """One block of a transformer: attention with a residual, LayerNorm, an MLP with GELU."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        scale = 1 / np.sqrt(shape[0]) if len(shape) > 1 else 0.1
        return onnx.numpy_helper.from_array((rng.normal(size=shape) * scale).astype("f4"), name)

    ints = {
        "heads": [0, TOKENS, HEADS, WIDTH // HEADS], "flat": [0, TOKENS, WIDTH],
    }  # fmt: skip
    weights = [
        *(weight(f"w{n}", WIDTH, WIDTH) for n in "qkvo"),
        weight("w1", WIDTH, 2 * WIDTH), weight("b1", 2 * WIDTH), weight("w2", 2 * WIDTH, WIDTH),
        weight("wc", WIDTH, 16),
        onnx.numpy_helper.from_array(np.ones(WIDTH, "f4"), "one"),
        onnx.numpy_helper.from_array(np.zeros(WIDTH, "f4"), "zero"),
        onnx.numpy_helper.from_array(np.float32((WIDTH // HEADS) ** -0.5), "scale"),
        *(onnx.numpy_helper.from_array(np.array(v, "i8"), n) for n, v in ints.items()),
    ]  # fmt: skip
    made = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        block (float[N,{TOKENS},{WIDTH}] x) => (float[N,16] scores) {{
            n = LayerNormalization (x, one, zero)
            q = MatMul (n, wq)  k = MatMul (n, wk)  v = MatMul (n, wv)
            q1 = Reshape (q, heads)  k1 = Reshape (k, heads)  v1 = Reshape (v, heads)
            q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
            k2 = Transpose <perm = [0, 2, 3, 1]> (k1)
            v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
            s = MatMul (q2, k2)  s1 = Mul (s, scale)  p = Softmax (s1)
            o = MatMul (p, v2)  o1 = Transpose <perm = [0, 2, 1, 3]> (o)
            o2 = Reshape (o1, flat)  o3 = MatMul (o2, wo)  a = Add (o3, x)
            m = LayerNormalization (a, one, zero)
            h = MatMul (m, w1)  h1 = Add (h, b1)  h2 = Gelu (h1)  h3 = MatMul (h2, w2)
            r = Add (h3, a)
            g = ReduceMean <keepdims = 0> (r, axis)  scores = MatMul (g, wc)
        }}"""
    )
    weights.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    made.graph.initializer.extend(weights)
    for node in made.graph.node:
        node.name = f"node_{node.output[0]}"
    return Model.from_onnx(made)


def tokens(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, TOKENS, WIDTH)).astype("f4")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and samples, where relative paths start."""
    folder = tmp_path_factory.mktemp("bits")
    conv_net(32).save(folder / CNN)
    attention_net().save(folder / VIT)
    labels = np.arange(24) % 10
    np.savez(folder / "cnn.calib.npz", image=image_samples(32))
    np.savez(folder / "cnn.test.npz", image=image_samples(24, seed=2), labels=labels)
    np.savez(folder / "vit.calib.npz", x=tokens(32))
    np.savez(folder / "vit.test.npz", x=tokens(24, seed=2), labels=labels)
    return folder


@pytest.fixture(autouse=True)
def _quick(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setattr("graphopt.measure.SECONDS", 0.001)
    monkeypatch.setattr("graphopt.measure.ROUNDS", 1)
    # A process of TensorRT-RTX for each build would take the time; one test asks for it.
    monkeypatch.setattr(linting, "reader", lambda: None)


@dataclass(frozen=True)
class Done:
    """A build, and where it lies."""

    out: Path
    report: Report

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        return found

    def stage(self, name: str) -> dict[str, Any]:
        (found,) = [s for s in self.json["stages"] if s["name"] == name]
        return dict(found)

    @property
    def stages(self) -> list[str]:
        return [s["name"] for s in self.json["stages"]]

    @property
    def decisions(self) -> dict[str, tuple[str, str]]:
        return {d["what"]: (d["value"], d["reason"]) for d in self.json["decisions"]}

    def values(self, metric: str) -> Mapping[str, float]:
        (found,) = [m for m in self.json["metrics"] if m["name"] == metric]
        return dict(found["values"])

    def note(self, metric: str) -> str:
        (found,) = [m for m in self.json["metrics"] if m["name"] == metric]
        return str(found["note"])

    def proto(self, name: str) -> onnx.ModelProto:
        return onnx.load(str(self.out / name))

    def ops(self, name: str) -> list[str]:
        return [n.op_type for n in self.proto(name).graph.node]


def ask(
    out: Path,
    model: str = CNN,
    *,
    engine: str = "tensorrt",
    device: str = "t4",
    data: bool | Mapping[str, Any] = True,
    gate: Mapping[str, float] | None = None,
    make: bool = False,
    prune: Mapping[str, Any] | None = None,
    **quantize: Any,
) -> Request:
    stem = model.split(".", maxsplit=1)[0]
    given: Mapping[str, Any] = {}
    if data is True:
        given = {"calibration": f"{stem}.calib.npz", "evaluation": f"{stem}.test.npz"}
    elif data:
        given = data
    device = "host" if engine == "onnxruntime" else device
    recipe = Recipe.from_dict(
        {
            "quantize": quantize,
            "engine": {"name": engine, "device": device},
            "data": dict(given),
            "gate": dict(gate or {}),
            "prune": dict(prune or {}),
        }
    )
    return Request(Path(model), recipe, out, build_engine=make)


def quiet() -> Console:
    return Console(verbosity=-1)


def done(asked: Request) -> Done:
    return Done(asked.out, build(asked, quiet()))


# Every combination that makes sense.


@dataclass(frozen=True)
class Case:
    """What is asked for, and what must come of it."""

    asked: Mapping[str, Any]
    precision: str
    stages: tuple[str, ...]
    least_db: float
    timed: bool = True
    linted: bool = True
    dialect: str = "none"


ORT = {"engine": "onnxruntime", "make": True}
RTX = {"engine": "tensorrt-rtx", "device": "l4"}
VIT_OF = {"model": VIT}
W4 = ("round-weights", "weight-only")
I8 = ("prepare-weights", "calibrate", "round-weights", "insert-qdq")

CASES = {
    "int8 for ONNX Runtime": Case(
        {**ORT, "int8": True}, "int8", (*I8, "build-onnxruntime"), 25,
        linted=False, dialect="onnxruntime",
    ),
    "int8 for TensorRT": Case(
        {"int8": True}, "int8", (*I8, "lint"), 25, dialect="tensorrt",
    ),
    "int8 for TensorRT-RTX": Case(
        {**RTX, "int8": True}, "int8", (*I8, "lint"), 25, dialect="tensorrt",
    ),
    "int8 for a DLA": Case(
        {"device": "xavier", "int8": True}, "int8", (*I8, "lint"), 25,
        dialect="tensorrt",
    ),
    "int8 and fp16": Case(
        {"int8": True, "fp16": True}, "int8+fp16",
        (*I8, "to-fp16", "lint"), 25, timed=False, dialect="tensorrt",
    ),
    "fp16": Case({"fp16": True}, "fp16", ("ranges", "to-fp16"), 50, timed=False, linted=False),
    "fp16 for ONNX Runtime": Case(
        {**ORT, "fp16": True}, "fp16", ("ranges", "to-fp16", "build-onnxruntime"), 50,
        timed=False, linted=False,
    ),
    "int4 weights": Case(
        {**ORT, "weights": "int4"}, "w4", (*W4, "build-onnxruntime"), 20, linted=False,
        dialect="tensorrt",
    ),
    "int8 weights": Case({"weights": "int8"}, "w8", (*W4, "lint"), 40, dialect="tensorrt"),
    "int4 weights and fp16": Case(
        {**RTX, "weights": "int4", "fp16": True}, "w4+fp16", (*W4, "ranges", "to-fp16", "lint"), 20,
        timed=False, dialect="tensorrt",
    ),
    "attention, int8": Case(
        {**VIT_OF, "int8": True}, "int8", (*I8, "lint"), 25,
        dialect="tensorrt",
    ),
    "attention, int8 for ONNX Runtime": Case(
        {**VIT_OF, **ORT, "int8": True}, "int8", (*I8, "build-onnxruntime"),
        20, linted=False, dialect="onnxruntime",
    ),
    "attention, int8 and fp16": Case(
        {**VIT_OF, "int8": True, "fp16": True}, "int8+fp16",
        (*I8, "to-fp16", "lint"), 25, timed=False, dialect="tensorrt",
    ),
    "attention, fp16": Case(
        {**VIT_OF, "fp16": True}, "fp16", ("ranges", "to-fp16"), 50, timed=False, linted=False,
    ),
    "attention, int4 weights": Case(
        {**VIT_OF, "weights": "int4"}, "w4", (*W4, "lint"), 12, dialect="tensorrt",
    ),
    "attention, int8 weights and fp16": Case(
        {**VIT_OF, "weights": "int8", "fp16": True}, "w8+fp16",
        (*W4, "ranges", "to-fp16", "lint"), 35, timed=False, dialect="tensorrt",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, Done]:
    """The builds, each made once."""
    return {}


@pytest.fixture
def made_before(made: dict[str, Done]) -> dict[str, Done]:
    """The same, under a name that does not hide what a test makes."""
    return made


@pytest.fixture(params=CASES)
def built(request: pytest.FixtureRequest, made: dict[str, Done], work: Path) -> tuple[Case, Done]:
    name = request.param
    case = CASES[name]
    if name not in made:
        made[name] = done(ask(work / "out" / name.replace(" ", "_"), **case.asked))
    return case, made[name]


def test_the_files_are_those_the_report_lists(built: tuple[Case, Done]) -> None:
    case, made = built
    listed = {a["path"]: a for a in made.json["artifacts"]}
    assert {p.name for p in made.out.iterdir()} == {*listed, "report.json"}
    for name, artifact in listed.items():
        assert sha256(made.out / name) == artifact["sha256"]
        assert artifact["kind"] in KINDS
    wanted = {"onnx-fp32": "model.onnx", f"onnx-{case.precision}": file_of(case.precision)}
    assert {a["kind"]: name for name, a in listed.items()}.items() >= wanted.items()
    calibrated = "int8" in case.precision.split("+")
    assert ("calibration.json" in listed) == ("calibration.cache" in listed) == calibrated
    assert ("engine" in {a["kind"] for a in listed.values()}) == bool(case.asked.get("make"))


def test_the_file_is_named_after_its_precision() -> None:
    assert file_of("int8+fp16") == "model.int8-fp16.onnx"
    assert file_of("w4") == "model.w4.onnx"


def test_the_stages_are_told_in_order(built: tuple[Case, Done]) -> None:
    case, made = built
    mine = {s for c in CASES.values() for s in c.stages}
    assert tuple(s for s in made.stages if s in mine) == case.stages
    assert made.stages[-3:] == ["verify", "verify-layers", "time"]


def test_the_model_is_valid_and_computes_what_the_report_says(built: tuple[Case, Done]) -> None:
    case, made = built
    path = made.out / file_of(case.precision)
    onnx.checker.check_model(str(path), full_check=True)
    stem = str(case.asked.get("model", CNN)).split(".", maxsplit=1)[0]
    with np.load(f"{stem}.test.npz") as samples:
        feeds = {name: samples[name] for name in samples.files if name != "labels"}
    before, after = Model.load(f"{stem}.onnx"), Model.load(path)
    assert list(after.inputs().items()) == list(before.inputs().items())
    # What is for ONNX Runtime is judged as that runs it: INT4 weights meet INT8 activations there.
    own = case.asked.get("engine") == "onnxruntime"
    (expected,), (found,) = run(before, feeds), run(after, feeds, optimize=own)
    assert found.dtype == np.float32
    told = made.values("SQNR")[case.precision]
    assert told == pytest.approx(sqnr(expected, found), abs=1)
    assert told > case.least_db


def test_the_columns_are_before_fp32_and_what_ships(built: tuple[Case, Done]) -> None:
    case, made = built
    columns = {"before", "fp32", case.precision}
    for metric in ("ONNX size", "weights", "parameters", "MACs", "accuracy"):
        assert set(made.values(metric)) == columns
    for metric in ("top-1 agreement", "SQNR"):
        assert set(made.values(metric)) <= columns - {"before"}
        assert case.precision in made.values(metric)
    sizes = made.values("ONNX size")
    assert sizes[case.precision] == (made.out / file_of(case.precision)).stat().st_size
    weights = made.values("weights")
    assert weights[case.precision] < 0.999 * weights["fp32"]


def test_fp16_is_not_timed_and_int8_for_tensorrt_is_placed_again(
    built: tuple[Case, Done],
) -> None:
    case, made = built
    assert (case.precision in made.values("latency")) == case.timed
    assert set(made.json["latency"]) == set(made.values("latency"))
    again = case.precision == "int8" and case.dialect == "tensorrt"
    assert ("re-placed for the CPU" in made.note("latency")) == again
    half = "fp16" in case.precision
    assert ("that is not timed" in made.note("latency")) == half
    assert ("part of fp16 in fp32" in made.note("SQNR")) == half


def test_what_tensorrt_is_given_is_linted(built: tuple[Case, Done]) -> None:
    case, made = built
    lint, ops = made.json["lint"], made.ops(file_of(case.precision))
    if not case.linted:
        assert lint == {}
        return
    assert lint["dialect"] == case.dialect
    assert lint["counts"]["q"] == ops.count("QuantizeLinear")
    assert lint["counts"]["dq"] == ops.count("DequantizeLinear") > 0
    assert len(lint["accounts"]) == lint["counts"]["q"] + lint["counts"]["dq"]
    alone = [a for a in lint["accounts"] if a["verdict"] == "alone"]
    # Behind LayerNormalization and attention, which stay float, a Q is a kernel of its own.
    assert not alone or case.asked.get("model") == VIT
    assert all(account["detail"] for account in alone)


def test_q_and_dq_are_placed_for_the_engine(built: tuple[Case, Done]) -> None:
    case, made = built
    found = recognize(*_read(made.out / file_of(case.precision)))
    assert found == case.dialect
    assert recognize(*_read(made.out / "model.onnx")) == "none"


def _read(path: Path) -> tuple[Any, Any]:
    from graphopt.lint.from_onnx import read_onnx

    model = Model.load(path)
    return model, read_onnx(model)


def test_what_was_decided_is_said_with_its_reason(built: tuple[Case, Done]) -> None:
    case, made = built
    quantize = made.json["recipe"]["quantize"]
    if case.precision == "fp16":
        assert "rounding" not in made.decisions
        return
    assert made.decisions["rounding"] == ("second-order", "there is data to weigh errors with")
    assert quantize["rounding"] == "second-order"
    assert (quantize["calibrator"] == "auto") == case.precision.startswith("int8")
    for value, reason in made.decisions.values():
        assert value
        assert reason
    dla = case.asked.get("device") == "xavier"
    assert ("calibrated tensors" in made.decisions) == dla


def test_the_recipe_is_the_one_the_report_has(built: tuple[Case, Done]) -> None:
    _, made = built
    written = Recipe.load(made.out / "recipe.toml")
    assert written.model_dump(mode="json") == made.json["recipe"]
    assert made.json["status"] == "pass"
    assert made.json["gates"] == []
    assert made.json["synthetic"] is False


# The recipe that is written makes the same again.


@pytest.mark.parametrize(
    "name", ["int8 for TensorRT", "int8 and fp16", "int4 weights and fp16", "attention, int8"]
)
def test_the_written_recipe_gives_the_same_bytes(
    name: str, made: dict[str, Done], work: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    first = made.get(name) or done(ask(work / "out" / name.replace(" ", "_"), **case.asked))
    made[name] = first
    model = Path(case.asked.get("model", CNN))
    recipe = Recipe.load(first.out / "recipe.toml")
    second = done(Request(model, recipe, tmp_path / "again", build_engine=False))
    for file in (file_of(case.precision), "model.onnx", "recipe.toml", "calibration.json"):
        if (first.out / file).exists():
            assert (second.out / file).read_bytes() == (first.out / file).read_bytes(), file
    assert second.json["lint"] == first.json["lint"]


# Limits.


def same_but_for_rounding(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """Fewer tensors are measured in other batches: scales may differ by 1e-6, and nothing else."""
    values = []
    for model in (a, b):
        found = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
        del model.graph.initializer[:]
        values.append(found)
    assert a.SerializeToString() == b.SerializeToString()
    assert values[0].keys() == values[1].keys()
    for name, value in values[0].items():
        close = 1e-3 if value.dtype == np.float16 else 1e-6
        np.testing.assert_allclose(values[1][name], value, rtol=close, atol=0)


def between(made: dict[str, Done], work: Path, name: str) -> float:
    """Return a limit that full INT8 misses, and some INT8 meets."""
    if name not in made:
        made[name] = done(ask(work / "out" / name.replace(" ", "_"), **CASES[name].asked))
    return made[name].values("SQNR")[CASES[name].precision] + 1


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("model", [CNN, VIT])
def test_a_limit_that_can_be_met_leaves_few_layers_out_and_runs_again_the_same(
    model: str, fp16: bool, made_before: dict[str, Done], work: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"model": model, "int8": True, "fp16": fp16}
    name = ("attention, int8" if model == VIT else "int8") + (" and fp16" if fp16 else "")
    limit = between(made_before, work, "int8 for TensorRT" if name == "int8" else name)
    made = done(ask(tmp_path / "out", gate={"min_sqnr": limit}, **asked))
    facts = made.stage("mixed-precision")["facts"]
    assert facts["met"]
    assert facts["limit"] == {"max_drop": None, "min_sqnr": limit}
    left = [one["name"] for one in facts["left_in_float"]]
    assert 0 < len(left) < facts["candidates"]
    assert all(one["reason"] for one in facts["left_in_float"])
    value, reason = made.decisions["left in floating point"]
    assert value == ", ".join(left)
    assert f"--min-sqnr {limit:g}" in reason
    (gate,) = made.json["gates"]
    assert (gate["name"], gate["status"], gate["unit"]) == ("min-sqnr", "pass", "dB")
    assert gate["value"] == pytest.approx(made.values("SQNR")["int8+fp16" if fp16 else "int8"])
    # What was found is in the recipe, which needs no search any more, and gives the same.
    recipe = Recipe.load(made.out / "recipe.toml")
    assert set(left) <= set(recipe.quantize.exclude)
    again = done(Request(Path(model), recipe, tmp_path / "again", build_engine=False))
    assert again.stage("mixed-precision")["facts"]["evaluations"] == 1
    file = file_of("int8+fp16" if fp16 else "int8")
    same_but_for_rounding(made.proto(file), again.proto(file))
    # The table has all that was used, and can be read again, histograms and all.
    table = CalibrationTable.load(made.out / "calibration.json")
    assert table.counts is not None


def test_what_a_search_left_out_of_int8_runs_in_fp16(
    made_before: dict[str, Done], work: Path, tmp_path: Path
) -> None:
    limit = between(made_before, work, "int8 and fp16")
    made = done(ask(tmp_path / "o", gate={"min_sqnr": limit}, int8=True, fp16=True))
    left = {one["name"] for one in made.stage("mixed-precision")["facts"]["left_in_float"]}
    half = {c["where"] for c in made.stage("to-fp16")["changes"] if c["kind"] == "fp16"}
    assert left <= half


def test_a_limit_that_cannot_be_met_leaves_the_files_and_the_best_found(tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        build(ask(tmp_path / "o", gate={"min_sqnr": 180, "max_drop": 0}, int8=True), quiet())
    made = Done(tmp_path / "o", Report())
    facts = made.stage("mixed-precision")["facts"]
    line = str(caught.value)
    assert "--min-sqnr asks for 180" in line
    assert f"the best of {facts['evaluations']} models tried" in line
    # No set of layers helps, and that is said.
    assert "without INT8 it is missed too" in line
    assert not facts["met"]
    assert made.json["status"] == "fail"
    assert {g["name"]: g["status"] for g in made.json["gates"]}["min-sqnr"] == "fail"
    for artifact in made.json["artifacts"]:
        assert sha256(made.out / artifact["path"]) == artifact["sha256"]
    assert (made.out / "model.int8.onnx").exists()


@pytest.mark.parametrize("asked", [{"fp16": True}, {**RTX, "weights": "int4"}])
def test_a_limit_judges_what_has_no_int8_to_search_too(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    met = done(ask(tmp_path / "met", gate={"min_sqnr": 15}, **asked))
    assert [g["status"] for g in met.json["gates"]] == ["pass"]
    assert "mixed-precision" not in met.stages
    with pytest.raises(GateError, match=r"SQNR is .* dB; --min-sqnr asks for 150$"):
        build(ask(tmp_path / "missed", gate={"min_sqnr": 150}, **asked), quiet())
    assert (tmp_path / "missed" / "report.json").exists()


# Previews.

PREVIEWS: list[dict[str, Any]] = [
    {"int8": True},
    {"int8": True, "fp16": True},
    {"model": VIT, "int8": True},
    {"fp16": True},
    {**RTX, "weights": "int4", "fp16": True},
    {"weights": "int8", "rounding": "second-order"},
    {"int8": True, "gate": {"min_sqnr": 60}},
]


@pytest.mark.parametrize("asked", PREVIEWS)
def test_a_preview_looks_at_no_activation_and_writes_nothing(
    asked: dict[str, Any], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a preview looked at activations")

    monkeypatch.setattr(quantize_module, "collect_within", never)
    monkeypatch.setattr("graphopt.statistics.collect.Statistics.__init__", never)
    monkeypatch.setattr("graphopt.statistics.replay.Replay.__init__", never, raising=False)
    before = sorted(p for p in work.rglob("*"))
    report, _ = preview(ask(work / "none", **asked), quiet())
    assert sorted(p for p in work.rglob("*")) == before
    names = {stage.name for stage in report.stages}
    assert ("insert-qdq" in names) == bool(asked.get("int8"))
    assert ("weight-only" in names) == bool(asked.get("weights"))
    assert ("to-fp16" in names) == bool(asked.get("fp16"))
    quantized = [s for s in report.stages if s.name in ("insert-qdq", "weight-only", "to-fp16")]
    assert all(stage.changes for stage in quantized)


def test_a_preview_places_what_the_build_places(made: dict[str, Done], work: Path) -> None:
    name = "int8 for TensorRT"
    if name not in made:
        made[name] = done(ask(work / "out" / name.replace(" ", "_"), **CASES[name].asked))
    report, _ = preview(ask(work / "none", **CASES[name].asked), quiet())
    (stage,) = [s for s in report.stages if s.name == "insert-qdq"]
    told = made[name].stage("insert-qdq")
    assert stage.counts == told["counts"]
    assert [c["where"] for c in stage.changes] == [c["where"] for c in told["changes"]]


# What is timed.


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The models that were timed, by column."""
    seen: dict[str, Any] = {}
    real = outcome.timings

    def spy(candidates: Mapping[str, Any], feeds: Any) -> Any:
        seen.update(candidates)
        return real(candidates, feeds)

    monkeypatch.setattr(outcome, "timings", spy)
    return seen


def test_what_is_timed_is_placed_for_the_cpu(timed: dict[str, Any], tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", int8=True))
    shipped = Model.load(made.out / "model.int8.onnx")
    assert timed["int8"].digest() != shipped.digest()
    from graphopt.lint.from_onnx import read_onnx

    assert recognize(timed["int8"], read_onnx(timed["int8"])) == "onnxruntime"
    # Nothing but the placement differs: what it computes is as near to the model as given.
    feeds = {"image": image_samples(8, seed=3)}
    (expected,), (found,) = run(conv_net(32), feeds), run(timed["int8"], feeds)
    assert sqnr(expected, found) > 25


@pytest.mark.parametrize("fp16", [False, True])
def test_fp16_is_left_out_of_the_timing(fp16: bool, timed: dict[str, Any], tmp_path: Path) -> None:
    done(ask(tmp_path / "o", **RTX, weights="int4", fp16=fp16))
    assert ("w4" in timed) == (not fp16)
    assert "w4+fp16" not in timed


def test_a_table_with_what_tensorrt_wants_alone_is_enough_and_int8_is_not_timed(
    timed: dict[str, Any], work: Path, tmp_path: Path
) -> None:
    net = Model.load(work / CNN)
    full = done(ask(tmp_path / "full", int8=True))
    table = CalibrationTable.load(full.out / "calibration.json")
    small = only(table, wanted_tensors(net, (), ("tensorrt",)))
    assert len(small.ranges) < len(table.ranges)
    write_cache(tmp_path / "small.cache", small)
    timed.clear()
    asked = ask(
        tmp_path / "o", int8=True, table=str(tmp_path / "small.cache"), equalize=False, smooth=False
    )
    made = done(asked)
    assert "int8" not in timed
    assert "int8" not in made.values("latency")
    assert made.values("SQNR")["int8"] > 25
    value, reason = made.decisions["ranges"]
    assert value.endswith("small.cache")
    assert "TensorRT" in reason
    # For ONNX Runtime the same table lacks what its dialect quantizes.
    lacking = replace(asked, out=tmp_path / "p").recipe.override(
        {"engine": {"name": "onnxruntime", "device": "host"}}
    )
    with pytest.raises(UsageError, match="has no range for"):
        build(Request(Path(CNN), lacking, tmp_path / "p", build_engine=False), quiet())
    assert not (tmp_path / "p").exists()


# Tables from files.


@pytest.fixture
def table(work: Path, tmp_path: Path) -> Path:
    """Ranges of the float model, for every dialect."""
    net = Model.load(work / CNN)
    data = open_data("cnn.calib.npz", net.inputs())
    found = calibration_table(net, data, "entropy", wanted_tensors(net, ()), quiet())
    return found.save(tmp_path / "table.json")


EVAL = {"evaluation": "cnn.test.npz"}


def test_a_table_needs_no_data(table: Path, tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", int8=True, table=str(table), data=EVAL))
    assert "calibrate" not in made.stages
    assert made.decisions["rounding"] == ("nearest", "there is no data to weigh errors")
    assert made.decisions["ranges"] == (str(table), "a table of graphopt")
    assert made.values("SQNR")["int8"] > 25
    saved = CalibrationTable.load(made.out / "calibration.json")
    assert saved.ranges == CalibrationTable.load(table).ranges
    assert made.json["recipe"]["quantize"]["calibrator"] is None


def test_another_calibrator_chooses_from_the_histograms_of_a_table(
    table: Path, tmp_path: Path
) -> None:
    made = done(ask(tmp_path / "o", int8=True, table=str(table), calibrator="minmax", data=EVAL))
    saved = CalibrationTable.load(made.out / "calibration.json")
    assert saved.method == "minmax"
    assert saved.ranges != CalibrationTable.load(table).ranges


def test_fp16_beside_a_table_measures_what_it_lacks_where_there_is_data(
    table: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"int8": True, "fp16": True, "table": str(table)}
    without = done(ask(tmp_path / "a", data=EVAL, **asked))
    told = [s["reason"] for s in without.stage("to-fp16")["refusals"]]
    assert any("no range was measured" in reason for reason in told)
    assert any("no range was measured" in warning for warning in without.json["warnings"])
    with_data = done(ask(tmp_path / "b", **asked))
    assert with_data.stage("ranges")["facts"]["samples"] == 32
    told = [s["reason"] for s in with_data.stage("to-fp16")["refusals"]]
    assert not any("no range was measured" in reason for reason in told)


def test_a_dla_calibrates_nothing_where_a_table_is_given(table: Path, tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", device="xavier", int8=True, table=str(table), data=EVAL))
    assert "calibrated tensors" not in made.decisions
    whole = done(ask(tmp_path / "p", device="xavier", int8=True))
    count = int(whole.decisions["calibrated tensors"][0])
    assert count == whole.stage("calibrate")["facts"]["tensors"]
    assert count > len(CalibrationTable.load(table).ranges)


def test_a_table_of_made_up_data_is_said_to_be_one(table: Path, tmp_path: Path) -> None:
    made_up = replace(CalibrationTable.load(table), synthetic=True).save(tmp_path / "made_up.json")
    made = done(ask(tmp_path / "o", int8=True, table=str(made_up), data=EVAL))
    assert made.json["synthetic"] is True
    assert any("SYNTHETIC" in warning for warning in made.json["warnings"])


@pytest.mark.parametrize("look", [build, preview])
def test_a_table_of_another_model_is_refused(look: Any, work: Path, tmp_path: Path) -> None:
    net = Model.load(work / VIT)
    data = open_data("vit.calib.npz", net.inputs())
    other = calibration_table(net, data, "minmax", wanted_tensors(net, ()), quiet())
    other.save(tmp_path / "other.json")
    asked = ask(tmp_path / "o", int8=True, table=str(tmp_path / "other.json"), data=EVAL)
    with pytest.raises(UsageError, match="belongs to another model"):
        look(asked, quiet())
    assert not (tmp_path / "o").exists()


def test_a_placement_that_calibrates_more_keeps_a_table_that_can_be_read_again(
    work: Path, tmp_path: Path
) -> None:
    net = Model.load(work / CNN)
    data = open_data("cnn.calib.npz", net.inputs())

    def extend(tensors: Any) -> CalibrationTable:
        return calibration_table(net, data, "entropy", tensors, quiet())

    wanted = wanted_tensors(net, (), ("onnxruntime",))
    place = Placement(net, extend(wanted[:-1]), "onnxruntime", extend=extend)
    assert place.ready(())
    again = CalibrationTable.load(place.table.save(tmp_path / "t.json"))
    assert again.counts is not None
    assert set(again.counts.histograms) == set(again.ranges) == set(wanted)
    whole = extend(wanted)
    assert again.ranges == whole.ranges
    # Of other samples, histograms cannot stand together, and are left out.
    fewer = replace(data, indices=data.indices[:8])
    place = Placement(
        net, extend(wanted[:-1]), "onnxruntime",
        extend=lambda names: calibration_table(net, fewer, "entropy", names, quiet()),
    )  # fmt: skip
    assert place.ready(())
    assert CalibrationTable.load(place.table.save(tmp_path / "u.json")).counts is None


# Weights alone.


def test_weights_alone_need_no_data(tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", **RTX, weights="int4", data=False))
    assert "round-weights" not in made.stages
    assert made.decisions["rounding"] == ("nearest", "there is no data to weigh errors")
    assert made.stage("weight-only")["counts"]["int4"] == 1
    assert "accuracy" not in {m["name"] for m in made.json["metrics"]}
    assert made.note("SQNR") == "on random inputs: no accuracy figure"


def test_second_order_is_nearer_than_nearest(tmp_path: Path) -> None:
    found = {
        rounding: done(ask(tmp_path / rounding, **RTX, weights="int4", rounding=rounding))
        for rounding in ("second-order", "nearest")
    }
    second, nearest = (found[r].values("SQNR")["w4"] for r in ("second-order", "nearest"))
    assert second > nearest + 3


def test_that_no_weight_can_be_quantized_is_a_warning(tmp_path: Path) -> None:
    conv_net(24).save(tmp_path / "odd.onnx")  # 24 rows are no blocks of 32
    np.savez(tmp_path / "odd.calib.npz", image=image_samples(8))
    recipe = Recipe.from_dict(
        {
            "quantize": {"weights": "int4"},
            "data": {"calibration": str(tmp_path / "odd.calib.npz")},
            "engine": {"name": "tensorrt", "device": "t4"},
        }
    )
    made = done(Request(tmp_path / "odd.onnx", recipe, tmp_path / "o", build_engine=False))
    assert any("--weights int4 quantized nothing" in w for w in made.json["warnings"])
    assert "round-weights" not in made.stages
    (refusal,) = made.stage("weight-only")["refusals"]
    assert "24 rows" in refusal["reason"]


def test_a_block_that_was_asked_for_is_taken(tmp_path: Path) -> None:
    for block in (16, 32):
        made = done(ask(tmp_path / str(block), weights="int4", block=block))
        (scale,) = [i for i in made.proto("model.w4.onnx").graph.initializer if "scale" in i.name]
        assert list(scale.dims) == [32 // block, 10]


def test_pruned_weights_are_quantized_as_they_are_left(tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", weights="int8", prune={"ratio": 0.4, "align": 8}, data=EVAL))
    parameters, weights = made.values("parameters"), made.values("weights")
    assert parameters["w8"] == parameters["fp32"] < parameters["before"]
    assert weights["w8"] < weights["fp32"] < weights["before"]
    assert made.values("SQNR")["w8"] == pytest.approx(made.values("SQNR")["fp32"], abs=1)


def test_fp16_leaves_the_integer_kernels_of_onnx_runtime(tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", int8=True, fp16=True, **ORT))
    alone = done(ask(tmp_path / "alone", int8=True, **ORT))
    sizes = {n.name: n.data_type for n in made.proto("model.int8-fp16.onnx").graph.initializer}
    scales = {kind for name, kind in sizes.items() if name.endswith("_scale")}
    assert scales == {onnx.TensorProto.FLOAT}
    db = made.values("SQNR")["int8+fp16"], alone.values("SQNR")["int8"]
    assert db[0] == pytest.approx(db[1], abs=1)


# Types that nothing tells, and optimizers of another runtime.

AFTER_A_CUSTOM_OP = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[N, 32] x) => (float[N, 32] y) {
  [first] a = MatMul(x, w)
  [odd] b = com.microsoft.Gelu(a)
  [second] c = MatMul(b, v)
  [add] y = Add(c, x)
}"""
OF_A_FIXED_BATCH = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 4, 32] x) => (float[2, 4, 32] y) {
  [first] a = MatMul(x, w)
  [bias] b = Add(a, u)
  [second] c = MatMul(b, v)
  [last] y = Add(c, u)
}"""


def written(text: str, folder: Path, shape: tuple[int, ...]) -> Request:
    """A request for a model of two products, of which nothing but the text is known."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(text)
    for name, size in (("w", (32, 32)), ("v", (32, 32)), ("u", (32,))):
        value = (rng.normal(size=size) / 6).astype("f4")
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.save(proto, str(folder / "written.onnx"))
    np.savez(folder / "x.npz", x=rng.normal(size=(32, *shape)).astype("f4"))
    recipe = Recipe.from_dict(
        {"quantize": {"int8": True}, "data": {"calibration": str(folder / "x.npz")}}
    )
    return Request(folder / "written.onnx", recipe, folder / "o", build_engine=False)


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("engine", ["tensorrt", "onnxruntime"])
def test_what_a_custom_operator_gives_is_calibrated_too(
    engine: str, fp16: bool, tmp_path: Path
) -> None:
    asked = written(AFTER_A_CUSTOM_OP, tmp_path, (32,))
    recipe = asked.recipe.override({"engine": {"name": engine}, "quantize": {"fp16": fp16}})
    made = done(replace(asked, recipe=recipe))
    assert "b" in CalibrationTable.load(made.out / "calibration.json").ranges
    assert made.stage("insert-qdq")["counts"]["quantized"] >= 2
    assert made.values("SQNR")["int8+fp16" if fp16 else "int8"] > 30


def test_what_onnx_runtimes_optimizer_cannot_read_is_written_all_the_same(tmp_path: Path) -> None:
    # It makes Gemm of MatMul and Add, moves Q/DQ with an output_dtype of int8, and makes uint8 of
    # the zero-point then: it refuses that itself. TensorRT never sees it.
    asked = written(OF_A_FIXED_BATCH, tmp_path, (4, 32))
    recipe = asked.recipe.override({"engine": {"name": "tensorrt"}})
    made = done(replace(asked, recipe=recipe))
    assert made.stage("insert-qdq")["counts"]["quantized"] == 2
    assert made.values("SQNR")["int8"] > 30
    quantized, x = made.out / "model.int8.onnx", {"x": np.ones((2, 4, 32), "f4")}
    with opened(quantized, faithful=True) as session:
        found = session.run(x)["y"]
    assert np.array_equal(found, run(Model.load(quantized), x)[0])
    told = CliRunner().invoke(
        cli, ["compare", str(asked.model), str(quantized), "--data", str(tmp_path / "x.npz")]
    )
    assert told.exit_code == 0, told.output
    assert "SQNR" in told.output


@pytest.mark.parametrize("asked", [{"int8": True, **ORT}, {"weights": "int8"}, {"fp16": True}])
def test_what_onnx_runtime_is_to_optimize_is_compared_so(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    made = done(ask(tmp_path / "o", **asked))
    (path,) = made.out.glob("model.[!o]*.onnx")
    assert not opening._quantized_for_tensorrt(Model.load(path))


# What does not run here, or cannot be quantized.


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A model that ONNX Runtime cannot run."""
    net = conv_net(32)
    node = next(n for n in net.graph.nodes if n.op == "Add")
    node.op, node.domain = "Merge", "com.example"
    net.graph.import_domains = [
        onnx.helper.make_opsetid("", 17),
        onnx.helper.make_opsetid("com.example", 1),
    ]
    return net.save(tmp_path / "custom.onnx")


@pytest.mark.parametrize("asked", [{"weights": "int8"}, {"fp16": True}])
def test_a_model_that_does_not_run_is_quantized_without_a_look(
    asked: dict[str, Any], custom: Path, tmp_path: Path
) -> None:
    wanted = ask(tmp_path / "o", **asked)
    made = done(replace(wanted, model=custom))
    assert "Merge" in made.ops(file_of("w8" if "weights" in asked else "fp16"))
    assert {"round-weights", "ranges", "verify", "time"}.isdisjoint(made.stages)
    assert "com.example::Merge" in made.decisions["verification"][1]
    if "weights" in asked:
        assert made.decisions["rounding"][0] == "nearest"
        assert "does not run here" in made.decisions["rounding"][1]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"int8": True}, "--int8 calibrates on ONNX Runtime"),
        ({"weights": "int4", "rounding": "second-order"}, "--rounding second-order runs it"),
        ({"fp16": True, "gate": {"min_sqnr": 1}}, "a limit is measured on ONNX Runtime"),
    ],
)
def test_what_has_to_run_it_is_refused(
    asked: dict[str, Any], told: str, custom: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=told):
        build(replace(ask(tmp_path / "o", **asked), model=custom), quiet())
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("look", [build, preview])
@pytest.mark.parametrize("fp16", [False, True])
def test_a_model_with_nothing_for_int8_is_refused_before_anything_is_calibrated(
    fp16: bool, look: Any, tmp_path: Path
) -> None:
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[N,3,16,16] image) => (float[N,3,16,16] y) { y = Sigmoid (image) }"
    )
    onnx.save(made, tmp_path / "none.onnx")
    wanted = replace(ask(tmp_path / "o", int8=True, fp16=fp16), model=tmp_path / "none.onnx")
    with pytest.raises(UnsupportedModelError, match="nothing in this model can be quantized"):
        look(wanted, quiet())


def test_what_a_device_cannot_take_is_told_before_any_work(tmp_path: Path) -> None:
    asked = ask(tmp_path / "o", device="xavier", weights="int4")
    wanted = replace(asked, model=Path("missing.onnx"), build_engine=False)
    with pytest.raises(UnsupportedModelError, match="--weights int4 needs TensorRT 10"):
        build(wanted, quiet())


# What is left out.


def test_excluded_nodes_stay_out_of_int8_and_run_in_fp16(tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", int8=True, fp16=True, exclude=["fc", "conv1"]))
    weights = {i.name: i.data_type for i in made.proto("model.int8-fp16.onnx").graph.initializer}
    assert weights["w1"] == weights["w3"] == onnx.TensorProto.FLOAT16
    assert onnx.TensorProto.INT8 in weights.values()


def test_excluded_nodes_stay_in_fp32_where_fp16_is_all_there_is(tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", fp16=True, exclude=["conv1"]))
    weights = {i.name: i.data_type for i in made.proto("model.fp16.onnx").graph.initializer}
    assert weights["w1"] == onnx.TensorProto.FLOAT
    assert weights["w0"] == weights["w2"] == onnx.TensorProto.FLOAT16
    reasons = {s["where"]: s["reason"] for s in made.stage("to-fp16")["refusals"]}
    assert reasons["conv1"] == "stays in fp32: it is to stay so"


def test_a_pattern_that_matches_nothing_is_told(tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", int8=True, exclude=["layer9.*"]))
    told = {s["where"]: s["reason"] for s in made.stage("insert-qdq")["refusals"]}
    assert "matches no node's name or operator" in told["layer9.*"]


# Made-up data.


def test_made_up_data_gives_int8_for_latency_and_says_so(tmp_path: Path) -> None:
    made = done(ask(tmp_path / "o", int8=True, fp16=True, data={"synthetic": True}))
    assert made.json["synthetic"] is True
    assert made.decisions["rounding"][0] == "nearest"
    assert "round-weights" not in made.stages
    assert "prepare-weights" not in made.stages
    assert CalibrationTable.load(made.out / "calibration.json").synthetic
    assert any("SYNTHETIC" in w for w in made.json["warnings"])


# TensorRT's own parser.


@pytest.mark.parametrize("model", [CNN, VIT])
@pytest.mark.parametrize(
    "asked", [{"int8": True}, {"int8": True, "fp16": True}, {"weights": "int4", "fp16": True}]
)
def test_tensorrt_reads_what_it_is_given(
    asked: dict[str, Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader() is None:
        pytest.skip("no TensorRT is installed")
    monkeypatch.setattr(linting, "reader", reader)
    made = done(ask(tmp_path / "o", model, engine="tensorrt-rtx", device="l4", **asked))
    lint = made.json["lint"]
    assert lint["source"].startswith("tensorrt")
    assert lint["unread"] == []
    (file,) = {p.name for p in made.out.glob("model.*.onnx")}
    assert lint["counts"]["dq"] == made.ops(file).count("DequantizeLinear") > 0


def test_an_error_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UnsupportedModelError("no")

    monkeypatch.setattr(bits_module, "_half", fail)
    with pytest.raises(GraphoptError, match="no"):
        build(ask(tmp_path / "o", int8=True, fp16=True), quiet())
    assert list(tmp_path.iterdir()) == []
