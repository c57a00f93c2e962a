"""Promise 3: a pruned weight is exactly 0 after every optimizer step, and so are its gradient and optimizer state."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

SCALED = ["sgd", "adam", "adamw-fused"]


def same_shaped_state(optimizer: torch.optim.Optimizer, weight: Tensor) -> dict[str, Tensor]:
    state = optimizer.state.get(weight, {})
    return {k: v for k, v in state.items() if torch.is_tensor(v) and v.shape == weight.shape}


def assert_dead(run: Any, gradients: bool = True) -> int:
    """Weights that are pruned are +0.0 to the bit; returns how many there are."""
    dead = 0
    for name, mask in run.sparsifier.masks.items():
        weight = run.model.get_parameter(name)
        assert weight.detach()[~mask].view(torch.int32).count_nonzero() == 0, name
        if run.recovery.trains == "all":  # gradient and state are those of the stored weights
            dead += int((~mask).sum())
            continue
        if weight.grad is not None:
            assert weight.grad[~mask].count_nonzero() == 0, name
        else:
            assert not gradients
        for key, state in same_shaped_state(run.optimizer, weight).items():
            assert state[~mask].count_nonzero() == 0, (name, key)
        dead += int((~mask).sum())
    return dead


def grows_by_gradient(run: Any) -> bool:
    return getattr(run.recovery, "by", "") == "gradient"


def dense_gradients(run: Any) -> dict[str, Tensor]:
    """The gradients at the weights as they are, from a copy that nothing prunes."""
    model = copy.deepcopy(run.model)
    x, y = run.batch()
    F.cross_entropy(model(x), y).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_after_every_step(start: Any, method: str, optimizer: str) -> None:
    run = start(method, optimizer)
    came_back = dead = 0
    for _ in range(run.total):
        gradients = dense_gradients(run)
        before = run.sparsifier.masks
        run.loss().backward()
        if not (run.watches or grows_by_gradient(run)):
            for name, mask in before.items():
                assert torch.equal(run.model.get_parameter(name).grad, gradients[name] * mask)
        run.optimizer.step()
        dead = max(dead, assert_dead(run))
        run.sparsifier.step()
        run.steps += 1
        assert_dead(run)  # under the new mask, before the gradients are cleared
        for name, mask in run.sparsifier.masks.items():
            back = mask & ~before[name]
            came_back += int(back.sum())
            if run.recovery.trains == "all":
                continue
            for state in same_shaped_state(run.optimizer, run.model.get_parameter(name)).values():
                assert state[back].count_nonzero() == 0
        run.optimizer.zero_grad()
    assert assert_dead(run, gradients=False) == run.weights - run.expected_kept(11)
    assert dead == round(0.9 * run.weights)
    assert (came_back > 0) == (run.recovery.returns and method != "gsm")  # which prunes once, at its end


def test_stays_dead_after_the_end(start: Any, method: str, some_optimizer: str) -> None:
    run = start(method, some_optimizer).train(run_steps := 12)
    run.sparsifier.finalize()
    for _ in range(3):
        run.loss().backward()
        run.optimizer.step()
        assert assert_dead(run) == run.weights - run.expected_kept(11)
        run.optimizer.zero_grad()
        run.steps += 1
    assert run.steps == run_steps + 3


def test_clipping_sees_live_gradients_only(start: Any, method: str) -> None:
    run = start(method).train(8)
    masks = {} if run.watches else run.sparsifier.masks  # a method that must see all gradients has them clipped
    live = {n: g * masks[n] if n in masks else g for n, g in dense_gradients(run).items()}
    norm = torch.stack([g.double().square().sum() for g in live.values()]).sum().sqrt()
    run.loss().backward()
    seen = torch.nn.utils.clip_grad_norm_(run.model.parameters(), 0.25 * float(norm))
    torch.testing.assert_close(seen.double(), norm, rtol=1e-6, atol=0)
    for name, p in run.model.named_parameters():
        torch.testing.assert_close(p.grad, live[name] * 0.25, rtol=1e-4, atol=1e-7)
    run.optimizer.step()
    assert_dead(run)


def test_accumulated_gradients(start: Any, method: str, optimizer: str) -> None:
    run = start(method, optimizer)
    for _ in range(run.total):
        x, y = run.batch()
        copied = copy.deepcopy(run.model)
        for model in (copied, run.model):
            for part in (slice(0, 4), slice(4, 8)):
                F.cross_entropy(model(x[part]), y[part], reduction="sum").div(8).backward()
        if not (run.watches or grows_by_gradient(run)):
            for name, mask in run.sparsifier.masks.items():
                assert torch.equal(run.model.get_parameter(name).grad, copied.get_parameter(name).grad * mask)
        run.optimizer.step()
        assert_dead(run)
        run.optimizer.zero_grad(set_to_none=False)
        run.sparsifier.step()  # once for each optimizer step, whatever the number of batches
        run.steps += 1
    assert not any("step" in note for note in run.sparsifier.finalize().notes)
    assert assert_dead(run) == run.weights - run.expected_kept(11)


@pytest.mark.parametrize("optimizer", SCALED, indirect=True)
def test_gradient_scaler_with_overflow(start: Any, method: str, optimizer: str) -> None:
    run = start(method, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=100)
    for step in range(run.total):
        overflow = step in (0, 5, 11)
        scaler.scale(run.loss() * (float("inf") if overflow else 1.0)).backward()
        before = copy.deepcopy(run.model.state_dict())
        if optimizer != "adamw-fused":
            # A fused optimizer sees scaled gradients; the others' are looked at here.
            scaler.unscale_(run.optimizer)
        scaler.step(run.optimizer)
        scaler.update()
        same = {name: torch.equal(w, before[name]) for name, w in run.prunable.items()}
        assert set(same.values()) == {overflow}
        for name, mask in run.sparsifier.masks.items():
            assert run.model.get_parameter(name)[~mask].detach().view(torch.int32).count_nonzero() == 0
        assert sum(int(m.sum()) for m in run.sparsifier.masks.values()) == run.expected_kept(step)
        run.optimizer.zero_grad()
        run.sparsifier.step()  # the clock counts the skipped step too
        run.steps += 1
        assert_dead(run, gradients=False)
    assert scaler.get_scale() == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = run.sparsifier.finalize()
    assert (report.steps, report.kept) == ((12, 12), run.expected_kept(11))
    assert not any("step" in note for note in report.notes)


def test_sharpness_aware_second_backward(start: Any, method: str) -> None:
    """Weights that are moved and moved back between two backward passes stay dead."""
    run = start(method)
    for _ in range(run.total):
        run.loss().backward()
        with torch.no_grad():
            moves = [p.grad.clone() for p in run.model.parameters()]
            torch._foreach_add_(list(run.model.parameters()), moves, alpha=0.05)
        run.optimizer.zero_grad()
        run.loss().backward()
        with torch.no_grad():
            torch._foreach_add_(list(run.model.parameters()), moves, alpha=-0.05)
        run.optimizer.step()
        assert_dead(run)
        run.optimizer.zero_grad()
        run.sparsifier.step()
        run.steps += 1
    assert assert_dead(run, gradients=False) == run.weights - run.expected_kept(11)


def test_weights_changed_between_the_steps_stay_dead(start: Any, method: str) -> None:
    """As by Lookahead or noise, after the optimizer's step and before the sparsifier's."""
    run = start(method)
    for step in range(run.total):
        before = run.sparsifier.masks
        run.loss().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        for weight in run.prunable.values():
            weight.data.add_(torch.randn(weight.shape), alpha=10)
        run.sparsifier.step()
        run.steps += 1
        masks = run.sparsifier.masks
        if not run.recovery.returns:
            assert not any((masks[name] & ~before[name]).any() for name in masks)
        assert sum(int(m.sum()) for m in masks.values()) == run.expected_kept(min(step + 1, run.total - 1))
