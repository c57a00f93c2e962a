from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle.competition import Competition
from sparsecycle.scopes import Share

pytestmark = pytest.mark.usefixtures("path")  # by the native core, and without it


def layer(*scores: float) -> Tensor:
    return torch.tensor(scores, dtype=torch.float32)


def mask(*bits: int) -> Tensor:
    return torch.tensor(bits, dtype=torch.bool)


def bits(masks: list[Tensor]) -> list[list[int]]:
    return [m.int().tolist() for m in masks]


# Winners


def test_winners_of_a_common_share_and_of_shares_of_their_own() -> None:
    scores = [layer(1, -9, 3), layer(4, 2), layer(0.5)]
    together = [Share((0, 1, 2), 3)]
    assert bits(Competition(0).winners(scores, together)) == [[0, 0, 1], [1, 1], [0]]
    assert bits(Competition(0).winners(scores, together, absolute=True)) == [[0, 1, 1], [1, 0], [0]]
    assert bits(Competition(1).winners(scores, together)) == [[0, 0, 1], [1, 0], [1]]
    apart = [Share((1,), 1), Share((0, 2), 2)]
    assert bits(Competition(0).winners(scores, apart)) == [[1, 0, 1], [1, 0], [0]]
    assert bits(Competition(1).winners(scores, apart)) == [[0, 0, 1], [1, 0], [1]]


def test_floor_is_no_matter_of_a_layer_that_competes_with_no_other() -> None:
    assert bits(Competition(2).winners([layer(1, 2, 3)], [Share((0,), 1)])) == [[0, 0, 1]]


def test_winners_among_those_who_may_win() -> None:
    scores, among = [layer(5, -1, -2), layer(4, -3)], [mask(0, 1, 1), mask(1, 1)]
    assert bits(Competition(0).winners(scores, [Share((0, 1), 2)], among=among)) == [[0, 1, 0], [1, 0]]
    # Absolute scores are 0 outside, and only ties are left to decide.
    scores = [layer(0, 0, 2), layer(0, 1)]
    among = [mask(0, 1, 1), mask(1, 1)]
    assert bits(Competition(0).winners(scores, [Share((0, 1), 3)], absolute=True, among=among)) == [[0, 1, 1], [0, 1]]


def test_ties_fall_by_index() -> None:
    assert bits(Competition(0).winners([layer(1, 1), layer(1, 1)], [Share((0, 1), 3)])) == [[1, 1], [1, 0]]


def test_what_is_remembered_of_the_last_time_changes_nothing() -> None:
    competition, generator = Competition(1), torch.Generator().manual_seed(0)
    shares = [Share((0, 2), 40), Share((1,), 25)]
    for scale in (1.0, 1.01, 1e6, 0.0, 1.0):
        scores = [scale * torch.randn(n, generator=generator) for n in (60, 50, 40)]
        got = competition.winners(scores, shares, absolute=True)
        assert bits(got) == bits(Competition(1).winners(scores, shares, absolute=True))
        assert [int(m.sum()) for m in got][1] == 25
    competition.forget()
    assert bits(competition.winners(scores, shares, absolute=True)) == bits(got)


# Drop and grow


def turn(
    scores: Tensor, growth: Tensor, fraction: float, among: Tensor, keep: int | None = None, *, absolute: bool = True
) -> list[int]:
    before = int(among.sum())
    (after,) = Competition(1).turn_over(
        [scores],
        [growth],
        [Share((0,), before if keep is None else keep)],
        [Share((0,), before)],
        fraction,
        absolute=absolute,
        among=[among],
    )
    return bits([after])[0]


SCORES, KEPT = layer(-5, 4, 3, -2, 0, 0, 0, 0), mask(1, 1, 1, 1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("fraction", "growth", "after"),
    [
        (0.0, layer(0, 0, 0, 0, 9, 9, 9, 9), [1, 1, 1, 1, 0, 0, 0, 0]),
        (0.25, layer(0, 0, 0, 0, 1, 3, 2, 0), [1, 1, 1, 0, 0, 1, 0, 0]),
        (0.5, layer(0, 0, 0, 0, 1, 3, 2, 0), [1, 1, 0, 0, 0, 1, 1, 0]),
        # One that was just dropped grows again; what those who stay promise does not matter.
        (0.5, layer(0, 0, 2.5, 0, 1, 3, 2, 0), [1, 1, 1, 0, 0, 1, 0, 0]),
        (0.5, layer(9, 0, 7, 8, 1, 3, 2, 0), [1, 1, 1, 1, 0, 0, 0, 0]),
        (0.375, layer(0, 0, 0, 0, 1, 3, 2, 0), [1, 1, 0, 0, 0, 1, 1, 0]),  # 1.5 places: the even number
        # All: the mask is that of the largest growth.
        (1.0, layer(0, 1, 0, 0, 4, 3, 2, 0), [0, 1, 0, 0, 1, 1, 1, 0]),
        (0.5, layer(0, 0, 0, 0, 0, 0, 0, 0), [1, 1, 1, 1, 0, 0, 0, 0]),  # ties fall by index
    ],
)
def test_turn_over_by_hand(fraction: float, growth: Tensor, after: list[int]) -> None:
    assert turn(SCORES, growth, fraction, KEPT) == after


