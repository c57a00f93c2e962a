from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecycle.lab.data import DataError
from sparsecycle.lab.data.idx import parse_idx


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    header = bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(0, 2**16))
def test_round_trip(shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    read = parse_idx(gzip.compress(idx(array)), array.ndim, "x.gz")
    assert read.shape == tuple(shape)
    assert read.dtype == np.uint8
    assert np.array_equal(read, array)


ARRAY = np.arange(24).reshape(2, 3, 4)
WHOLE = idx(ARRAY)


# The ids are numbers: a test's name must be the same in every process, and a gzip file holds the time.
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(WHOLE)[:-9], "x.gz is not a whole gzip file"),
        (gzip.compress(WHOLE)[:-8] + b"\0" * 8, "x.gz is not a whole gzip file: CRC"),
        (WHOLE, "x.gz is not a whole gzip file: Not a gzipped file"),
        (gzip.compress(idx(ARRAY, kind=13)), "begins with 00000d03; .* begins with 00000803"),
        (gzip.compress(idx(ARRAY.ravel())), "begins with 00000801; .* begins with 00000803"),
        (gzip.compress(WHOLE[:10]), "begins with 00000803; .* its header has 16 bytes"),
        (gzip.compress(b""), "begins with nothing"),
        (gzip.compress(WHOLE[:-1]), r"holds 23 values; its header says \(2, 3, 4\), that is 24"),
        (gzip.compress(WHOLE + b"\0"), r"holds 25 values; its header says \(2, 3, 4\), that is 24"),
    ],
    ids=range(9),
)
def test_broken_files_are_named(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_idx(content, 3, "x.gz")
