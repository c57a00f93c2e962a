from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsecycle.lab.comparison import HEADER, cells, duration, markdown, plan, tabulate
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.result import Result

BASE = Experiment(method="dense")
RESULT = Result(
    accuracy=0.9,
    loss=0.3,
    validation_accuracy=None,
    sparsity=0.0,
    achieved=0.0,
    epochs=1,
    seconds=2.0,
    images_per_second=100.0,
    precision="fp32",
    device="cpu",
    path=Path("run"),
)


def outcome(
    method: str, sparsity: float, seed: int, accuracy: float, seconds: float, achieved: float
) -> tuple[Experiment, Result]:
    experiment = Experiment(method=method, sparsity=sparsity, seed=seed)
    return experiment, replace(RESULT, accuracy=accuracy, seconds=seconds, achieved=achieved, sparsity=sparsity)


RESULTS = [
    outcome("agp", 0.98, 0, 0.80, 5.0, 0.98),
    outcome("agp", 0.9, 0, 0.96, 3.0, 0.9001),
    outcome("dense", 0.0, 0, 0.97, 2.0, 0.0),
    outcome("agp", 0.9, 1, 0.92, 5.0, 0.8999),
    outcome("dense", 0.0, 1, 0.99, 3.0, 0.0),
    outcome("one-shot", 0.9, 0, 0.95, 2.5, 0.9),
]


def test_the_plan_has_dense_once_a_seed_and_goes_seed_by_seed() -> None:
    planned = plan(BASE, ["dense", "agp", "one-shot"], [0.8, 0.9], [3, 4])
    assert [(e.seed, e.method, e.sparsity) for e in planned] == [
        (seed, *rest)
        for seed in (3, 4)
        for rest in (
            ("dense", 0.0),
            ("agp", 0.8),
            ("agp", 0.9),
            ("one-shot", 0.8),
            ("one-shot", 0.9),
        )
    ]


def test_a_time_goes_to_the_methods_that_take_it() -> None:
    planned = plan(replace(BASE, end=0.5, at=0.3), ["dense", "agp", "one-shot"], [0.9], [0])
    assert [(e.end, e.at) for e in planned] == [(None, None), (0.5, None), (None, 0.3)]


def test_scope_recovery_and_arguments_go_to_the_methods_that_take_them() -> None:
    base = replace(BASE, scope="uniform", recovery="zero", arguments=("rate=0.5", "rewind-to=5", "beta=6"))
    methods = ["dense", "agp", "one-cycle", "lottery-ticket", "colt"]
    assert [(e.scope, e.recovery, e.arguments) for e in plan(base, methods, [0.9], [0])] == [
        ("paper", "paper", ()),
        ("uniform", "zero", ()),
        ("uniform", "zero", ("beta=6",)),
        ("uniform", "paper", ("rate=0.5", "rewind-to=5")),
        ("paper", "paper", ("rate=0.5", "rewind-to=5")),
    ]


