"""Recovery: may a pruned weight come back, and what becomes of it until then?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

__all__ = ["RECOVERIES", "Recovery", "Regrow"]


@dataclass(frozen=True)
class Recovery:
    """What happens to a pruned weight.

    Args:
        returns: Whether it takes part when the next mask is chosen. If not, new mask = old mask ∧ chosen: the
            papers' "active weights only".
        remembers: Whether it comes back at the last value it had, which costs a copy of the weights; otherwise
            it comes back at 0.
        trains: Whose gradients reach the optimizer. ``"kept"``: the kept weights'. ``"all"``: also those of the
            pruned weights, taken at the pruned network and applied to the values it remembers. ``"salient"``: of as
            many weights as will be kept at the end those with the largest |w · ∂L/∂w|, anew at every step; momentum
            and weight decay act on all.
        forgets: Whether the optimizer's momentum, of all its parameters, is cleared when the network opens.

    Raises:
        ValueError: If ``trains`` is not one of the three, or ``"all"`` without ``remembers``.
    """

    returns: bool
    remembers: bool = False
    trains: Literal["kept", "all", "salient"] = "kept"
    forgets: bool = False

    def __post_init__(self) -> None:
        if self.trains not in ("kept", "all", "salient"):
            raise ValueError(f"trains={self.trains!r} must be 'kept', 'all' or 'salient'")
        if self.trains == "all" and not self.remembers:
            raise ValueError("trains='all' needs remembers=True: a pruned weight that is trained has a value")


@dataclass(frozen=True)
class Regrow:
    """Drop and grow: at every update some of the kept weights give their places to others (SET, RigL).

    In each layer (or group that competes) the share f(t) of the kept weights that is worth least is dropped, and as
    many are grown among all that are then out, at 0 where they were out before. f(t) = fraction/2 · (1 +
    cos(π t / until)) (Evci et al., arXiv 1911.11134, section 3). The first mask is drawn at random.

    Args:
        by: ``"gradient"``: those with the largest |∂L/∂w| in the last step. ``"random"``: any.
        fraction: Share that is dropped at the start, α in the paper; from 0 to 1.
        until: Share of the run after which the mask stays, from 0 to 1.
        seed: Of what is drawn at random.

    Raises:
        ValueError: If an argument is not allowed.
    """

    by: Literal["gradient", "random"] = "gradient"
    fraction: float = 0.3
    until: float = 0.75
    seed: int = 0

    returns: ClassVar[bool] = True
    remembers: ClassVar[bool] = False
    trains: ClassVar[Literal["kept", "all", "salient"]] = "kept"
    forgets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.by not in ("gradient", "random"):
            raise ValueError(f"by={self.by!r} must be 'gradient' or 'random'")
        for name in ("fraction", "until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a share, from 0 to 1")

    def share(self, t: float) -> float:
        """The share f(t) of the kept weights that is dropped at time ``t`` of the run, in [0, 1]."""
        return 0.0 if t >= self.until else self.fraction / 2 * (1 + math.cos(math.pi * t / self.until))


RECOVERIES: dict[str, Recovery] = {
    "none": Recovery(returns=False),
    "zero": Recovery(returns=True),
    "stored": Recovery(returns=True, remembers=True),
    "feedback": Recovery(returns=True, remembers=True, trains="all"),
    "passive": Recovery(returns=True, trains="salient"),
}
