from __future__ import annotations

import copy
import gc
import io
import itertools
import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsecycle as sc
from sparsecycle.criteria import Criterion


def linear(weights: list[float], **optimizer: Any) -> tuple[nn.Linear, torch.optim.SGD]:
    """One layer with these weights, and plain SGD at a learning rate of 1."""
    model = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weights]))
    return model, torch.optim.SGD(model.parameters(), **{"lr": 1.0, **optimizer})


def train(model: nn.Linear, optimizer: torch.optim.Optimizer, gradient: list[float]) -> list[float]:
    """One optimizer step with this gradient, by way of a backward pass; returns the weights."""
    (model.weight * torch.tensor([gradient])).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return values(model)


def values(model: nn.Linear) -> list[float]:
    return [round(v, 5) for v in model.weight.flatten().tolist()]


def network(*sizes: int, bias: bool = True, seed: int = 0) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    layers = [nn.Linear(i, o, bias=bias) for i, o in itertools.pairwise(sizes)]
    model = nn.Sequential(*layers)
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def pruned(sparsifier: sc.Sparsifier) -> int:
    return sum(int((~mask).sum()) for mask in sparsifier.masks.values())


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: sc.Sparsifier, steps: int = 1) -> None:
    size = next(model.parameters()).shape[1]
    for _ in range(steps):
        model(torch.randn(4, size)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsifier.step()


# The mask over time


@pytest.mark.parametrize(
    ("total", "every", "counts"),
    [
        (9, 1, [10, 20, 30, 40, 50, 60, 70, 80, 90]),
        (12, 4, [30] * 4 + [60] * 4 + [90] * 4),
        (10, 4, [36] * 4 + [72] * 4 + [90] * 2),
        (3, 3, [90] * 3),
        (3, 100, [90] * 3),
        (1, 1, [90]),
    ],
)
def test_counts_of_per_step_and_per_epoch_masks(total: int, every: int, counts: list[int]) -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=total, update_every=every)
    seen, masks = [], []
    for _ in range(total):
        seen.append(int((model[0].weight == 0).sum()))
        masks.append(sparsifier.masks["0.weight"])
        advance(model, optimizer, sparsifier)
    assert seen == counts
    assert all(torch.equal(a, b) for a, b, c, d in zip(masks, masks[1:], counts, counts[1:]) if c == d)  # noqa: B905
    assert sparsifier.finalize().achieved == 0.9


def test_start_and_end_of_the_schedule() -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.8, sc.Linear(start=0.2, end=0.6), total_steps=10)
    seen = []
    for _ in range(10):
        seen.append(pruned(sparsifier))
        advance(model, optimizer, sparsifier)
    assert seen == [0, 0, 20, 40, 60, 80, 80, 80, 80, 80]


SCHEDULES = [
    sc.Linear(),
    sc.AGP(),
    sc.OneCycle(),
    sc.Iterative(3),
    sc.Cosine(start=0.3),
    sc.OneShot(0.4),
    sc.Constant(),
]


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    sparsity=st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES),
    scope=st.sampled_from(["global", "uniform", "erk"]),
    criterion=st.sampled_from(["magnitude", "random", "magnitude_gain"]),
    total=st.integers(1, 9),
    every=st.integers(1, 4),
)
def test_every_count_is_exact(
    widths: list[int], sparsity: float, schedule: sc.Schedule, scope: str, criterion: str, total: int, every: int
) -> None:
    model, optimizer = network(*widths)
    size = sum(layer.weight.numel() for layer in model)
    sparsifier = sc.Sparsifier(
        model, optimizer, sparsity, schedule, criterion, scope, total_steps=total, update_every=every, floor=0
    )
    before = None
    for step in range(total):
        end = min((step // every + 1) * every, total)
        masks = sparsifier.masks
        assert pruned(sparsifier) == round(sparsity * schedule(end / total) * size)
        assert all((layer.weight[~masks[f"{i}.weight"]] == 0).all() for i, layer in enumerate(model))
        assert before is None or not any((masks[name] & ~before[name]).any() for name in masks)
        before = masks
        advance(model, optimizer, sparsifier)
    assert sparsifier.finalize().kept == size - round(sparsity * size)


# Recovery


def recovered(recovery: str, sparsity: float, schedule: sc.Schedule, gradients: list[list[float]]) -> list[list[float]]:
    model, optimizer = linear([1, 2, 3, 4])
    sparsifier = sc.Sparsifier(
        model, optimizer, sparsity, schedule, recovery=recovery, total_steps=len(gradients) + 1, floor=0
    )
    seen = [values(model)]
    for gradient in gradients:
        train(model, optimizer, gradient)
        sparsifier.step()
        seen.append(values(model))
    return seen


@pytest.mark.parametrize(
    ("recovery", "seen"),
    [
        # Weight 0 is pruned at once. Weight 1 then falls to .5; only a remembered value of 1 outranks that.
        ("none", [[0, 2, 3, 4], [0, 0.5, 3, 4], [0, 0.5, 3, 0.25]]),
        ("zero", [[0, 2, 3, 4], [0, 0.5, 3, 4], [0, 0.5, 3, 0.25]]),
        # The gradient of a pruned weight does nothing to the value that it comes back with.
        ("stored", [[0, 2, 3, 4], [1, 0, 3, 4], [1, 0.5, 3, 0]]),
    ],
)
def test_recovery_at_constant_sparsity(recovery: str, seen: list[list[float]]) -> None:
    gradients = [[9.0, 1.5, 0, 0], [0, 9.0 if recovery == "stored" else 0, 0, 3.75]]
    assert recovered(recovery, 0.25, sc.Constant(), gradients) == seen


@pytest.mark.parametrize(
    ("recovery", "seen"),
    [
        ("zero", [[0, 2, 3, 4], [0, 2, 3, 0.5], [1, 2, 3, 0], [1, 0, 3, 0]]),
        ("stored", [[0, 2, 3, 4], [1, 2, 3, 0.5], [2, 2, 3, 0], [2, 0, 3, 0]]),
    ],
)
def test_recovery_in_cycles(recovery: str, seen: list[list[float]]) -> None:
    # Half of four weights at the ends of two cycles: 1, 0, 1, 2 are pruned.
    gradients = [[9.0, 0, 0, 3.5], [-1.0, 0, 0, 0], [0, 1.9, 0, 0]]
    assert recovered(recovery, 0.5, sc.Cyclical(2, sc.Linear()), gradients) == seen


def test_none_refuses_a_schedule_that_falls() -> None:
    model, optimizer = linear([1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"Cyclical\(.*\) lowers the sparsity again.*recovery='zero' or 'stored'"):
        sc.Sparsifier(model, optimizer, 0.5, sc.Cyclical(), total_steps=9)


@pytest.mark.parametrize("recovery", ["zero", "stored"])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_weight_that_comes_back_has_clean_state(recovery: str, kind: Callable[..., torch.optim.Optimizer]) -> None:
    model, _ = linear([1, 2, 3, 4])
    optimizer = kind(
        model.parameters(), **({"lr": 0.01} if kind is torch.optim.Adam else {"lr": 0.01, "momentum": 0.9})
    )
    sparsifier = sc.Sparsifier(
        model, optimizer, 0.5, sc.Cyclical(2, sc.Linear()), recovery=recovery, total_steps=4, update_every=1
    )
    # Assigned by hand, the gradient passes by the hooks, and the optimizer's state of weight 0 is not clean.
    model.weight.grad = torch.full((1, 4), 5.0)
    optimizer.step()
    keys = ["exp_avg", "exp_avg_sq"] if kind is torch.optim.Adam else ["momentum_buffer"]
    assert all(optimizer.state[model.weight][key][0, 0] > 0 for key in keys)
    assert model.weight[0, 0] == 0
    sparsifier.step()
    assert sparsifier.sparsity == 0
    for key in keys:
        state = optimizer.state[model.weight][key]
        assert state[0, 0] == 0
        assert (state[0, 1:] > 0).all()


def test_gradients_assigned_by_hand_revive_nothing() -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=6, update_every=2)
    for step in range(6):
        before = sparsifier.masks["0.weight"]
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
        assert model[0].weight[~before].count_nonzero() == 0
        sparsifier.step()
        assert not (sparsifier.masks["0.weight"] & ~before).any(), step
    assert int((model[0].weight == 0).sum()) == 90 == pruned(sparsifier)


# Criteria


def test_random_masks_are_nested_and_blind_to_the_weights() -> None:
    masks = []
    for seed in (0, 1):
        model, optimizer = network(10, 10, seed=seed)
        sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), sc.Random(3), total_steps=9, recovery="zero")
        for step in range(9):
            masks.append(sparsifier.masks["0.weight"])
            assert int(masks[-1].sum()) == 90 - 10 * step
            advance(model, optimizer, sparsifier)
    assert all(torch.equal(a, b) for a, b in zip(masks[:9], masks[9:], strict=True))
    assert not any((b & ~a).any() for a, b in itertools.pairwise(masks[:9]))
    kept = (torch.rand(10, 10, generator=torch.Generator().manual_seed(3)).flatten().sort(descending=True)[1])[:10]
    assert set(kept.tolist()) == set(masks[8].flatten().nonzero().flatten().tolist())


