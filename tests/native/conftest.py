from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sparsecycle import native


@pytest.fixture(autouse=True)
def _needs_the_core() -> None:
    if native.core() is None:
        pytest.skip("the native core was not built")


@pytest.fixture(params=["baseline", "avx2", "avx512", "avx512vnni"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The core on each of its paths; the same tests are collected everywhere."""
    core = native.core()
    assert core is not None
    if request.param not in core.isas():
        pytest.skip(f"this machine has no {request.param}")
    before = core.isa()
    core.use(request.param)
    yield request.param
    core.use(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
