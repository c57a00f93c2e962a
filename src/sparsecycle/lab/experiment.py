"""What one run is: a data set, a network, a method, a sparsity, a seed and a recipe."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from sparsecycle.lab.recipe import UNITS, Recipe, check_choice
from sparsecycle.lab.store import RunFolder, plain
from sparsecycle.methods import METHODS

if TYPE_CHECKING:
    from sparsecycle.sparsifier import Sparsifier

__all__ = ["DENSE", "Experiment", "Pruning", "options"]

#: The method that prunes nothing.
DENSE = "dense"
SCOPES = ("global", "uniform", "erk", "paper")
#: An experiment's fields that say when a method prunes; not every method takes every one of them.
_TIMES = ("start", "end", "at")


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How the pruning goes, whichever method it is."""

    scope: Literal["global", "uniform", "erk", "paper"] = "global"
    """How the total is shared among layers; paper: as each method's own paper does."""

    update: Literal["step", "epoch"] = "step"
    """How often the masks change."""

    start: float | None = None
    """Share of the run after which pruning begins; None: the method's own."""

    end: float | None = None
    """Share of the run at which the final sparsity is reached; None: the method's own."""

    at: float | None = None
    """Share of the run at which one-shot prunes; None: the method's own."""

    exclude: tuple[str, ...] = ()
    """Layers that stay dense, by name: fc head.*"""


@dataclass(frozen=True, kw_only=True)
class Experiment(Pruning):
    """What one run is; two equal experiments are one run.

    Raises:
        ValueError: a field is out of its range, or the method does not take it.
    """

    data: str = "digits"
    """Data set."""

    model: str = "lenet-300-100"
    """Network."""

    method: str = "progressive"
    """Pruning method, or dense for none."""

    sparsity: float = 0.9
    """Share of the prunable weights that are zero at the end."""

    seed: int = 0
    """Of the weights, the validation images, the order, the augmentation and the dropout."""

    recipe: Recipe = field(default_factory=Recipe)
    """How it is trained."""

    def __post_init__(self) -> None:
        check_choice("method", self.method, (DENSE, *METHODS))
        check_choice("scope", self.scope, SCOPES)
        check_choice("update", self.update, UNITS)
        if isinstance(self.sparsity, bool) or not 0.0 <= self.sparsity <= 1.0:
            raise ValueError(f"sparsity={self.sparsity!r}; allowed is a share of the weights, 0 to 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed!r}; allowed is a whole number from 0 below 2**63")
        object.__setattr__(self, "exclude", tuple(self.exclude))
        for name in _TIMES:
            share = getattr(self, name)
            if share is None:
                continue
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name}={share!r}; allowed is a share of the run, 0 to 1")
            if self.method != DENSE and name not in options(self.method):
                allowed = [time for time in _TIMES if time in options(self.method)]
                raise ValueError(
                    f"{name}={share!r}: the method {self.method!r} does not take it; "
                    f"of {', '.join(_TIMES)} it takes {', '.join(allowed) or 'none'}"
                )

    def resolved(self) -> Experiment:
        """The same run, with what a dense one does not use at its default: all of those are one run."""
        if self.method != DENSE:
            return self
        unused = {f.name: f.default for f in fields(Pruning)}
        return replace(self, sparsity=0.0, **unused)  # type: ignore[arg-type]

    def sparsifier(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Sparsifier | None:
        """The method at work on this model; None for a dense run."""
        if self.method == DENSE:
            return None
        words: dict[str, Any] = {name: getattr(self, name) for name in _TIMES}
        words["scope"] = None if self.scope == "paper" else self.scope
        words["exclude"] = self.exclude or None
        return METHODS[self.method](
            model,
            optimizer,
            self.sparsity,
            self.recipe.epochs * steps_per_epoch,
            update_every=steps_per_epoch if self.update == "epoch" else 1,
            **{name: value for name, value in words.items() if value is not None},
        )

    def folder(self, runs: Path | str) -> RunFolder:
        """Where the run lies, or will lie, under ``runs``."""
        it = self.resolved()
        parts = [it.data, it.model, it.method]
        if it.method != DENSE:
            parts.append(f"{it.sparsity:g}")
        return RunFolder(runs, "-".join([*parts, f"seed{it.seed}"]), {"experiment": plain(it)})


def options(method: str) -> frozenset[str]:
    """Which of ``start``, ``end`` and ``at`` the method takes."""
    if method == DENSE:
        return frozenset()
    return frozenset(_TIMES) & frozenset(inspect.signature(METHODS[method]).parameters)
