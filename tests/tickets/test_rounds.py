from __future__ import annotations

import copy

import pytest
import torch
from tests.tickets.nets import fit, net, same
from torch import nn

from sparsecycle.tickets import colt, lottery_ticket
from sparsecycle.tickets.rounds import whole


def test_whole() -> None:
    assert [whole(x) for x in (2.4, 2.6, 50 * 0.9 * 0.9, 50 * 0.9**2, 3.4999999999)] == [2, 3, 40, 40, 4]


def test_train_may_return_another_network() -> None:
    def train(model: nn.Module) -> nn.Module:
        trained = net(seed=9)
        trained.load_state_dict(fit(model).state_dict())
        return trained

    one, other = lottery_ticket(net(), train, 0.5), lottery_ticket(net(), fit, 0.5)
    assert same(one.ticket.masks, other.ticket.masks)
    compiled = lottery_ticket(
        torch.compile(net(), backend="eager"), lambda m: torch.compile(fit(m), backend="eager"), 0.5
    )
    assert same(compiled.ticket.masks, other.ticket.masks)
    assert same(compiled.ticket.weights, other.ticket.weights)


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        (lambda model: None, "train must return the trained model, not NoneType .in round 0."),
        (lambda model: net(4), r"5.weight is \(3, 6\) in the model and \(4, 6\) in what it returned"),
        (lambda model: model[:4], r"5.weight is \(3, 6\) in the model and absent in what"),
        (lambda model: nn.Sequential(*model, nn.Linear(3, 3)), r"6.weight is absent in the model and \(3, 3\) in what"),
    ],
)
def test_train_must_return_such_a_network(train, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        lottery_ticket(net(), train, 0.5)


def test_a_training_that_diverged() -> None:
    def train(model: nn.Module, part: int) -> nn.Module:
        with torch.no_grad():
            model[3].weight[0, 0] = torch.nan if part else 1.0
        return model

    with pytest.raises(ValueError, match="3.weight holds NaN or infinity after the training in round 0 on partition 1"):
        colt(net(), train, 0.5)


def test_infinity_in_a_buffer_is_no_divergence() -> None:
    model = nn.Linear(10, 10)
    model.register_buffer("mask", torch.full((3,), -torch.inf))
    assert lottery_ticket(model, lambda m: m, 0.5).ticket.kept == 50


def test_pruned_weights_that_a_training_moved_are_zero_again_and_it_says_so() -> None:
    def train(model: nn.Module) -> nn.Module:
        return fit(copy.deepcopy(model))  # without the hooks

    with pytest.warns(UserWarning, match="in round 1 moved pruned weights of 0.weight, 3.weight, 5.weight"):
        search = lottery_ticket(net(), train, 0.36, rewind="learning rate")
    kept = [sum(r.kept.values()) for r in search.rounds]
    assert kept == [106, 85]
    assert sum(int((search.ticket.weights[name] != 0).sum()) for name in search.ticket.masks) == 85
