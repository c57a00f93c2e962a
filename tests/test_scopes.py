from __future__ import annotations

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsecycle.scopes import SCOPES, Share, part_way, share_out

shapes = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 16), st.integers(1, 16), st.integers(1, 5), st.integers(1, 5)),
        st.tuples(st.integers(1, 60)),
    ),
    min_size=1,
    max_size=7,
)
sparsities = st.floats(0, 1)
LENET = [(300, 784), (100, 300), (10, 100)]


def sizes_of(shapes: list[tuple[int, ...]]) -> list[int]:
    return [math.prod(shape) for shape in shapes]


def kept(shares: list[Share]) -> list[int]:
    assert [share.layers for share in shares] == [(i,) for i in range(len(shares))]
    return [share.keep for share in shares]


def room(shapes: list[tuple[int, ...]], sparsity: float, floor: int) -> bool:
    sizes = sizes_of(shapes)
    return sparsity == 1 or sum(min(floor, n) for n in sizes) <= sum(sizes) - round(sparsity * sum(sizes))


@pytest.mark.parametrize("scope", SCOPES)
@given(shapes=shapes, sparsity=sparsities, floor=st.integers(0, 3))
def test_totals_are_exact_and_floors_hold(
    scope: str, shapes: list[tuple[int, ...]], sparsity: float, floor: int
) -> None:
    assume(room(shapes, sparsity, floor))
    sizes = sizes_of(shapes)
    shares = share_out(scope, shapes, sparsity, floor=floor)
    assert sum(share.keep for share in shares) == sum(sizes) - round(sparsity * sum(sizes))
    if scope == "global":
        assert [share.layers for share in shares] == [tuple(range(len(shapes)))]
    else:
        for count, size in zip(kept(shares), sizes, strict=True):
            assert (0 if sparsity == 1 else min(floor, size)) <= count <= size


@pytest.mark.parametrize(
    ("sizes", "sparsity", "keep"),
    [
        ([11_164_352], 0.729, 3_025_539),  # ResNet-18 for CIFAR
        ([14_977_728], 0.97, 449_332),  # VGG-like
        ([20_024_000], 0.98, 400_480),  # VGG-19
        ([235_200, 30_000, 1_000], 0.98, 5_324),  # LeNet-300-100
    ],
)
def test_the_papers_counts(sizes: list[int], sparsity: float, keep: int) -> None:
    shapes = [(n,) for n in sizes]
    assert share_out("global", shapes, sparsity) == [Share(tuple(range(len(sizes))), keep)]
    assert sum(kept(share_out("uniform", shapes, sparsity))) == keep


@given(shapes, sparsities)
def test_uniform_is_within_one_weight_of_the_same_density(shapes: list[tuple[int, ...]], sparsity: float) -> None:
    sizes = sizes_of(shapes)
    density = (sum(sizes) - round(sparsity * sum(sizes))) / sum(sizes)
    for count, size in zip(kept(share_out("uniform", shapes, sparsity, floor=0)), sizes, strict=True):
        assert abs(count - density * size) < 1


def test_uniform_gives_what_is_over_to_the_largest_remainders() -> None:
    # 30 % of 7, 5 and 8 are 2.1, 1.5 and 2.4: 6 in all, and 5 without the remainders.
    assert kept(share_out("uniform", [(7,), (5,), (8,)], 0.7)) == [2, 2, 2]
    assert kept(share_out("uniform", [(7,), (5,), (9,)], 0.7)) == [2, 1, 3]
    # Of equal remainders the earlier layer's.
    assert kept(share_out("uniform", [(5,), (5,)], 0.5)) == [3, 2]


def test_a_floor_is_paid_by_the_others() -> None:
    assert kept(share_out("uniform", [(1000,), (10,), (2,)], 0.99, floor=0)) == [10, 0, 0]
    assert kept(share_out("uniform", [(1000,), (10,), (2,)], 0.99, floor=1)) == [8, 1, 1]
    assert kept(share_out("uniform", [(1000,), (10,), (2,)], 0.99, floor=4)) == [4, 4, 2]


def erk_by_bisection(shapes: list[tuple[int, ...]], keep: int) -> list[float]:
    """The densities min(1, ε (sum of the dimensions) / (their product)), ε found by halving."""

    def densities(epsilon: float) -> list[float]:
        return [min(1.0, epsilon * sum(shape) / math.prod(shape)) for shape in shapes]

    low, high = 0.0, float(max(sizes_of(shapes)))
    for _ in range(200):
        middle = (low + high) / 2
        total = sum(d * n for d, n in zip(densities(middle), sizes_of(shapes), strict=True))
        low, high = (middle, high) if total < keep else (low, middle)
    return densities(high)


