"""Schedule: how sparse at time t?

A schedule is a frozen dataclass and a pure function of time. Time runs from 0 to 1 over the whole run; the
value is the share of the final sparsity that holds at that time, so one schedule serves every sparsity.

A new schedule is a frozen dataclass with one method, :meth:`Schedule.shape`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "AGP",
    "Alternating",
    "Constant",
    "Cosine",
    "Cyclical",
    "DenseSparseDense",
    "Exponential",
    "Iterative",
    "Linear",
    "OneCycle",
    "OneShot",
    "Schedule",
]


def _check(name: str, value: float, fits: bool, allowed: str) -> None:
    if not fits:
        raise ValueError(f"{name}={value} must be {allowed}")


def _after(u: float, moment: float) -> bool:
    # Strictly: an interval trains at the value of its end, so the one that ends at a switch lies before it. And u is
    # a quotient: what equals the moment but for rounding is not after it.
    return round(u - moment, 9) > 0


@dataclass(frozen=True)
class Schedule:
    """Share of the final sparsity at time ``t``: 0 before ``start``, then :meth:`shape` until ``end``.

    Args:
        start: Share of the run after which pruning begins.
        end: Share of the run at which the shape is complete; its last value holds from there on.
        initial: Share of the final sparsity that is already there at ``start`` (the papers' s_i / s_f).

    Raises:
        ValueError: Unless 0 <= start <= end <= 1 and 0 <= initial <= 1.
    """

    start: float = field(default=0.0, kw_only=True)
    end: float = field(default=1.0, kw_only=True)
    initial: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"start={self.start} and end={self.end} are shares of the run: 0 <= start <= end <= 1")
        _check("initial", self.initial, 0 <= self.initial <= 1, "from 0 to 1")

    def __call__(self, t: float) -> float:
        """The share of the final sparsity, in [0, 1], at time ``t`` in [0, 1]."""
        if not 0 <= t <= 1:
            raise ValueError(f"t={t} is a share of the run: it must be from 0 to 1")
        if t < self.start:
            return 0.0
        u = 1.0 if t >= self.end else (t - self.start) / (self.end - self.start)
        return min(1.0, self.initial + (1 - self.initial) * self.shape(u))

    def shape(self, u: float) -> float:
        """The share at ``u``, the time from ``start`` (0) to ``end`` (1)."""
        raise NotImplementedError(f"{type(self).__name__} must define shape(u)")

    def plot(self, ax: Axes | None = None, points: int = 1001, **style: Any) -> Axes:
        """Draw the schedule over the run and return the axes; needs matplotlib (``sparsecycle[plot]``)."""
        from sparsecycle._matplotlib import pyplot

        if ax is None:
            ax = pyplot().subplots(figsize=(6, 3.5), layout="constrained")[1]
        times = [i / (points - 1) for i in range(points)]
        ax.plot(times, [self(t) for t in times], **{"label": type(self).__name__, **style})
        ax.set(xlabel="share of the run", ylabel="share of the final sparsity", xlim=(0, 1), ylim=(-0.02, 1.02))
        return ax


@dataclass(frozen=True)
class Constant(Schedule):
    """The final sparsity from ``start`` on."""

    def shape(self, u: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear(Schedule):
    """Grows in proportion to time (Qureshi et al., arXiv 2606.12278)."""

    def shape(self, u: float) -> float:
        return u


@dataclass(frozen=True)
class AGP(Schedule):
    """Automated gradual pruning, 1 - (1 - u)^3: fast at first, slow at the end (Zhu & Gupta, arXiv 1710.01878)."""

    def shape(self, u: float) -> float:
        return 1 - (1 - u) ** 3


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One-Cycle pruning's logistic curve (Hubens et al., arXiv 2107.02086).

    (1 + exp(β - α)) / (1 + exp(β - α u)), which is exactly 1 at u = 1.

    Args:
        alpha: Steepness, > 0; 14 in the paper's text and in its code.
        beta: Delay, from -700 to 700 (beyond, exp overflows); 5 in the paper's text, 6 in its code (fasterai).
    """

    alpha: float = 14.0
    beta: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("alpha", self.alpha, 0 < self.alpha < math.inf, "greater than 0, and finite")
        _check("beta", self.beta, -700 <= self.beta <= 700, "from -700 to 700")

    def shape(self, u: float) -> float:
        return (1 + math.exp(self.beta - self.alpha)) / (1 + math.exp(self.beta - self.alpha * u))


@dataclass(frozen=True)
class OneShot(Schedule):
    """Nothing until ``at``, a share of the time from ``start`` to ``end``, and everything after it."""

    at: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("at", self.at, 0 <= self.at < 1, "from 0 to less than 1")

    def shape(self, u: float) -> float:
        return float(_after(u, self.at))


@dataclass(frozen=True)
class Iterative(Schedule):
    """Equal steps, each taken at the beginning of its share of the time: ceil(steps u) / steps."""

    steps: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("steps", self.steps, isinstance(self.steps, int) and self.steps >= 1, "a whole number of at least 1")

    def shape(self, u: float) -> float:
        # u is a quotient: what is a whole number but for rounding must not be taken one step up.
        return math.ceil(round(u * self.steps, 9)) / self.steps


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine, (1 - cos(π u)) / 2."""

    def shape(self, u: float) -> float:
        return (1 - math.cos(math.pi * u)) / 2


@dataclass(frozen=True)
class Exponential(Schedule):
    """Approaches the end exponentially, (1 - exp(-rate u)) / (1 - exp(-rate))."""

    rate: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("rate", self.rate, 0 < self.rate < math.inf, "greater than 0, and finite")

    def shape(self, u: float) -> float:
        return math.expm1(-self.rate * u) / math.expm1(-self.rate)


@dataclass(frozen=True)
class Cyclical(Schedule):
    """``within`` again and again: every cycle begins where the first began, the last ends at the final sparsity.

    Srinivas et al., arXiv 2202.01290. The paper's text at hand names neither the curve within a cycle nor the
    number of cycles: AGP and 3 are our choice.
    """

    cycles: int = 3
    within: Schedule = AGP()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("cycles", self.cycles, isinstance(self.cycles, int) and self.cycles >= 1, "a whole number of at least 1")
        if not isinstance(self.within, Schedule):
            raise ValueError(f"within={self.within!r} must be a Schedule, such as AGP() or Linear()")

    def shape(self, u: float) -> float:
        if u >= 1:
            return self.within(1.0)
        return self.within(round(u * self.cycles, 9) % 1)


@dataclass(frozen=True)
class Alternating(Schedule):
    """AC/DC: dense, then sparse, and the other way at each of ``switches``, ending sparse.

    Peste et al., arXiv 2106.12379; the default is the paper's ImageNet run of 100 epochs (dense until 10,
    5 epochs each way until 75, dense until 85, sparse from there). Its CIFAR-10 run is
    ``switches=(.05, .15, .25, .35, .45, .55, .65, .75, .85)``.
    """

    switches: tuple[float, ...] = (*(i / 100 for i in range(10, 80, 5)), 0.85)

    def __post_init__(self) -> None:
        super().__post_init__()
        within = all(0 <= s < 1 for s in self.switches)
        if len(self.switches) % 2 == 0 or not within or any(a >= b for a, b in pairwise(self.switches)):
            raise ValueError(
                f"switches={self.switches} must be an odd number of rising shares, less than 1, "
                "of the time from start to end"
            )

    def shape(self, u: float) -> float:
        return float(sum(_after(u, s) for s in self.switches) % 2)


@dataclass(frozen=True)
class DenseSparseDense(Schedule):
    """DSD: sparse between ``sparse_from`` and ``sparse_until``, else dense (Han et al., arXiv 1607.04381)."""

    sparse_from: float = 1 / 3
    sparse_until: float = 2 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sparse_from < self.sparse_until <= 1:
            raise ValueError(
                f"sparse_from={self.sparse_from} and sparse_until={self.sparse_until}: "
                "0 <= sparse_from < sparse_until <= 1"
            )

    def shape(self, u: float) -> float:
        return float(_after(u, self.sparse_from) and not _after(u, self.sparse_until))
