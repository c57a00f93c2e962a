from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from sparsecycle.lab.recipe import Recipe


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("epochs", 0, "at least 1"),
        ("epochs", 2.5, "whole number"),
        ("batch_size", -1, "at least 1"),
        ("evaluate_every", 0, "at least 1"),
        ("lr", 0.0, "above 0"),
        ("lr", math.nan, "above 0"),
        ("momentum", 1.0, "at least 0 and below 1"),
        ("weight_decay", -1e-4, "at least 0"),
        ("warmup", 30.0, "below 30"),
        ("lr_cycles", 0, "at least 1"),
        ("lr_cycles", 2.0, "whole number"),
        ("lr_cycles", 31, "at most one an epoch, of which there are 30"),
        ("gamma", 0.0, "above 0"),
        ("label_smoothing", 1.0, "below 1"),
        ("validation", 1.0, "below 1"),
        ("distillation", 1.01, "at least 0 and at most 1"),
        ("distillation", -0.1, "at least 0 and at most 1"),
        ("temperature", 0.0, "above 0"),
        ("temperature", math.inf, "above 0"),
        ("clip", 0.0, "above 0"),
        ("milestones", (0.75, 0.5), "rising shares"),
        ("milestones", (0.0,), "rising shares"),
        ("channels_last", "yes", "True, False and 'auto'"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=.*{allowed}"):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "near"),
    [("optimizer", "adamW", "adamw"), ("lr_schedule", "cosin", "cosine"), ("precision", "bf61", "bf16")],
)
def test_an_unknown_word_gets_the_nearest(field: str, value: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"{field}='{value}' is not known.*did you mean '{near}'"):
        Recipe(**{field: value})  # type: ignore[arg-type]


def test_nesterov_needs_sgd_with_momentum() -> None:
    for other in ({"optimizer": "adam"}, {"momentum": 0.0}):
        with pytest.raises(ValueError, match="nesterov=True"):
            Recipe(nesterov=True, **other)  # type: ignore[arg-type]


def test_what_yaml_gives_equals_what_python_gives() -> None:
    assert Recipe(lr=1, milestones=[0.5, 0.75]) == Recipe(lr=1.0)  # type: ignore[arg-type]
    assert hash(Recipe(milestones=[0.5])) == hash(Recipe(milestones=(0.5,)))  # type: ignore[arg-type]
    assert dataclasses.replace(Recipe(), epochs=7).epochs == 7


def test_the_bounds_themselves_are_allowed() -> None:
    recipe = Recipe(epochs=4, lr_cycles=4, warmup=0.9, distillation=1)
    assert (recipe.lr_cycles, recipe.warmup, recipe.distillation) == (4, 0.9, 1.0)


def test_the_warmup_fits_into_the_first_cycle() -> None:
    assert Recipe(epochs=30, lr_cycles=4, warmup=7.4).warmup == 7.4
    with pytest.raises(ValueError, match=r"warmup=7.5; allowed is a number at least 0 and below 7.5"):
        Recipe(epochs=30, lr_cycles=4, warmup=7.5)
