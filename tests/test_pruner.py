"""What goes on around the optimizer's step, seen from a Sparsifier; numbers by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsecycle as sc
from sparsecycle.methods import METHODS

pytestmark = pytest.mark.usefixtures("path")  # by the native core, and without it

SGD: dict[str, float] = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}


def linear(weights: list[float], **optimizer: float) -> tuple[nn.Linear, torch.optim.SGD]:
    """One layer with these weights, and SGD."""
    model = nn.Linear(len(weights), 1, bias=False)
    put(model, weights)
    return model, torch.optim.SGD(model.parameters(), **{"lr": 0.0, **optimizer})


def put(model: nn.Linear, weights: list[float]) -> None:
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weights]))


def backward(model: nn.Linear, gradient: list[float]) -> None:
    (model.weight * torch.tensor([gradient])).sum().backward()


def step(
    model: nn.Linear, optimizer: torch.optim.Optimizer, gradient: list[float], sparsifier: sc.Sparsifier | None = None
) -> list[float]:
    backward(model, gradient)
    optimizer.step()
    optimizer.zero_grad()
    if sparsifier is not None:
        sparsifier.step()
    return values(model.weight)


def values(tensor: Tensor) -> list[float]:
    return [round(v, 6) for v in tensor.flatten().tolist()]


def near(*numbers: float) -> Any:
    return pytest.approx(list(numbers), abs=2e-6)


# When gradients are dense


def dense_before(method: str, **words: Any) -> list[bool]:
    """For each step of twelve whether pruned weights had a gradient before the optimizer's step; never after it."""
    torch.manual_seed(0)
    model = nn.Linear(20, 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = METHODS[method](model, optimizer, 0.5, 12, **words)
    seen = []
    for _ in range(12):
        model(torch.randn(30, 20)).square().mean().backward()
        dead = ~sparsifier.masks["weight"]
        assert model.weight.grad is not None
        seen.append(bool(model.weight.grad[dead].any()))
        if seen[-1]:
            assert model.weight.grad[dead].all()
        optimizer.step()
        if method != "dpf":
            assert not model.weight.grad[dead].any()
        optimizer.zero_grad()
        sparsifier.step()
    return seen


@pytest.mark.parametrize(
    ("method", "words", "steps"),
    [
        ("magnitude", {}, []),
        ("cyclical", {"recovery": "stored"}, []),
        ("set", {"update_every": 3}, []),
        # In the step before an update: there are some after 3 and 6 steps, and none from .75 of the run on.
        ("rigl", {"update_every": 3}, [2, 5]),
        ("rigl", {"update_every": 3, "until": 1.0}, [2, 5, 8]),
        ("rigl", {"update_every": 4, "until": 0.5}, [3]),
        ("rigl", {"update_every": 1, "until": 0.3}, [0, 1, 2]),
        ("rigl", {"update_every": 2, "fraction": 0.0}, []),
        ("movement", {"start": 0.0}, list(range(12))),
        ("dpf", {"update_every": 3}, list(range(12))),
    ],
)
def test_gradients_are_dense_only_when_needed(method: str, words: dict[str, Any], steps: list[int]) -> None:
    assert [k for k, dense in enumerate(dense_before(method, **words)) if dense] == steps


def test_a_resumed_run_waits_for_the_same_gradients() -> None:
    model, optimizer = linear([1.0] * 8)
    sparsifier = METHODS["rigl"](model, optimizer, 0.5, 12, update_every=3)
    for taken in range(1, 7):
        step(model, optimizer, [1.0] * 8, sparsifier)
        other, other_optimizer = linear([1.0] * 8)
        resumed = METHODS["rigl"](other, other_optimizer, 0.5, 12, update_every=3)
        resumed.load_state_dict(sparsifier.state_dict())
        backward(other, [1.0] * 8)
        assert other.weight.grad is not None
        assert int(other.weight.grad.count_nonzero()) == (8 if taken in (2, 5) else 4)


# Drop and grow


def drop_and_grow(by: str, fraction: float, **words: Any) -> tuple[list[int], list[int], list[float], list[float]]:
    """One update of a layer of 8 weights, 4 of them kept, worth 1, 2, 3, 4 in their order.

    Returns the kept and the other weights' places before, the weights' values and momentum after it.
    """
    model, optimizer = linear([1.0] * 8, momentum=0.5)
    regrow = sc.Regrow(by, fraction, until=1.0, **words)  # type: ignore[arg-type]
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), recovery=regrow, total_steps=4, update_every=2)
    kept = sparsifier.masks["weight"][0].nonzero().flatten().tolist()
    out = [i for i in range(8) if i not in kept]
    weights, gradient = [0.0] * 8, [0.0] * 8
    for i, w, g in zip(kept, [1, 2, -3, 4], [0.1, 5, 20, 20], strict=True):
        weights[i], gradient[i] = w, g
    for i, g in zip(out, [1, -7, 2, 3], strict=True):
        gradient[i] = g
    put(model, weights)
    step(model, optimizer, [-9.0] * 8, sparsifier)  # no update is due after it
    assert values(model.weight) == weights
    step(model, optimizer, gradient, sparsifier)
    return kept, out, values(model.weight), values(optimizer.state[model.weight]["momentum_buffer"])