def test_magnitude_gain_by_hand() -> None:
    model, optimizer = linear([1, -2, 3, 4])
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.OneShot(0.9), "magnitude_gain", total_steps=2)
    # Gains of .5, -.25, -1 and .125: the first and the last stay.
    assert train(model, optimizer, [-0.5, -0.25, 1.0, -0.125]) == [1.5, -1.75, 2.0, 4.125]
    sparsifier.step()
    assert values(model) == [1.5, 0, 0, 4.125]


def test_magnitude_gain_never_keeps_a_pruned_weight() -> None:
    # A pruned weight has gained -.1, more than the -9.9 of one that is alive.
    model, optimizer = linear([10.0, 0.1, 0.2, 5.0])
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.Linear(), "magnitude_gain", total_steps=2)
    pruned_first = sparsifier.masks["weight"][0].tolist().index(False)
    assert pruned_first == 3  # all gains are 0, and ties fall by index
    train(model, optimizer, [9.9, -1.0, -1.0, 0.0])
    sparsifier.step()
    assert sparsifier.masks["weight"].tolist() == [[False, True, True, False]]


def test_own_criterion() -> None:
    @dataclass(frozen=True)
    class Smallest(Criterion):
        def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
            return [-w.abs() for w in weights.values()]

    model, optimizer = linear([1, 2, 3, 4])
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), Smallest(), total_steps=1)
    assert values(model) == [1, 2, 0, 0]
    assert sparsifier.report().settings["criterion"] == "test_own_criterion.<locals>.Smallest()"


class Recording(Criterion):
    """Writes down what it is given."""

    watches: ClassVar[bool] = True

    def __init__(self) -> None:
        self.watched: list[dict[str, Any]] = []
        self.scored: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        return "Recording()"

    def remember(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        return [torch.zeros_like(w) for w in weights.values()]

    def watch(self, weights: Mapping[str, Tensor], gradients: Sequence[Tensor], memory: Sequence[Tensor]) -> None:
        self.watched.append(
            {
                "weights": {name: [round(v, 5) for v in w.flatten().tolist()] for name, w in weights.items()},
                "gradients": [g.flatten().tolist() for g in gradients],
                "grad_mode": torch.is_grad_enabled(),
            }
        )
        memory[0].add_(1)

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        assert not torch.is_grad_enabled()
        self.scored.append({"weights": {n: w.flatten().tolist() for n, w in weights.items()}, "model": model})
        assert memory[0].eq(len(self.watched)).all()
        return [w.abs() for w in weights.values()]


@pytest.mark.parametrize(
    ("recovery", "first"), [("none", [0, 2, 3, 4]), ("zero", [0, 2, 3, 4]), ("stored", [1, 2, 3, 4])]
)
def test_what_an_own_criterion_sees(recovery: str, first: list[float]) -> None:
    criterion = Recording()
    model, optimizer = linear([1, 2, 3, 4], lr=0.25)
    sparsifier = sc.Sparsifier(
        model, optimizer, 0.25, sc.Constant(), criterion, recovery=recovery, total_steps=4, update_every=2
    )
    assert [s["weights"] for s in criterion.scored] == [{"weight": [1, 2, 3, 4]}]
    assert criterion.scored[0]["model"] is model
    train(model, optimizer, [8, 4, 0, -4])
    assert values(model) == [0, 1, 3, 5]  # the gradient of the pruned weight is seen by the criterion alone
    sparsifier.step()
    # The weights before the step, and the gradients at all of them.
    assert criterion.watched == [{"weights": {"weight": first}, "gradients": [[8, 4, 0, -4]], "grad_mode": False}]
    assert len(criterion.scored) == 1
    optimizer.step()  # no gradient counts as zeros
    sparsifier.step()
    assert criterion.watched[1]["weights"] == {"weight": [first[0], 1, 3, 5]}
    assert criterion.watched[1]["gradients"] == [[0, 0, 0, 0]]
    assert [s["weights"] for s in criterion.scored[1:]] == (
        [] if recovery == "none" else [{"weight": [first[0], 1, 3, 5]}]
    )


def test_criterion_in_rounds_is_scored_anew_in_each() -> None:
    @dataclass(frozen=True)
    class InRounds(sc.Magnitude):
        rounds: int = 3
        path: str = "linear"

        def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
            seen.append(int(weights["0.weight"].count_nonzero()))
            return list(weights.values())

    seen: list[int] = []
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Constant(), InRounds(), total_steps=4)
    assert seen == [100, 70, 40]
    assert pruned(sparsifier) == 90
    advance(model, optimizer, sparsifier, 4)
    assert seen == [100, 70, 40]  # nothing comes back, and nothing more is to be pruned
    seen.clear()
    model, optimizer = network(10, 10)
    exponential = InRounds(2, "exponential")
    sc.Sparsifier(model, optimizer, 0.99, sc.Constant(), exponential, total_steps=4)
    assert seen == [100, 10]


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_criterion_that_runs_the_network_has_no_name(name: str) -> None:
    model, optimizer = network(10, 10)
    with pytest.raises(ValueError, match=rf"criterion='{name}' runs the network: give it as \w+\("):
        sc.Sparsifier(model, optimizer, 0.5, criterion=name, total_steps=2)


