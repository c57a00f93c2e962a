"""Who gets the places: within each share the weights compete, and under regrowth some places change hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparsecycle.scopes import Share
from sparsecycle.selection import keep_largest

__all__ = ["Competition"]


class Competition:
    """Finds each share's winners; a share's threshold is remembered, since the next one is near it.

    Args:
        floor: Places that every layer has at least, also in a share of several layers.
    """

    def __init__(self, floor: int) -> None:
        self._floor = floor
        self._nearby: dict[tuple[int, ...], float | None] = {}

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
        nearby: dict[tuple[int, ...], float | None],
        floor: int,
        absolute: bool,
        among: Sequence[Tensor] | None,
    ) -> list[Tensor]:
        if among is not None and not absolute:
            scores = [s.masked_fill(~mask, -torch.inf) for s, mask in zip(scores, among, strict=True)]
        masks = list(scores)
        for share in shares:
            selection = keep_largest(
                [scores[i] for i in share.layers],
                share.keep,
                absolute=absolute,
                among=None if among is None else [among[i] for i in share.layers],
                floor=floor if len(share.layers) > 1 else 0,
                near=nearby.get(share.layers),
            )
            nearby[share.layers] = selection.threshold
            for i, mask in zip(share.layers, selection.masks, strict=True):
                masks[i] = mask
        return masks
