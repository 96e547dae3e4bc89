"""The fp32 passes in their order, and passes that a recipe names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, parse, run

from graphopt.console import Console
from graphopt.errors import UsageError
from graphopt.optimize import named_pass, optimize
from graphopt.recipe import Recipe
from graphopt.report import Report


@pytest.fixture
def _documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass of docs/passes.md, registered as another distribution would."""
    page = (ROOT / "docs" / "passes.md").read_text(encoding="utf-8")
    (tmp_path / "documented.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)

    class Point:
        name, value = "merge-relus", "documented:MergeRelus"

    monkeypatch.setattr(
        "graphopt.registry.entry_points",
        lambda group: [Point()] if group == "graphopt.passes" else [],
    )


@pytest.mark.usefixtures("_documented")
def test_a_recipe_names_passes_of_others() -> None:
    model = parse("g (float[2,3] x) => (float[2,3] y) { a = Relu (x) b = Relu (a) y = Neg (b) }")
    recipe = Recipe.from_dict({"optimize": {"passes": ["merge-relus"]}})
    report = Report()
    done = optimize(model, recipe, 8, report, Console(verbosity=-1))
    assert [s.name for s in report.stages] == ["simplify", "fold-batchnorm", "merge-relus"]
    assert report.stages[-1].counts == {"merged": 1}
    assert [n.op for n in done.model.graph.nodes] == ["Relu", "Neg"]
    feeds = {"x": np.array([[-1, 0, 2], [3, -4, 5]], np.float32)}
    assert (run(done.model, feeds)[0] == run(model, feeds)[0]).all()


def test_a_pass_that_is_unknown_or_needs_options_is_told() -> None:
    with pytest.raises(UsageError, match="did you mean 'simplify'"):
        named_pass("simplfy")
    with pytest.raises(UsageError, match="'insert-qdq' cannot be named in a recipe"):
        named_pass("insert-qdq")
