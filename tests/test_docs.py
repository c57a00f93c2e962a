from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from sparsecycle.lab.catalogue import DENSE, NAMES

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("methods_page", DOCS / "methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_methods_is_what_the_code_says(generator: ModuleType) -> None:
    written = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert written == generator.page(), "docs/methods.md is out of date: run python docs/methods.py"


def test_every_method_has_a_row_that_fits_the_head(generator: ModuleType) -> None:
    lines = [line for line in generator.page().splitlines() if line.startswith("| ")]
    head, rule, *rows = lines
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [name for name in NAMES if name != DENSE]
    assert {row.count(" | ") for row in (head, rule, *rows)} == {7}
    assert not any("| |" in row or "|  |" in row for row in rows), "no cell is empty"
