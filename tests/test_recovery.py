from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from sparsecycle.recovery import RECOVERIES, Recovery


def test_names_and_meanings() -> None:
    assert {
        "none": Recovery(returns=False, remembers=False),
        "zero": Recovery(returns=True, remembers=False),
        "stored": Recovery(returns=True, remembers=True),
    } == RECOVERIES


def test_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        RECOVERIES["none"].returns = True  # type: ignore[misc]
