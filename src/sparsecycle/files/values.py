"""Numbers as they are, bit for bit, in about as few bits as their entropy.

What a pruned network keeps has magnitudes from the threshold to a few times as much. So of each number's bits

* the magnitude's bits, as a whole number less the smallest one that occurs, span a short range; the 8 highest of
  these bits are the symbols, which go under zstd;
* the bits below and the sign are as good as random, and stay as they are.

That makes one Huffman code of what byte planes spread over two: the exponent, and the top of the mantissa, whose
distribution depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecycle.files.bits import Bytes, Integers, pack
from sparsecycle.files.broken import demand
from sparsecycle.files.entropy import Frame, compress

__all__ = ["Form", "Numbers", "encode"]

_SYMBOL = 8  # bits


@dataclass(frozen=True)
class Form:
    """How numbers are coded.

    Args:
        least: The smallest magnitude, as a whole number.
        span: Bits of the largest magnitude less the smallest.
        signs: ``"plus"``, ``"minus"``, or ``"both"``, which takes a bit a number.
        packed: Whether the symbols are under zstd.
    """

    least: int
    span: int
    signs: str
    packed: bool


def encode(bits: NDArray[Any], signed: bool) -> tuple[Form, tuple[bytes, bytes]]:
    """Code numbers.

    Args:
        bits: Each number's bits, as an unsigned whole number of its width; of shape (n,).
        signed: Whether the highest bit is a sign.

    Returns:
        How they are coded, and the bytes: symbols, and what is below them.
    """
    width = 8 * bits.itemsize
    numbers = bits.astype(np.uint64)
    negative = numbers >> np.uint64(width - 1) if signed else np.zeros(len(numbers), np.uint64)
    if signed:
        numbers &= np.uint64((1 << (width - 1)) - 1)
    signs = "both" if 0 < int(negative.sum()) < len(negative) else "minus" if negative.any() else "plus"
    least, most = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
    span = (most - least).bit_length()
    numbers -= np.uint64(least)
    shift = max(0, span - _SYMBOL)
    symbols = numbers >> np.uint64(shift)
    below = numbers & np.uint64((1 << shift) - 1)
    if signs == "both":
        below = below << np.uint64(1) | negative
    plain = pack(symbols, min(span, _SYMBOL))
    shorter = compress(symbols.astype(np.uint8).tobytes()) if span else b""
    packed = len(shorter) < len(plain)
    form = Form(least, span, signs, packed)
    return form, (shorter if packed else plain, pack(below, shift + (signs == "both")))


class Numbers:
    """Reads what :func:`encode` coded, some numbers at a time.

    Args:
        form: How they are coded.
        sections: The bytes.
        count: How many numbers there are.
        width: Bits of each.
        signed: Whether the highest bit is a sign.

    Raises:
        Broken: If that does not add up.
    """

    def __init__(self, form: Form, sections: Sequence[Bytes], count: int, width: int, signed: bool) -> None:
        self._least, span, signs = form.least, form.span, form.signs
        bits = width - signed
        demand(signs in ("plus", "minus", "both"), f"signs are {signs!r}; they must be plus, minus or both")
        demand(signed or signs == "plus", f"signs are {signs!r}, of numbers that have none")
        demand(0 <= span <= bits and 0 <= self._least < 1 << bits, f"the values take more than {width} bits")
        demand(len(sections) == 2, f"values come in {len(sections)} parts, not in 2")
        self._shift = np.uint64(max(0, span - _SYMBOL))
        self._both, self._minus = signs == "both", np.uint64((signs == "minus") << (width - 1))
        self._sign, self._most = np.uint64(width - 1), (1 << bits) - 1 - self._least
        self._symbols: Integers | Frame = (
            Frame(sections[0]) if form.packed else Integers(sections[0], count, min(span, _SYMBOL))
        )
        self._below = Integers(sections[1], count, int(self._shift) + self._both)
        self._dtype = np.dtype(f"u{width // 8}")

    def take(self, count: int) -> NDArray[Any]:
        """The next ``count`` numbers' bits, unsigned; there must be as many left.

        Raises:
            Broken: If a number is too large, or zstd's part is not whole.
        """
        below = self._below.take(count)
        sign: Any = self._minus
        if self._both:
            sign, below = (below & np.uint64(1)) << self._sign, below >> np.uint64(1)
        numbers = self._symbols.take(count).astype(np.uint64) << self._shift | below
        demand(not count or int(numbers.max()) <= self._most, "a value takes more bits than its type has")
        found: NDArray[Any] = (numbers + np.uint64(self._least) | sign).astype(self._dtype)
        return found

    def end(self) -> None:
        """Raise :class:`Broken` if zstd's part has more in it."""
        if isinstance(self._symbols, Frame):
            self._symbols.end()
