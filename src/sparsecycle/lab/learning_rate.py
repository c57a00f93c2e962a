"""The learning rate as a function of the step alone, so that nothing of it needs to be stored."""

from __future__ import annotations

import math

from sparsecycle.lab.recipe import Recipe

__all__ = ["learning_rate"]


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate under which ``step`` trains.

    With k the epoch or the step (``recipe.lr_update``), T their number and W the warm-up in that unit:
    linear warm-up (k+1)/W while k+1 <= W; then cosine (1 + cos(π(k-W)/(T-W)))/2, which is
    ``CosineAnnealingLR(T_max=T)`` for W = 0; or gamma to the number of milestones m with k >= mT.

    C = ``recipe.lr_cycles`` above 1 cuts the run into cycles of T/C, which need not be whole: T/C takes T's place,
    and (kC mod T)/C, the time since the cycle began, takes that of k. The warm-up is the first cycle's alone: W = 0 in
    the others.

    Args:
        recipe: ``lr`` and ``lr_...``, ``warmup``, ``milestones`` and ``gamma`` are used.
        step: 0-based, below ``epochs * steps_per_epoch``.
        steps_per_epoch: Optimizer steps in an epoch.
    """
    if recipe.lr_update == "epoch":
        k, total, warmup = step // steps_per_epoch, recipe.epochs, recipe.warmup
    else:
        k, total, warmup = step, recipe.epochs * steps_per_epoch, recipe.warmup * steps_per_epoch
    # A warm-up ends within the first cycle.
    rise = (k + 1) / warmup if k + 1 <= warmup else 1.0
    cycle, since = divmod(k * recipe.lr_cycles, total)
    place, length = since / recipe.lr_cycles, total / recipe.lr_cycles
    if cycle > 0:
        warmup = 0.0
    if recipe.lr_schedule == "step":
        # The tolerance keeps 0.3 * 10 from being passed one unit late.
        return recipe.lr * rise * recipe.gamma ** sum(place >= m * length - 1e-9 for m in recipe.milestones)
    if recipe.lr_schedule == "constant" or rise < 1.0:
        return recipe.lr * rise
    return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * max(place - warmup, 0.0) / (length - warmup)))
