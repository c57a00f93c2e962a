"""The idx format, in which MNIST and Fashion-MNIST are published."""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod

import numpy as np
import numpy.typing as npt

from sparsecycle.lab.data.files import DataError

_UNSIGNED_BYTE = 0x08


def parse_idx(compressed: bytes, dimensions: int, where: str) -> npt.NDArray[np.uint8]:
    """The array in a gzipped idx file of unsigned bytes.

    The header is two zero bytes, the element type, the number of dimensions, and each length as a
    big-endian 32-bit integer.

    Args:
        compressed: the content of the ``.gz`` file.
        dimensions: how many the array must have (1 for labels, 3 for images).
        where: the file's name, for errors.

    Returns:
        A read-only array of the header's shape.

    Raises:
        DataError: where the stream is broken, or header and content disagree.
    """
    try:
        data = gzip.decompress(compressed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{where} is not a whole gzip file: {error}") from error
    start = 4 + 4 * dimensions
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if len(data) < start or data[:4] != expected:
        raise DataError(
            f"{where} begins with {data[:4].hex() or 'nothing'}; an idx file of unsigned bytes in "
            f"{dimensions} dimension(s) begins with {expected.hex()}, and its header has {start} bytes"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != prod(shape):
        raise DataError(f"{where} holds {len(data) - start:,} values; its header says {shape}, that is {prod(shape):,}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
