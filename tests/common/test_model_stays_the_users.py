"""Promise 1: no parameter is renamed, wrapped or replaced, and what works with a dense model works in mid-run."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsecycle as sc
from sparsecycle.methods import METHODS


def test_same_parameters_under_the_same_names(start: Any, method: str, some_optimizer: str) -> None:
    torch.manual_seed(0)
    run = start(method, some_optimizer)
    dense = type(run.model)()
    before = {name: id(p) for name, p in run.model.named_parameters()}
    run.train(6)
    assert {name: id(p) for name, p in run.model.named_parameters()} == before
    assert list(run.model.state_dict()) == list(dense.state_dict())
    assert all(type(p) is nn.Parameter and p.is_leaf and p.requires_grad for p in run.model.parameters())
    dense.load_state_dict(run.model.state_dict(), strict=True)
    x, _ = run.batch()
    assert torch.equal(dense.eval()(x), run.model.eval()(x))


def test_modules_get_no_hooks_buffers_or_attributes(start: Any, method: str) -> None:
    run = start(method).train(6)
    for mine, dense in zip(run.model.modules(), type(run.model)().modules(), strict=True):
        assert vars(mine).keys() == vars(dense).keys()
        assert not mine._forward_hooks
        assert not mine._forward_pre_hooks
        assert mine._buffers.keys() == dense._buffers.keys()


def test_deepcopy_of_the_model_alone_trains_as_a_dense_one(start: Any, method: str) -> None:
    run = start(method).train_until_pruned(6)
    model = copy.deepcopy(run.model)
    x, _ = run.batch()
    assert torch.equal(model(x), run.model(x))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(x).square().mean().backward()
    optimizer.step()
    dead = ~run.sparsifier.masks["hidden.weight"]
    assert dead.any()
    assert model.hidden.weight[dead].count_nonzero() > dead.sum() // 10
    assert run.model.hidden.weight[dead].count_nonzero() == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda parts: pickle.loads(pickle.dumps(parts))])
def test_copy_of_all_three_trains_on_identically(
    start: Any, difference: Any, method: str, some_optimizer: str, copied: Any
) -> None:
    run = start(method, some_optimizer).train(5)  # where RigL is about to see the gradients of an update
    twin = copy.copy(run)
    twin.model, twin.optimizer, twin.sparsifier = copied(run.parts)
    assert twin.sparsifier._model is twin.model
    run.train(7)
    twin.train(7)
    assert difference(run, twin) is None
    assert twin.sparsifier.finalize().kept == run.kept_at_the_end


def test_saved_model_needs_no_unpickling(start: Any, method: str) -> None:
    run = start(method).train(6)
    file = io.BytesIO()
    torch.save(run.model.state_dict(), file)
    file.seek(0)
    dense = type(run.model)()
    dense.load_state_dict(torch.load(file, weights_only=True), strict=True)
    again = pickle.loads(pickle.dumps(run.model))
    x, _ = run.batch()
    want = run.model.eval()(x)
    assert torch.equal(dense.eval()(x), want)
    assert torch.equal(again.eval()(x), want)


def test_average_of_the_weights(start: Any, method: str) -> None:
    run = start(method)
    average = AveragedModel(run.model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    by_hand = None
    for _ in range(12):
        run.train()
        average.update_parameters(run.model)
        w = run.model.hidden.weight.detach()
        by_hand = w.clone() if by_hand is None else 0.8 * by_hand + 0.2 * w
    masks = run.sparsifier.masks
    dead = ~masks["hidden.weight"]
    before = average.module.hidden.weight.detach().clone()
    torch.testing.assert_close(before, by_hand)
    run.sparsifier.apply_to(average)
    assert torch.equal(average.module.hidden.weight, before.masked_fill(dead, 0))
    for name, mask in masks.items():
        assert average.module.get_parameter(name)[~mask].count_nonzero() == 0
    kept = sum(int(average.module.get_parameter(name).count_nonzero()) for name in run.names)
    assert kept == run.kept_at_the_end


def test_apply_to_a_network_that_does_not_fit_changes_nothing(start: Any) -> None:
    run = start("one-shot", at=0.0)
    other = type(run.model)()
    other.head = nn.Linear(10, 4)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"head.weight of shape \(3, 10\) is pruned here, .* shape \(4, 10\)"):
        run.sparsifier.apply_to(other)
    del other.hidden
    with pytest.raises(ValueError, match=r"hidden.weight of shape \(10, 48\) is pruned here, .* no such weight"):
        run.sparsifier.apply_to(other)
    assert all(torch.equal(p, before[name]) for name, p in other.state_dict().items())


def test_export_in_mid_run(start: Any) -> None:
    run = start("progressive").train(6)
    x, _ = run.batch()
    want = run.model.eval()(x)
    program = torch.export.export(run.model, (x,))
    run.model.train()
    assert torch.equal(program.module()(x), want)
    assert set(program.state_dict) == set(run.model.state_dict())
    dead = ~run.sparsifier.masks["hidden.weight"]
    assert program.state_dict["hidden.weight"][dead].count_nonzero() == 0
    report = run.train(6).sparsifier.finalize()
    assert report.kept == 56


class Tied(nn.Module):
    """An autoencoder whose halves share one matrix, used twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x.flatten(1))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)