def test_rigl_by_hand() -> None:
    # Half way the share is half of the fraction: 2 of 4 are dropped, worth 1 and 2. The largest gradients of those
    # that are then out are 7 and 5; the latter is that of the weight 2, which thus stays as it is.
    kept, out, weights, momentum = drop_and_grow("gradient", 1.0)
    expected, buffer = [0.0] * 8, [0.0] * 8
    for i, w, m in zip(kept[1:], [2, -3, 4], [-4.5 + 5, -4.5 + 20, -4.5 + 20], strict=True):
        expected[i], buffer[i] = w, m
    assert weights == expected
    assert momentum == buffer  # nothing of the dropped one, nor of the grown one
    assert out[1] not in [i for i, w in enumerate(weights) if w]


def test_rigls_new_mask_by_hand() -> None:
    for fraction in (1.0, 0.5, 0.4, 0.2):
        model, optimizer = linear([1.0] * 8)
        regrow = sc.Regrow("gradient", fraction, until=1.0)
        sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), recovery=regrow, total_steps=2)
        mask = sparsifier.masks["weight"][0]
        kept, out = mask.nonzero().flatten().tolist(), (~mask).nonzero().flatten().tolist()
        weights, gradient = [0.0] * 8, [0.0] * 8
        for i, w in zip(kept, [1, 2, 3, 4], strict=True):
            weights[i] = w
        for i, g in zip(out, [1, -7, 2, 3], strict=True):
            gradient[i] = g
        put(model, weights)
        step(model, optimizer, gradient, sparsifier)
        dropped = round(fraction * 2)  # half of the share, of four weights: 2, 1, 1, 0
        grown = [out[1], out[3]][:dropped]
        assert sorted(kept[dropped:] + grown) == sparsifier.masks["weight"][0].nonzero().flatten().tolist()


def test_sets_places_are_drawn_and_follow_the_seed() -> None:
    runs = [drop_and_grow("random", 1.0, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert runs[0] == runs[1]
    assert len({tuple(run[0]) for run in runs}) > 1  # the first mask is drawn too
    for kept, out, weights, _ in runs:
        assert {i for i, w in enumerate(weights) if w} >= {kept[2], kept[3]}  # the larger half stays
        assert {weights[i] for i in out} == {0.0}  # what grows begins at 0


def test_sets_new_places_are_drawn_anew_at_every_update() -> None:
    model, optimizer = linear([1.0] * 60)
    regrow = sc.Regrow("random", 0.8, until=1.0, seed=5)
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), recovery=regrow, total_steps=4)
    for steps, dropped in ((1, round(0.4 * (1 + math.cos(math.pi / 4)) * 30)), (2, 12)):
        mask, weights = sparsifier.masks["weight"][0], torch.arange(1.0, 61)
        put(model, (weights * mask).tolist())
        sparsifier.step()
        survivors = (weights * mask).topk(30 - dropped)[1].tolist()
        numbers = torch.rand(1, 60, generator=torch.Generator().manual_seed(5 + steps))[0]
        numbers[survivors] = 2
        assert sparsifier.masks["weight"][0].nonzero().flatten().tolist() == sorted(numbers.topk(30)[1].tolist())


