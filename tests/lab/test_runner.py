from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sparsecycle.lab import runner
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.runner import default_jobs, run_experiments
from sparsecycle.lab.workers import Done, Failed, Note, Started

RECIPE = Recipe(epochs=1, batch_size=256)
#: It cannot be built for images of 8 by 8.
MISFIT = Experiment(model="resnet-20", method="agp", data="no-such-data", recipe=RECIPE)
GOOD = [Experiment(method=method, sparsity=0.5, recipe=RECIPE) for method in ("dense", "agp")]
#: Either needs the same teacher and the same search.
SHARING = [
    Experiment(
        method="lottery-ticket", sparsity=sparsity, arguments=("rate=0.5",), recipe=replace(RECIPE, distillation=0.5)
    )
    for sparsity in (0.5, 0.75)
]


def test_a_failing_run_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    results, failures = run_experiments([GOOD[0], MISFIT, GOOD[1]], tmp_path, jobs=1)
    assert [experiment for experiment, _ in results] == GOOD
    assert [result.achieved for _, result in results] == [0.0, 0.5]
    (failure,) = failures
    assert failure.experiment == MISFIT
    assert "no-such-data" in failure.message
    assert failure.details == "", "what the laboratory itself says needs no traceback"


def test_an_unexpected_error_has_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(runner, "run", broken)
    results, (failure,) = run_experiments(GOOD[:1], tmp_path, jobs=1)
    assert results == []
    assert failure.message == "KeyError: 'gone'"
    assert "in broken" in failure.details


def test_finished_runs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = run_experiments(GOOD, tmp_path, jobs=1)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("it ran again")

    monkeypatch.setattr(runner, "run", forbidden)
    again, failures = run_experiments(GOOD, tmp_path, jobs=2)
    assert (again, failures) == (first, [])


def test_processes_get_the_numbers_of_this_one_and_wait_for_what_they_share(tmp_path: Path) -> None:
    here, _ = run_experiments(GOOD, tmp_path / "here", jobs=1)
    runs = tmp_path / "there"
    there, failures = run_experiments([*GOOD, MISFIT, *SHARING], runs, jobs=2)
    assert [failure.experiment for failure in failures] == [MISFIT]
    assert [(e, r.achieved) for e, r in there[:2]] == [(e, r.achieved) for e, r in here]
    assert [r.accuracy for _, r in there[:2]] == pytest.approx([r.accuracy for _, r in here], abs=0.01)
    assert [(e, r.trainings, r.achieved) for e, r in there[2:]] == [(SHARING[0], 3, 0.5), (SHARING[1], 4, 0.75)]
    # One teacher, which is the dense run of the four, and one search of two rounds.
    assert len(list(runs.glob("*-dense-*/result.json"))) == 1
    (rounds,) = runs.glob("*-search-*/metrics.jsonl")
    assert len(rounds.read_text().splitlines()) == 2


def test_progress_counts_the_epochs_of_every_training(tmp_path: Path) -> None:
    notes: list[float] = []
    recipe = Recipe(epochs=2, batch_size=256)
    experiment = Experiment(method="lottery-ticket", sparsity=0.75, arguments=("rate=0.5",), recipe=recipe)
    runner._job(tmp_path, "cpu", experiment, notes.append)
    # Each training begins where the one before it ended.
    assert [note for note in notes if note == int(note)] == [0, 2, 4]
    assert notes == sorted(notes)


def test_jobs_are_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs=0 must be at least 1"):
        run_experiments(GOOD, tmp_path, jobs=0)


def test_as_many_jobs_as_cores_or_runs_or_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_cores", lambda: 4)
    assert [default_jobs("cpu", runs) for runs in (0, 1, 3, 99)] == [1, 1, 3, 4]
    monkeypatch.setattr(runner, "_cores", lambda: 64)
    assert default_jobs("cpu", 99) == 8


def test_the_time_left_follows_from_the_epochs_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(runner.time, "monotonic", lambda: now)
    display = runner._Lines(["a", "b"], total=3, epochs=[10, 10])
    assert (display.count(), display.left()) == ("1 of 3 runs", "")
    display.hear(Started(0))
    display.hear(Note(0, 4.0))  # Four of its epochs were trained before.
    now = 150.0  # Compiled.
    display.hear(Note(0, 5.0))
    assert display.left() == ""
    now = 170.0
    display.hear(Note(0, 9.0))
    assert display.left() == "55 s left", "4 epochs took 20 s, 11 are left"
    (result, *_) = [Done(0, _Scored())]
    display.hear(result)
    display.hear(Failed(1, "ValueError: no", True, ""))
    assert display.count() == "3 of 3 runs, 1 failed"
    assert display.left() == ""
    assert "b failed: ValueError: no" in capsys.readouterr().err


class _Scored:
    accuracy = 0.5
