from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecycle.plan import Plan
from sparsecycle.schedules import AGP, Constant, Cyclical, Linear, OneShot, Schedule
from sparsecycle.scopes import Share

SQUARE = {"w": (10, 10)}
ALL = (0,)


def plan(shapes: dict[str, tuple[int, ...]] = SQUARE, **words: Any) -> Plan:
    given_words: dict[str, Any] = {
        "sparsity": 0.9,
        "schedule": Constant(),
        "scope": "global",
        "floor": 0,
        "returns": False,
        "total_steps": 10,
        "update_every": 1,
    }
    return Plan(shapes, **{**given_words, **words})


def kept(shares: list[Share]) -> int:
    return sum(share.keep for share in shares)


# One mask at a time


def test_shares_of_a_rising_sparsity() -> None:
    rising = plan(schedule=Linear(), update_every=4)
    shares = [Share(ALL, 100)]
    assert rising.dense() == shares
    counts = []
    for steps in range(10):
        assert rising.is_due(steps) == (steps in (0, 4, 8))
        if rising.is_due(steps):
            (shares,) = rising.after(steps, shares)
            counts.append(shares)
    # At the intervals' ends: .4, .8 and 1 of the sparsity of 90 weights.
    assert counts == [[Share(ALL, 64)], [Share(ALL, 28)], [Share(ALL, 10)]]
    assert counts[-1] == rising.end()
    assert not rising.is_due(10)
    assert not rising.is_due(12)  # whatever comes after the run
    assert rising.requested() == 0.9


def test_requested_is_what_the_schedule_ends_at() -> None:
    assert plan(schedule=Cyclical(2), returns=True).requested() == 0.9
    by_name = plan({"a": (4, 10), "b": (6, 10)}, sparsity=None, scope={"a": 0.5})
    assert by_name.requested() == pytest.approx(0.2, abs=1e-12)
    assert by_name.end() == [Share((0,), 20), Share((1,), 60)]


def test_nothing_comes_back_where_nothing_returns() -> None:
    """Rounding would give a layer a weight more while the total falls."""
    shapes = {str(i): (7,) for i in range(4)}
    for returns in (False, True):
        rising = plan(shapes, schedule=Linear(), scope="uniform", sparsity=0.8, total_steps=30, returns=returns)
        shares, grown = rising.dense(), 0
        for steps in range(30):
            (after,) = rising.after(steps, shares)
            grown += sum(max(0, b.keep - a.keep) for a, b in zip(shares, after, strict=True))
            shares = after
            assert kept(shares) == 28 - round(0.8 * (steps + 1) / 30 * 28)
        assert returns or grown == 0


# In rounds


@pytest.mark.parametrize(
    ("rounds", "path", "stages"),
    [
        (1, "exponential", [10]),
        (1, "linear", [10]),
        # 100 · .1^(i/n): 31.6; 56.2, 31.6, 17.8
        (2, "exponential", [32, 10]),
        (4, "exponential", [56, 32, 18, 10]),
        (2, "linear", [55, 10]),
        (3, "linear", [70, 40, 10]),
    ],
)
def test_stages_by_hand(rounds: int, path: str, stages: list[int]) -> None:
    at_once = plan()
    assert [kept(shares) for shares in at_once.after(0, at_once.dense(), rounds, path)] == stages


def test_stages_from_a_mask_that_is_there() -> None:
    half = [Share(ALL, 50)]
    # 50 · (10/50)^(1/2) = 22.4, 50 - 20
    assert [kept(shares) for shares in plan().after(0, half, 2)] == [22, 10]
    assert [kept(shares) for shares in plan().after(0, half, 2, "linear")] == [30, 10]


def test_stages_to_nothing_are_linear() -> None:
    """No power of anything leads to 0."""
    assert [kept(shares) for shares in plan(sparsity=1.0).after(0, [Share(ALL, 100)], 4)] == [75, 50, 25, 0]


@pytest.mark.parametrize(("returns", "grown"), [(False, 0), (True, 1)])
def test_no_stage_gives_a_layer_more_than_the_one_before(returns: bool, grown: int) -> None:
    """As rounding would once on this way, where weights may return."""
    shapes = {"a": (7,), "b": (1,), "c": (5,)}
    erk = plan(shapes, scope="erk", sparsity=0.8, returns=returns)
    stages = [erk.dense(), *erk.after(0, erk.dense(), 20, "linear")]
    assert [kept(shares) for shares in stages] == [13 - round(0.8 * i / 20 * 13) for i in range(21)]
    assert grown == sum(max(0, y.keep - x.keep) for a, b in pairwise(stages) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("before", "after"), [(10, 10), (5, 10)])