@given(shapes, sparsities)
def test_erk_has_the_published_densities(shapes: list[tuple[int, ...]], sparsity: float) -> None:
    sizes = sizes_of(shapes)
    keep = sum(sizes) - round(sparsity * sum(sizes))
    counts = kept(share_out("erk", shapes, sparsity, floor=0))
    for count, density, size in zip(counts, erk_by_bisection(shapes, keep), sizes, strict=True):
        assert abs(count - density * size) < 1 + 1e-6


def test_erk_by_hand() -> None:
    # LeNet-300-100 at 90 %: the sums are 1084, 400, 110; the last layer's density would be ε · 0.11 > 1.
    epsilon = (26_620 - 1_000) / (1_084 + 400)
    counts = kept(share_out("erk", LENET, 0.9))
    assert counts[2] == 1_000
    assert counts[:2] == [round(epsilon * 1_084), round(epsilon * 400)] == [18_714, 6_906]
    # A convolution counts its kernel's sides too: equal channels, (8 + 8 + 5 + 5) / (8 + 8 + 3 + 3).
    five, three = kept(share_out("erk", [(80, 80, 5, 5), (80, 80, 3, 3)], 0.99))
    assert five / three == pytest.approx(170 / 166, rel=1e-3)


@pytest.mark.parametrize("scope", ["uniform", "erk"])
@given(shapes=shapes, levels=st.lists(sparsities, min_size=2, max_size=5).map(sorted), floor=st.integers(0, 2))
def test_no_layer_grows_where_none_comes_back(
    scope: str, shapes: list[tuple[int, ...]], levels: list[float], floor: int
) -> None:
    assume(room(shapes, levels[-1], floor) and levels[-1] < 1)
    sizes = sizes_of(shapes)
    before = sizes
    for sparsity in levels:
        now = kept(share_out(scope, shapes, sparsity, floor=floor, at_most=before))
        assert sum(now) == sum(sizes) - round(sparsity * sum(sizes))
        assert all(min(floor, size) <= n <= b for n, b, size in zip(now, before, sizes, strict=True))
        before = now


def test_at_most_is_never_exceeded() -> None:
    assert kept(share_out("uniform", [(10,), (10,)], 0.5, at_most=[2, 10])) == [2, 8]
    assert kept(share_out("uniform", [(10,), (10,)], 0.5, at_most=[2, 3])) == [2, 3]  # there are no more
    assert kept(share_out("uniform", [(10,), (10,)], 0.5, floor=4, at_most=[2, 10])) == [2, 8]
    for still, keep in ((8, 8), (12, 10)):
        assert share_out("global", [(10,), (10,)], 0.5, at_most=[still]) == [Share((0, 1), keep)]


# Layers with their own sparsities.


@given(st.data(), shapes, st.integers(0, 2))
def test_own_sparsities_are_exact_and_the_rest_takes_what_is_left(
    data: st.DataObject, shapes: list[tuple[int, ...]], floor: int
) -> None:
    own = data.draw(st.lists(st.none() | sparsities, min_size=len(shapes), max_size=len(shapes)))
    sizes = sizes_of(shapes)
    alone = share_out(own, shapes, None, floor=floor)
    for share in alone:
        if len(share.layers) == 1 and (s := own[share.layers[0]]) is not None:
            size = sizes[share.layers[0]]
            assert share.keep == (0 if s == 1 else max(size - round(s * size), min(floor, size)))
    rest = tuple(i for i, s in enumerate(own) if s is None)
    size = sum(sizes[i] for i in rest)
    if not rest:
        return
    assert alone[-1] == Share(rest, size)
    # Any total between "the rest dense" and "the rest at its floors" is met exactly.
    pinned = sum(share.keep for share in alone[:-1])
    keep = data.draw(st.integers(sum(min(floor, sizes[i]) for i in rest), size))
    sparsity = 1 - (pinned + keep) / sum(sizes)
    assume(sparsity < 1)
    shares = share_out(own, shapes, sparsity, floor=floor)
    assert shares == [*alone[:-1], Share(rest, keep)]
    assert sum(share.keep for share in shares) == sum(sizes) - round(sparsity * sum(sizes))


def test_own_sparsities_by_hand() -> None:
    assert share_out([None, 0.5, None], [(60,), (20,), (20,)], 0.7) == [Share((1,), 10), Share((0, 2), 20)]
    assert share_out([None, 0.5, None], [(60,), (20,), (20,)], None) == [Share((1,), 10), Share((0, 2), 80)]
    assert share_out([1.0, None], [(5,), (5,)], None, floor=2) == [Share((0,), 0), Share((1,), 5)]
    assert share_out([0.99, None], [(5,), (5,)], None, floor=2) == [Share((0,), 2), Share((1,), 5)]


def test_own_sparsities_may_repeat_the_total() -> None:
    # Three layers at 90 % round to 11 kept weights, 90 % of all of them to 10: no contradiction.
    shares = share_out([0.9, 0.9, 0.9], [(7, 5), (5, 9), (9, 3)], 0.9)
    assert kept(shares) == [3, 5, 3]


