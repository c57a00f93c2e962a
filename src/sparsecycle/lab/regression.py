"""Sparse linear regression whose true support is known: does pruning find it?

The smallest problem on which a method can keep the wrong weights, and where that can be counted: the cyclical-pruning
paper (Srinivas et al., arXiv 2202.01290) looks at linear models too. Its data are not in the text at
hand; these are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsecycle.sparsifier import Sparsifier

__all__ = ["Problem", "SparseRegression", "train"]


def _whole(name: str, value: object, least: int, most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}={value!r} must be a whole number {_range(least, most)}")


def _range(least: float, most: float) -> str:
    return f"of at least {least}" if most == math.inf else f"from {least} to {most}"


@dataclass(frozen=True)
class SparseRegression:
    """y = X w* + σ ε, where only k of the d entries of w* are not zero, and ε is standard normal.

    Every row of X (n, d) is a Gaussian AR(1) sequence: entries have mean 0 and variance 1, and features i and j have
    the correlation ρ^|i - j|. So a feature beside a true one explains much of the same, and with fewer samples than
    features so do far ones by chance. The support S* is drawn at random, all places alike; w* is +1 or -1 on it.

    Args:
        samples: n, at least 1.
        features: d, at least 2.
        nonzeros: k, from 1 to d - 1.
        correlation: ρ of neighbouring features, from -1 to 1, both excluded.
        noise: σ, the noise's standard deviation, 0 or more. The signal's variance is about k.
        seed: Of everything that is drawn, from 0 to 2^63 - 1.

    Raises:
        ValueError: If an argument is not allowed.
    """

    samples: int = 80
    features: int = 200
    nonzeros: int = 20
    correlation: float = 0.5
    noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _whole("samples", self.samples, 1)
        _whole("features", self.features, 2)
        _whole("nonzeros", self.nonzeros, 1, self.features - 1)
        _whole("seed", self.seed, 0, 2**63 - 1)
        if not -1 < self.correlation < 1:
            raise ValueError(f"correlation={self.correlation!r} must be greater than -1 and less than 1")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise={self.noise!r} must be 0 or more, and finite")

    def draw(self) -> Problem:
        """The data: the same every time."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        inputs, fresh = normal(self.samples, self.features), math.sqrt(1 - self.correlation**2)
        for j in range(1, self.features):
            inputs[:, j].mul_(fresh).add_(inputs[:, j - 1], alpha=self.correlation)
        places = torch.randperm(self.features, generator=generator)[: self.nonzeros]
        weights = torch.zeros(self.features, dtype=torch.float64)
        weights[places] = torch.randint(0, 2, (self.nonzeros,), generator=generator).double() * 2 - 1
        targets = inputs @ weights + self.noise * normal(self.samples)
        return Problem(inputs.float(), targets.float(), weights.float())


@dataclass(frozen=True, eq=False)
class Problem:
    """Data for a linear model, and the weights behind them.

    Attributes:
        inputs: X, float32 of shape (n, d).
        targets: y, float32 of shape (n,).
        weights: w*, float32 of shape (d,).
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor

    @property
    def support(self) -> Tensor:
        """S*, where w* is not zero: bool of shape (d,)."""
        return self.weights != 0

    @property
    def sparsity(self) -> float:
        """1 - k/d: a network of this sparsity keeps exactly as many weights as w* has."""
        return 1 - int(self.support.sum()) / self.support.numel()

    @property
    def smoothness(self) -> float:
        """L, the largest eigenvalue of XᵀX/n: the loss's gradient changes by at most L per unit of w."""
        return float(torch.linalg.matrix_norm(self.inputs.double(), 2)) ** 2 / len(self.inputs)

    def recovered(self, weights: Tensor) -> float:
        """Share of the true support that is not zero in ``weights``: |supp(w) ∩ S*| / k, from 0 to 1.

        Args:
            weights: w, as many entries as w*, in any shape.

        Raises:
            ValueError: If there are more or fewer entries, or more than k of them are not zero (all weights, kept,
                would recover everything).
        """
        support, found = self.support, weights.detach().reshape(-1) != 0
        if found.shape != support.shape:
            raise ValueError(f"weights has {found.numel()} entries, and the problem has {support.numel()} features")
        k, kept = int(support.sum()), int(found.sum())
        if kept > k:
            raise ValueError(f"weights has {kept} entries that are not zero: at most k={k} may be")
        return int((found & support).sum()) / k


def train(
    problem: Problem,
    method: Callable[..., Sparsifier],
    steps: int,
    *,
    learning_rate: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    **words: Any,
) -> nn.Linear:
    """Gradient descent on ½ mean (y - X w)², pruned on the way to as many weights as w* has.

    Every step is w ← Π(w - η ∇), where Π zeroes what the method's mask prunes: projected gradient descent onto
    the sparse vectors, where the method says how sparse. Full batches make it deterministic but for the initial
    weights, uniform within ±1/√d, as torch's linear layers have them.

    Args:
        problem: The data.
        method: A function of ``sparsecycle.methods``, or another that takes model, optimizer, sparsity and
            total_steps and returns a sparsifier.
        steps: Gradient steps in the whole run, at least 1.
        learning_rate: η, constant; 1/L if None, the largest at which no full-batch step without pruning can
            overshoot in any direction (:attr:`Problem.smoothness`).
        batch: Samples a step, drawn anew at each step without repetition, from 1 to n; all of them if None. The
            default η may then be too large.
        seed: Of the initial weights and the batches.
        words: What else the method is given: ``cycles``, ``recovery``, ``update_every`` and the like.

    Returns:
        The trained layer, d -> 1 without bias, with k weights kept, and without the method's hooks.

    Raises:
        ValueError: If an argument is not allowed, or the training diverges.
    """
    n, d = problem.inputs.shape
    _whole("steps", steps, 1)
    _whole("seed", seed, 0, 2**63 - 1)
    if batch is not None:
        _whole("batch", batch, 1, n)
    if not callable(method):
        raise ValueError(f"method={method!r} must be a function such as sparsecycle.methods.cyclical")
    if learning_rate is None:
        learning_rate = 1 / problem.smoothness
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate={learning_rate!r} must be greater than 0, and finite")
    generator = torch.Generator().manual_seed(seed)
    model: nn.Linear = nn.utils.skip_init(nn.Linear, d, 1, bias=False)  # leaves torch's own generator alone
    nn.init.uniform_(model.weight, -1 / math.sqrt(d), 1 / math.sqrt(d), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    sparsifier = method(model, optimizer, problem.sparsity, steps, **words)
    inputs, targets = problem.inputs, problem.targets
    for _ in range(steps):
        if batch is not None:
            rows = torch.randperm(n, generator=generator)[:batch]
            inputs, targets = problem.inputs[rows], problem.targets[rows]
        optimizer.zero_grad()
        loss = (model(inputs).squeeze(1) - targets).square().mean() / 2
        loss.backward()
        optimizer.step()
        sparsifier.step()
    sparsifier.finalize()
    sparsifier.remove()
    return model