def test_first_masks_of_layers_are_drawn_in_their_shares() -> None:
    model = nn.Sequential(nn.Linear(40, 20), nn.Linear(20, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with torch.no_grad():
        model[0].weight.mul_(100)  # to which the drawing is blind
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Constant(), scope="erk", recovery=sc.Regrow(), total_steps=9)
    masks = sparsifier.masks
    assert [int(mask.sum()) for mask in masks.values()] == [67, 33]
    uniform = [torch.rand(s, generator=g) for g in [torch.Generator().manual_seed(0)] for s in ((20, 40), (10, 20))]
    for mask, numbers in zip(masks.values(), uniform, strict=True):
        assert numbers[mask].min() > numbers[~mask].max()


# A gradient scaler


def adam(model: nn.Module, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_movement_sees_gradients_without_the_scalers_factor(fused: bool, unscale: bool) -> None:
    model, _ = linear([1, 2, 3, 4])
    optimizer = adam(model, fused)
    sparsifier = METHODS["movement"](model, optimizer, 0.5, 4, start=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((model.weight * torch.tensor([[1.0, -2.0, 0.5, 0.0]])).sum()).backward()
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    (memory,) = sparsifier.state_dict()["memory"]
    assert values(memory) == [-1.0, 4.0, -1.5, 0.0]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", ["movement", "gsm", "dpf", "rigl"])
def test_an_overflow_changes_nothing(method: str, fused: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(10, 10)
    optimizer = adam(model, fused)
    words = {"movement": {"start": 0.0}, "gsm": {}}.get(method, {"update_every": 2})
    sparsifier = METHODS[method](model, optimizer, 0.5, 8, **words)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)

    def train(overflow: bool) -> None:
        scaler.scale(model(torch.randn(5, 10)).square().mean() * (math.inf if overflow else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    train(overflow=False)
    sparsifier.step()
    weights, state = copy.deepcopy(model.state_dict()), sparsifier.state_dict()
    train(overflow=True)
    assert scaler.get_scale() == 512
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())
    for kind in ("memory", "stored"):
        assert all(torch.equal(a, b) for a, b in zip(sparsifier.state_dict()[kind], state[kind], strict=True))
    mask = sparsifier.masks["weight"]
    sparsifier.step()  # an update is due after two steps
    if method == "rigl":  # it has not seen the gradients that it would grow by
        assert torch.equal(sparsifier.masks["weight"], mask)
    train(overflow=False)
    sparsifier.step()
    train(overflow=False)
    sparsifier.step()
    assert method != "rigl" or not torch.equal(sparsifier.masks["weight"], mask)
    assert all(w.isfinite().all() for w in model.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_rigl_grows_the_same_under_a_scaler(fused: bool) -> None:
    masks = []
    for scale in (None, 4096.0):
        torch.manual_seed(0)
        model = nn.Linear(10, 10)
        optimizer = adam(model, fused)
        sparsifier = METHODS["rigl"](model, optimizer, 0.5, 8, update_every=2, fraction=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for _ in range(8):
            scaler.scale(model(torch.randn(5, 10)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            sparsifier.step()
            masks.append(sparsifier.masks["weight"])
    assert all(torch.equal(a, b) for a, b in zip(masks[:8], masks[8:], strict=True))
    assert not torch.equal(masks[0], masks[7])


# A closure


@pytest.mark.parametrize("method", ["movement", "gsm", "dpf", "rigl"])
@pytest.mark.parametrize("by_name", [False, True])
def test_closure_is_refused_by_methods_that_see_the_gradients(method: str, by_name: bool) -> None:
    model, optimizer = linear([1, 2, 3, 4], **SGD)
    words = {"movement": {"start": 0.0}, "gsm": {}}.get(method, {"update_every": 2})
    sparsifier = METHODS[method](model, optimizer, 0.5, 4, **words)
    weights, state = values(model.weight), sparsifier.state_dict()

    def closure() -> float:
        raise AssertionError("the closure must not be called")

    with pytest.raises(RuntimeError, match=r"closure.*call backward\(\) first, and optimizer.step\(\) without"):
        optimizer.step(closure=closure) if by_name else optimizer.step(closure)  # type: ignore[arg-type]
    assert values(model.weight) == weights
    for kind in ("memory", "stored"):
        assert all(torch.equal(a, b) for a, b in zip(sparsifier.state_dict()[kind], state[kind], strict=True))
    step(model, optimizer, [1, 1, 1, 1], sparsifier)  # without one it goes on


@pytest.mark.parametrize("method", ["magnitude", "cyclical", "acdc", "set"])
def test_closure_is_fine_elsewhere(method: str) -> None:
    model, optimizer = linear([1, 2, 3, 4], **SGD)
    sparsifier = METHODS[method](model, optimizer, 0.5, 4)

    def closure() -> float:
        optimizer.zero_grad()
        backward(model, [1, 1, 1, 1])
        return 0.0

    for _ in range(4):
        optimizer.step(closure)
        assert not model.weight[~sparsifier.masks["weight"]].any()
        sparsifier.step()
    assert sparsifier.finalize().kept == 2


# Feedback


def test_stored_values_are_trained_with_momentum_and_weight_decay() -> None:
    model, optimizer = linear([1, 4], **SGD)
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), recovery="feedback", total_steps=6, update_every=3)
    (stored,) = sparsifier._pruner.stored
    assert (values(model.weight), values(stored)) == ([0, 4], [1, 0])
    # Weight 0: buffer 2 + .1 = 2.1, value 1 - .21. Weight 1: buffer 1 + .4, value 4 - .14.
    assert step(model, optimizer, [2, 1], sparsifier) == near(0, 3.86)
    assert values(stored) == near(0.79, 0)
    # Weight 0: 1.05 + 2 + .079 = 3.129. Weight 1: .7 + 1 + .386 = 2.086.
    assert step(model, optimizer, [2, 1], sparsifier) == near(0, 3.6514)
    assert values(stored) == near(0.4771, 0)
    # Weight 0: 1.5645 - 90 + .04771 = -88.38779. Weight 1: 1.043 + 20 + .36514 = 21.40814. And they change places.
    assert step(model, optimizer, [-90, 20], sparsifier) == near(9.315879, 0)
    assert values(stored) == near(0, 1.510586)
    assert values(optimizer.state[model.weight]["momentum_buffer"]) == near(-88.387794, 21.40814)


def test_feedback_takes_the_gradient_at_the_pruned_network() -> None:
    """x = (1, 1), target 0, loss w²/2 of w = w₀ + w₁ as they are in the forward pass."""
    model, optimizer = linear([1, 4], lr=0.5)
    sc.Sparsifier(model, optimizer, 0.5, sc.Constant(), recovery="feedback", total_steps=6, update_every=6)
    (0.5 * model(torch.ones(1, 2)).square()).sum().backward()  # the gradient is 4, not 5
    optimizer.step()
    assert values(model.weight) == near(0, 2)


def test_feedback_mask_is_that_of_the_largest_stored_weights() -> None:
    torch.manual_seed(0)
    model = nn.Linear(12, 8, bias=False)
    dense = model.weight.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    other = torch.optim.SGD([dense], **SGD)
    sparsifier = METHODS["dpf"](model, optimizer, 0.75, 12, update_every=4)
    for k in range(12):
        if k % 4 == 0:
            keep = 96 - round(0.75 * (1 - (1 - (k + 4) / 12) ** 3) * 96)
            mask = torch.zeros(96)
            mask[dense.detach().flatten().abs().topk(keep)[1]] = 1
            mask = mask.view_as(dense)
        assert torch.equal(sparsifier.masks["weight"], mask.bool())
        x, y = torch.randn(6, 12), torch.randn(6, 8)
        masked = (dense.detach() * mask).requires_grad_()
        (dense.grad,) = torch.autograd.grad((x @ masked.T - y).square().mean(), masked)
        other.step()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(model.weight.detach(), dense.detach() * mask, rtol=1e-5, atol=1e-6)
        sparsifier.step()


# Few weights with a gradient


def test_inactive_weights_get_momentum_and_weight_decay_only() -> None:
    model, optimizer = linear([1, 2, 3, 4], **SGD)
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, sc.OneShot(0.9), recovery="passive", total_steps=3)
    assert sparsifier.sparsity == 0
    # |w g| is 5, 2, 3, 4.4: the first and the last are active. Buffers 5.1, .2, .3, -.7.
    assert step(model, optimizer, [5, 1, 1, -1.1], sparsifier) == near(0.49, 1.98, 2.97, 4.07)
    # |w g| is 0, 9.9, .3, 4.07. Buffers 2.55 + .049, .1 + 5 + .198, .15 + .297, -.35 + 1 + .407.
    assert step(model, optimizer, [0, 5, 0.1, 1], sparsifier) == near(0, 0, 2.9253, 3.9643)
    # Now the two largest of .2301, 1.4502, 2.9253, 3.9643 are kept, and the last step trains them.
    assert sparsifier.masks["weight"].tolist() == [[False, False, True, True]]
    # |w g| is 2.9 and 4.0: both are active, and what is pruned is not, whatever its gradient.
    # Buffers .2235 + 1 + .29253 and .5285 + 1 + .39643.
    assert step(model, optimizer, [99, 99, 1, 1], sparsifier) == near(0, 0, 2.773697, 3.771807)
    assert sparsifier.finalize().kept == 2


def test_layers_compete_for_activity_as_for_their_places() -> None:
    for scope, active in (("global", [[2], [0, 1, 2]]), ("uniform", [[1, 2], [0, 1]])):
        model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False))
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 0.5]]))
            model[1].weight.copy_(torch.tensor([[30.0], [20.0], [10.0], [0.5]]))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        sc.Sparsifier(model, optimizer, 0.5, sc.OneShot(0.9), scope=scope, recovery="passive", total_steps=9)
        before = [layer.weight.detach().flatten().clone() for layer in model]
        sum(layer.weight.sum() for layer in model).backward()
        optimizer.step()
        changed = [
            (layer.weight.detach().flatten() != w).nonzero().flatten().tolist()
            for layer, w in zip(model, before, strict=True)
        ]
        assert changed == active