def test_criterion_that_fails_leaves_nothing_behind() -> None:
    class Failing(sc.Magnitude):
        def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
            raise FloatingPointError("no score")

    model, optimizer = network(10, 10)
    with pytest.raises(FloatingPointError, match="no score"):
        sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), Failing(), total_steps=2)
    assert int(model[0].weight.count_nonzero()) == 100
    assert pruned(sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), total_steps=2)) == 50


def test_criterion_that_fails_in_a_later_round_leaves_nothing_behind() -> None:
    class Failing(sc.Magnitude):
        rounds: int = 3

        def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
            if int(weights["0.weight"].count_nonzero()) < 60:
                raise FloatingPointError("no score")
            return list(weights.values())

    model, optimizer = network(10, 10)
    with pytest.raises(FloatingPointError, match="no score"):
        sc.Sparsifier(model, optimizer, 0.9, sc.Constant(), Failing(), total_steps=2)
    assert int(model[0].weight.count_nonzero()) == 100


# Scopes


def test_global_scope_by_hand() -> None:
    model = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(3)])
    with torch.no_grad():
        for i, layer in enumerate(model):
            layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * 10**i)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sc.Sparsifier(model, optimizer, 0.75, sc.Constant(), total_steps=1)
    # Three of twelve: the largest two of the last layer would be three without the floor of one a layer.
    assert [layer.weight.flatten().tolist() for layer in model] == [[0, 0, 0, 4], [0, 0, 0, 40], [0, 0, 0, 400]]
    sparsifier.remove()


def final_counts(scope: Any, sparsity: float | None, **words: Any) -> list[int]:
    """Kept weights of layers of 200, 80 and 16 weights."""
    model, optimizer = network(20, 10, 8, 2)
    sparsifier = sc.Sparsifier(model, optimizer, sparsity, sc.Constant(), scope=scope, total_steps=1, **words)
    counts = [int(layer.weight.count_nonzero()) for layer in model]
    assert counts == [int(mask.sum()) for mask in sparsifier.masks.values()]
    return counts


def test_uniform_and_erk() -> None:
    assert final_counts("uniform", 0.75) == [50, 20, 4]
    # Densities in proportion to (20 + 10) / 200, (10 + 8) / 80 and (8 + 2) / 16, of which the last would exceed 1
    # at 160 kept weights: 160 - 16 = e (30 + 18), so e = 3.
    assert final_counts("erk", 136 / 296) == [90, 54, 16]


@pytest.mark.parametrize(
    ("scope", "sparsity", "counts"),
    [
        ({"0": 0.5, "2.*": 0.25}, None, [100, 80, 12]),
        ({"0": 0.5, "2.*": 0.25}, 0.5, [100, 36, 12]),  # 148 in all
        ({"0": 0.9, "*": 0.5}, None, [20, 40, 8]),  # the first glob that matches
        ({"1.weight": 1.0}, None, [200, 0, 16]),
        ({"1.weight": 1.0}, 0.9, None),
        ({"1": 0.0}, 0.5, None),
    ],
)
def test_scope_by_name(scope: dict[str, float], sparsity: float | None, counts: list[int] | None) -> None:
    got = final_counts(scope, sparsity)
    if counts is not None:
        assert got == counts
    else:
        assert sum(got) == 296 - round(sparsity * 296)
        assert got[1] == round((1 - next(iter(scope.values()))) * 80)


@settings(max_examples=80, deadline=None)
@given(
    own=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    rest=st.floats(0, 1),
    total=st.integers(2, 40),
    recovery=st.sampled_from(["none", "zero"]),
    absolute=st.booleans(),
)
def test_scope_by_name_is_exact_on_the_way(
    own: list[float], rest: float, total: int, recovery: str, absolute: bool
) -> None:
    model, optimizer = network(3, 5, 7, 2, 6)
    sizes = [15, 35, 14, 12]
    asked = sum(round(s * n) for s, n in zip(own, sizes, strict=False))
    sparsity = (asked + int(rest * sum(sizes[len(own) :]))) / sum(sizes)
    scope = {f"{i}.weight": s for i, s in enumerate(own)}
    criterion = "magnitude" if absolute else "random"
    sparsifier = sc.Sparsifier(
        model, optimizer, sparsity, sc.Linear(), criterion, scope, "weight", recovery, total_steps=total, floor=0
    )
    before = None
    for step in range(total):
        masks = sparsifier.masks
        assert pruned(sparsifier) == round(sparsity * ((step + 1) / total) * sum(sizes))
        if recovery == "none" and before is not None:
            assert not any((masks[name] & ~before[name]).any() for name in masks)
        before = masks
        optimizer.step()
        sparsifier.step()
    for i, s in enumerate(own):
        assert int((~sparsifier.masks[f"{i}.weight"]).sum()) == round(s * sizes[i])


