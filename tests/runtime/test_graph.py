from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparsecycle.runtime.graph import (
    Activate,
    Add,
    Concatenate,
    Convolution,
    Flatten,
    Pool,
    Step,
    is_scaling,
    operands,
    renumbered,
)

SCALING = Convolution("bn", 3, torch.ones(2, 1, 1, 1), torch.zeros(2), (1, 1), (0, 0), (1, 1), groups=2)


@pytest.mark.parametrize(
    ("step", "read"),
    [
        (SCALING, (3,)),
        (replace(SCALING, residual=0), (3, 0)),
        (Pool("pool", 1, "max", ((0, 2),), ((0, 2),), None), (1,)),
        (Add("add", 2, 1), (2, 1)),
        (Activate("relu", 4, "relu"), (4,)),
        (Concatenate("cat", (3, 1, 3)), (3, 1, 3)),
        (Flatten("flatten", 2), (2,)),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple) else "",
)
def test_operands_and_their_new_numbers(step: Step, read: tuple[int, ...]) -> None:
    assert operands(step) == read
    moved = renumbered(step, {i: 10 * i for i in range(5)})
    assert operands(moved) == tuple(10 * i for i in read)
    assert type(moved) is type(step)
    assert moved.name == step.name
    assert operands(step) == read


def test_what_scales_channels_and_does_nothing_else() -> None:
    assert is_scaling(SCALING)
    assert is_scaling(replace(SCALING, bias=None))
    assert is_scaling(replace(SCALING, weight=torch.ones(1, 1, 1, 1), groups=1))
    others = [
        replace(SCALING, weight=torch.ones(2, 2, 1, 1), groups=1),
        replace(SCALING, weight=torch.ones(4, 1, 1, 1)),
        replace(SCALING, weight=torch.ones(2, 1, 1, 3)),
        replace(SCALING, stride=(2, 1)),
        replace(SCALING, padding=(0, 1)),
        replace(SCALING, activation="relu"),
        replace(SCALING, residual=0),
        Activate("relu", 0, "relu"),
    ]
    assert not any(map(is_scaling, others))