def test_gradient_that_is_no_number_is_noticed() -> None:
    model, optimizer = linear([1, 2, 3, 4])
    METHODS["gsm"](model, optimizer, 0.5, 4)
    backward(model, [1, math.nan, 1, 1])
    with pytest.raises(ValueError, match="the gradient of weight holds NaN or infinity: the run has diverged"):
        optimizer.step()
    assert values(model.weight) == [1, 2, 3, 4]


# Momentum that is cleared


@pytest.mark.parametrize(("forgets", "left"), [(True, 0), (False, 2)])
def test_momentum_is_cleared_when_the_network_opens(forgets: bool, left: int) -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    recovery = sc.Recovery(returns=True, forgets=forgets)
    # Sparse, dense and sparse again, two steps each.
    schedule = sc.Alternating((0.0, 0.34, 0.67))
    sparsifier = sc.Sparsifier(model, optimizer, 0.5, schedule, recovery=recovery, total_steps=6)
    counts = []
    for _ in range(5):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsifier.step()
        buffers = [optimizer.state[p]["momentum_buffer"] for p in (model.weight, model.bias)]
        counts.append((int(sparsifier.masks["weight"].sum()), sum(int(b.count_nonzero()) for b in buffers)))
    # At the opening the returned weight's is cleared in any case, the bias's and the other's only if asked for.
    assert counts == [(1, 2), (2, left), (2, 3), (1, 2), (1, 2)]


