"""Where a flat mask is true, in about as few bits as its entropy.

Three codes, of which a mask gets the one that is shortest for it:

``rice``
    The gaps between kept weights, each as its quotient by 2^k in unary and its k low bits (Rice 1979). Of a mask that
    is random it takes 0.5 to 2 % more than the entropy.
``gaps``
    The gaps as bytes, 255 for "255 further on", under zstd.
``bits``
    The mask's bits under zstd: for patterns that repeat, such as N:M.

And ``all``, which takes nothing, where the mask is true everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecycle.files.bits import Integers, pack
from sparsecycle.files.broken import demand
from sparsecycle.files.entropy import Frame, compress

__all__ = ["Positions", "decode", "encode"]

_PIECE = 1 << 11  # bytes that are decoded at a time

_HOPE = 1.1  # how much longer than the best a quickly compressed code may be, to be compressed well

Bytes = NDArray[np.uint8]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Positions:
    """A coded mask.

    Args:
        code: ``"rice"``, ``"gaps"``, ``"bits"`` or ``"all"``.
        k: Of the Rice code; 0 otherwise.
        sections: The bytes.
    """

    code: str
    k: int
    sections: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return sum(map(len, self.sections))


def encode(mask: NDArray[np.bool_]) -> Positions:
    """The shortest code of a mask, of shape (n,)."""
    (where,) = mask.nonzero()
    if len(where) == len(mask):
        return Positions("all", 0, ())
    gaps = np.diff(where, prepend=-1) - 1
    best = _rice(gaps)
    for code, data in (("gaps", _gap_bytes(gaps)), ("bits", np.packbits(mask, bitorder="little").tobytes())):
        # Most masks are random, and their bits are many: a quick look tells whether a thorough one is worth it.
        if len(compress(data, quick=True)) < _HOPE * best.size:
            best = min(best, Positions(code, 0, (compress(data),)), key=lambda positions: positions.size)
    return best


def decode(code: str, k: int, sections: Sequence[Bytes], size: int, kept: int) -> Iterator[Index]:
    """Where the mask is true, in ascending order, in pieces of at most 2^14.

    Args:
        code: See :class:`Positions`.
        k: See :class:`Positions`.
        sections: See :class:`Positions`.
        size: Length of the mask.
        kept: How often it is true.

    Raises:
        Broken: If the code is none of these, or not of such a mask; the pieces before that are good.
    """
    demand(0 <= kept <= size, f"{kept} of {size} weights are kept")
    lengths = {"rice": 2, "gaps": 1, "bits": 1, "all": 0}
    demand(code in lengths, f"positions are coded by {code!r}; there are {', '.join(lengths)}")
    demand(len(sections) == lengths[code], f"positions coded by {code!r} come in {len(sections)} parts")
    if code == "all":
        demand(kept == size, f"all of {size} weights are kept, and they are said to be {kept}")
        pieces = _count(size)
    elif code == "rice":
        pieces = _read_rice(k, sections[0], sections[1], size, kept)
    else:
        pieces = (_read_gaps if code == "gaps" else _read_bits)(Frame(sections[0]), size)
    found = 0
    for piece in pieces:
        found += len(piece)
        demand(found <= kept, f"more than the {kept} positions that are said to be there")
        if len(piece):
            demand(int(piece[-1]) < size, f"a position runs past the tensor's {size} places")
            yield piece
    demand(found == kept, f"{found} positions, where {kept} are said to be")


def _rice(gaps: Index) -> Positions:
    # The best k is at most one off where the mean gap says it is.
    guess = max(0, int(gaps.mean() + 1).bit_length() - 2) if len(gaps) else 0
    k = min(range(max(0, guess - 1), guess + 3), key=lambda k: int((gaps >> k).sum()) + k * len(gaps))
    ends = np.cumsum((gaps >> k) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, np.uint8)
    unary[ends] = 1
    low = (gaps & ((1 << k) - 1)).astype(np.uint64)
    return Positions("rice", k, (np.packbits(unary, bitorder="little").tobytes(), pack(low, k)))


def _read_rice(k: int, unary: Bytes, low: Bytes, size: int, kept: int) -> Iterator[Index]:
    demand(0 <= k < 48, f"the Rice code's k is {k}; it must be from 0 to 47")
    remainders = Integers(low, kept, k)
    last_end = last = -1
    taken = 0
    for begin in range(0, len(unary), _PIECE):
        ends = np.flatnonzero(np.unpackbits(unary[begin : begin + _PIECE], bitorder="little")) + 8 * begin
        taken += len(ends)
        demand(taken <= kept, f"more than the {kept} positions that are said to be there")
        quotients = np.diff(ends, prepend=last_end) - 1
        # Before anything is multiplied, so that no sum overflows.
        demand(not len(ends) or int(quotients.max()) <= size >> k, f"a gap is larger than the tensor's {size} places")
        gaps = (quotients << k) + remainders.take(len(ends)).astype(np.int64)
        where: Index = last + np.cumsum(gaps + 1)
        if len(ends):
            last_end, last = int(ends[-1]), int(where[-1])
        yield where


def _gap_bytes(gaps: Index) -> bytes:
    skips, rest = np.divmod(gaps, 255)
    found = np.full(len(gaps) + int(skips.sum()), 255, np.uint8)
    found[np.cumsum(skips + 1) - 1] = rest
    return found.tobytes()


def _read_gaps(frame: Frame, size: int) -> Iterator[Index]:
    at = 0
    while len(some := frame.take(_PIECE, fewer=True)):
        demand(at <= size, f"a position runs past the tensor's {size} places")
        ends: Index = at + np.cumsum(some.astype(np.int64) + (some != 255))
        at = int(ends[-1])
        yield ends[some != 255] - 1


def _read_bits(frame: Frame, size: int) -> Iterator[Index]:
    length = -(-size // 8)
    for begin in range(0, length, _PIECE):
        bits = np.unpackbits(frame.take(min(_PIECE, length - begin)), bitorder="little")
        yield np.flatnonzero(bits) + 8 * begin
    frame.end()


def _count(size: int) -> Iterator[Index]:
    for begin in range(0, size, 8 * _PIECE):
        yield np.arange(begin, min(begin + 8 * _PIECE, size))
