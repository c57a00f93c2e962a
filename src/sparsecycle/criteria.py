"""Criterion: what is a weight worth? The weights worth least are pruned first.

A criterion is a frozen dataclass with two pure functions: ``remember``, called once when pruning begins, returns
what must be kept from that moment; ``score`` returns one tensor of scores for each weight tensor, in its shape.
Where ``absolute`` is true, the worth is the absolute value of what ``score`` returns: magnitude then returns the
weights themselves and costs no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

__all__ = ["CRITERIA", "Criterion", "Magnitude", "MagnitudeGain", "Random"]


class Criterion(Protocol):
    """What the sparsifier asks of a criterion."""

    absolute: ClassVar[bool]

    def remember(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """What has to be kept from the start of the run: one tensor a weight, or none at all."""
        ...

    def score(self, weights: Sequence[Tensor], memory: Sequence[Tensor]) -> list[Tensor]:
        """One tensor of scores a weight tensor, in its shape; ``memory`` is what ``remember`` returned."""
        ...


@dataclass(frozen=True)
class Magnitude:
    """|w| (Han et al., arXiv 1506.02626)."""

    absolute: ClassVar[bool] = True

    def remember(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return []

    def score(self, weights: Sequence[Tensor], memory: Sequence[Tensor]) -> list[Tensor]:
        return list(weights)


@dataclass(frozen=True)
class Random:
    """A uniform random number, the same for a weight all through the run.

    It is drawn anew from ``seed`` at every update, on the CPU, so it needs no memory and is the same on every
    device and in every process.
    """

    seed: int = 0
    absolute: ClassVar[bool] = False

    def remember(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return []

    def score(self, weights: Sequence[Tensor], memory: Sequence[Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        return [torch.rand(w.shape, generator=generator, device="cpu").to(w.device) for w in weights]


@dataclass(frozen=True)
class MagnitudeGain:
    """|w| - |w₀|: how much a weight has grown since pruning began (Zhou et al., arXiv 1905.01067, section 2)."""

    absolute: ClassVar[bool] = False

    def remember(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return [w.detach().abs() for w in weights]

    def score(self, weights: Sequence[Tensor], memory: Sequence[Tensor]) -> list[Tensor]:
        return [w.abs().sub_(w0) for w, w0 in zip(weights, memory, strict=True)]


CRITERIA: dict[str, Criterion] = {
    "magnitude": Magnitude(),
    "random": Random(),
    "magnitude_gain": MagnitudeGain(),
}
