from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tickets.nets import counts, fit, net, same
from tests.tickets.test_applied import none_alive, ticket_of, train
from torch import nn

from sparsecycle.tickets import Given, Ticket
from sparsecycle.tickets.applied import state_of


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_exactly_this_mask_from_first_to_last(seed: int, density: float) -> None:
    model = net()
    found = ticket_of(model, seed, density)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = found.sparsifier(model, optimizer, 3)
    for _ in range(3):
        assert same(sparsifier.masks, found.masks)
        train(model, optimizer, 1)
        sparsifier.step()
    report = sparsifier.finalize()
    assert same(sparsifier.masks, found.masks)
    assert report.kept == found.kept
    assert report.notes == () or 0 in counts(found.masks)  # an empty layer is worth a note
    assert none_alive(model, found.masks)


def test_a_warm_optimizer_is_cleaned_and_weights_are_not_rewound() -> None:
    model = net()
    found = ticket_of(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer)
    trained = state_of(model)
    found.sparsifier(model, optimizer, 5)
    for name, mask in found.masks.items():
        assert torch.equal(model.get_parameter(name), trained[name] * mask)
        assert optimizer.state[model.get_parameter(name)]["exp_avg"][~mask].count_nonzero() == 0


def test_masks_that_do_not_fit_are_left_out() -> None:
    found, model = ticket_of(net(3)), net(7)
    sparsifier = found.sparsifier(model, torch.optim.SGD(model.parameters(), 0.1), 5)
    assert list(sparsifier.masks) == ["0.weight", "3.weight"]
    assert all(torch.equal(mask, found.masks[name]) for name, mask in sparsifier.masks.items())


def test_errors() -> None:
    model = net()
    found, optimizer = ticket_of(model), torch.optim.SGD(model.parameters(), 0.1)
    other = nn.Linear(5, 8)
    with pytest.raises(ValueError, match="Linear has no such parameter"):
        found.sparsifier(other, torch.optim.SGD(other.parameters(), 0.1), 5)
    model[3].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="3.weight is pruned in the ticket and frozen in the model"):
        found.sparsifier(model, optimizer, 5)


def test_names_are_no_patterns() -> None:
    model = nn.ModuleDict({"a*": nn.Linear(4, 4), "ab": nn.Linear(4, 4), "[a]": nn.Linear(4, 4), "a": nn.Linear(4, 4)})
    whole = ticket_of(model)
    for name in whole.masks:
        found = Ticket({name: whole.masks[name]}, whole.weights, {})
        sparsifier = found.sparsifier(model, torch.optim.SGD(model.parameters(), 0.1), 5)
        assert same(sparsifier.masks, found.masks)
        sparsifier.remove()


def test_a_run_resumes_with_the_same_masks_only() -> None:
    def run(seed: int):
        model = net()
        return ticket_of(model, seed).sparsifier(model, torch.optim.SGD(model.parameters(), 0.1), 5)

    state = run(1).state_dict()
    again = run(1)
    again.load_state_dict(state)
    assert same(again.masks, run(1).masks)
    with pytest.raises(ValueError, match="other settings"):
        run(2).load_state_dict(state)


def test_given_by_hand() -> None:
    criterion = Given({"a": torch.tensor([True, False]), "b": torch.tensor([[True]])})
    model = nn.Identity()
    scores = criterion.score({"b": torch.zeros(1, 1), "a": torch.zeros(2)}, [], model)
    assert [score.tolist() for score in scores] == [[[1.0]], [1.0, 0.0]]
    assert not criterion.absolute
    with pytest.raises(ValueError, match=r"c has shape \(2,\), and the given mask: no mask"):
        criterion.score({"c": torch.zeros(2)}, [], model)
    with pytest.raises(ValueError, match=r"a has shape \(3,\), and the given mask: \(2,\)"):
        criterion.score({"a": torch.zeros(3)}, [], model)


def test_it_holds_what_a_training_by_hooks_holds() -> None:
    found = ticket_of(net())
    one, other = net(), net()
    found.apply(one)
    fit(one)
    found.apply(other)
    sparsifier = found.sparsifier(other, torch.optim.SGD(other.parameters(), 0.1), 6)
    fit(other)
    sparsifier.remove()
    assert same(state_of(one), state_of(other))