def test_scope_by_name_in_a_long_run() -> None:
    """Each layer's count rounded on its own misses the total by two here, or asks for more than there is."""
    for sparsity in (1 / 3, 0.4):
        model, optimizer = network(10, 10, 10, 10)
        sparsifier = sc.Sparsifier(model, optimizer, sparsity, sc.Linear(), scope={"0": 0.5, "1": 0.5}, total_steps=300)
        for step in range(300):
            assert pruned(sparsifier) == round(sparsity * (step + 1) / 300 * 300)
            optimizer.step()
            sparsifier.step()
        assert [y.kept for y in sparsifier.finalize().layers] == [50, 50, 200 - round(300 * sparsity)]


# Extremes


def test_no_sparsity_changes_nothing() -> None:
    runs = []
    for sparse in (False, True):
        model, optimizer = network(6, 5, 3)
        sparsifier = sc.Sparsifier(model, optimizer, 0.0, sc.Constant(), total_steps=5) if sparse else None
        torch.manual_seed(1)
        for _ in range(5):
            model(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if sparsifier is not None:
                sparsifier.step()
        runs.append(model.state_dict())
        assert sparsifier is None or sparsifier.finalize().achieved == 0.0
    assert all(torch.equal(a, b) for a, b in zip(runs[0].values(), runs[1].values(), strict=True))


@pytest.mark.parametrize("scope", ["global", "uniform", "erk", {"0": 1.0, "1": 1.0}])
def test_everything_pruned(scope: Any) -> None:
    model, optimizer = network(6, 5, 3)
    sparsifier = sc.Sparsifier(model, optimizer, 1.0, sc.Linear(), scope=scope, total_steps=5)
    advance(model, optimizer, sparsifier, 5)
    report = sparsifier.finalize()
    assert (report.achieved, report.kept, sparsifier.sparsity) == (1.0, 0, 1.0)
    assert not any(layer.weight.any() for layer in model)
    assert model(torch.randn(2, 6)).equal(model[1].bias.expand(2, 3))


def test_very_high_sparsity_keeps_the_floor() -> None:
    model, optimizer = network(200, 100, 10, 1)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9998, sc.Linear(), total_steps=4)  # of 21,010
    advance(model, optimizer, sparsifier, 4)
    kept = [y.kept for y in sparsifier.finalize().layers]
    assert sum(kept) == 21_010 - round(0.9998 * 21_010) == 4
    assert min(kept) == 1


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
def test_floor_that_cannot_be_had(scope: str) -> None:
    model, optimizer = network(200, 100, 10, 1)
    with pytest.raises(
        ValueError, match=r"sparsity=0.9999 keeps 2 of 21010 weights, but floor=1 asks for 3 in 3 layers.* 0.9998572"
    ):
        sc.Sparsifier(model, optimizer, 0.9999, sc.Linear(), scope=scope, total_steps=4)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9999, sc.Linear(), scope=scope, total_steps=4, floor=0)
    advance(model, optimizer, sparsifier, 4)
    assert sparsifier.finalize().kept == 2


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
def test_layer_of_one_weight(scope: str) -> None:
    model, optimizer = network(10, 1, 1, 10)
    with torch.no_grad():
        model[1].weight.fill_(1e-6)  # the smallest of all
    sparsifier = sc.Sparsifier(model, optimizer, 0.8, sc.Linear(), scope=scope, total_steps=3)
    for count in (6, 11, 17):  # of 21
        assert pruned(sparsifier) == count
        optimizer.step()
        sparsifier.step()
    assert sparsifier.masks["1.weight"].tolist() == [[True]]
    model, optimizer = network(10, 1, 1, 10)
    with torch.no_grad():
        model[1].weight.fill_(1e-6)
    loose = sc.Sparsifier(model, optimizer, 0.8, sc.Constant(), floor=0, total_steps=1)
    assert loose.masks["1.weight"].tolist() == [[False]]


def test_network_of_one_weight() -> None:
    model, optimizer = linear([3.0])
    with pytest.raises(ValueError, match="sparsity=0.9 keeps 0 of 1 weights, but floor=1"):
        sc.Sparsifier(model, optimizer, 0.9, total_steps=2)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=2, floor=0)
    assert values(model) == [3.0]  # round(0.45) of one weight
    sparsifier.step()
    assert values(model) == [0.0]


def test_frozen_parameter_is_left_out() -> None:
    model, _ = network(6, 5, 3)
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    sparsifier = sc.Sparsifier(model, optimizer, 0.8, sc.Linear(), total_steps=3)
    advance(model, optimizer, sparsifier, 3)
    report = sparsifier.finalize()
    assert [(y.name, y.kept) for y in report.layers] == [("1.weight", 3)]
    assert report.left_out == {"0.weight": "frozen"}
    assert "not pruned: 0.weight (frozen)" in str(report)
    assert torch.equal(model[0].weight, before)


def test_frozen_in_mid_run_stays_pruned() -> None:
    model, optimizer = network(6, 5, 3)
    sparsifier = sc.Sparsifier(model, optimizer, 0.8, sc.Linear(), total_steps=4)
    advance(model, optimizer, sparsifier, 2)
    model[0].weight.requires_grad_(False)
    advance(model, optimizer, sparsifier, 2)
    assert sparsifier.finalize().kept == 9 == sum(int(layer.weight.count_nonzero()) for layer in model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(10, 10).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=3)
    for _ in range(3):
        model(torch.randn(4, 10, dtype=dtype)).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsifier.step()
    assert model.weight.dtype == dtype
    assert int(model.weight.count_nonzero()) == 10 == sparsifier.finalize().kept


def test_channels_last_weights_stay_so() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(4, 5, 3).to(memory_format=torch.channels_last)
    copied = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    masks = []
    for m in (model, copied):
        optimizer = torch.optim.SGD(m.parameters(), 0.1)
        sparsifier = sc.Sparsifier(m, optimizer, 0.7, sc.Constant(), total_steps=2)
        masks.append(sparsifier.masks["weight"])
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(*masks)
    assert int((~masks[0]).sum()) == 126