# On the way there.


@given(
    st.data(),
    shapes,
    st.lists(sparsities, min_size=2, max_size=6).map(sorted),
    st.booleans(),
)
def test_part_way_meets_every_total_and_only_falls(
    data: st.DataObject, shapes: list[tuple[int, ...]], levels: list[float], with_total: bool
) -> None:
    own = data.draw(st.lists(st.none() | st.floats(0, 0.99), min_size=len(shapes), max_size=len(shapes)))
    final = share_out(own, shapes, None)
    n = sum(sizes_of(shapes))
    sizes = [sum(sizes_of([shapes[i] for i in share.layers])) for share in final]
    sparsity = 1 - sum(share.keep for share in final) / n
    before = sizes
    for level in [0.0, *levels, 1.0]:
        shares = part_way(final, shapes, level, sparsity * level if with_total else None, at_most=before)
        counts = [share.keep for share in shares]
        assert [share.layers for share in shares] == [share.layers for share in final]
        pruned = sparsity * level * n if with_total else level * (n - sum(share.keep for share in final))
        assert sum(counts) == n - round(pruned)
        assert all(end.keep <= c <= b for end, c, b in zip(final, counts, before, strict=True))
        before = counts
    assert shares == final


def test_part_way_is_in_proportion() -> None:
    final = [Share((1,), 10), Share((0, 2), 20)]
    assert part_way(final, [(60,), (20,), (20,)], 0.0, None) == [Share((1,), 20), Share((0, 2), 80)]
    assert part_way(final, [(60,), (20,), (20,)], 0.5, None) == [Share((1,), 15), Share((0, 2), 50)]
    assert part_way(final, [(60,), (20,), (20,)], 1.0, 0.7) == final


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("wanted", [0.88, 0.9, 0.92])
def test_part_way_ends_where_the_total_cannot_be_met(level: float, wanted: float) -> None:
    shapes = [(7, 5), (5, 9), (9, 3)]
    final = share_out([0.9, 0.9, 0.9], shapes, None)
    counts = kept(part_way(final, shapes, level, wanted * level))
    assert all(end.keep <= count for end, count in zip(final, counts, strict=True))
    assert sum(counts) == max(11, 107 - round(wanted * level * 107))


# What is refused.


def test_a_floor_that_does_not_fit() -> None:
    message = "sparsity=0.999 keeps 1 of 1000 weights, but floor=1 asks for 2 in 2 layers: the sparsity may be 0.998"
    for scope in SCOPES:
        with pytest.raises(ValueError, match=message):
            share_out(scope, [(990,), (10,)], 0.999)
        assert sum(share.keep for share in share_out(scope, [(990,), (10,)], 1.0)) == 0


@pytest.mark.parametrize("n", [1_000, 266_200, 11_164_352, 138_344_128])
@given(layers=st.integers(2, 60))
def test_the_highest_sparsity_that_is_named_is_allowed(n: int, layers: int) -> None:
    shapes = [(1,)] * (layers - 1) + [(n - layers + 1,)]
    with pytest.raises(ValueError, match="at most") as error:
        share_out("global", shapes, 1 - 1e-12, floor=1)
    highest = float(re.search(r"may be (\S+) at most", str(error.value)).group(1))  # type: ignore[union-attr]
    assert share_out("global", shapes, highest, floor=1)[0].keep == layers


@pytest.mark.parametrize(
    ("sparsity", "floor"),
    [(0.2, 1), (0.9, 1), (1.0, 1), (0.85, 3)],  # more than is left; less than is there; all; all but the floors
)
def test_a_total_that_the_layers_own_sparsities_rule_out(sparsity: float, floor: int) -> None:
    highest = {0: "0.75", 1: "0.73", 3: "0.69"}[0 if sparsity == 1 else floor]
    message = (
        f"sparsity={sparsity} cannot be had beside the layers' own sparsities, which allow 0.25 to {highest}; "
        "sparsity=None leaves the other layers dense"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        share_out([0.5, None, None], [(50,), (30,), (20,)], sparsity, floor=floor)


def test_a_rest_with_nothing_left_is_refused_while_it_has_a_floor() -> None:
    with pytest.raises(ValueError, match=r"which allow 0.25 to 0.748"):
        share_out([0.5, None, None], [(500,), (300,), (200,)], 0.7501)
    assert share_out([0.5, None, None], [(500,), (300,), (200,)], 0.75, floor=0)[-1] == Share((1, 2), 0)


def test_no_total_is_for_own_sparsities_only() -> None:
    with pytest.raises(ValueError, match="sparsity=None is allowed only where the scope gives the layers' own"):
        share_out("global", LENET, None)