def test_turn_over_ranks_by_the_scores_sign_where_they_are_not_absolute() -> None:
    # -5 and -2 are dropped, though nothing outside is worth less than 0.
    growth = layer(0, 0, 0, 0, 1, 3, 2, 0)
    assert turn(SCORES, growth, 0.5, KEPT, absolute=False) == [0, 1, 1, 0, 0, 1, 1, 0]


def test_turn_over_to_fewer_and_to_more_places() -> None:
    growth = layer(0, 0, 0, 0, 1, 3, 2, 0)
    assert turn(SCORES, growth, 0.0, KEPT, 3) == [1, 1, 1, 0, 0, 0, 0, 0]
    assert turn(SCORES, growth, 0.5, KEPT, 2) == [1, 0, 0, 0, 0, 1, 0, 0]
    assert turn(SCORES, growth, 0.0, KEPT, 6) == [1, 1, 1, 1, 0, 1, 1, 0]
    assert turn(SCORES, growth, 0.25, KEPT, 5) == [1, 1, 1, 0, 0, 1, 1, 0]


def test_turn_over_feeds_a_starved_layer() -> None:
    scores, growth = [layer(1, 0, 0), layer(8, 9, 0)], [layer(0, 0.1, 0), layer(0, 0, 5)]
    among, shares = [mask(1, 0, 0), mask(1, 1, 0)], [Share((0, 1), 3)]
    masks = Competition(1).turn_over(scores, growth, shares, shares, 1 / 3, absolute=True, among=among)
    assert bits(masks) == [[0, 1, 0], [1, 1, 0]]
    masks = Competition(0).turn_over(scores, growth, shares, shares, 1 / 3, absolute=True, among=among)
    assert bits(masks) == [[0, 0, 0], [1, 1, 1]]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    together=st.booleans(),
    before=st.floats(0, 1),
    after=st.floats(0, 1),
    fraction=st.floats(0, 1),
    absolute=st.booleans(),
    grid=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_turn_over_is_exact(
    sizes: list[int],
    together: bool,
    before: float,
    after: float,
    fraction: float,
    absolute: bool,
    grid: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> list[Tensor]:  # on a grid, so that there are ties
        return [torch.randint(-grid, grid + 1, (n,), generator=generator) / grid for n in sizes]

    groups = [tuple(range(len(sizes)))] if together else [(i,) for i in range(len(sizes))]
    room = [sum(sizes[i] for i in group) for group in groups]
    old = [Share(group, round(before * n)) for group, n in zip(groups, room, strict=True)]
    new = [Share(group, round(after * n)) for group, n in zip(groups, room, strict=True)]
    competition = Competition(0)
    among = competition.winners([torch.rand(n, generator=generator) for n in sizes], old)
    scores, growth = drawn(), [g.abs() for g in drawn()]
    if absolute:
        scores = [s * m for s, m in zip(scores, among, strict=True)]
    masks = competition.turn_over(scores, growth, new, old, fraction, absolute=absolute, among=among)
    for was, share in zip(old, new, strict=True):
        kept = min(was.keep, share.keep)
        staying = kept - round(fraction * kept)

        def joined(tensors: list[Tensor], layers: tuple[int, ...] = share.layers) -> Tensor:
            return torch.cat([tensors[i] for i in layers])

        mask, then, worth, promise = (joined(t) for t in (masks, among, scores, growth))
        worth = worth.abs() if absolute else worth
        assert int(mask.sum()) == share.keep
        # Those worth most of the kept ones stay, ties by index; of all others those that promise most are in.
        order = sorted(then.nonzero().flatten().tolist(), key=lambda i: (-float(worth[i]), i))
        survivors = set(order[:staying])
        others = sorted(set(range(len(mask))) - survivors, key=lambda i: (-float(promise[i]), i))
        assert set(mask.nonzero().flatten().tolist()) == survivors | set(others[: share.keep - staying])