# Bad values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bad_weight_at_construction_changes_nothing(value: float) -> None:
    model, optimizer = network(6, 5, 3)
    with torch.no_grad():
        model[1].weight[0, 1] = value
    before = copy.deepcopy(model.state_dict())
    for schedule in (sc.Constant(), sc.OneShot(0.5)):
        with pytest.raises(ValueError, match="1.weight holds NaN or infinity: the run has diverged"):
            sc.Sparsifier(model, optimizer, 0.5, schedule, total_steps=4)
    assert all(torch.equal(p, before[n]) or n == "1.weight" for n, p in model.state_dict().items())
    assert not optimizer._optimizer_step_post_hooks
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    with torch.no_grad():
        model[1].weight[0, 1] = 1.0
    assert pruned(sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), total_steps=4)) == 22


@pytest.mark.filterwarnings("ignore:the run ended")
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("recovery", ["none", "zero", "stored", "feedback", "passive"])
def test_bad_weight_in_mid_run_changes_nothing(value: float, recovery: str) -> None:
    model, optimizer = network(6, 5, 3)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), recovery=recovery, total_steps=5)
    advance(model, optimizer, sparsifier, 2)
    index = sparsifier.masks["1.weight"].nonzero()[0]
    with torch.no_grad():
        good = float(model[1].weight[tuple(index)])
        model[1].weight[tuple(index)] = value
    before, masks = copy.deepcopy(model.state_dict()), sparsifier.masks
    with pytest.raises(ValueError, match="1.weight holds NaN or infinity: the run has diverged"):
        sparsifier.step()
    assert all(torch.equal(p.nan_to_num(), before[n].nan_to_num()) for n, p in model.state_dict().items())
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())
    with pytest.raises(ValueError, match="1.weight holds NaN or infinity"):
        sparsifier.finalize()
    with torch.no_grad():
        model[1].weight[tuple(index)] = good
    advance(model, optimizer, sparsifier, 2)
    assert sparsifier.finalize().kept == 45 - round(0.9 * 45)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "sparsity above": ({"sparsity": 1.5}, "sparsity=1.5 must be from 0 to 1"),
    "sparsity in per cent": ({"sparsity": 90}, "sparsity=90 must be from 0 to 1"),
    "sparsity below": ({"sparsity": -0.1}, "sparsity=-0.1 must be from 0 to 1"),
    "sparsity NaN": ({"sparsity": math.nan}, "sparsity=nan must be from 0 to 1"),
    "sparsity text": ({"sparsity": "0.9"}, "sparsity='0.9' must be from 0 to 1"),
    "sparsity None": ({"sparsity": None}, "sparsity=None is allowed only where scope is a mapping"),
    "schedule name": ({"schedule": "agp"}, "schedule='agp' must be a Schedule"),
    "schedule class": ({"schedule": sc.AGP}, "AGP'> must be a Schedule, such as OneCycle()"),
    "criterion": (
        {"criterion": "magnitud"},
        "'magnitud' must be one of 'magnitude', 'random', 'magnitude_gain', 'movement', 'taylor'; did you mean 'magn",
    ),
    "criterion class": ({"criterion": sc.Random}, "Random'> must be a name or a Criterion, such as Magnitude()"),
    "scope": ({"scope": "globl"}, "scope='globl' must be one of 'global', 'uniform', 'erk'; did you mean 'global'?"),
    "scope number": ({"scope": 3}, "scope=3 must be a name or a mapping"),
    "scope glob": ({"scope": {"hed": 0.5}, "sparsity": None}, "scope: 'hed' matches none of the pruned weights"),
    "scope sparsity": ({"scope": {"0": 2.0}}, "scope: the sparsity of '0' is 2.0; it must be from 0 to 1"),
    "scope total": ({"scope": {"0": 0.1, "1": 0.1}}, "sparsity=0.9 cannot be had beside"),
    "granularity": (
        {"granularity": "weights"},
        "granularity='weights' must be one of 'weight'; did you mean 'weight'?",
    ),
    "criterion of no kind": ({"criterion": 3}, "criterion=3 must be a name or a Criterion, such as Magnitude()"),
    "recovery": (
        {"recovery": "store"},
        "'store' must be one of 'none', 'zero', 'stored', 'feedback', 'passive'; did you mean 'stored'?",
    ),
    "recovery class": ({"recovery": sc.Regrow}, "Regrow'> must be a name, a Recovery or a Regrow, such as Regrow('"),
    "recovery None": ({"recovery": None}, "recovery=None must be a name, a Recovery or a Regrow"),
    "total_steps": ({"total_steps": 0}, "total_steps=0 must be a whole number of at least 1"),
    "total_steps float": ({"total_steps": 10.0}, "total_steps=10.0 must be a whole number of at least 1"),
    "update_every": ({"update_every": 0}, "update_every=0 must be a whole number of at least 1"),
    "floor": ({"floor": -1}, "floor=-1 must be a whole number of at least 0"),
    "include": ({"include": ["convs.*"]}, "include: 'convs.*' matches no parameter"),
    "exclude": ({"exclude": ["2.weight"]}, "exclude: '2.weight' matches no parameter; did you mean "),
    "nothing left": ({"exclude": ["*"]}, "Sequential has no weight to prune: 0.weight (exclude=*)"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_argument(case: str) -> None:
    words, message = BAD[case]
    model, optimizer = network(6, 5, 3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=re.escape(message)):
        sc.Sparsifier(**{"model": model, "optimizer": optimizer, "sparsity": 0.9, "total_steps": 10, **words})
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    sc.Sparsifier(model, optimizer, 0.9, total_steps=10)


def test_things_that_are_no_model_or_optimizer() -> None:
    model, optimizer = network(6, 5)
    with pytest.raises(ValueError, match="model must be a torch.nn.Module, not a SGD"):
        sc.Sparsifier(optimizer, model, 0.9, total_steps=10)
    with pytest.raises(ValueError, match="optimizer must be a torch.optim.Optimizer, not a list"):
        sc.Sparsifier(model, list(model.parameters()), 0.9, total_steps=10)


def test_wrapped_optimizer() -> None:
    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    model, optimizer = network(6, 5)
    sparsifier = sc.Sparsifier(model, Wrapper(optimizer), 0.5, sc.Linear(), total_steps=4)
    advance(model, optimizer, sparsifier, 4)
    assert sparsifier.finalize().kept == 15 == int(model[0].weight.count_nonzero())


# The mistakes people make


def test_step_once_an_epoch() -> None:
    model, optimizer = network(6, 5)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=20)
    for epoch in range(4):
        for _ in range(5):
            optimizer.step()
        if epoch:
            sparsifier.step()
        else:
            with pytest.warns(
                UserWarning, match=r"5 steps before step 1 of the sparsifier.*update_every=len\(loader\)"
            ):
                sparsifier.step()
    with pytest.warns(UserWarning, match="the run ended at step 4 of 20, at a sparsity of 23.3333%"):
        report = sparsifier.finalize()
    assert [note.split(" ")[2:5] for note in report.notes] == [["made", "5", "steps"], ["ended", "at", "step"]]
    assert str(report).count("note: ") == 2
    assert report.kept == 23


