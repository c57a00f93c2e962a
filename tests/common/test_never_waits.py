"""On an accelerator the host never waits for the device: nothing in a step reads a value.

Tensors on the device "meta" have shapes and no values. Whatever would have to look at one raises an error there, so a
step that goes through on such tensors is a step without synchronisation.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sparsecycle as sc
from sparsecycle.masks import Masks
from sparsecycle.methods import METHODS

TOTAL = 6


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def needs(method: str) -> dict[str, Any]:
    batches = [(torch.randn(4, 3, 4, 4), torch.arange(4))]
    return {
        **{name: {"batches": batches} for name in ("snip", "grasp")},
        "synflow": {"input_shape": (3, 4, 4), "rounds": 3},
        "acdc": {"switches": (0.2, 0.5, 0.7)},
        **{name: {"update_every": 2} for name in ("set", "rigl", "dpf")},
    }.get(method, {})


def without_values(sparsifier: sc.Sparsifier) -> sc.Sparsifier:
    """The sparsifier with everything it holds on a device that has no values, and its hooks hung there."""
    sparsifier._detach()
    weights = {name: nn.Parameter(w.to("meta")) for name, w in sparsifier._weights.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=0.1, momentum=0.9, weight_decay=0.1)
    pruner = sparsifier._pruner
    pruner.masks = Masks(weights)
    pruner.memory = [tensor.to("meta") for tensor in pruner.memory]
    pruner.stored = [tensor.to("meta") for tensor in pruner.stored]
    for holder in (sparsifier, pruner):
        holder._weights, holder._optimizer = weights, optimizer
    sparsifier._attach()
    return sparsifier


def train(sparsifier: sc.Sparsifier, steps: int) -> None:
    for _ in range(steps):
        for weight in sparsifier._weights.values():
            (weight * torch.empty_like(weight)).sum().backward()
        sparsifier._optimizer.step()
        sparsifier.step()


def seen(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[str]:
    """Counts the calls of a method."""
    calls, original = [], getattr(kind, name)

    def counted(*args: Any, **words: Any) -> Any:
        calls.append(name)
        return original(*args, **words)

    monkeypatch.setattr(kind, name, counted)
    return calls


@pytest.mark.parametrize("words", [{}, {"scope": "erk"}, {"scope": "uniform", "floor": 3}, {"recovery": "stored"}])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_nothing_back(method: str, words: dict[str, Any]) -> None:
    if method in ("snip", "grasp", "synflow") and "recovery" in words:
        words = {}  # they run the network anew wherever weights may return
    model, optimizer = network()
    sparsifier = without_values(METHODS[method](model, optimizer, 0.9, TOTAL, **{**needs(method), **words}))
    train(sparsifier, TOTAL - 1)
    assert sparsifier._steps == TOTAL - 1
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        _ = sparsifier.sparsity  # what does read is noticed


@pytest.mark.parametrize(
    ("method", "kind", "name", "calls"),
    [
        ("movement", sc.Movement, "watch", 5),
        ("gsm", sc.pruner.Pruner, "_leave_salient", 5),
        ("dpf", Masks, "join", 7),  # before every step, and for each of the two masks
        ("rigl", sc.competition.Competition, "turn_over", 2),
        ("set", sc.competition.Competition, "turn_over", 2),
    ],
)
def test_what_is_done_there_is_done(
    monkeypatch: pytest.MonkeyPatch, method: str, kind: type, name: str, calls: int
) -> None:
    model, optimizer = network()
    sparsifier = without_values(METHODS[method](model, optimizer, 0.9, TOTAL, **needs(method)))
    counted = seen(monkeypatch, kind, name)
    if method == "rigl":
        drawn = seen(monkeypatch, sc.Random, "score")
    train(sparsifier, TOTAL - 1)
    assert len(counted) == calls
    assert method != "rigl" or not drawn  # it grew by the gradients that it had seen


@pytest.mark.parametrize("method", ["movement", "gsm", "dpf", "rigl"])
def test_a_fused_optimizers_gradient_scaler_is_not_waited_for(method: str) -> None:
    """It gives the optimizer a factor and whether there was an overflow, both on the device."""
    model, optimizer = network()
    sparsifier = without_values(METHODS[method](model, optimizer, 0.9, TOTAL, **needs(method)))
    sparsifier._optimizer.grad_scale = torch.empty((), device="meta")  # type: ignore[attr-defined]
    sparsifier._optimizer.found_inf = torch.empty((), device="meta")  # type: ignore[attr-defined]
    for _ in range(TOTAL - 1):
        for weight in sparsifier._weights.values():
            weight.grad = torch.empty_like(weight)
        sparsifier._pruner._before_step(None, (), {})
        sparsifier._pruner._after_step()  # the step between them is a fused one, which this device has not
        sparsifier.step()
    assert sparsifier._steps == TOTAL - 1


@pytest.mark.parametrize("criterion", ["magnitude", "random", "magnitude_gain", "movement", "taylor"])
@pytest.mark.parametrize("recovery", ["none", "zero", "stored", "feedback", "passive"])
def test_every_criterion_with_every_recovery(criterion: str, recovery: str) -> None:
    model, optimizer = network()
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), criterion, recovery=recovery, total_steps=TOTAL)
    train(without_values(sparsifier), TOTAL - 1)
    assert sparsifier._steps == TOTAL - 1
