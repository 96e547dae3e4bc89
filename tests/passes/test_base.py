from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from helpers import ROOT, parse, run

from graphopt.errors import UsageError
from graphopt.model import Model
from graphopt.passes import PASSES, Change, Pass, PassResult, Skip


@dataclass(frozen=True)
class Tinker(Pass):
    """Insert a Neg before the first node, without a name and at the wrong end."""

    name: ClassVar[str] = "tinker"

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        first = model.graph.nodes[0]
        negative = gs.Variable("n")
        source = first.inputs[0]
        first.inputs[0] = negative
        model.graph.nodes.append(gs.Node("Neg", inputs=[source], outputs=[negative]))
        yield Change("inserted", "n")
        yield Skip("elsewhere", "not asked for")
        yield Change("inserted", "m")
        yield Change("a", "m")


def test_the_life_of_a_pass() -> None:
    model = parse(
        "g (float[N,3] x, float[N] unused) => (float[] y) { a = Relu (x) d = Abs (a) y = Neg (a) }"
    )
    digest = model.digest()
    result = Tinker()(model)
    assert model.digest() == digest
    nodes = [(n.op, n.name) for n in result.model.graph.nodes]
    assert nodes == [("Neg", "Neg_n"), ("Relu", "Relu_a"), ("Neg", "Neg_y")]
    assert result.name == "tinker" and result.counts() == {"a": 1, "inserted": 2}
    assert result.skipped == (Skip("elsewhere", "not asked for"),)
    assert result.model.graph.tensors()["n"].shape == ["N", 3]
    # Inputs are the model's interface, read or not.
    assert list(result.model.inputs()) == ["x", "unused"]
    x = np.array([[-1, 0, 2]], "f4")
    assert run(result.model, {"x": x, "unused": x[0, :1]})[0].tolist() == [[-1, 0, 0]]


def test_results_are_values() -> None:
    result = PassResult(parse("g (float[2] x) => (float[2] y) { y = Relu (x) }"), "p")
    with pytest.raises(FrozenInstanceError):
        result.name = "q"  # type: ignore[misc]
    assert result.changes == () and result.skipped == () and result.counts() == {}


def test_every_registered_pass_loads() -> None:
    assert PASSES.names()[:3] == ["simplify", "fold-batchnorm", "raise-opset"]
    for name in PASSES.names():
        made = PASSES.load(name)
        assert issubclass(made, Pass) and made.name == name and made.__doc__
    with pytest.raises(UsageError, match="did you mean 'simplify'"):
        PASSES.load("simplfy")


def test_the_page_on_writing_a_pass_works() -> None:
    page = (ROOT / "docs" / "passes.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) == 2
    scope: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, "docs/passes.md", "exec"), scope)
    assert all(f"`{name}`" in page for name in PASSES.names())
    assert f'"{PASSES.group}"' in page
