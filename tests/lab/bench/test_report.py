from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsecycle.lab.bench import memory, report, steps, update
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.bench.timing import Times

SUBJECT = Subject("linear", (1, 8, 8), 4, 0.9)  # too small for two threads to wait for each other


def times(**seconds: list[float]) -> Times:
    names = {"read": update.READ, "run": update.RUN, "new": update.UPDATE, "stock": update.STOCK}
    by_name = {names[short]: values for short, values in seconds.items()}
    return Times(by_name, {name: [True] * len(values) for name, values in by_name.items()})


@pytest.fixture
def updates() -> dict[str, Any]:
    quick = times(read=[0.001, 0.002, 0.001, 0.002], run=[0.0015, 0.004, 0.002, 0.002], new=[0.003, 0.006, 0.003, 0.02])
    everyone = times(read=[0.002, 0.001], run=[0.002, 0.004], new=[0.004, 0.004], stock=[2.0, 1.0])
    return {
        "model": "a-network",
        "weights": 1_000_000,
        "bytes": 4_000_000,
        "extra memory": {update.UPDATE: 80_000, update.STOCK: 52_000_000},
        "updates": [{"threads": 1, **report.of_updates(quick, everyone)}],
    }


@pytest.fixture
def trained() -> dict[str, Any]:
    seconds = {steps.BARE: [1.0, 2.0, 4.0], steps.COPY: [1.0, 2.0, 4.0], steps.EVERY_STEP: [1.01, 2.04, 4.12]}
    found = report.of_steps(Times(seconds, {name: [True] * 3 for name in seconds}))
    return {"steps": [{"threads": 1, **found}]}


def test_reads_come_from_many_rounds_and_torch_from_those_it_was_in(updates: dict[str, Any]) -> None:
    its = updates["updates"][0]
    assert (its["rounds"], its["undisturbed"]) == ([4, 2], [1.0, 1.0])
    found = its["contestants"]
    assert list(found) == [update.READ, update.RUN, update.UPDATE, update.STOCK]
    assert found[update.READ]["reads"] == 1.0
    assert found[update.RUN]["reads"] == pytest.approx(1.75)
    assert found[update.UPDATE] == pytest.approx({"milliseconds": 4.5, "reads": 3.0, "times faster than torch": 375.0})
    assert found[update.STOCK] == pytest.approx(
        {"milliseconds": 1500.0, "reads": 1000.0, "times faster than torch": 1.0}
    )


def test_the_table_of_updates(updates: dict[str, Any]) -> None:
    assert report.update_table(updates, 0).splitlines() == [
        "|                           |    ms | reads | times faster than torch | extra memory, of the weights |",
        "| ------------------------- | ----: | ----: | ----------------------: | ---------------------------: |",
        "| one read of the weights   |   1.5 |   1.0 |                   1,000 |                              |",
        "| update in a run           |   2.0 |   1.8 |                     625 |                              |",
        "| update from dense         |   4.5 |   3.0 |                     375 |                        2.0 % |",
        "| prune.global_unstructured | 1,500 | 1,000 |                     1.0 |                      1,300 % |",
    ]


def test_the_table_of_steps(trained: dict[str, Any]) -> None:
    rows = report.steps_table(trained, 0).splitlines()
    assert [cell.strip() for cell in rows[2].split("|")[1:-1]] == ["bare loop", "2000.000", "", ""]
    assert [cell.strip() for cell in rows[4].split("|")[1:-1]] == [
        "progressive, a mask at every step",
        "2040.000",
        "+2.0%",
        "+1.5% to +2.5%",
    ]


def test_the_summary_has_a_row_for_each_number_of_threads(updates: dict[str, Any], trained: dict[str, Any]) -> None:
    (row,) = report.summary(updates, trained).splitlines()[2:]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "a-network, 1 thread",
        "1,000,000",
        "1.5 ms",
        "4.5 ms = 3.0 reads",
        "1,500 ms = 375 updates",
        "2.0 %",
        "+2.0%",
    ]
    assert "+2.0%" not in report.summary(updates, None)


def test_memory_that_is_not_known_is_left_out(updates: dict[str, Any]) -> None:
    updates["extra memory"] = {}
    assert "%" not in report.update_table(updates, 0)
    assert "%" not in report.summary(updates, None)


def test_the_machine_is_named() -> None:
    described = report.machine()
    assert described["torch"] == torch.__version__
    assert {"processor", "cores", "python", "native core"} <= set(described)
    json.dumps(described)


def test_a_real_one_says_its_tables_and_returns_plain_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    asked = []

    def extra_memory(*words: object) -> int:
        asked.append(words)
        return 1000

    monkeypatch.setattr(memory, "is_known", lambda: True)
    monkeypatch.setattr(memory, "extra_memory", extra_memory)
    said: list[str] = []
    updates = report.bench_update(SUBJECT, threads=[1, 2], seconds=0.0, say=said.append)
    trained = report.bench_steps(
        SUBJECT, threads=[1], seconds=0.0, batch_size=4, methods=[steps.EVERY_STEP], say=said.append
    )
    assert torch.get_num_threads() == threads
    assert asked == [(SUBJECT, name, 2) for name in memory.LOOKED_AT]
    assert [its["threads"] for its in updates["updates"]] == [1, 2]
    assert updates["weights"] == 256
    assert "bytes a weight" in "".join(said)
    assert sum(text.count(update.STOCK) for text in said) == 2
    assert set(trained["steps"][0]["loops"]) == {steps.BARE, steps.COPY, steps.EVERY_STEP}
    report.write(tmp_path / "found.json", {**updates, **trained})
    stored = json.loads((tmp_path / "found.json").read_text())
    assert stored["updates"] == updates["updates"]
    assert stored["steps"] == trained["steps"]


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report.write(None, {})
    assert not list(tmp_path.iterdir())