def test_run_that_stops_early() -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.8, sc.Linear(), total_steps=10)
    advance(model, optimizer, sparsifier, 4)
    with pytest.warns(UserWarning, match=r"ended at step 4 of 10, at a sparsity of 40.0000%: set total_steps"):
        report = sparsifier.finalize()
    assert (report.requested, report.achieved, report.steps) == (0.8, 0.4, (4, 10))
    assert "requested 80.0000%, achieved 40.0000% at step 4 of 10" in str(report)
    assert report.to_dict()["notes"] == report.notes
    assert sparsifier.finalize().notes == report.notes  # a second time says no more


@pytest.mark.parametrize(
    "recovery", ["none", "zero", "stored", "feedback", "passive", sc.Regrow(until=1), sc.Regrow("random", until=1)]
)
def test_run_that_goes_on(recovery: Any) -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.8, sc.Linear(), recovery=recovery, total_steps=4)
    advance(model, optimizer, sparsifier, 3)
    mask = sparsifier.masks["0.weight"]
    with torch.no_grad():
        model[0].weight[mask] /= 1e6  # whatever returns would outrank these
    advance(model, optimizer, sparsifier)
    assert torch.equal(sparsifier.masks["0.weight"], mask)
    with pytest.warns(UserWarning, match="the run goes on past total_steps=4: the mask stays as it is"):
        advance(model, optimizer, sparsifier)
    advance(model, optimizer, sparsifier, 3)  # warned once
    report = sparsifier.finalize()
    assert (report.steps, report.achieved, len(report.notes)) == ((8, 4), 0.8, 1)
    assert torch.equal(sparsifier.masks["0.weight"], mask)
    assert torch.equal(model[0].weight != 0, mask)


def test_warning_points_at_the_caller() -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.8, total_steps=4)
    with pytest.warns(UserWarning, match="ended at step 0 of 4") as caught:
        sparsifier.finalize()
    assert caught[0].filename == __file__


def test_second_sparsifier() -> None:
    model, optimizer = network(6, 5, 3)
    first = sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), total_steps=4)
    with pytest.raises(ValueError, match=r"0.weight already has a sparsifier: call its remove\(\) first"):
        sc.Sparsifier(model, optimizer, 0.9, sc.Constant(), total_steps=4)
    with pytest.raises(ValueError, match="1.weight already has a sparsifier"):
        sc.Sparsifier(model, torch.optim.SGD(model.parameters(), 0.1), 0.9, total_steps=4, exclude=["0"])
    assert pruned(first) == 22
    assert first.sparsity == 1 - 23 / 45
    first.remove()
    second = sc.Sparsifier(model, optimizer, 0.9, sc.Constant(), total_steps=4)
    first.remove()  # once more changes nothing
    with pytest.raises(ValueError, match="0.weight already has a sparsifier"):
        sc.Sparsifier(model, optimizer, 0.5, total_steps=4)
    assert pruned(second) == 40


def test_two_sparsifiers_on_two_halves() -> None:
    model, optimizer = network(10, 10, 10)
    halves = [
        sc.Sparsifier(model, optimizer, s, sc.Linear(), total_steps=4, include=[f"{i}"])
        for i, s in ((0, 0.5), (1, 0.9))
    ]
    for _ in range(4):
        model(torch.randn(4, 10)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        for half in halves:
            half.step()
    assert [half.finalize().kept for half in halves] == [50, 10]
    assert [int(layer.weight.count_nonzero()) for layer in model] == [50, 10]


def test_dropped_with_its_optimizer() -> None:
    model, optimizer = network(6, 5)
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), total_steps=4)
    del sparsifier, optimizer
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    second = sc.Sparsifier(model, optimizer, 0.9, sc.Constant(), total_steps=4)
    assert pruned(second) == 27
    gc.collect()
    assert len(model[0].weight._post_accumulate_grad_hooks) == 1
    advance(model, optimizer, second)
    assert int(model[0].weight.count_nonzero()) == 3


def test_remove_ends_the_pruning() -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Constant(), total_steps=4)
    sparsifier.remove()
    assert not optimizer._optimizer_step_post_hooks
    assert not model[0].weight._post_accumulate_grad_hooks
    assert int(model[0].weight.count_nonzero()) == 10
    model(torch.randn(4, 10)).square().mean().backward()
    optimizer.step()
    assert int(model[0].weight.count_nonzero()) == 100
    with pytest.raises(RuntimeError, match=r"step\(\) after finalize\(\)"):
        sparsifier.step()
    for again in (copy.deepcopy(sparsifier), pickle.loads(pickle.dumps(sparsifier))):
        assert not again._optimizer._optimizer_step_post_hooks
        assert not again._model[0].weight._post_accumulate_grad_hooks
        sc.Sparsifier(again._model, again._optimizer, 0.5, sc.Constant(), total_steps=4)


def test_optimizer_that_lacks_a_weight() -> None:
    model, _ = network(6, 5, 3)
    with pytest.raises(ValueError, match="the optimizer does not train 0.weight, 1.weight: give it model.parameters"):
        sc.Sparsifier(model, torch.optim.SGD(copy.deepcopy(model).parameters(), 0.1), 0.5, total_steps=4)
    head_only = torch.optim.SGD(model[1].parameters(), 0.1)
    with pytest.raises(ValueError, match="the optimizer does not train 0.weight: "):
        sc.Sparsifier(model, head_only, 0.5, total_steps=4)
    assert pruned(sc.Sparsifier(model, head_only, 0.5, sc.Constant(), total_steps=4, exclude=["0.*"])) == 8


