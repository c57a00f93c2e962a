from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tickets.nets import data, net, same
from torch import Tensor, nn
from torch.nn import functional as F

from sparsecycle.tickets import Ticket
from sparsecycle.tickets.applied import state_of, tensors_of

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=1e-1),
    "amsgrad": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
}


def ticket_of(model: nn.Module, seed: int = 1, density: float = 0.3) -> Ticket:
    """Random masks for all its matrices."""
    generator = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(p.shape, generator=generator) < density for n, p in model.named_parameters() if p.dim() > 1}
    return Ticket(masks, state_of(model), {})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    x, y = data()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def alive(model: nn.Module, masks: dict[str, Tensor]) -> dict[str, int]:
    """Pruned weights that are not zero."""
    return {name: int(model.get_parameter(name)[~mask].count_nonzero()) for name, mask in masks.items()}


def none_alive(model: nn.Module, masks: dict[str, Tensor]) -> bool:
    return not any(alive(model, masks).values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zeros_stay_and_the_rest_is_trained(optimizer: str) -> None:
    model = net()
    found = ticket_of(model)
    found.apply(model)
    train(model, OPTIMIZERS[optimizer](model.parameters()))
    assert none_alive(model, found.masks)
    for name, mask in found.masks.items():
        assert (model.get_parameter(name)[mask] != found.weights[name][mask]).any()


def test_it_rewinds_parameters_and_buffers() -> None:
    model = net()
    found = ticket_of(model)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert model[1].num_batches_tracked == 5
    applied = found.apply(model)
    assert applied.left_out == ()
    assert model[1].num_batches_tracked == 0
    for name, tensor in state_of(model).items():
        want = found.weights[name] * found.masks[name] if name in found.masks else found.weights[name]
        assert torch.equal(tensor, want)
    assert found.weights["0.weight"].count_nonzero() == 40  # the ticket's own stay dense


@given(st.integers(3, 12))
def test_another_head(head: int) -> None:
    found, model = ticket_of(net(3)), net(head, seed=5)
    own = state_of(model)
    applied = found.apply(model)
    train(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    heads = ["5.weight", "5.bias"] if head != 3 else []
    assert list(applied.left_out) == heads
    body = {name: mask for name, mask in found.masks.items() if name not in heads}
    assert none_alive(model, body)
    if heads:
        assert torch.equal(own["5.weight"] == 0, torch.zeros(head, 6, dtype=torch.bool))
        assert model[5].weight.count_nonzero() == 6 * head


def test_the_model_may_have_what_the_ticket_lacks() -> None:
    whole = ticket_of(net())
    masks = {"0.weight": whole.masks["0.weight"]}
    part = Ticket(masks, {"0.weight": whole.weights["0.weight"]}, {})
    model = net(seed=3)
    own = state_of(model)
    assert part.apply(model).left_out == tuple(name for name in own if name != "0.weight")
    assert torch.equal(model[3].weight, own["3.weight"])
    assert none_alive(model, masks)


def test_errors_change_nothing() -> None:
    found = ticket_of(net())
    other = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU())
    before = state_of(other)
    with pytest.raises(ValueError, match=r"ticket has 1.weight of shape \(8,\), but Sequential has no such"):
        found.apply(other)
    assert same(state_of(other), before)
    wide = nn.Linear(50, 8)
    narrow = ticket_of(nn.Linear(5, 8))
    before = state_of(wide)
    with pytest.raises(ValueError, match=r"no pruned weight .* fits Linear: weight has shape \(8, 5\) .* \(8, 50\)"):
        narrow.apply(wide)
    assert same(state_of(wide), before)
    wide.weight.sum().backward()
    assert wide.weight.grad is not None
    assert wide.weight.grad.count_nonzero() == 400


def test_a_second_ticket_replaces_the_first() -> None:
    model = net()
    first, second = ticket_of(model, 1), ticket_of(model, 2)
    earlier = first.apply(model)
    second.apply(model)
    train(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    assert none_alive(model, second.masks)
    for name, mask in second.masks.items():
        came_back = mask & ~first.masks[name]
        assert (model.get_parameter(name) != second.weights[name])[came_back].sum() > came_back.sum() / 2
    before = state_of(model)
    earlier.enforce()
    earlier.remove()  # it has no say any more
    assert same(state_of(model), before)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert none_alive(model, second.masks)


def test_a_second_ticket_of_other_layers_frees_the_first_ones() -> None:
    model = net()
    whole = ticket_of(model)
    whole.apply(model)
    head = {"5.weight": whole.masks["5.weight"]}
    Ticket(head, whole.weights, {}).apply(model)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert none_alive(model, head)
    free = ~whole.masks["0.weight"]
    assert (model[0].weight != whole.weights["0.weight"])[free].sum() > free.sum() / 2


def test_enforce_and_remove() -> None:
    model = net()
    found = ticket_of(model)
    applied = found.apply(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
            weight.grad = torch.ones_like(weight)
    applied.enforce()
    assert none_alive(model, found.masks)
    for name, mask in found.masks.items():
        grad = model.get_parameter(name).grad
        assert grad is not None
        assert torch.equal(grad, mask.double())
    applied.remove()
    train(model, torch.optim.SGD(model.parameters(), 0.1), 1)
    assert any(alive(model, found.masks).values())
    before = state_of(model)
    applied.enforce()
    assert same(state_of(model), before)


def test_a_frozen_weight_that_is_thawed_later() -> None:
    model = net()
    found = ticket_of(model)
    model[0].weight.requires_grad_(False)
    found.apply(model)
    assert not model[0].weight.requires_grad
    train(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1))
    assert torch.equal(model[0].weight, found.weights["0.weight"] * found.masks["0.weight"])
    model[0].weight.requires_grad_(True)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert none_alive(model, found.masks)


def test_a_model_of_another_type_and_one_that_is_moved() -> None:
    found, model = ticket_of(net()), net(dtype=torch.float32)
    found.apply(model)
    assert model[0].weight.dtype == torch.float32
    model.double()
    train(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    assert none_alive(model, found.masks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_that_is_moved_to_another_device() -> None:
    model = net()
    found = ticket_of(model)
    applied = found.apply(model)
    model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, y = (tensor.cuda() for tensor in data())
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    applied.enforce()
    assert none_alive(model.cpu(), found.masks)


def test_tied_weights_are_pruned_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x))

    model = Tied()
    found = ticket_of(model)
    assert list(found.masks) == ["embed.weight"]
    assert list(found.weights) == ["embed.weight", "head.weight"]
    found.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    F.cross_entropy(model(torch.arange(6)), torch.arange(6)).backward()
    optimizer.step()
    assert none_alive(model, found.masks)
    assert model.head.weight is model.embed.weight


def test_buffers_that_are_not_saved_are_not_rewound() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("cache", torch.ones(3), persistent=False)
    model.register_buffer("count", torch.ones(()))
    assert list(tensors_of(model)) == ["weight", "bias", "count"]
    assert list(state_of(model)) == ["weight", "bias", "count"]


def test_hooks_keep_neither_ticket_nor_model_alive() -> None:
    model = net()
    found = ticket_of(model)
    found.apply(model)
    ticket, weight = weakref.ref(found), weakref.ref(model[0].weight)
    del found
    gc.collect()
    assert ticket() is None
    del model
    gc.collect()
    assert weight() is None


def test_a_copy_of_the_model_has_no_hooks() -> None:
    model = net()
    found = ticket_of(model)
    found.apply(model)
    copied = copy.deepcopy(model)
    train(copied, torch.optim.SGD(copied.parameters(), 0.1))
    assert any(alive(copied, found.masks).values())
    assert none_alive(model, found.masks)


def test_a_compiled_model_is_the_model() -> None:
    model = net()
    found = ticket_of(model)
    found.apply(torch.compile(model, backend="eager"))
    assert none_alive(model, found.masks)
