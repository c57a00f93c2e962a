from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecycle.lab.learning_rate import learning_rate
from sparsecycle.lab.recipe import Recipe


def over_epochs(recipe: Recipe, steps_per_epoch: int = 4) -> list[float]:
    """At each epoch's first step."""
    return [learning_rate(recipe, epoch * steps_per_epoch, steps_per_epoch) for epoch in range(recipe.epochs)]


def test_cosine_by_epoch_is_the_closed_form_and_torchs() -> None:
    recipe = Recipe(epochs=10, lr=0.1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for epoch, rate in enumerate(over_epochs(recipe)):
        assert rate == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * epoch / 10)), rel=1e-12)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_by_epoch_it_stays_the_same_within_an_epoch() -> None:
    recipe = Recipe(epochs=3, lr_update="epoch")
    rates = [learning_rate(recipe, step, 5) for step in range(15)]
    assert [len(set(rates[e * 5 : e * 5 + 5])) for e in range(3)] == [1, 1, 1]
    assert len(set(rates)) == 3


def test_cosine_by_step_ends_just_above_zero() -> None:
    recipe = Recipe(epochs=2, lr=1.0, lr_update="step")
    assert learning_rate(recipe, 0, 50) == 1.0
    assert learning_rate(recipe, 50, 50) == pytest.approx(0.5)
    assert learning_rate(recipe, 99, 50) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


def test_warmup_rises_linearly_to_lr_and_the_cosine_takes_the_rest() -> None:
    recipe = Recipe(epochs=10, lr=0.2, warmup=4)
    assert over_epochs(recipe)[:5] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2])
    assert over_epochs(recipe)[7] == pytest.approx(0.2 * 0.5 * (1 + math.cos(math.pi * 3 / 6)))
    half = Recipe(epochs=2, lr=1.0, warmup=0.5, lr_update="step")
    assert [learning_rate(half, step, 4) for step in range(3)] == pytest.approx([0.5, 1.0, 1.0])


def test_steps_fall_by_gamma_at_the_milestones() -> None:
    recipe = Recipe(epochs=10, lr=1.0, lr_schedule="step", milestones=(0.3, 0.8), gamma=0.1)
    assert over_epochs(recipe) == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_constant() -> None:
    assert over_epochs(Recipe(epochs=3, lr=0.3, lr_schedule="constant")) == [0.3] * 3


@given(
    epochs=st.integers(1, 20),
    steps=st.integers(1, 9),
    warmup=st.floats(0, 0.99),
    update=st.sampled_from(["epoch", "step"]),
    schedule=st.sampled_from(["cosine", "step", "constant"]),
)
def test_it_stays_between_zero_and_lr_and_falls_after_the_warmup(
    epochs: int, steps: int, warmup: float, update: str, schedule: str
) -> None:
    recipe = Recipe(epochs=epochs, lr=0.7, warmup=warmup * epochs, lr_update=update, lr_schedule=schedule)  # type: ignore[arg-type]
    rates = [learning_rate(recipe, step, steps) for step in range(epochs * steps)]
    assert all(0 < rate <= 0.7 for rate in rates)
    if schedule == "step" and warmup > 0.4:
        return  # A milestone may then fall into the warm-up.
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@given(
    epochs=st.integers(1, 20),
    steps=st.integers(1, 9),
    warmup=st.floats(0, 0.99),
    update=st.sampled_from(["epoch", "step"]),
    schedule=st.sampled_from(["cosine", "step", "constant"]),
)
def test_one_cycle_is_the_schedule_over_the_run_bit_by_bit(
    epochs: int, steps: int, warmup: float, update: str, schedule: str
) -> None:
    recipe = Recipe(epochs=epochs, lr=0.7, warmup=warmup * epochs, lr_update=update, lr_schedule=schedule)  # type: ignore[arg-type]
    for step in range(epochs * steps):
        k, total, w = (
            (step // steps, epochs, recipe.warmup)
            if update == "epoch"
            else (step, epochs * steps, recipe.warmup * steps)
        )
        rise = (k + 1) / w if k + 1 <= w else 1.0
        if schedule == "step":
            expected = 0.7 * rise * 0.1 ** sum(k >= m * total - 1e-9 for m in (0.5, 0.75))
        elif schedule == "constant" or rise < 1.0:
            expected = 0.7 * rise
        else:
            expected = 0.7 * 0.5 * (1.0 + math.cos(math.pi * max(k - w, 0.0) / (total - w)))
        assert learning_rate(recipe, step, steps) == expected


def test_whole_cycles_repeat_the_cosine() -> None:
    rates = over_epochs(Recipe(epochs=12, lr=1.0, lr_cycles=3))
    once = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert rates == pytest.approx(once * 3, rel=1e-12)


def test_cycles_that_are_not_whole_begin_between_two_epochs() -> None:
    # Cycles of 2.5 epochs: from 2.5 on the second, of which epoch 3 is half an epoch away.
    rates = over_epochs(Recipe(epochs=5, lr=1.0, lr_cycles=2))
    places = [0, 1, 2, 0.5, 1.5]
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * place / 2.5)) for place in places], rel=1e-12)


def test_cycles_by_step() -> None:
    recipe = Recipe(epochs=3, lr=1.0, lr_update="step", lr_cycles=2)
    rates = [learning_rate(recipe, step, 2) for step in range(6)]
    assert rates == pytest.approx([1.0, 0.75, 0.25] * 2, rel=1e-12)


def test_the_first_cycle_alone_warms_up() -> None:
    rates = over_epochs(Recipe(epochs=8, lr=1.0, lr_cycles=2, warmup=2))
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.5, 1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4])


def test_milestones_are_shares_of_a_cycle() -> None:
    recipe = Recipe(epochs=8, lr=1.0, lr_schedule="step", lr_cycles=2, milestones=(0.5, 0.75), gamma=0.1)
    assert over_epochs(recipe) == pytest.approx([1, 1, 0.1, 0.01] * 2)
    assert over_epochs(Recipe(epochs=3, lr=0.3, lr_schedule="constant", lr_cycles=3)) == [0.3] * 3


@given(
    data=st.data(),
    epochs=st.integers(1, 12),
    steps=st.integers(1, 5),
    update=st.sampled_from(["epoch", "step"]),
    schedule=st.sampled_from(["cosine", "step"]),
)
def test_every_cycle_falls_from_lr_but_never_to_zero(
    data: st.DataObject, epochs: int, steps: int, update: str, schedule: str
) -> None:
    cycles = data.draw(st.integers(1, epochs))
    recipe = Recipe(epochs=epochs, lr=0.7, lr_cycles=cycles, lr_update=update, lr_schedule=schedule)  # type: ignore[arg-type]
    unit, total = (steps, epochs) if update == "epoch" else (1, epochs * steps)
    for cycle in range(cycles):
        # The units k with cycle <= k * cycles / total < cycle + 1.
        here = [k for k in range(total) if k * cycles // total == cycle]
        rates = [learning_rate(recipe, k * unit, steps) for k in here]
        assert rates == sorted(rates, reverse=True)
        assert all(0 < rate <= 0.7 for rate in rates)
        if cycle * total % cycles == 0:
            assert rates[0] == 0.7