def test_step_after_finalize() -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=2)
    advance(model, optimizer, sparsifier, 2)
    sparsifier.finalize()
    with pytest.raises(RuntimeError, match=r"step\(\) after finalize\(\): the sparsities are final"):
        sparsifier.step()
    loaded_model, loaded_optimizer = network(10, 10)
    loaded = sc.Sparsifier(loaded_model, loaded_optimizer, 0.9, sc.Linear(), total_steps=2)
    loaded.load_state_dict(sparsifier.state_dict())
    with pytest.raises(RuntimeError, match=r"step\(\) after finalize\(\)"):
        loaded.step()


def other_state(sizes: tuple[int, ...] = (6, 5, 3), rename: bool = False, **words: Any) -> dict[str, Any]:
    model, optimizer = network(*sizes)
    given_model = nn.Sequential(model) if rename else model
    sparsifier = sc.Sparsifier(
        given_model, optimizer, **{"sparsity": 0.9, "schedule": sc.Linear(), "total_steps": 4, **words}
    )
    advance(model, optimizer, sparsifier, 2)
    return sparsifier.state_dict()


def damaged(damage: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    state = other_state(criterion="magnitude_gain", recovery="stored")
    damage(state)
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: other_state(rename=True), "the state is of other weights: 0.weight is absent there and"),
        (lambda: other_state((6, 5)), r"of other weights: 1.weight is absent there and \[3, 5\] here"),
        (lambda: other_state((6, 5, 3, 3)), r"of other weights: 2.weight is \[3, 3\] there and absent here"),
        (lambda: other_state((6, 5, 4)), r"of other weights: 1.weight is \[4, 5\] there and \[3, 5\] here"),
        (lambda: other_state(sparsity=0.8), "of other settings: sparsity is 0.8 there and 0.9 here"),
        (lambda: other_state(schedule=sc.AGP()), r"of other settings: schedule is AGP\(.*\) there and Linear"),
        (lambda: other_state(total_steps=8), "of other settings: total_steps is 8 there and 4 here"),
        (lambda: other_state(recovery="zero"), "of other settings: recovery is zero there and none here"),
        (
            lambda: other_state(recovery=sc.Regrow(seed=3)),
            r"of other settings: recovery is Regrow\(.*seed=3\) there and",
        ),
        (lambda: None, "this is no sparsifier state of version 1: 'NoneType'"),
        (dict, "this is no sparsifier state of version 1: None"),
        (lambda: {"version": 2}, "this is no sparsifier state of version 1: 2"),
        (lambda: {"version": 1}, "the state is not complete: it lacks settings, shapes, steps"),
        (lambda: damaged(lambda s: s.pop("steps")), "the state is not complete: it lacks steps"),
        (lambda: damaged(lambda s: s["masks"].pop("1.weight")), "it lacks the mask of 1.weight"),
        (lambda: damaged(lambda s: s["masks"].update({"1.weight": torch.zeros(1, dtype=torch.uint8)})), "2 bytes"),
        (lambda: damaged(lambda s: s["memory"].pop()), "the state's memory does not fit this network"),
        (lambda: damaged(lambda s: s["stored"].reverse()), "the state's stored does not fit this network"),
    ],
)
def test_state_of_another_network(state: Callable[[], Any], message: str) -> None:
    model, optimizer = network(6, 5, 3, seed=1)
    criterion, recovery = ("magnitude", "none") if "other" in message else ("magnitude_gain", "stored")
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), criterion, recovery=recovery, total_steps=4)
    advance(model, optimizer, sparsifier)
    before, held = copy.deepcopy(model.state_dict()), sparsifier.state_dict()
    with pytest.raises(ValueError, match=message):
        sparsifier.load_state_dict(state())
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    after = sparsifier.state_dict()
    assert after["steps"] == held["steps"] == 1
    assert all(torch.equal(bits, held["masks"][n]) for n, bits in after["masks"].items())
    for key in ("memory", "stored"):
        assert all(torch.equal(a, b) for a, b in zip(after[key], held[key], strict=True))


def cyclical(model: nn.Module, optimizer: torch.optim.Optimizer, recovery: str = "stored") -> sc.Sparsifier:
    schedule = sc.Cyclical(2, sc.Linear())
    return sc.Sparsifier(model, optimizer, 0.9, schedule, recovery=recovery, total_steps=8)


def checkpoint(recovery: str = "stored") -> list[dict[str, Any]]:
    model, optimizer = network(10, 10)
    sparsifier = cyclical(model, optimizer, recovery)
    advance(model, optimizer, sparsifier, 3)
    assert sparsifier.sparsity == 0.0
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, sparsifier)], file)
    file.seek(0)
    return list(torch.load(file, weights_only=True))


@pytest.mark.parametrize(
    "recovery",
    [
        "stored",
        "feedback",
    ],
)
def test_weights_loaded_before_the_sparsifier_was_built(recovery: str) -> None:
    states = checkpoint(recovery)
    model, optimizer = network(10, 10, seed=1)
    model.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    sparsifier = cyclical(model, optimizer, recovery)
    sparsifier.load_state_dict(states[2])
    model(torch.randn(4, 10)).square().mean().backward()
    before = model[0].weight.detach().clone()
    with pytest.raises(RuntimeError, match="build model, optimizer and sparsifier first, then load the state of each"):
        optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_hook_of_the_users_own_after_a_state_was_loaded() -> None:
    """As learning-rate schedulers and wrappers hang them on the optimizer."""
    states, calls = checkpoint(), []
    model, optimizer = network(10, 10, seed=1)
    sparsifier = cyclical(model, optimizer)
    for part, state in zip((sparsifier, model, optimizer), (states[2], states[0], states[1]), strict=True):
        part.load_state_dict(state)
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    advance(model, optimizer, sparsifier, 5)
    assert len(calls) == 5
    assert sparsifier.finalize().kept == 10


def test_weights_loaded_after_the_sparsifier_in_either_order() -> None:
    states = checkpoint()
    for order in ((0, 1, 2), (2, 1, 0)):
        model, optimizer = network(10, 10, seed=1)
        sparsifier = cyclical(model, optimizer)
        for i in order:
            (model, optimizer, sparsifier)[i].load_state_dict(states[i])
        advance(model, optimizer, sparsifier, 5)
        assert sparsifier.finalize().kept == 10


