from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsecycle.lab import outcome
from sparsecycle.lab.comparison import markdown, plan, tabulate
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.result import Result
from sparsecycle.lab.runner import Failure, run_experiments
from sparsecycle.methods import METHODS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def results(runs: Path) -> list[tuple[Experiment, Result]]:
    base = Experiment(method="dense", update="epoch", recipe=Recipe(epochs=2, batch_size=256))
    results, failures = run_experiments(plan(base, ["dense", "progressive"], [0.5, 0.8], [0]), runs, jobs=1)
    assert failures == []
    return results


def test_all_files_are_written(runs: Path, results: list[tuple[Experiment, Result]]) -> None:
    failure = Failure(results[0][0], "ValueError: no", "")
    paths = outcome.write(results, [failure], runs, {"torch": "2"})
    assert [path.name for path in paths] == [
        "table.md",
        "results.json",
        "accuracy.png",
        "costs.png",
        "schedules.png",
    ]
    assert paths[0].read_text(encoding="utf-8") == markdown(tabulate(results))
    content = json.loads(paths[1].read_text())
    assert [row["requested"] for row in content["rows"]] == [0.0, 0.5, 0.8]
    assert [run["accuracy"] for run in content["runs"]] == [result.accuracy for _, result in results]
    assert all((runs / run["path"] / "result.json").exists() for run in content["runs"])
    assert content["runs"][1]["experiment"]["recipe"]["epochs"] == 2
    assert content["failures"][0]["message"] == "ValueError: no"
    assert content["environment"] == {"torch": "2"}
    for path in paths[2:]:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
    assert not list(runs.glob(".*.tmp"))


def test_dense_alone_has_no_schedule(tmp_path: Path, results: list[tuple[Experiment, Result]]) -> None:
    root = results[0][1].path.parent
    paths = outcome.write(results[:1], [], root, {})
    assert [path.name for path in paths] == ["table.md", "results.json", "accuracy.png"]


def test_without_a_dense_run_there_is_no_picture_of_costs(results: list[tuple[Experiment, Result]]) -> None:
    root = results[0][1].path.parent
    paths = outcome.write(results[1:], [], root, {})
    assert [path.name for path in paths] == ["table.md", "results.json", "accuracy.png", "schedules.png"]


def test_methods_that_train_several_times_have_no_schedule(results: list[tuple[Experiment, Result]]) -> None:
    experiment, result = results[1]
    several = replace(experiment, method="lottery-ticket"), replace(result, trainings=16, seconds=16 * result.seconds)
    assert outcome.curves([results[0], several]) == {}
    paths = outcome.write([results[0], several], [], result.path.parent, {})
    assert [path.name for path in paths] == ["table.md", "results.json", "accuracy.png", "costs.png"]
    run = json.loads(paths[1].read_text())["runs"][1]
    assert (run["trainings"], run["search_epochs"], run["search_multiply_adds"]) == (16, 0.0, 0)


def test_a_curve_is_the_highest_sparsitys(results: list[tuple[Experiment, Result]]) -> None:
    curves = outcome.curves(results)
    assert list(curves) == ["progressive"]
    curve = curves["progressive"]
    assert curve.times == [0.0, 0.5, 1.0]
    assert curve.asked == pytest.approx([0.4, 0.8, 0.8]), "an epoch trains at the sparsity of its end"
    assert curve.epochs == [0.5, 1.0]
    assert curve.counted == pytest.approx([0.8, 0.8], abs=1e-5)


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        (Experiment(method="progressive", sparsity=0.8, end=0.5), {0.0: 0.0, 0.25: 0.4, 0.5: 0.8, 1.0: 0.8}),
        (Experiment(method="one-shot", sparsity=0.9, at=0.6), {0.0: 0.0, 0.5: 0.0, 0.7: 0.9, 1.0: 0.9}),
        (Experiment(method="agp", sparsity=0.8, start=0.5), {0.4: 0.0, 0.75: 0.7, 1.0: 0.8}),
    ],
)
def test_what_is_asked_is_the_methods_own_schedule(experiment: Experiment, expected: dict[float, float]) -> None:
    times, sparsities = outcome.asked(experiment)
    assert len(times) == len(sparsities) == 501
    for time, sparsity in expected.items():
        assert sparsities[times.index(time)] == pytest.approx(sparsity, abs=0.005)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("update", ["step", "epoch"])
def test_every_method_can_be_asked(method: str, update: str) -> None:
    recipe = Recipe(epochs=30)
    state = torch.get_rng_state()
    times, sparsities = outcome.asked(Experiment(method=method, sparsity=0.9, update=update, recipe=recipe))
    assert torch.equal(torch.get_rng_state(), state)
    assert times[0] == 0.0
    assert times[-1] == 1.0
    own = method in ("set", "rigl", "dpf")  # they change their masks after so many steps, not after an epoch
    assert len(times) == len(sparsities) == (31 if update == "epoch" and not own else 501)
    assert sparsities[-1] == pytest.approx(0.0 if method == "dsd" else 0.9, abs=1e-4)
    if method in ("random", "magnitude", "snip", "grasp", "synflow", "set", "rigl"):
        assert sparsities == pytest.approx([0.9] * len(times), abs=1e-4)


def test_a_methods_own_arguments_are_asked_too() -> None:
    experiment = Experiment(method="cyclical", sparsity=0.8, arguments=("cycles=2",))
    times, sparsities = outcome.asked(experiment)
    falls = [t for t, a, b in zip(times[1:], sparsities, sparsities[1:], strict=False) if b < a]
    assert falls == [0.498], "the step that ends at a half of the run is the second cycle's first"
