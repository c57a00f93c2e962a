"""Bytes under zstd, whose Huffman codes are what is wanted of it: numbers of a pruned network hardly ever repeat."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecycle.files.broken import Broken, demand

__all__ = ["Frame", "compress"]

_WINDOW = 17  # log2 of how many bytes back a reader must remember; it refuses frames that want more


@functools.cache
def _zstd() -> Any:
    """Imported where it is used first: ``import sparsecycle`` does without."""
    import zstandard

    return zstandard


@functools.cache
def _compressor(quick: bool) -> Any:
    # Short matches would be chance, so none are looked for; the rest is as thorough as it gets.
    settings = _zstd().ZstdCompressionParameters(
        strategy=_zstd().STRATEGY_FAST if quick else _zstd().STRATEGY_BTULTRA,
        window_log=_WINDOW,
        hash_log=_WINDOW,
        chain_log=_WINDOW,
        search_log=3,
        min_match=7,
        target_length=0 if quick else 999,
        write_content_size=False,
    )
    return _zstd().ZstdCompressor(compression_params=settings)


def compress(data: bytes, *, quick: bool = False) -> bytes:
    """One zstd frame, which does not say how long its content is.

    Args:
        data: Its content.
        quick: Take a tenth of the time, for some more bytes.
    """
    packed: bytes = _compressor(quick).compress(data)
    return packed


class Frame:
    """Reads one zstd frame, some bytes at a time, and never more than is asked for.

    Args:
        data: The frame and nothing after it.
    """

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._reader = _zstd().ZstdDecompressor(max_window_size=1 << _WINDOW).stream_reader(data.data)

    def take(self, count: int, *, fewer: bool = False) -> NDArray[np.uint8]:
        """The next ``count`` bytes.

        Args:
            count: How many.
            fewer: Give what is left where there are fewer.

        Raises:
            Broken: If the frame is not whole, or has fewer and that is not wanted.
        """
        found = bytearray()
        try:
            # In pieces, since the reader takes memory for all that it is asked for.
            while len(found) < count and (some := self._reader.read(min(count - len(found), 1 << _WINDOW))):
                found += some
        except _zstd().ZstdError as error:
            raise Broken(f"a part that zstd packed cannot be unpacked ({error})") from error
        demand(fewer or len(found) == count, f"a part that zstd packed lacks {count - len(found)} bytes")
        return np.frombuffer(found, np.uint8)

    def end(self) -> None:
        """Raise :class:`Broken` unless all has been taken."""
        demand(not len(self.take(1, fewer=True)), "a part that zstd packed has more in it than it should")