@pytest.mark.parametrize("changes", range(12))
def test_copy_of_a_new_sparsifier_may_be_rolled_back(changes: int) -> None:
    """A copy's weights count their changes from zero, which must not look like weights that were never loaded."""
    model, optimizer = network(6, 5, 3)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=8)
    states = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, sparsifier)]
    parts = copy.deepcopy((model, optimizer, sparsifier))
    with torch.no_grad():
        for _ in range(changes):
            for layer in parts[0]:
                layer.weight.mul_(2)
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)
    advance(*parts, 8)
    assert parts[2].finalize().kept == 5


def test_rolled_back_between_the_optimizer_and_the_sparsifier() -> None:
    model, optimizer = network(6, 5, 3)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=4)
    states = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, sparsifier)]
    optimizer.step()
    for part, state in zip((model, optimizer, sparsifier), states, strict=True):
        part.load_state_dict(state)
    advance(model, optimizer, sparsifier, 4)  # a warning would be an error
    assert sparsifier.finalize().notes == ()


def test_notes_are_kept_in_the_state() -> None:
    model, optimizer = network(6, 5)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=2)
    for _ in range(3):
        optimizer.step()
    with pytest.warns(UserWarning, match="3 steps before step 1"):
        sparsifier.step()
    trained, (model, optimizer) = model, network(6, 5)
    resumed = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=2)
    model.load_state_dict(trained.state_dict())
    resumed.load_state_dict(sparsifier.state_dict())
    advance(model, optimizer, resumed)
    assert [note[:26] for note in resumed.finalize().notes] == ["the optimizer made 3 steps"]


def test_weights_are_pruned_as_soon_as_a_state_is_loaded() -> None:
    model, optimizer = network(6, 5, 3)
    sparsifier = sc.Sparsifier(model, optimizer, 0.8, sc.Linear(), total_steps=4)
    advance(model, optimizer, sparsifier, 2)
    fresh, fresh_optimizer = network(6, 5, 3, seed=1)
    resumed = sc.Sparsifier(fresh, fresh_optimizer, 0.8, sc.Linear(), total_steps=4)
    resumed.load_state_dict(sparsifier.state_dict())
    assert all(torch.equal(mask, sparsifier.masks[name]) for name, mask in resumed.masks.items())
    assert pruned(resumed) == 27
    assert not any(layer.weight[~resumed.masks[f"{i}.weight"]].any() for i, layer in enumerate(fresh))


def test_finalize_leaves_pruned_weights_at_zero() -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=2)
    advance(model, optimizer, sparsifier, 2)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert sparsifier.finalize().kept == 10 == int(model[0].weight.count_nonzero())


def test_a_compiled_model_is_pruned_under_its_own_names():
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compiled = torch.compile(model, backend="eager")
    sparsifier = sc.Sparsifier(compiled, optimizer, 0.5, sc.Constant(), total_steps=2, include=["weight"])
    assert list(sparsifier.masks) == ["weight"]
    assert int((model.weight == 0).sum()) == 16


def test_a_parameter_that_was_replaced_is_noticed():
    model = nn.Linear(8, 4)
    sparsifier = sc.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.5, sc.Constant(), total_steps=1)
    sparsifier.step()
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    with pytest.warns(UserWarning, match="weight is no longer the parameter that was pruned"):
        report = sparsifier.finalize()
    assert "no longer the parameter" in report.notes[0]


# Recovery, named and of one's own


@pytest.mark.parametrize(
    ("recovery", "name"),
    [
        ("feedback", "feedback"),
        (sc.Recovery(returns=True, remembers=True), "stored"),  # the same by another name
        (
            sc.Recovery(returns=True, forgets=True),
            "Recovery(returns=True, remembers=False, trains='kept', forgets=True)",
        ),
        (sc.Regrow("random", 0.5), "Regrow(by='random', fraction=0.5, until=0.75, seed=0)"),
    ],
)
def test_recovery_by_name_and_by_value(recovery: Any, name: str) -> None:
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), recovery=recovery, total_steps=4)
    assert sparsifier.report().settings["recovery"] == name
    advance(model, optimizer, sparsifier, 4)
    assert sparsifier.finalize().kept == 50
    assert int((model[0].weight == 0).sum()) == 50


def test_regrowth_beside_a_rising_sparsity() -> None:
    """Each mask keeps what the schedule says, of the survivors and of those that grow."""
    model, optimizer = network(10, 10)
    sparsifier = sc.Sparsifier(
        model, optimizer, 0.8, sc.Linear(), recovery=sc.Regrow("random", 0.4, 1.0), total_steps=8
    )
    changed = 0
    for step in range(8):
        before = sparsifier.masks["0.weight"]
        assert pruned(sparsifier) == 10 * (step + 1)
        advance(model, optimizer, sparsifier)
        changed += int((sparsifier.masks["0.weight"] & ~before).sum())
    assert changed > 10


# What the report says of layers that starved


def starved(floor: int, sparsity: float = 0.9, **words: Any) -> tuple[str, ...]:
    model, optimizer = network(10, 10, 10)
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    sparsifier = sc.Sparsifier(model, optimizer, sparsity, sc.Constant(), total_steps=2, floor=floor, **words)
    return sparsifier.report().notes


def test_note_of_a_layer_that_lost_all_its_weights() -> None:
    (note,) = starved(floor=0)
    assert note == "0.weight has lost all its 100 weights, and nothing passes it; floor=1 keeps a layer alive"


@pytest.mark.parametrize("floor", [1, 3])
def test_note_of_a_layer_that_the_floor_holds(floor: int) -> None:
    (note,) = starved(floor)
    assert note == f"0.weight keeps {floor} of 100 weights, as floor={floor} asks; with floor=0 it may lose them all"


@pytest.mark.parametrize(
    ("floor", "sparsity", "words"),
    [
        (1, 0.5, {"scope": "uniform"}),
        (1, 0.99, {"scope": "uniform"}),  # one weight each, which they did not compete for
        (0, 1.0, {}),  # as asked
        (1, 1.0, {}),
        (0, 0.2, {}),
    ],
)
def test_no_note_where_nothing_starved(floor: int, sparsity: float, words: dict[str, Any]) -> None:
    assert starved(floor, sparsity, **words) == ()


def test_layer_pruned_by_name_is_noted_too() -> None:
    (note,) = starved(0, None, scope={"0": 1.0})  # type: ignore[arg-type]
    assert note.startswith("0.weight has lost all its 100 weights")
