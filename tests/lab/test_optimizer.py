from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecycle.lab.optimizer import make_optimizer
from sparsecycle.lab.recipe import Recipe


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_the_optimizer_is_torchs_over_all_parameters(name: str, kind: type[torch.optim.Optimizer]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = make_optimizer(Recipe(optimizer=name, lr=0.02, weight_decay=0.3), model)  # type: ignore[arg-type]
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)


def test_a_parameter_that_does_not_train_is_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    (group,) = make_optimizer(Recipe(), model).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model[1].parameters()]
