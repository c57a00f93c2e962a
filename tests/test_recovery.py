from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecycle.recovery import RECOVERIES, Recovery, Regrow


def test_names_and_meanings() -> None:
    assert {
        "none": Recovery(returns=False, remembers=False, trains="kept", forgets=False),
        "zero": Recovery(returns=True, remembers=False, trains="kept", forgets=False),
        "stored": Recovery(returns=True, remembers=True, trains="kept", forgets=False),
        "feedback": Recovery(returns=True, remembers=True, trains="all", forgets=False),
        "passive": Recovery(returns=True, remembers=False, trains="salient", forgets=False),
    } == RECOVERIES


def test_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        RECOVERIES["none"].returns = True  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Regrow().fraction = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"trains": "some"}, "trains='some' must be 'kept', 'all' or 'salient'"),
        ({"trains": None}, "trains=None must be 'kept', 'all' or 'salient'"),
        ({"trains": "all"}, "trains='all' needs remembers=True"),
    ],
)
def test_recovery_that_cannot_be(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recovery(returns=True, **words)


def test_what_a_regrowth_is_like_as_a_recovery() -> None:
    """The sparsifier asks both kinds the same questions."""
    regrow = Regrow()
    assert (regrow.returns, regrow.remembers, regrow.trains, regrow.forgets) == (True, False, "kept", False)
    assert (regrow.by, regrow.fraction, regrow.until, regrow.seed) == ("gradient", 0.3, 0.75, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"by": "momentum"}, "by='momentum' must be 'gradient' or 'random'"),
        ({"fraction": 1.5}, "fraction=1.5 must be a share, from 0 to 1"),
        ({"fraction": -0.1}, "fraction=-0.1 must be a share, from 0 to 1"),
        ({"fraction": math.nan}, "fraction=nan must be a share, from 0 to 1"),
        ({"until": 75}, "until=75 must be a share, from 0 to 1"),
        ({"until": -1}, "until=-1 must be a share, from 0 to 1"),
    ],
)
def test_regrowth_that_cannot_be(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regrow(**words)


@pytest.mark.parametrize(
    ("t", "share"),
    [
        (0, 0.4),
        (0.125, 0.4 * (2 + math.sqrt(2)) / 4),  # an eighth of a turn: cos(π/4) = √2/2
        (0.25, 0.2),
        (0.375, 0.4 * (2 - math.sqrt(2)) / 4),
        (0.5, 0.0),
        (0.9, 0.0),
        (1, 0.0),
    ],
)
def test_share_that_is_dropped_by_hand(t: float, share: float) -> None:
    assert Regrow(fraction=0.4, until=0.5).share(t) == pytest.approx(share, abs=1e-15)


shares_of_the_run = st.floats(0, 1, allow_subnormal=False)


@given(shares_of_the_run, shares_of_the_run, st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_share_falls_from_the_fraction_to_nothing(fraction: float, until: float, times: list[float]) -> None:
    regrow = Regrow("random", fraction, until)
    shares = [regrow.share(t) for t in sorted(times)]
    assert all(0 <= share <= fraction for share in shares)
    assert all(b <= a + 1e-15 for a, b in pairwise(shares))
    assert regrow.share(until) == 0
    assert regrow.share(0.0) == (fraction if until > 0 else 0)
