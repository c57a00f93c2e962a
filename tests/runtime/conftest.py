from __future__ import annotations

import pytest

from sparsecycle.native import core


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test sees what another one, or the user, has kept."""
    monkeypatch.setenv("SPARSECYCLE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def native():
    """The core, for tests of what cannot be without it."""
    module = core()
    if module is None:
        pytest.skip("the native core is not installed")
    return module
