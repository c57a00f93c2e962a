from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecycle.files.broken import Broken
from sparsecycle.files.entropy import compress
from sparsecycle.files.values import Form, Numbers, encode

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def reader(form: Form, sections: tuple[bytes, ...], count: int, size: int, signed: bool) -> Numbers:
    return Numbers(form, [np.frombuffer(its, np.uint8) for its in sections], count, 8 * size, signed)


@given(st.sampled_from(list(UNSIGNED)), st.booleans(), st.data())
def test_any_bits_of_any_width_are_read_in_any_pieces(size: int, signed: bool, data: st.DataObject) -> None:
    least = data.draw(st.integers(0, 8 * size))
    numbers = data.draw(st.lists(st.integers(0, (1 << 8 * size - least) - 1), max_size=60))
    form, sections = encode(np.array(numbers, UNSIGNED[size]), signed)
    numbers_again = reader(form, sections, len(numbers), size, signed)
    found: list[int] = []
    while len(found) < len(numbers):
        piece = numbers_again.take(data.draw(st.integers(1, len(numbers) - len(found))))
        assert piece.dtype == UNSIGNED[size]
        found += piece.tolist()
    numbers_again.end()
    assert found == numbers


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.5, math.nan, math.inf, -math.inf, 5e-324, -1.7e308])
def test_one_value_alone_takes_no_bytes(value: float) -> None:
    bits = np.full(1000, value).view(np.uint64)
    form, sections = encode(bits, signed=True)
    assert sections == (b"", b"")
    assert form.signs == ("minus" if math.copysign(1, value) < 0 else "plus")
    assert reader(form, sections, 1000, 8, True).take(1000).tolist() == bits.tolist()


def test_as_written() -> None:
    form, (symbols, below) = encode(np.array([10, 13, 0x8000_000B, 10], np.uint32), signed=True)
    assert form == Form(least=10, span=2, signs="both", packed=False)
    assert symbols == bytes([0b00011100])
    assert below == bytes([0b0100])  # a sign each
    form, (symbols, below) = encode(np.array([0x1200, 0x1FFF, 0x1ABC], np.uint16), signed=False)
    assert form == Form(least=0x1200, span=12, signs="plus", packed=False)
    assert symbols == bytes([0, 0xDF, 0x8B])
    assert below == bytes([0b11110000, 0b1100])  # the 4 lower bits of 0x000, 0xDFF and 0x8BC


def gaussian(count: int, sparsity: float) -> NDArray[np.float32]:
    """What magnitude pruning leaves of weights that are normally distributed."""
    draw = np.random.default_rng(0).standard_normal(int(count / (1 - sparsity))).astype(np.float32)
    return draw[np.abs(draw) >= np.quantile(np.abs(draw), sparsity)]


# The more is pruned, the fewer octaves the magnitudes span. Those of 2 span 24 bits of fp32: below the symbols lie 16
# and the sign, of bf16's the sign alone; the symbols' entropy is what is left.
@pytest.mark.parametrize(
    ("sparsity", "fp32", "bf16"), [(0.0, 26.7, 10.7), (0.8, 24.4, 8.4), (0.9, 24.0, 8.0), (0.98, 23.1, 7.1)]
)
def test_pruned_gaussians_take_few_bits(sparsity: float, fp32: float, bf16: float) -> None:
    numbers = gaussian(20_000, sparsity)
    for bits, most in ((numbers.view(np.uint32), fp32), ((numbers.view(np.uint32) >> 16).astype(np.uint16), bf16)):
        _, sections = encode(bits, signed=True)
        assert 8 * sum(map(len, sections)) < most * len(numbers)


def test_random_bits_take_no_more_than_they_have() -> None:
    draw = np.random.default_rng(0)
    for size, dtype in UNSIGNED.items():
        bits = draw.integers(0, 1 << 8 * size, 1001, dtype=dtype)
        for signed in (False, True):
            assert sum(map(len, encode(bits, signed)[1])) <= size * len(bits) + 1


PLAIN = Form(least=0, span=0, signs="plus", packed=False)


@pytest.mark.parametrize(
    ("form", "sections", "message"),
    [
        (replace(PLAIN, signs="none"), (b"", b""), "signs are 'none'; they must be plus, minus or both"),
        (replace(PLAIN, span=16), (b"", b""), "the values take more than 16 bits"),
        (replace(PLAIN, span=-1), (b"", b""), "the values take more than 16 bits"),
        (replace(PLAIN, least=1 << 15), (b"", b""), "the values take more than 16 bits"),
        (replace(PLAIN, least=-1), (b"", b""), "the values take more than 16 bits"),
        (PLAIN, (b"",), "values come in 1 parts, not in 2"),
        (PLAIN, (b"", b"", b""), "values come in 3 parts, not in 2"),
        (PLAIN, (b"x", b""), "3 numbers of 0 bits take 0 bytes, and there are 1"),
        (replace(PLAIN, span=8), (b"xx", b""), "3 numbers of 8 bits take 3 bytes, and there are 2"),
        (replace(PLAIN, span=10), (b"xxx", b""), "3 numbers of 2 bits take 1 bytes, and there are 0"),
        (replace(PLAIN, signs="both"), (b"", b""), "3 numbers of 1 bits take 1 bytes, and there are 0"),
    ],
    ids=range(11),
)
def test_a_form_that_does_not_add_up(form: Form, sections: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(Broken, match=message):
        reader(form, sections, 3, 2, True)


def test_numbers_without_a_sign_have_none() -> None:
    for signs in ("minus", "both"):
        with pytest.raises(Broken, match=f"signs are '{signs}', of numbers that have none"):
            reader(replace(PLAIN, signs=signs), (b"", b""), 0, 1, False)


def test_values_that_their_type_does_not_have() -> None:
    form = Form(least=0x7F00, span=9, signs="plus", packed=False)
    assert reader(form, (b"\x7f", b"\1"), 1, 2, True).take(1).tolist() == [0x7FFF]
    with pytest.raises(Broken, match="a value takes more bits than its type has"):
        reader(form, (b"\x80", b"\0"), 1, 2, True).take(1)
    assert reader(replace(form, signs="minus"), (b"\x7f", b"\1"), 1, 2, True).take(1).tolist() == [0xFFFF]


def test_symbols_that_are_too_many_or_too_few() -> None:
    form = Form(least=0, span=8, signs="plus", packed=True)
    numbers = reader(form, (compress(bytes(3)), b""), 4, 1, False)
    with pytest.raises(Broken, match="lacks 1 bytes"):
        numbers.take(4)
    numbers = reader(form, (compress(bytes(1 << 20)), b""), 4, 1, False)
    numbers.take(4)
    with pytest.raises(Broken, match="has more in it than it should"):
        numbers.end()
