from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecycle.files import positions
from sparsecycle.files.bits import pack
from sparsecycle.files.broken import Broken
from sparsecycle.files.entropy import compress
from sparsecycle.files.positions import Positions, decode, encode

Mask = NDArray[np.bool_]


def read(code: Positions, size: int, kept: int) -> list[int]:
    return read_from(code.code, code.k, code.sections, size, kept)


def read_from(code: str, k: int, sections: tuple[bytes, ...], size: int, kept: int) -> list[int]:
    data = [np.frombuffer(section, np.uint8) for section in sections]
    return [int(i) for piece in decode(code, k, data, size, kept) for i in piece]


def all_codes(mask: Mask) -> list[Positions]:
    """Every code of a mask, not only the shortest."""
    gaps = np.diff(mask.nonzero()[0], prepend=-1) - 1
    frames = {"gaps": positions._gap_bytes(gaps), "bits": np.packbits(mask, bitorder="little").tobytes()}
    found = [encode(mask), positions._rice(gaps)]
    return found + [Positions(code, 0, (compress(data),)) for code, data in frames.items()]


@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 2**31))
def test_every_code_gives_back_any_mask(size: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random(size) < density
    where = mask.nonzero()[0].tolist()
    for code in all_codes(mask):
        assert read(code, size, len(where)) == where


def test_pieces_are_bounded() -> None:
    mask = np.ones(100_000, bool)
    mask[::1000] = False
    kept = int(mask.sum())
    assert encode(np.ones(100_000, bool)) == Positions("all", 0, ())
    for code in [*all_codes(mask), Positions("all", 0, ())]:
        size = kept if code.code == "all" else len(mask)
        data = [np.frombuffer(section, np.uint8) for section in code.sections]
        assert max(len(piece) for piece in decode(code.code, code.k, data, size, kept)) <= 1 << 14


def test_one_weight_far_away() -> None:
    mask = np.zeros(1_000_000, bool)
    mask[-1] = True
    for code in all_codes(mask):
        assert read(code, len(mask), 1) == [999_999]
    assert encode(mask).size < 6
    assert encode(np.zeros(1_000_000, bool)).size == 0


@pytest.mark.parametrize("density", [0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.002, 0.001])
@pytest.mark.parametrize("size", [10_000, 300_000])
def test_a_random_mask_takes_about_its_entropy(size: int, density: float) -> None:
    draw = np.random.default_rng(0)
    mask = np.zeros(size, bool)
    mask[draw.choice(size, int(size * density), replace=False)] = True
    share = mask.mean()
    bits = -size * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    # Golomb's and Huffman's codes of a geometric distribution are up to 3 % longer (Gallager and van Voorhis 1975).
    assert 8 * encode(mask).size <= 1.03 * bits + 8 * 6


@pytest.mark.parametrize(("kept", "of", "bits"), [(2, 4, math.log2(6)), (4, 8, math.log2(70)), (1, 4, 2)])
def test_a_pattern_takes_about_what_it_chooses_from(kept: int, of: int, bits: float) -> None:
    order = np.random.default_rng(0).random((40_000, of)).argsort(1)
    assert 8 * encode((order < kept).reshape(-1)).size <= 1.05 * bits * 40_000


def unary(*quotients: int) -> bytes:
    bits = [bit for q in quotients for bit in [0] * q + [1]]
    return np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def test_rice_as_written() -> None:
    gaps = [5, 0, 9]  # positions 5, 6, 16; of k = 2: quotients 1, 0, 2 and remainders 1, 0, 1
    assert read_from("rice", 2, (unary(1, 0, 2), pack(np.array([1, 0, 1], np.uint64), 2)), 17, 3) == [5, 6, 16]
    assert read_from("gaps", 0, (compress(bytes(gaps)),), 17, 3) == [5, 6, 16]
    assert read_from("gaps", 0, (compress(bytes([255, 255, 1, 0])),), 600, 2) == [511, 512]
    assert read_from("bits", 0, (compress(bytes([0b1100000, 0, 1])),), 17, 3) == [5, 6, 16]


MUCH = compress(bytes(1 << 20))  # gaps of 0 without end


@pytest.mark.parametrize(
    ("code", "k", "sections", "size", "kept", "message"),
    [
        ("all", 0, (), 4, 5, "5 of 4 weights are kept"),
        ("all", 0, (), 4, -1, "-1 of 4 weights are kept"),
        ("all", 0, (), 4, 3, "all of 4 weights are kept, and they are said to be 3"),
        ("all", 0, (b"",), 4, 4, "positions coded by 'all' come in 1 parts"),
        ("rice", 0, (b"",), 4, 0, "positions coded by 'rice' come in 1 parts"),
        ("huffman", 0, (b"",), 4, 0, "coded by 'huffman'; there are rice, gaps, bits, all"),
        ("rice", 48, (unary(0), bytes(6)), 4, 1, "the Rice code's k is 48; it must be from 0 to 47"),
        ("rice", -1, (unary(0), b""), 4, 1, "the Rice code's k is -1"),
        ("rice", 0, (unary(0, 0), b""), 4, 1, "more than the 1 positions"),
        ("rice", 0, (unary(0), b""), 4, 2, "1 positions, where 2 are said to be"),
        ("rice", 0, (unary(4), b""), 4, 1, "a position runs past the tensor's 4 places"),
        ("rice", 0, (unary(3, 0), b""), 4, 2, "a position runs past the tensor's 4 places"),
        ("rice", 47, (unary(2), bytes(6)), 4, 1, "a gap is larger than the tensor's 4 places"),
        ("rice", 2, (unary(1), b"\0\0"), 9, 1, "1 numbers of 2 bits take 1 bytes, and there are 2"),
        ("gaps", 0, (compress(bytes([4])),), 4, 1, "a position runs past the tensor's 4 places"),
        ("gaps", 0, (compress(bytes([255] * 5000)),), 4, 1, "a position runs past the tensor's 4 places"),
        ("gaps", 0, (MUCH,), 1 << 40, 5, "more than the 5 positions"),
        ("gaps", 0, (compress(b""),), 4, 1, "0 positions, where 1 are said to be"),
        ("gaps", 0, (b"no frame",), 4, 1, "cannot be unpacked"),
        ("bits", 0, (compress(bytes([16])),), 4, 1, "a position runs past the tensor's 4 places"),
        ("bits", 0, (compress(bytes([1, 0])),), 4, 1, "has more in it than it should"),
        ("bits", 0, (compress(b""),), 4, 0, "lacks 1 bytes"),
        ("bits", 0, (compress(bytes([3])),), 4, 1, "more than the 1 positions"),
        ("bits", 0, (MUCH,), 1 << 22, 1, "has more in it than it should"),
    ],
    ids=range(24),
)
def test_a_code_of_another_mask(
    code: str, k: int, sections: tuple[bytes, ...], size: int, kept: int, message: str
) -> None:
    with pytest.raises(Broken, match=message):
        read_from(code, k, sections, size, kept)


@given(
    st.sampled_from(["rice", "gaps", "bits", "all"]),
    st.integers(0, 47),
    st.lists(st.binary(max_size=20), max_size=2),
    st.booleans(),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_any_bytes_are_refused_or_positions(
    code: str, k: int, sections: list[bytes], framed: bool, size: int, kept: int
) -> None:
    parts = tuple(map(compress, sections)) if framed else tuple(sections)
    try:
        found = read_from(code, k, parts, size, kept)
    except Broken:
        return
    assert len(found) == kept
    assert found == sorted(set(found))
    assert not found or 0 <= found[0] <= found[-1] < size