@pytest.mark.parametrize(
    ("settings", "methods", "message"),
    [
        (
            {"arguments": ("betta=6",)},
            ["agp", "one-cycle"],
            r"'betta=6': agp, one-cycle does not .*did you mean 'beta'",
        ),
        ({"arguments": ("beta",)}, ["one-cycle"], "'beta' must be of the form name=value"),
        ({"scope": "erk"}, ["dense", "colt"], "scope='erk': dense, colt does not take it"),
        ({"recovery": "zero"}, ["lottery-ticket", "colt"], "recovery='zero': lottery-ticket, colt does not take it"),
    ],
)
def test_what_no_method_takes_is_an_error(settings: dict[str, Any], methods: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(replace(BASE, **settings), methods, [0.9], [0])


@pytest.mark.parametrize(
    ("methods", "sparsities", "seeds", "message"),
    [
        ([], [0.9], [0], "methods is empty"),
        (["agp"], [], [0], "sparsities is empty"),
        (["agp"], [0.9], [], "seeds is empty"),
        (["agp", "dense", "agp"], [0.9], [0], "methods names agp more than once"),
        (["agp"], [0.9, 0.9], [0], "sparsities names 0.9 more than once"),
        (["agp"], [1.5], [0], "sparsity=1.5"),
        (["apg"], [0.9], [0], "method='apg' .* did you mean 'agp'"),
    ],
)
def test_a_wrong_plan_says_what_is_wrong(
    methods: list[str], sparsities: list[float], seeds: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(BASE, methods, sparsities, seeds)


def test_a_time_that_no_method_takes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"end=0.5: dense, one-shot does not take it"):
        plan(replace(BASE, end=0.5), ["dense", "one-shot"], [0.9], [0])


def test_the_table_has_means_population_deviations_and_cost_ratios() -> None:
    dense, agp_90, one_shot, agp_98 = tabulate(RESULTS)
    assert (dense.method, dense.requested, dense.seeds) == ("dense", 0.0, 2)
    assert dense.accuracy == pytest.approx(0.98)
    assert dense.deviation == pytest.approx(0.01)
    assert dense.seconds == 2.5
    assert dense.cost == 1.0
    assert (agp_90.method, agp_90.requested, agp_90.seeds) == ("agp", 0.9, 2)
    assert agp_90.achieved == pytest.approx(0.9)
    assert agp_90.accuracy == pytest.approx(0.94)
    assert agp_90.deviation == pytest.approx(0.02)
    assert agp_90.cost == pytest.approx(4.0 / 2.5)
    assert (one_shot.method, one_shot.deviation, one_shot.cost) == ("one-shot", 0.0, 1.0)
    assert (agp_98.requested, agp_98.cost) == (0.98, 2.0)


def test_without_a_dense_run_there_is_no_cost() -> None:
    rows = tabulate([result for result in RESULTS if result[0].method != "dense"])
    assert [row.cost for row in rows] == [None, None, None]
    assert cells(rows[0])[-1] == "-"


def test_cells_are_what_a_person_reads() -> None:
    dense, agp_90, one_shot, _ = tabulate(RESULTS)
    assert cells(dense) == ("dense", "-", "-", "98.00 ± 1.00", "2", "2.50 s", "1", "1.00")
    assert cells(agp_90) == ("agp", "90 %", "90.00 %", "94.00 ± 2.00", "2", "4.00 s", "1", "1.60")
    assert cells(one_shot)[3] == "95.00", "one seed has no deviation"


@pytest.mark.parametrize(("trainings", "mean", "text"), [((16, 16), 16.0, "16"), ((3, 4), 3.5, "3.5")])
def test_trainings_are_their_mean_over_seeds(trainings: tuple[int, ...], mean: float, text: str) -> None:
    results = [outcome("lottery-ticket", 0.9, seed, 0.9, 2.0, 0.9) for seed in range(2)]
    results = [(e, replace(r, trainings=n)) for (e, r), n in zip(results, trainings, strict=True)]
    (row,) = tabulate(results)
    assert row.trainings == mean
    assert cells(row)[HEADER.index("trainings")] == text


def test_the_plan_knows_methods_that_train_several_times() -> None:
    planned = plan(replace(BASE, start=0.1), ["agp", "lottery-ticket", "colt"], [0.9], [0])
    assert [(e.method, e.start) for e in planned] == [("agp", 0.1), ("lottery-ticket", None), ("colt", None)]


def test_a_stored_ticket_is_planned_once_a_seed_and_only_where_there_is_one() -> None:
    base = Experiment(method="ticket", ticket="found.safetensors")
    planned = plan(base, ["dense", "ticket"], [0.8, 0.9], [0, 1])
    assert [(e.seed, e.method, e.sparsity, e.ticket) for e in planned] == [
        (seed, *rest) for seed in (0, 1) for rest in (("dense", 0.0, ""), ("ticket", 0.0, "found.safetensors"))
    ]
    with pytest.raises(ValueError, match="needs the file of a ticket"):
        plan(BASE, ["ticket"], [0.9], [0])
    with pytest.raises(ValueError, match=r"ticket='found\.safetensors': dense, agp does not take it"):
        plan(base, ["dense", "agp"], [0.9], [0])


def test_markdown_is_a_table_that_every_row_fits() -> None:
    lines = markdown(tabulate(RESULTS)).splitlines()
    assert lines[0] == "| " + " | ".join(HEADER) + " |"
    assert {line.count("|") for line in lines[:6]} == {len(HEADER) + 1}
    assert lines[3] == "| agp | 90 % | 90.00 % | 94.00 ± 2.00 | 2 | 4.00 s | 1 | 1.60 |"
    assert "divisor n" in lines[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.834, "0.83 s"),
        (9.996, "10.0 s"),
        (41.23, "41.2 s"),
        (59.96, "1 min 00 s"),
        (364.4, "6 min 04 s"),
        (3599.6, "1 h 00 min"),
        (7650, "2 h 08 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
