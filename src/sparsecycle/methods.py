"""Each paper's method: the five words it picks.

Every method takes ``model, optimizer, sparsity, total_steps`` and passes what else it is given on to
:class:`~sparsecycle.sparsifier.Sparsifier` (``update_every``, ``scope``, ``include``, ``exclude``, ``floor``, ...).
Times are shares of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sparsecycle.schedules import AGP, Cyclical, Iterative, Linear, OneCycle, OneShot, Schedule
from sparsecycle.sparsifier import Sparsifier

__all__ = ["METHODS", "agp", "cyclical", "iterative", "one_cycle", "one_shot", "progressive"]


def progressive(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    **words: Any,
) -> Sparsifier:
    """Progressive magnitude pruning (Qureshi et al., arXiv 2606.12278): linear, global, pruned weights stay out.

    The paper updates the mask once an epoch, ``update_every=len(loader)``: epoch e of E then trains at
    (e + 1) / E of the final sparsity. It prunes to the last epoch on CIFAR-10's ResNet-18 (``end=1``) and leaves
    the rest of the run to the final mask elsewhere.
    """
    return Sparsifier(model, optimizer, sparsity, Linear(start=start, end=end), total_steps=total_steps, **words)


def one_cycle(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    alpha: float = 14.0,
    beta: float = 5.0,
    **words: Any,
) -> Sparsifier:
    """One-Cycle pruning (Hubens et al., arXiv 2107.02086): the logistic curve over the whole run, layer by layer.

    β is 5 in the paper's text and 6 in its code. The code prunes convolutions only: ``include=[nn.Conv2d]``.
    """
    words = {"scope": "uniform", **words}
    schedule = OneCycle(alpha, beta, start=start, end=end)
    return Sparsifier(model, optimizer, sparsity, schedule, total_steps=total_steps, **words)


def agp(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.2,
    end: float = 1.0,
    **words: Any,
) -> Sparsifier:
    """Automated gradual pruning (Zhu & Gupta, arXiv 1710.01878): the cubic curve, layer by layer.

    The paper leaves the start to the user; a fifth of the run is what One-Cycle pruning compares itself with.
    """
    words = {"scope": "uniform", **words}
    return Sparsifier(model, optimizer, sparsity, AGP(start=start, end=end), total_steps=total_steps, **words)


def one_shot(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    at: float = 0.4,
    **words: Any,
) -> Sparsifier:
    """Train, prune by magnitude once, train on (Han et al., arXiv 1506.02626, in its one-shot form).

    Of a fixed budget, 40 % before pruning did best where One-Cycle pruning's authors tried.
    """
    return Sparsifier(model, optimizer, sparsity, OneShot(at), total_steps=total_steps, **words)


def iterative(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.2,
    end: float = 1.0,
    steps: int = 3,
    **words: Any,
) -> Sparsifier:
    """Iterative magnitude pruning within one run: equal steps, each with its share of the time to recover."""
    schedule = Iterative(steps, start=start, end=end)
    return Sparsifier(model, optimizer, sparsity, schedule, total_steps=total_steps, **words)


def cyclical(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    cycles: int = 3,
    within: Schedule = AGP(),  # noqa: B008 - frozen
    recovery: str = "zero",
    **words: Any,
) -> Sparsifier:
    """Cyclical pruning (Srinivas et al., arXiv 2202.01290): the schedule repeats, so that pruned weights recover.

    Seen as projected gradient descent, weights come back at 0; ``recovery="stored"`` brings back their values.
    The number of cycles and the curve within one are not in the text at hand.
    """
    schedule = Cyclical(cycles, within, start=start, end=end)
    return Sparsifier(model, optimizer, sparsity, schedule, recovery=recovery, total_steps=total_steps, **words)


METHODS: dict[str, Callable[..., Sparsifier]] = {
    "progressive": progressive,
    "one-cycle": one_cycle,
    "agp": agp,
    "iterative": iterative,
    "one-shot": one_shot,
    "cyclical": cyclical,
}
