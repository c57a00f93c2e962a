"""Whole numbers of a fixed width, back to back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsecycle.files.broken import demand

__all__ = ["Integers", "pack"]

Bytes = NDArray[np.uint8]
Whole = NDArray[np.uint64]


def pack(numbers: Whole, width: int) -> bytes:
    """``width`` bits of each number: its whole bytes first, those of all numbers, then the bits that are left over."""
    whole, rest = divmod(width, 8)
    low = numbers.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :whole]
    high = (numbers >> np.uint64(8 * whole)).astype(np.uint8) if rest else np.empty(0, np.uint8)
    bits = np.unpackbits(high[:, None], axis=1, count=rest or None, bitorder="little")
    return low.tobytes() + np.packbits(bits, bitorder="little").tobytes()


class Integers:
    """Reads what :func:`pack` packed, some numbers at a time.

    Args:
        data: The bytes.
        count: How many numbers there are.
        width: Bits of each, 64 at most.

    Raises:
        Broken: If that does not add up.
    """

    def __init__(self, data: Bytes, count: int, width: int) -> None:
        demand(0 <= width <= 64, f"a number's width is {width} bits; it must be from 0 to 64")
        self._whole, self._rest = divmod(width, 8)
        middle = count * self._whole
        length = middle + -(-count * self._rest // 8)
        demand(len(data) == length, f"{count} numbers of {width} bits take {length} bytes, and there are {len(data)}")
        self._low, self._high = data[:middle].reshape(count, self._whole), data[middle:]
        self._at = 0

    def take(self, count: int) -> Whole:
        """The next ``count`` numbers, uint64; there must be as many left."""
        begin, end = self._at, self._at + count
        self._at = end
        low = self._low[begin:end]
        if self._whole not in (1, 2, 4, 8):  # bytes of which numpy makes no number
            wide = np.zeros((count, 8), np.uint8)
            wide[:, : self._whole] = low
            low = wide
        found: Whole = low.view(f"<u{low.shape[1]}")[:, 0].astype(np.uint64)
        if self._rest:
            first, last = begin * self._rest, end * self._rest
            bits = np.unpackbits(self._high[first // 8 : -(-last // 8)], bitorder="little")[first % 8 :]
            high = np.zeros(count, np.uint8)
            for i in range(self._rest):
                high |= bits[i : last - first : self._rest] << np.uint8(i)
            found |= high.astype(np.uint64) << np.uint64(8 * self._whole)
        return found
