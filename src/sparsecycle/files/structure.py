"""What masks have beyond single weights: blocks, filters and channels that are pruned as one, and an order.

A mask is reduced to one that says as much: a block whose weights all live or all die becomes one place of it, and
rows and columns (output and input channels) without any weight are left out. A filter's mask so becomes a list of
filters. What remains is random or a pattern; see :mod:`sparsecycle.files.positions`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecycle.files.broken import demand

__all__ = ["Structure", "find"]

_PIECE = 1 << 13  # weights that are listed at a time

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Structure:
    """How the weights of a tensor lie in the flat mask that is left of its own.

    Args:
        shape: Of the tensor.
        block: Of the blocks that live or die as one; each size divides the tensor's.
        alive: Of the first dimensions, two at most: which of their blocks have weights, or None for all.
        channels_last: Whether the second dimension varies fastest in the flat mask, rather than the last.

    Raises:
        Broken: If that does not fit together.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    alive: tuple[Mask | None, ...] = ()
    channels_last: bool = False

    def __post_init__(self) -> None:
        shape, block = self.shape, self.block
        fits = len(shape) == len(block) and all(b > 0 and n % b == 0 for n, b in zip(shape, block, strict=True))
        demand(fits, f"blocks of shape {block} do not divide a tensor of shape {shape}")
        demand(len(self.alive) <= min(2, len(shape)), f"{len(self.alive)} dimensions of {shape} have living channels")
        for mask, n, b in zip(self.alive, shape, block, strict=False):
            demand(mask is None or len(mask) == n // b, f"{n // b} channels live or die, not as many as are said to")

    @property
    def plain(self) -> bool:
        """Whether the flat mask is the tensor's own."""
        return math.prod(self.block) == 1 and not any(m is not None for m in self.alive) and not self.channels_last

    @functools.cached_property
    def reduced(self) -> tuple[int, ...]:
        """The shape of the mask that is left, before it is made flat."""
        counts = [n // b for n, b in zip(self.shape, self.block, strict=True)]
        for d, mask in enumerate(self.alive):
            counts[d] = counts[d] if mask is None else int(mask.sum())
        return tuple(counts)

    def flat(self, mask: Mask) -> Mask:
        """What is left of a mask of the tensor's shape, flat."""
        left = mask[tuple(slice(None, None, b) for b in self.block)]
        for d, alive in enumerate(self.alive):
            left = left if alive is None else np.compress(alive, left, axis=d)
        return np.ascontiguousarray(left.transpose(self._order())).reshape(-1)

    def weights(self, positions: Index) -> Iterator[Index]:
        """The places, in the tensor made flat, of the weights at some positions of the flat mask, in pieces."""
        if self.plain:
            yield positions
            return
        order = self._order()
        found = np.unravel_index(positions, [self.reduced[d] for d in order])
        strides = [math.prod(self.shape[d + 1 :]) for d in range(len(self.shape))]
        first: Index = np.zeros(len(positions), np.int64)
        for d, places in zip(order, found, strict=True):
            alive = self.alive[d] if d < len(self.alive) else None
            first += (places if alive is None else np.flatnonzero(alive)[places]) * (self.block[d] * strides[d])
        size = math.prod(self.block)
        if size == 1:
            yield first
            return
        for begin in range(0, size * len(first), _PIECE):
            which, inside = np.divmod(np.arange(begin, min(begin + _PIECE, size * len(first))), size)
            offsets = sum(i * s for i, s in zip(np.unravel_index(inside, self.block), strides, strict=True))
            yield first[which] + offsets

    def _order(self) -> list[int]:
        dimensions = list(range(len(self.shape)))
        return [0, *dimensions[2:], 1] if self.channels_last else dimensions


def find(mask: Mask) -> list[Structure]:
    """How a mask of at least one dimension can be reduced: one way, or two, which differ in the order."""
    block = tuple(_period(mask, d) for d in range(mask.ndim))
    left = mask[tuple(slice(None, None, b) for b in block)]
    alive = tuple(_living(left, d) for d in range(min(2, left.ndim)))
    plain = Structure(mask.shape, block, alive)
    orders = (False, True) if math.prod(plain.reduced[2:]) > 1 < plain.reduced[1] else (False,)
    return [Structure(mask.shape, block, alive, channels_last) for channels_last in orders]


def _period(mask: Mask, dimension: int) -> int:
    """The longest block along a dimension: the greatest common divisor of where the mask changes, and of its size."""
    along = np.moveaxis(mask, dimension, 0)
    period = len(along)
    for i in range(1, len(along)):
        if period == 1:
            break
        if i % period and not np.array_equal(along[i], along[i - 1]):
            period = math.gcd(period, i)
    return period


def _living(mask: Mask, dimension: int) -> Mask | None:
    living: Mask = np.asarray(mask.any(axis=tuple(d for d in range(mask.ndim) if d != dimension)))
    return None if living.all() else living
