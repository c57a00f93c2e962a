"""Criterion: what is a weight worth? The weights worth least are pruned first.

A criterion is a frozen dataclass with pure functions: ``remember``, called once when pruning begins, returns what must
be kept from that moment; ``watch`` sees every step's gradients, if it asks for them; ``score`` returns one tensor of
scores for each weight tensor, in its shape. Where ``absolute`` is true, the worth is the absolute value of what
``score`` returns: magnitude then returns the weights themselves and costs no memory.

Criteria that run the network, for the start of a run, are in :mod:`sparsecycle.saliency`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

__all__ = ["CRITERIA", "Criterion", "Magnitude", "MagnitudeGain", "Movement", "Random", "Taylor"]


class Criterion:
    """What the sparsifier asks of a criterion; a new one defines :meth:`score`.

    Attributes:
        absolute: Whether the worth is the absolute value of the score; the score of a pruned weight is 0 then.
        watches: Whether :meth:`watch` must see every step.
        rounds: A mask update reaches its sparsity in so many rounds, each scored anew.
        path: ``"exponential"``: every round keeps the same share of what is left; ``"linear"``: prunes equally many.
    """

    absolute: ClassVar[bool] = False
    watches: ClassVar[bool] = False
    rounds: int = 1
    path: str = "exponential"

    def remember(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """What has to be kept from the start of the run: one tensor a weight, or none at all."""
        return []

    def watch(self, weights: Mapping[str, Tensor], gradients: Sequence[Tensor], memory: Sequence[Tensor]) -> None:
        """Take in a step: change ``memory`` in place.

        Args:
            weights: The weights before the optimizer's step, by name; pruned ones at their stored values, if any.
            gradients: The loss's gradients at all weights, also at pruned ones, in the weights' order.
            memory: What :meth:`remember` returned.
        """
        raise NotImplementedError(f"{type(self).__name__} must define watch()")

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        """One tensor of scores a weight tensor, in its shape.

        Args:
            weights: The weights by their names in ``model.named_parameters()``.
            memory: What :meth:`remember` returned, and :meth:`watch` changed.
            model: The network they belong to, for criteria that run it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define score()")


@dataclass(frozen=True)
class Magnitude(Criterion):
    """|w| (Han et al., arXiv 1506.02626)."""

    absolute: ClassVar[bool] = True

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        return list(weights.values())


@dataclass(frozen=True)
class Random(Criterion):
    """A uniform random number, the same for a weight all through the run.

    It is drawn anew from ``seed`` at every update, on the CPU, so it needs no memory and is the same on every
    device and in every process.
    """

    seed: int = 0

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        return [torch.rand(w.shape, generator=generator, device="cpu").to(w.device) for w in weights.values()]


@dataclass(frozen=True)
class MagnitudeGain(Criterion):
    """|w| - |w₀|: how much a weight has grown since pruning began (Zhou et al., arXiv 1905.01067, section 2)."""

    def remember(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        return [w.detach().abs() for w in weights.values()]

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        return [w.abs().sub_(w0) for w, w0 in zip(weights.values(), memory, strict=True)]


@dataclass(frozen=True)
class Movement(Criterion):
    """S = -Σ w · ∂L/∂w over the steps: how far training moves a weight away from 0 (Sanh et al., arXiv 2005.07683).

    These are scores trained by gradient descent through the mask, by the straight-through estimator (section 4.1). A
    constant learning rate of the scores would only scale them, so there is none.
    """

    watches: ClassVar[bool] = True

    def remember(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        return _zeros(weights)

    def watch(self, weights: Mapping[str, Tensor], gradients: Sequence[Tensor], memory: Sequence[Tensor]) -> None:
        torch._foreach_addcmul_(list(memory), list(weights.values()), list(gradients), -1.0)

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        return list(memory)


@dataclass(frozen=True)
class Taylor(Criterion):
    """(w · ∂L/∂w)², averaged over the steps: what the loss would change without the weight, to first order.

    Molchanov et al., arXiv 1906.10771, section 3. The paper averages over the batches between two prunings; its code
    then averages these averages, with a momentum of 0.9.

    Ours: the momentum acts from step to step. The average starts at 0, which scales all scores alike.

    Args:
        momentum: Of the running average over the steps, from 0 (the last step alone) to less than 1.

    Raises:
        ValueError: If the momentum is out of range.
    """

    momentum: float = 0.9
    watches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum!r} must be from 0 to less than 1")

    def remember(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        return _zeros(weights)

    def watch(self, weights: Mapping[str, Tensor], gradients: Sequence[Tensor], memory: Sequence[Tensor]) -> None:
        for average, w, g in zip(memory, weights.values(), gradients, strict=True):
            # In the average's type: squares of half-precision numbers fall below what it can hold.
            average.lerp_((g.to(average.dtype) * w).square_(), 1 - self.momentum)

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        return list(memory)


CRITERIA: dict[str, Criterion] = {
    "magnitude": Magnitude(),
    "random": Random(),
    "magnitude_gain": MagnitudeGain(),
    "movement": Movement(),
    "taylor": Taylor(),
}


def _zeros(weights: Mapping[str, Tensor]) -> list[Tensor]:
    """Where something is summed up over the steps: for weights in half precision in float32."""
    return [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in weights.values()]
