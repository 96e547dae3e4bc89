"""The shape of the project: one direction of imports, packages, public names, the wheel."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import FunctionType

import pytest
from helpers import ROOT

import graphopt
from graphopt.toml import load_toml

HOMES = {
    "graphopt": ROOT / "graphopt",
    "graphopt.calibrators": ROOT / "calibrators",
    "graphopt.engines": ROOT / "engines",
    "graphopt.profiles": ROOT / "profiles",
}
# Each may import from its own layer and those before it.
# docs/architecture.md draws the same.
LAYERS: list[set[str]] = [
    {"errors", "registry", "files", "toml", "wording", "machine", "console", "cli_options",
     "percent", "vcs", "schemas", "charts"},
    {"graph", "intake", "reader", "writer", "model", "runtime", "coverage", "cost"},
    {"profiles", "calibrators", "statistics"},
    {"channels", "data", "dialects", "engines", "fidelity", "lint", "passes", "recovery",
     "verify"},
    {"recipe"},
    {"report", "output", "stages", "layerwise", "pruning", "weights", "prune_options", "optimize",
     "quantize", "measure", "plan", "prepare", "prepare_data", "outcome", "opening", "inspection",
     "sensitivity", "quantization", "shape_options", "quantize_options", "engine_options", "bits",
     "int8", "linting", "honesty", "publish", "runs", "check", "profiling", "html"},
    {"pipeline"},
    {"bundle"},
    {"verbs", "verbs_analyze", "verbs_bundle", "verbs_calibrate", "verbs_check", "verbs_devices",
     "verbs_estimate", "verbs_profile", "verbs_history", "verbs_trends", "verbs_report"},
    {"cli", "cli_measure", "cli_history", "__main__"},
]  # fmt: skip


def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package, folder in HOMES.items():
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder)
            if package == "graphopt" and inner.parts[0] in ("calibrators", "engines", "profiles"):
                continue
            parts = [package, *inner.with_suffix("").parts]
            found[".".join(p for p in parts if p != "__init__")] = path
    return found


def layer(module: str) -> int | None:
    parts = module.split(".")
    if len(parts) == 1:
        return None
    known = [i for i, names in enumerate(LAYERS) if parts[1] in names]
    return known[0] if known else -1


def imports(path: Path, *, inside_functions: bool = True) -> set[str]:
    """Every graphopt module imported, but not for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.FunctionDef) and not inside_functions:
            continue
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            # ``from graphopt import pipeline`` imports graphopt.pipeline.
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        todo += ast.iter_child_nodes(node)
    return {name for name in names if name.split(".")[0] == "graphopt"}


def test_every_module_has_a_layer() -> None:
    assert [name for name in modules() if layer(name) == -1] == []
    present = {name.split(".")[1] for name in modules() if "." in name}
    assert set().union(*LAYERS) == present


def test_the_layers_are_drawn_in_the_docs() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (drawn,) = [block for block in text.split("```")[1::2] if block.startswith("\ncli ")]
    lines = [set(line.split()) for line in reversed(drawn.strip().splitlines())]
    known = [names - {"__main__"} for names in LAYERS]
    for line in lines:
        assert [names for names in known if line <= names], f"not in one layer: {sorted(line)}"
    assert set().union(*lines) == set().union(*known)
    order = [next(i for i, names in enumerate(known) if line <= names) for line in lines]
    assert order == sorted(order)


def test_imports_go_one_way() -> None:
    known, wrong = modules(), []
    for name, path in known.items():
        own = layer(name)
        for target in imports(path) & set(known):
            there = layer(target)
            if own is not None and there is not None and there > own:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    targets = {
        name: imports(path, inside_functions=False) & set(known) for name, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        # A package's __init__ collects what is in it, which may name the package again.
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in sorted(targets[name]):
                if not name.startswith(f"{target}."):
                    visit(target, (*path, name))
            done.add(name)

    for name in targets:
        visit(name, ())


def test_the_layers_are_found_and_what_is_for_types_only_is_not(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nfrom graphopt import cli\nimport graphopt.verbs\n"
        "if TYPE_CHECKING:\n    from graphopt.recipe import Recipe\n"
        "def f():\n    from graphopt.model import Model\n"
    )
    top = {"graphopt", "graphopt.cli", "graphopt.verbs"}
    assert imports(path, inside_functions=False) == top
    assert imports(path) == top | {"graphopt.model", "graphopt.model.Model"}


def test_packages_in_pyproject_are_the_folders() -> None:
    tool = load_toml(ROOT / "pyproject.toml")["tool"]["setuptools"]
    folders = set()
    for package, folder in HOMES.items():
        for init in folder.rglob("__init__.py"):
            inner = init.parent.relative_to(folder)
            if (
                package == "graphopt"
                and inner.parts[:1]
                and inner.parts[0] in ("calibrators", "engines", "profiles")
            ):
                continue
            folders.add(".".join([package, *inner.parts]))
    assert set(tool["packages"]) == folders


def test_links_point_at_the_folders() -> None:
    for name in ("calibrators", "engines", "profiles"):
        link = ROOT / "graphopt" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_every_module_imports_and_every_public_name_is_documented() -> None:
    undocumented = []
    for name in modules():
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        if not module.__doc__:
            undocumented.append(name)
        for public, item in vars(module).items():
            if public.startswith("_") or getattr(item, "__module__", None) != name:
                continue
            if isinstance(item, FunctionType) and item.__code__.co_name != public:
                continue  # a stack of decorators, not a function of its own
            if (inspect.isclass(item) or inspect.isfunction(item)) and not inspect.getdoc(item):
                undocumented.append(f"{name}.{public}")
    assert undocumented == []


def test_walking_the_package_ends() -> None:
    assert len(list(pkgutil.walk_packages(graphopt.__path__, "graphopt."))) < 1000


def test_every_public_name_is_there() -> None:
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = graphopt.nothing


def test_importing_graphopt_imports_nothing_heavy() -> None:
    code = (
        "import sys, graphopt, graphopt.cli\n"
        "try: graphopt.cli.cli(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(set(sys.argv[1].split()) & set(sys.modules)))"
    )
    heavy = "numpy onnx onnxruntime pydantic jinja2 sqlite3 PIL rich"
    command = [sys.executable, "-c", code, heavy]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_sdist_and_wheel_hold_what_they_should(tmp_path: Path) -> None:
    # As a release is made: the wheel is built from the sdist, so that neither lacks anything.
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    want = {name.replace(".", "/") for name in modules()}
    want = {f"{n}/__init__.py" if f"{n}/__init__.py" in names else f"{n}.py" for n in want}
    want |= {f"graphopt/{p.relative_to(ROOT)}" for p in (ROOT / "profiles").rglob("*.toml")}
    want |= {str(p.relative_to(ROOT)) for p in (ROOT / "graphopt" / "schemas").glob("*.json")}
    pages = ROOT / "graphopt" / "html" / "templates"
    want |= {str(p.relative_to(ROOT)) for p in pages.iterdir()}
    for folder, home in (("bundle", ROOT / "graphopt"), ("engines/remote", ROOT)):
        want |= {f"graphopt/{folder}/{p.name}" for p in (home / folder).glob("*.sh")}
    want.add("graphopt/py.typed")
    assert names == want
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        top = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"LICENSE", "CHANGELOG.md", "calibrators", "engines", "profiles", "graphopt"} <= top
    assert not top & {"tests", "tools", "docs", "examples", "build"}
