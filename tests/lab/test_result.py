from __future__ import annotations

from pathlib import Path

import pytest

from sparsecycle.lab.result import Result
from sparsecycle.lab.store import BrokenFile, RunFolder

STORED = {
    "accuracy": 0.9,
    "loss": 0.3,
    "validation_accuracy": None,
    "sparsity": 0.8,
    "achieved": 0.8,
    "epochs": 2,
    "seconds": 1.5,
    "images_per_second": 100.0,
    "precision": "fp32",
    "device": "cpu",
}


def folder(root: Path, content: dict[str, object]) -> RunFolder:
    run = RunFolder(root, "run", {"a": 1})
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_json("result.json", content)
    return run


def test_a_result_stored_before_there_were_searches_is_of_one_training(tmp_path: Path) -> None:
    result = Result.read(folder(tmp_path, STORED))
    assert (result.trainings, result.search_epochs, result.search_multiply_adds) == (1, 0.0, 0)
    assert (result.accuracy, result.seconds) == (0.9, 1.5)


def test_what_a_search_took_is_read_back(tmp_path: Path) -> None:
    cost = {"trainings": 7, "search_epochs": 11.5, "search_multiply_adds": 3 * 10**15}
    result = Result.read(folder(tmp_path, {**STORED, **cost}))
    assert (result.trainings, result.search_epochs, result.search_multiply_adds) == (7, 11.5, 3 * 10**15)


def test_a_file_that_is_not_a_result_says_so(tmp_path: Path) -> None:
    with pytest.raises(BrokenFile, match="is not a result .*colour"):
        Result.read(folder(tmp_path, {**STORED, "colour": "red"}))