# Changes between the steps


@pytest.mark.parametrize(
    ("recovery", "criterion"), [("stored", "magnitude"), ("stored", "movement"), ("feedback", "magnitude")]
)
def test_stored_values_are_not_touched_by_changes_of_the_weights(recovery: str, criterion: str) -> None:
    """Noise on all weights between an optimizer's step and the next mask, or the next step, leaves them alone."""
    model, optimizer = linear([1, 4], lr=0.0)
    sparsifier = sc.Sparsifier(
        model, optimizer, 0.5, sc.Constant(), criterion, recovery=recovery, total_steps=6, update_every=2
    )
    for _ in range(5):
        with torch.no_grad():
            model.weight[~sparsifier.masks["weight"]] = 50
        step(model, optimizer, [0, 0])
        with torch.no_grad():
            model.weight[~sparsifier.masks["weight"]] = 50
        sparsifier.step()
    assert sparsifier.masks["weight"].tolist() == [[False, True] if criterion == "magnitude" else [True, False]]
    sparsifier._pruner.masks.enforce()
    assert values(model.weight) == ([0, 4] if criterion == "magnitude" else [1, 0])
    assert values(sparsifier._pruner.stored[0]) == ([1, 0] if criterion == "magnitude" else [0, 4])


def test_dense_methods_leave_no_negative_zero() -> None:
    for method in ("movement", "gsm", "dpf", "rigl"):
        model, optimizer = linear([-1, -2, -3, -4, -5, -6, -7, -8], lr=0.1)
        words: dict[str, Any] = {"movement": {"start": 0.0}, "gsm": {}}.get(method, {"update_every": 2})
        sparsifier = METHODS[method](model, optimizer, 0.5, 6, **words)
        for _ in range(6):
            if sparsifier._pruner.masks.dense_gradients:
                with torch.no_grad():  # as rounding may leave them where dense gradients were added and taken away
                    model.weight[~sparsifier.masks["weight"]] = -1e-9
            step(model, optimizer, [-1.0, 2, 3, 4, 5, 6, 7, 8])
            assert not torch.signbit(model.weight[~sparsifier.masks["weight"]]).any(), method
            sparsifier.step()
            dead = ~sparsifier.masks["weight"]
            assert not torch.signbit(model.weight[dead]).any(), method
            assert not model.weight[dead].any()


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.Adam(p, lr=0.1),
]


@pytest.mark.parametrize("build", OPTIMIZERS)
@pytest.mark.parametrize("method", ["movement", "gsm", "dpf", "rigl"])
def test_hooks_go_with_the_sparsifier(method: str, build: Callable[[Any], torch.optim.Optimizer]) -> None:
    model = nn.Linear(8, 4)
    optimizer = build(model.parameters())
    words = {"movement": {"start": 0.0}, "gsm": {}}.get(method, {"update_every": 2})
    sparsifier = METHODS[method](model, optimizer, 0.5, 6, **words)
    assert len(optimizer._optimizer_step_pre_hooks) == 2  # one refuses weights that were not loaded
    sparsifier.remove()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not model.weight._post_accumulate_grad_hooks
    model(torch.randn(3, 8)).sum().backward()
    optimizer.step()
    assert int(model.weight.count_nonzero()) == 32
