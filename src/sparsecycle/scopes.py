"""Scope: how is the total shared among the layers?

Given the layers' shapes and a sparsity, a scope says how many weights to keep, and among which layers they
compete. The total is exact: round(sparsity · n) weights of n are pruned, unless layers that have their own sparsities
leave no room for it by a weight or so each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SCOPES", "Share", "apportion", "part_way", "places", "share_out"]

SCOPES = ("global", "uniform", "erk")


@dataclass(frozen=True)
class Share:
    """``keep`` weights are kept among the layers with these indices."""

    layers: tuple[int, ...]
    keep: int


def places(shares: Sequence[Share]) -> int:
    """How many weights these shares keep together."""
    return sum(share.keep for share in shares)


def share_out(
    scope: str | Sequence[float | None],
    shapes: Sequence[Sequence[int]],
    sparsity: float | None,
    *,
    floor: int = 1,
    at_most: Sequence[int] | None = None,
) -> list[Share]:
    """Share the kept weights among the layers.

    Args:
        scope: ``"global"``: all layers compete. ``"uniform"``: the same sparsity in every layer. ``"erk"``:
            Erdős-Rényi-Kernel densities (Evci et al., arXiv 1911.11134, section 3). Or one entry a layer: its
            own sparsity, or None for the layers that share the rest.
        shapes: The layers' weight shapes.
        sparsity: Share of all weights to prune. None, with a list of sparsities only, leaves the rest dense.
        floor: Kept weights that every layer is left with at least (or all it has), unless everything is pruned.
        at_most: Weights that each layer still has, or all that compete together, where none may come back.

    Raises:
        ValueError: If the floor, or the layers' own sparsities, cannot be had at this sparsity.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if not isinstance(scope, str):
        return _pinned(scope, sizes, sparsity, floor)
    if sparsity is None:
        raise ValueError("sparsity=None is allowed only where the scope gives the layers' own sparsities")
    keep = sum(sizes) - round(sparsity * sum(sizes))
    floors = _floors(sizes, keep, floor, sparsity)
    if scope == "global":
        return [Share(tuple(range(len(sizes))), keep if at_most is None else min(keep, sum(at_most)))]
    densities = {"uniform": _uniform, "erk": _erk}[scope](shapes, keep)
    quotas = [density * size for density, size in zip(densities, sizes, strict=True)]
    upper = sizes if at_most is None else [min(u, size) for u, size in zip(at_most, sizes, strict=True)]
    counts = apportion(quotas, floors, upper, keep)
    return [Share((i,), count) for i, count in enumerate(counts)]


def part_way(
    final: Sequence[Share],
    shapes: Sequence[Sequence[int]],
    level: float,
    sparsity: float | None,
    *,
    at_most: Sequence[int] | None = None,
) -> list[Share]:
    """The shares at ``level``, on the way from dense at 0 to ``final`` at 1, each in proportion.

    Rounding each share on its own would miss the total, and would let a share grow while the total falls.

    Args:
        final: The shares at the end.
        shapes: The layers' weight shapes.
        level: Share of the final sparsity, from 0 to 1.
        sparsity: Share of all weights to prune at this level; None: ``level`` times what ``final`` prunes.
        at_most: Weights that each share still has, where none may come back.
    """
    sizes = [sum(math.prod(shapes[i]) for i in share.layers) for share in final]
    ends = [share.keep for share in final]
    total = sum(sizes)
    pruned = level * (total - sum(ends)) if sparsity is None else sparsity * total
    quotas = [size - level * (size - end) for size, end in zip(sizes, ends, strict=True)]
    counts = apportion(quotas, ends, sizes if at_most is None else at_most, total - round(pruned))
    return [Share(share.layers, count) for share, count in zip(final, counts, strict=True)]


def _floors(sizes: Sequence[int], keep: int, floor: int, sparsity: float) -> list[int]:
    if sparsity == 1:
        return [0] * len(sizes)
    floors = [min(floor, size) for size in sizes]
    if sum(floors) > keep:
        highest = 1 - sum(floors) / sum(sizes)
        raise ValueError(
            f"sparsity={sparsity} keeps {keep} of {sum(sizes)} weights, but floor={floor} asks for "
            f"{sum(floors)} in {len(sizes)} layers: the sparsity may be {highest:.9g} at most (or exactly 1)"
        )
    return floors


def _pinned(own: Sequence[float | None], sizes: Sequence[int], sparsity: float | None, floor: int) -> list[Share]:
    shares, rest, pinned = [], [], 0
    for i, (s, size) in enumerate(zip(own, sizes, strict=True)):
        if s is None:
            rest.append(i)
        else:
            keep = size - round(s * size)
            keep = keep if s == 1 else max(keep, min(floor, size))
            shares.append(Share((i,), keep))
            pinned += keep
    size = sum(sizes[i] for i in rest)
    keep = size
    if sparsity is not None:
        keep = sum(sizes) - round(sparsity * sum(sizes)) - pinned
        least = 0 if sparsity == 1 else sum(min(floor, sizes[i]) for i in rest)
        # Each layer's own count was rounded or lifted to its floor: what fits but for that is no contradiction.
        slack = len(shares) * max(floor, 1)
        if not least - slack <= keep <= size + slack:
            lowest, highest = (1 - (pinned + size) / sum(sizes), 1 - (pinned + least) / sum(sizes))
            raise ValueError(
                f"sparsity={sparsity} cannot be had beside the layers' own sparsities, which allow "
                f"{lowest:.9g} to {highest:.9g}; sparsity=None leaves the other layers dense"
            )
        keep = min(max(keep, least), size)
    return [*shares, Share(tuple(rest), keep)] if rest else shares


def _uniform(shapes: Sequence[Sequence[int]], keep: int) -> list[float]:
    total = sum(math.prod(shape) for shape in shapes)
    return [keep / total] * len(shapes)


def _erk(shapes: Sequence[Sequence[int]], keep: int) -> list[float]:
    """Densities min(1, ε · (sum of the dimensions) / (their product)), with ε such that ``keep`` weights are kept."""
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    sizes = [math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        free = [i for i in range(len(shapes)) if i not in dense]
        if not free:
            return [1.0] * len(shapes)
        epsilon = (keep - sum(sizes[i] for i in dense)) / sum(raw[i] * sizes[i] for i in free)
        over = [i for i in free if epsilon * raw[i] > 1]
        if not over:
            return [1.0 if i in dense else epsilon * raw[i] for i in range(len(shapes))]
        dense.update(over)


def apportion(quotas: Sequence[float], lower: Sequence[int], upper: Sequence[int], total: int) -> list[int]:
    """Whole numbers near the quotas, within the bounds, whose sum is ``total``; largest remainders first.

    If the bounds do not allow the total, as near to it as they do; an upper bound wins over a lower one.
    """
    lower = [min(lo, up) for lo, up in zip(lower, upper, strict=True)]
    total = min(max(total, sum(lower)), sum(upper))
    counts = [min(max(math.floor(q), lo), up) for q, lo, up in zip(quotas, lower, upper, strict=True)]
    by_remainder = sorted(range(len(counts)), key=lambda i: counts[i] - quotas[i])
    while short := total - sum(counts):
        one = 1 if short > 0 else -1
        order = by_remainder if short > 0 else by_remainder[::-1]
        bound = upper if short > 0 else lower
        movable = [i for i in order if counts[i] != bound[i]]
        for i in movable[: abs(short)]:
            counts[i] += one
    return counts