SPECIAL = {
    "tied": (Tied, {"one.weight": 64}),
    "attention": (
        attention,
        {"self_attn.in_proj_weight": 48, "self_attn.out_proj.weight": 16, "linear1.weight": 32, "linear2.weight": 32},
    ),
    "lstm": (
        Recurrent,
        {
            f"lstm.weight_{part}_l{layer}{way}": 20 * (5 if part == "hh" else 10 if layer else 4)
            for layer in (0, 1)
            for way in ("", "_reverse")
            for part in ("ih", "hh")
        },
    ),
}


def mean_square(output: Tensor, _: Any) -> Tensor:
    return output.square().mean()


@pytest.mark.parametrize("kind", SPECIAL)
def test_tied_attention_and_recurrent(method: str, kind: str) -> None:
    build, weights = SPECIAL[kind]
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    x = torch.randn(6, 2, 4)
    needs: dict[str, dict[str, Any]] = {
        "snip": {"batches": [(x, None)], "loss": mean_square},
        "grasp": {"batches": [(x, None)], "loss": mean_square},
        "synflow": {"input_shape": (2, 4), "rounds": 5},
        "acdc": {"switches": (0.2, 0.5, 0.7)},
        **{name: {"update_every": 2} for name in ("set", "rigl", "dpf")},
    }
    sparsifier = METHODS[method](model, optimizer, 0.8, 10, **needs.get(method, {}))
    total = sum(weights.values())
    kept = total if method == "dsd" else total - round(0.8 * total)
    assert {y.name: y.weights for y in sparsifier.report().layers} == weights
    first = None
    for step in range(10):
        loss = model(x).square().mean()
        first = loss.item() if first is None else first
        loss.backward()
        optimizer.step()
        for name, mask in sparsifier.masks.items():
            weight = model.get_parameter(name)
            assert weight[~mask].count_nonzero() == 0
            assert method == "dpf" or weight.grad[~mask].count_nonzero() == 0
        if step == 6:
            twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
            assert torch.equal(twin.eval()(x), model.eval()(x))
            model.train()
        optimizer.zero_grad()
        sparsifier.step()
    assert loss < first
    assert sparsifier.finalize().kept == kept
    alive = sum(int(model.get_parameter(name).count_nonzero()) for name in weights)
    if method in ("acdc", "dsd", "set", "rigl"):
        assert kept * 0.8 < alive <= kept  # what comes back at 0 beside a dead unit stays there
    else:
        assert alive == kept


def test_tied_weights_stay_tied() -> None:
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), total_steps=3)
    assert model.one.weight is model.two.weight
    assert list(model.state_dict()) == ["one.weight", "one.bias", "two.weight", "two.bias"]
    assert torch.equal(model.state_dict()["two.weight"] == 0, ~sparsifier.masks["one.weight"])
