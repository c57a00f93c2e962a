from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecycle.files.broken import Broken
from sparsecycle.files.structure import Structure, find

Mask = NDArray[np.bool_]


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Of one to five dimensions, with blocks, and rows and columns that are dead."""
    blocks = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    counts = draw(st.lists(st.integers(1, 4), min_size=len(blocks), max_size=len(blocks)))
    chance = np.random.default_rng(draw(st.integers(0, 2**31)))
    mask = chance.random(counts) < draw(st.floats(0, 1))
    for d in range(mask.ndim):
        if draw(st.booleans()):
            mask &= (chance.random(counts[d]) < 0.5).reshape([-1 if d == i else 1 for i in range(mask.ndim)])
    for d, block in enumerate(blocks):
        mask = mask.repeat(block, axis=d)
    return mask


def places(way: Structure, flat: Mask) -> list[int]:
    return [int(i) for piece in way.weights(np.flatnonzero(flat)) for i in piece]


@given(masks())
def test_what_is_left_lists_every_weight_once(mask: Mask) -> None:
    ways = find(mask)
    assert [way.channels_last for way in ways] in ([False], [False, True])
    for way in ways:
        flat = way.flat(mask)
        assert flat.shape == (np.prod(way.reduced, dtype=int),)
        found = places(way, flat)
        assert sorted(found) == np.flatnonzero(mask).tolist()
        if way.plain:
            assert found == sorted(found)


def test_blocks_are_as_long_as_can_be() -> None:
    chance = np.random.default_rng(0)
    mask = (chance.random((4, 2, 3)) < 0.5).repeat(4, 0).repeat(16, 1)
    (way, _) = find(mask)
    assert way.block == (4, 16, 1)
    assert way.reduced == (4, 2, 3)
    assert way.flat(mask).tolist() == mask[::4, ::16].reshape(-1).tolist()
    assert find(np.ones((6, 5), bool))[0].block == (6, 5)
    # Runs of 2 and 4 make a block of 2; where the last is cut short there is none.
    assert find(np.repeat([True, False, True], [2, 4, 2]))[0].block == (2,)
    assert find(np.repeat([True, False, True], [2, 4, 1]))[0].block == (1,)


def test_filters_become_a_list_of_filters() -> None:
    alive = np.random.default_rng(0).random(64) < 0.3
    mask = np.broadcast_to(alive[:, None, None, None], (64, 32, 3, 3))
    (way,) = find(mask)
    assert way.block == (1, 32, 3, 3)
    assert way.reduced == (alive.sum(), 1, 1, 1)
    assert way.alive[0] is not None
    assert way.alive[0].tolist() == alive.tolist()
    assert way.flat(mask).all()


def test_dead_rows_and_columns_are_left_out_of_a_random_mask() -> None:
    mask = np.random.default_rng(0).random((20, 30, 3, 3)) < 0.5
    mask[3] = mask[:, 5] = mask[:, 7] = False
    plain, last = find(mask)
    assert plain.reduced == last.reduced == (19, 28, 3, 3)
    alive = np.delete(np.delete(mask, 3, 0), [5, 7], 1)
    assert plain.flat(mask).tolist() == alive.reshape(-1).tolist()
    assert last.flat(mask).tolist() == np.moveaxis(alive, 1, 3).reshape(-1).tolist()


def test_a_mask_without_weights_has_none() -> None:
    (way,) = find(np.zeros((4, 6), bool))
    assert way.flat(np.zeros((4, 6), bool)).tolist() == []
    assert way.reduced == (0, 0)


def test_a_large_block_is_listed_in_pieces() -> None:
    way = Structure((100, 1000), (100, 1000))
    pieces = list(way.weights(np.array([0])))
    assert max(map(len, pieces)) <= 1 << 13
    assert np.concatenate(pieces).tolist() == list(range(100_000))


@pytest.mark.parametrize(
    ("shape", "block", "alive", "message"),
    [
        ((4, 6), (2,), (), r"blocks of shape \(2,\) do not divide a tensor of shape \(4, 6\)"),
        ((4, 6), (2, 4), (), r"blocks of shape \(2, 4\) do not divide"),
        ((4, 6), (0, 1), (), r"blocks of shape \(0, 1\) do not divide"),
        ((4, 6), (-1, 1), (), r"blocks of shape \(-1, 1\) do not divide"),
        ((4, 6), (8, 1), (), r"blocks of shape \(8, 1\) do not divide"),
        ((4, 6), (2, 1), (np.ones(4, bool),), "2 channels live or die, not as many as are said to"),
        ((4, 6, 1), (1, 1, 1), (None, None, None), r"3 dimensions of \(4, 6, 1\) have living channels"),
        ((4,), (1,), (None, None), r"2 dimensions of \(4,\) have living channels"),
    ],
    ids=range(8),
)
def test_what_does_not_fit_together(
    shape: tuple[int, ...], block: tuple[int, ...], alive: tuple[Mask | None, ...], message: str
) -> None:
    with pytest.raises(Broken, match=message):
        Structure(shape, block, alive)
