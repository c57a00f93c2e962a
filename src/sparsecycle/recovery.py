"""Recovery: may a pruned weight come back, and with which value?"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RECOVERIES", "Recovery"]


@dataclass(frozen=True)
class Recovery:
    """What happens to a pruned weight.

    Args:
        returns: Whether it takes part when the next mask is chosen. If not, new mask = old mask ∧ chosen: the
            papers' "active weights only".
        remembers: Whether it comes back at the last value it had, which costs a copy of the weights; otherwise
            it comes back at 0.
    """

    returns: bool
    remembers: bool


RECOVERIES: dict[str, Recovery] = {
    "none": Recovery(returns=False, remembers=False),
    "zero": Recovery(returns=True, remembers=False),
    "stored": Recovery(returns=True, remembers=True),
}
