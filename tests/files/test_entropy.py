from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecycle.files.broken import Broken
from sparsecycle.files.entropy import Frame, compress


def frame(data: bytes) -> Frame:
    return Frame(np.frombuffer(data, np.uint8))


@given(st.binary(max_size=99), st.booleans(), st.data())
def test_what_is_compressed_is_read_in_any_pieces(content: bytes, quick: bool, data: st.DataObject) -> None:
    reader = frame(compress(content, quick=quick))
    found = b""
    while len(found) < len(content):
        found += reader.take(data.draw(st.integers(1, len(content) - len(found)))).tobytes()
    reader.end()
    assert found == content


def test_bytes_that_never_repeat_take_about_their_entropy() -> None:
    draw = np.random.default_rng(0)
    symbols = np.minimum(draw.geometric(0.2, 100_000), 255).astype(np.uint8)
    shares = np.bincount(symbols) / len(symbols)
    entropy = -sum(p * math.log2(p) for p in shares if p) * len(symbols) / 8
    # Huffman's codes are of whole bits.
    assert entropy < len(compress(symbols.tobytes())) < 1.02 * entropy
    assert len(compress(symbols.tobytes(), quick=True)) < 1.03 * entropy


def test_a_frame_that_is_not_whole() -> None:
    content = np.random.default_rng(0).bytes(1000)
    data = compress(content)
    with pytest.raises(Broken, match="a part that zstd packed lacks 1 bytes"):
        frame(data[:-1]).take(1000)
    with pytest.raises(Broken, match="lacks 1000 bytes"):
        frame(b"").take(1000)
    with pytest.raises(Broken, match="lacks 1 bytes"):
        frame(data).take(1001)
    assert frame(data).take(1001, fewer=True).tobytes() == content
    for broken in (b"garbage", b"\0" + data):
        with pytest.raises(Broken, match=r"a part that zstd packed cannot be unpacked \(zstd "):
            frame(broken).take(1)


@pytest.mark.parametrize("more", [b"x", compress(b"x"), bytes(20)])
def test_something_after_the_frame(more: bytes) -> None:
    reader = frame(compress(bytes(10)) + more)
    reader.take(10)
    with pytest.raises(Broken, match="has more in it|cannot be unpacked"):
        reader.end()


def test_more_in_it_than_was_asked_for() -> None:
    reader = frame(compress(bytes(11)))
    reader.take(10)
    with pytest.raises(Broken, match="has more in it than it should"):
        reader.end()


def test_a_frame_must_not_want_more_memory_than_ours_do() -> None:
    # A header with a window of 2^41 bytes, and one block of a single repeated byte.
    greedy = b"\x28\xb5\x2f\xfd\x00" + bytes([(41 - 10) << 3]) + b"\x0b\x00\x00x"
    with pytest.raises(Broken, match="too much memory"):
        frame(greedy).take(1)


def test_a_frame_does_not_say_how_long_its_content_is() -> None:
    assert compress(bytes(1 << 20))[4] & 0b11100000 == 0
