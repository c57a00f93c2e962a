from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecycle.files.bits import Integers, pack
from sparsecycle.files.broken import Broken


def whole(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.uint64)


def bytes_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@given(st.data(), st.integers(0, 64))
def test_numbers_of_any_width_are_read_in_any_pieces(data: st.DataObject, width: int) -> None:
    numbers = data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=70))
    packed = pack(whole(numbers), width)
    assert len(packed) == len(numbers) * (width // 8) + -(-len(numbers) * (width % 8) // 8)
    reader = Integers(bytes_of(packed), len(numbers), width)
    found: list[int] = []
    while len(found) < len(numbers):
        found += reader.take(data.draw(st.integers(1, len(numbers) - len(found)))).tolist()
    assert found == numbers


def test_whole_bytes_come_first_and_then_the_bits_above_them() -> None:
    assert pack(whole([0x1AB, 0x0CD, 0x1EF]), 9) == bytes([0xAB, 0xCD, 0xEF, 0b101])
    assert pack(whole([1, 2, 3]), 2) == bytes([0b111001])
    assert pack(whole([1, 2]), 16) == bytes([1, 0, 2, 0])
    assert pack(whole([]), 13) == b""


@pytest.mark.parametrize(
    ("length", "count", "width", "message"),
    [
        (3, 2, 16, "2 numbers of 16 bits take 4 bytes, and there are 3"),
        (5, 2, 16, "take 4 bytes, and there are 5"),
        (1, 3, 3, "3 numbers of 3 bits take 2 bytes, and there are 1"),
        (0, 1 << 60, 64, "1152921504606846976 numbers of 64 bits take 9223372036854775808 bytes, and there are 0"),
        (8, 1, 65, "a number's width is 65 bits; it must be from 0 to 64"),
        (0, 1, -1, "a number's width is -1 bits"),
    ],
)
def test_bytes_that_are_too_many_or_too_few(length: int, count: int, width: int, message: str) -> None:
    with pytest.raises(Broken, match=message):
        Integers(bytes_of(bytes(length)), count, width)
