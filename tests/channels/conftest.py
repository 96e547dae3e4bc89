"""Small graphs from ONNX text, random plans, and the proof that pruned equals masked."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from helpers import SHARED
from onnx import numpy_helper

from graphopt.channels import ChannelAnalysis, PrunePlan, analyze, make_plan, masked
from graphopt.model import Model
from graphopt.passes.prune_channels import PruneChannels
from graphopt.runtime import open_session

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Makes ``nets`` importable.

SIZES = {"N": 2, "batch": 2, "H": 8, "W": 6, "height": 64, "width": 96}
HEADER = '<ir_version: {ir}, opset_import: ["" : {opset}{domains}]>'


def graph(
    text: str, opset: int = 17, *, integer: bool = False, domains: str = "", ir: int = 8
) -> Model:
    """Parse ``name (inputs) => (outputs) {nodes}``; inputs not called x... become weights."""
    header = HEADER.format(ir=ir, opset=opset, domains=domains)
    proto = onnx.parser.parse_model(f"{header}\n{text}")
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    for value in [i for i in proto.graph.input if not i.name.startswith("x")]:
        kind = value.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if integer or dtype.kind in "iu":
            values = rng.integers(-3, 4, shape)
        elif value.name.startswith("var"):
            values = rng.uniform(0.5, 2, shape)
        else:
            values = rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))
        proto.graph.input.remove(value)
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), value.name))
    return Model.from_onnx(proto)


def feeds(model: Model, seed: int = 0, *, integer: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out = {}
    for name, (dtype, shape) in model.inputs().items():
        dims = [d if isinstance(d, int) else SIZES.get(d, 2) for d in shape]
        if integer or np.dtype(dtype).kind in "iu":
            values = rng.integers(-3, 4, dims)
        else:
            values = rng.standard_normal(dims)
        out[name] = values.astype(dtype)
    return out


def run(model: Model, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    with open_session(model, threads=1, optimize=False) as session:
        return session.run(None, given)


def random_plan(analysis: ChannelAnalysis, seed: int, ratio: float | None = None) -> PrunePlan:
    """A plan that removes random channels: of each group a random number, at least one stays."""
    rng = np.random.default_rng(seed)
    scores = {g.name: rng.random(g.width) for g in analysis.groups}
    share = float(rng.uniform(0.1, 0.9)) if ratio is None else ratio
    return make_plan(analysis, scores, share, align=1, floor=1, importance="random")


def prune(model: Model, plan: PrunePlan) -> Model:
    return PruneChannels(plan=plan)(model).model


def prove(
    model: Model, plan: PrunePlan, *, seed: int = 0, integer: bool = False, tolerance: float = 1e-5
) -> Model:
    """Assert that pruned equals masked (bit for bit with integers) and that it is a valid model."""
    before = model.digest()
    pruned = prune(model, plan)
    assert model.digest() == before
    given = feeds(model, seed, integer=integer)
    proto = pruned.to_onnx()
    if proto.ByteSize() < 1 << 30:
        onnx.checker.check_model(proto, full_check=True)
    for old, new in zip(model.graph.outputs, pruned.graph.outputs, strict=True):
        assert old.name == new.name
        assert list(old.shape or []) == list(new.shape or [])
    for got, wanted in zip(run(pruned, given), run(masked(model, plan), given), strict=True):
        assert got.shape == wanted.shape
        assert np.isfinite(wanted).all()
        if integer:
            np.testing.assert_array_equal(got, wanted)
        else:
            scale = max(float(np.abs(wanted).max(initial=0)), 0.1)  # Sigmoids round at 1e-7.
            assert float(np.abs(got - wanted).max(initial=0)) <= tolerance * scale
    return pruned


def prove_many(model: Model, plans: int = 12, *, integer: bool = False) -> ChannelAnalysis:
    analysis = analyze(model)
    for seed in range(plans):
        prove(model, random_plan(analysis, seed), seed=seed, integer=integer)
    return analysis


class Tools:
    """What the tests of this folder share (test modules cannot import each other)."""

    graph = staticmethod(graph)
    feeds = staticmethod(feeds)
    run = staticmethod(run)
    random_plan = staticmethod(random_plan)
    prune = staticmethod(prune)
    prove = staticmethod(prove)
    prove_many = staticmethod(prove_many)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Model]:
    """Load one of the real models, constants folded; skip where they are absent."""

    def load(name: str) -> Model:
        path = SHARED / "models" / f"{name}.onnx"
        if not path.exists():
            pytest.skip(f"no real models here: {path}")
        model = Model.load(path)
        model.graph.fold_constants().cleanup()
        model.infer_shapes()
        return model

    return load
