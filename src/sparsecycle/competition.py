"""Who gets the places: within each share the weights compete, and under regrowth some places change hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsecycle.masks import Masks
from sparsecycle.scopes import Share
from sparsecycle.selection import WITHIN, keep_largest

__all__ = ["Competition"]


@dataclass(frozen=True)
class _Near:
    """Where a share's next threshold is expected, and how far from there at most, relative to it."""

    threshold: float | None = None
    within: float = WITHIN

    def after(self, threshold: float | None) -> _Near:
        """What to expect after this threshold: a move a few times as large as the last one."""
        if self.threshold is None or not threshold:
            return _Near(threshold)
        moved = abs(threshold - self.threshold) / abs(threshold)
        return _Near(threshold, min(max(4 * moved, WITHIN / 32), WITHIN))


_NOWHERE = _Near()


class Competition:
    """Finds each share's winners; a share's threshold is remembered, since the next one is near it.

    Args:
        floor: Places that every layer has at least, also in a share of several layers.
    """

    def __init__(self, floor: int) -> None:
        self._floor = floor
        self._nearby: dict[tuple[int, ...], _Near] = {}

    def winners(
        self,
        scores: Sequence[Tensor],
        shares: Sequence[Share],
        *,
        absolute: bool = False,
        among: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """One bool mask a layer: True where a weight is among the ``keep`` largest scores of its share.

        Args:
            scores: One tensor a layer.
            shares: The places; every layer is in one of them.
            absolute: Rank by absolute value.
            among: Masks of those who may win; where scores are absolute, the others' must be 0.
        """
        return self._winners(scores, shares, self._nearby, self._floor, absolute, among)

    def prune(
        self,
        masks: Masks,
        optimizer: torch.optim.Optimizer,
        shares: Sequence[Share],
        before: Sequence[Share],
        returns: bool,
    ) -> bool:
        """Let the weights compete by their magnitudes, and prune the losers, in the native core.

        Args:
            masks: The weights' masks, which are changed.
            optimizer: The weights' optimizer.
            shares: The places from now on.
            before: The places until now, in the same order.
            returns: Whether pruned weights compete too, being 0.

        Returns:
            Whether it was done; if not, the core cannot do it, and no mask was changed.

        Raises:
            ValueError: If a weight is NaN or infinite; no mask is changed then.
        """
        nearby = [self._nearby.get(share.layers, _NOWHERE) for share in shares]
        competing = [
            (share.layers, share.keep, old.keep, near.threshold, near.within)
            for share, old, near in zip(shares, before, nearby, strict=True)
        ]
        thresholds = masks.prune(optimizer, competing, returns, self._floor)
        if thresholds is None:
            return False
        for share, near, threshold in zip(shares, nearby, thresholds, strict=True):
            self._nearby[share.layers] = near.after(threshold)
        return True

    def turn_over(
        self,
        scores: Sequence[Tensor],
        growth: Sequence[Tensor],
        shares: Sequence[Share],
        before: Sequence[Share],
        fraction: float,
        *,
        absolute: bool,
        among: Sequence[Tensor],
    ) -> list[Tensor]:
        """The masks after a drop of ``fraction`` of each share's kept weights and a growth to its places.

        Args:
            scores: What a kept weight is worth; the least are dropped.
            growth: What any other weight promises, those just dropped included; not negative. The largest grow.
            shares: The places from now on.
            before: The places until now, in the same order.
            fraction: From 0 to 1.
            absolute: Rank the scores by absolute value.
            among: Masks of the weights kept until now.
        """
        kept = [min(share.keep, old.keep) for share, old in zip(shares, before, strict=True)]
        staying = [replace(share, keep=k - round(fraction * k)) for share, k in zip(shares, kept, strict=True)]
        survivors = self._winners(scores, staying, self._nearby, 0, absolute, among)
        promise = [g.masked_fill(stays, torch.inf) for g, stays in zip(growth, survivors, strict=True)]
        return self._winners(promise, shares, {}, self._floor, False, None)

    def forget(self) -> None:
        """Forget the thresholds."""
        self._nearby.clear()

    @staticmethod
    def _winners(
        scores: Sequence[Tensor],
        shares: Sequence[Share],
        nearby: dict[tuple[int, ...], _Near],
        floor: int,
        absolute: bool,
        among: Sequence[Tensor] | None,
    ) -> list[Tensor]:
        if among is not None and not absolute:
            scores = [s.masked_fill(~mask, -torch.inf) for s, mask in zip(scores, among, strict=True)]
        masks = list(scores)
        for share in shares:
            near = nearby.get(share.layers, _NOWHERE)
            selection = keep_largest(
                [scores[i] for i in share.layers],
                share.keep,
                absolute=absolute,
                among=None if among is None else [among[i] for i in share.layers],
                floor=floor if len(share.layers) > 1 else 0,
                near=near.threshold,
                within=near.within,
            )
            nearby[share.layers] = near.after(selection.threshold)
            for i, mask in zip(share.layers, selection.masks, strict=True):
                masks[i] = mask
        return masks