def test_no_stages_where_nothing_is_pruned(before: int, after: int) -> None:
    stays = plan(returns=True)
    assert list(stays.after(0, [Share(ALL, before)], 5)) == [[Share(ALL, after)]]
    none = plan(sparsity=0.0)
    assert list(none.after(0, none.dense(), 5)) == [none.dense()]


def test_stages_layer_by_layer() -> None:
    shapes = {"a": (10, 10), "b": (10, 20)}
    uniform = plan(shapes, scope="uniform")
    stages = [[share.keep for share in shares] for shares in uniform.after(0, uniform.dense(), 2)]
    assert stages == [[32, 63], [10, 20]]  # 300 · .1^(1/2) = 94.9 of 300, 31.6 % of each
    own = plan(shapes, sparsity=None, scope={"a": 0.9})
    stages = [[share.keep for share in shares] for shares in own.after(0, own.dense(), 3, "linear")]
    assert stages == [[70, 200], [40, 200], [10, 200]]


SCHEDULES = [Constant(), Linear(), AGP(start=0.2), OneShot(0.5)]


@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    sparsity=st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES),
    scope=st.sampled_from(["global", "uniform", "erk"]),
    returns=st.booleans(),
    total=st.integers(1, 6),
    every=st.integers(1, 4),
    rounds=st.integers(1, 12),
    path=st.sampled_from(["exponential", "linear"]),
)
def test_stages_fall_to_the_very_same_end(
    widths: list[int],
    sparsity: float,
    schedule: Schedule,
    scope: str,
    returns: bool,
    total: int,
    every: int,
    rounds: int,
    path: str,
) -> None:
    shapes = {str(i): (a, b) for i, (a, b) in enumerate(pairwise(widths))}
    size = sum(a * b for a, b in shapes.values())
    p = plan(
        shapes,
        sparsity=sparsity,
        schedule=schedule,
        scope=scope,
        returns=returns,
        total_steps=total,
        update_every=every,
    )
    before = p.dense()
    for steps in filter(p.is_due, range(total)):
        start = kept(before)
        stages = list(p.after(steps, before, rounds, path))
        goal = size - round(sparsity * schedule(min(steps + every, total) / total) * size)
        counts = [kept(shares) for shares in stages]
        assert counts[-1] == goal
        assert len(stages) == (rounds if goal < start else 1)
        assert all(b <= a for a, b in pairwise([start, *counts]))
        for i, count in enumerate(counts, 1):
            geometric = path == "exponential" and goal > 0
            way = start * (goal / start) ** (i / rounds) if geometric else start - (start - goal) * i / rounds
            assert abs(count - way) < 1 or len(stages) == 1
        if not returns:
            for a, b in pairwise([before, *stages]):
                assert all(y.keep <= x.keep for x, y in zip(a, b, strict=True))
        before = stages[-1]
    assert before == p.end() or not returns


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"schedule": Cyclical()}, "lowers the sparsity again, but with recovery='none' no weight comes back"),
        ({"sparsity": 0.995, "floor": 1}, None),  # 0.5 weights are kept: rounds to 0
        ({"sparsity": True, "scope": 3}, "scope=3 must be a name or a mapping"),
        ({"update_every": 2.5}, "update_every=2.5 must be a whole number of at least 1"),
    ],
)
def test_plans_that_cannot_be(words: dict[str, Any], message: str | None) -> None:
    with pytest.raises(ValueError, match=message or "sparsity=0.995 keeps 0 of 100 weights, but floor=1 asks for 1"):
        plan(**words)


def test_settings_are_plain_and_tell_plans_apart() -> None:
    assert plan().settings() == plan().settings()
    for words in ({"sparsity": 0.8}, {"scope": "erk"}, {"schedule": Linear()}, {"floor": 1}, {"update_every": 2}):
        assert plan(**words).settings() != plan().settings()
    assert plan().settings() == {
        "sparsity": 0.9,
        "schedule": repr(Constant()),
        "scope": "global",
        "floor": 0,
        "total_steps": 10,
        "update_every": 1,
    }
