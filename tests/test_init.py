from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparsecycle

SOURCE = Path(sparsecycle.__file__).parent
WORDS = {"schedules", "criteria", "scopes", "recovery"}
#: What each module may use of the package, from the bottom up; drawing is asked for anywhere.
ALLOWED = {
    **{name: set() for name in [*WORDS, "_matplotlib", "modes", "names"]},
    "report": {"modes"},
    "files": {"modes", "names", "report"},
    "selection": {"native"},
    "masks": {"native"},
    "saliency": {"criteria"},
    "prunable": {"names"},
    "plan": {"schedules", "scopes", "prunable", "names"},
    "competition": {"scopes", "selection", "masks"},
    "pruner": {*WORDS, "competition", "masks"},
    "sparsifier": {*WORDS, "names", "prunable", "plan", "pruner", "masks", "report"},
    "methods": {*WORDS, "saliency", "prunable", "sparsifier"},
    "tickets": {*WORDS, "files", "names", "prunable", "selection", "masks", "sparsifier"},
    "runtime": {"files", "modes", "native"},
    "__init__": {*WORDS, "saliency", "files", "report", "sparsifier", "methods", "runtime", "tickets"},
}
MODULES = sorted(path.stem for path in SOURCE.glob("*.py"))
TICKETS = sorted(f"tickets/{path.stem}" for path in SOURCE.glob("tickets/*.py"))
FILES = sorted(f"files/{path.stem}" for path in SOURCE.glob("files/*.py"))
RUNTIME = sorted(f"runtime/{path.stem}" for path in SOURCE.glob("runtime/*.py"))


def imports(module: str) -> set[str]:
    """The parts of the package that a module names in its imports, wherever they stand in it."""
    found = set()
    for node in ast.walk(ast.parse((SOURCE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "sparsecycle":
                found |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("sparsecycle."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("sparsecycle.")}
    return found


def test_import_brings_in_torch_numpy_and_safetensors_alone() -> None:
    code = """
import sys, torch, numpy
before = set(sys.modules)
import sparsecycle
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
heavy = "matplotlib rich tyro sklearn yaml lightning_fabric accelerate pandas scipy sparsecycle.lab".split()
print(*(name for name in heavy if name in sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new, heavy = run.stdout.splitlines()
    assert heavy == ""
    assert set(new.split()) <= set(sys.stdlib_module_names) | {"sparsecycle", "safetensors", "torch", "numpy"}


def test_every_public_name_is_there() -> None:
    in_order = sorted(
        sparsecycle.__all__, key=lambda name: (not name.isupper(), name)
    )  # capitals first, as ruff has it
    assert sparsecycle.__all__ == in_order
    for name in sparsecycle.__all__:
        assert getattr(sparsecycle, name) is not None
    assert sparsecycle.Sparsifier.__module__ == "sparsecycle.sparsifier"


def test_every_schedule_and_criterion_is_public() -> None:
    from sparsecycle import criteria, saliency, schedules

    names = {*schedules.__all__, *criteria.__all__, *saliency.__all__}
    expected = names - {"CRITERIA", "Criterion", "Batches", "Loss"}
    assert expected <= set(sparsecycle.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    if module == "cli":
        assert imports(module) <= {"files", "lab", "names", "__version__", "methods", "sparsifier"}
    else:
        assert imports(module) <= ALLOWED[module] | {"_matplotlib"}


@pytest.mark.parametrize("module", TICKETS)
def test_imports_of_tickets_run_one_way(module: str) -> None:
    assert imports(module) <= ALLOWED["tickets"] | {"tickets"}


@pytest.mark.parametrize("module", FILES)
def test_imports_of_files_run_one_way(module: str) -> None:
    assert imports(module) <= ALLOWED["files"] | {"files"}


@pytest.mark.parametrize("module", RUNTIME)
def test_imports_of_the_runtime_run_one_way(module: str) -> None:
    assert imports(module) <= ALLOWED["runtime"] | {"runtime"}


def test_all_modules_are_looked_at() -> None:
    assert {"runtime/__init__", "runtime/graph"} <= set(RUNTIME)
    assert {"tickets/__init__", "tickets/colt"} <= set(TICKETS)
    assert {"files/__init__", "files/packed"} <= set(FILES)
    assert set(MODULES) - {"cli"} == set(ALLOWED) - {"files", "runtime", "tickets"}


def test_every_module_names_what_is_public() -> None:
    for module in {*MODULES, *FILES, *RUNTIME, *TICKETS} - {"_matplotlib"}:
        tree = ast.parse((SOURCE / f"{module}.py").read_text(encoding="utf-8"))
        names = [
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        ]
        assert "__all__" in names, module
        assert ast.get_docstring(tree), module


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("sparsecycle")
    except PackageNotFoundError:
        pytest.skip("sparsecycle runs from its sources here")
    assert installed == sparsecycle.__version__
