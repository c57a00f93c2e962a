from __future__ import annotations

import warnings

import pytest
from hypothesis import HealthCheck, settings

from sparsecycle import native

# No test is timed: a busy machine is no failure. Fixtures that choose a path through the code hold for all examples.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("untimed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    native.core()  # says once that it is missing, which is no failure of the test that happens to ask first


@pytest.fixture
def without_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as it is where the native core was not built."""
    monkeypatch.setattr(native, "core", lambda: None)


@pytest.fixture(params=["core", "torch"])
def path(request: pytest.FixtureRequest) -> str:
    """Both ways to the same answer: by the native core, and without it."""
    way: str = request.param
    if way == "torch":
        request.getfixturevalue("without_core")
    elif native.core() is None:
        pytest.skip("the native core was not built")
    return way
