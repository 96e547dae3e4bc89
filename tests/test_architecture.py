"""The shape of the project: one direction of imports, packages, public names, the wheel."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
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
LAYERS: list[set[str]] = [
    {
        "errors",
        "registry",
        "files",
        "toml",
        "graph",
        "intake",
        "reader",
        "writer",
        "model",
        "runtime",
        "cost",
        "console",
    },
    {"profiles", "calibrators"},
    {
        "channels",
        "data",
        "dialects",
        "engines",
        "fidelity",
        "passes",
        "verify",
    },
    {"recipe"},
    {
        "report",
        "output",
        "optimize",
        "quantize",
        "measure",
        "prepare",
        "outcome",
        "opening",
        "inspection",
    },
    {"pipeline"},
    {"verbs"},
    {"cli", "__main__"},
]


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


def imports(tree: ast.AST) -> set[str]:
    """Every graphopt module imported, also inside functions, but not for type checking only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "graphopt"}


def test_every_module_has_a_layer() -> None:
    assert [name for name in modules() if layer(name) == -1] == []


def test_imports_go_one_way() -> None:
    wrong = []
    for name, path in modules().items():
        own = layer(name)
        for target in imports(ast.parse(path.read_text(encoding="utf-8"))):
            there = layer(target)
            if own is not None and there is not None and there > own:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


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
    assert len(list(pkgutil.walk_packages(graphopt.__path__, "graphopt."))) < 200


def test_every_public_name_is_there() -> None:
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = graphopt.nothing


def test_importing_graphopt_imports_nothing_heavy() -> None:
    code = (
        "import sys, graphopt, graphopt.cli; heavy = {'numpy', 'onnx', 'onnxruntime', 'pydantic'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_wheel_holds_what_it_should(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    want = {name.replace(".", "/") for name in modules()}
    want = {f"{n}/__init__.py" if f"{n}/__init__.py" in names else f"{n}.py" for n in want}
    want |= {f"graphopt/profiles/{p.name}" for p in (ROOT / "profiles").glob("*.toml")}
    want.add("graphopt/py.typed")
    assert names == want
