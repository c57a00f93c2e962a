"""A threshold over scores that are spread over processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle import native
from sparsecycle.selection import keep_largest, kth_largest

TYPES = [torch.float32, torch.bfloat16, torch.float16]
PROCESSES = 2


class Ranks:
    """Adds up what so many threads bring, as processes do."""

    def __init__(self, number: int) -> None:
        self._barrier, self._lock, self._sum = Barrier(number), Lock(), torch.zeros(0)

    def reduce(self, counts: Tensor) -> None:
        if self._barrier.wait(60) == 0:
            self._sum = torch.zeros_like(counts)
        self._barrier.wait(60)
        with self._lock:
            self._sum += counts
        self._barrier.wait(60)
        counts.copy_(self._sum)


@given(
    sizes=st.lists(st.lists(st.integers(0, 40), max_size=3), min_size=1, max_size=3),
    dtype=st.sampled_from(TYPES),
    spread=st.sampled_from(["normal", "ties", "zeros", "wide"]),
    absolute=st.booleans(),
    place=st.floats(0, 1),
    seed=st.integers(0, 2**31),
    with_core=st.booleans(),
)
def test_shards_find_the_threshold_of_the_whole(
    sizes: list[list[int]], dtype: torch.dtype, spread: str, absolute: bool, place: float, seed: int, with_core: bool
) -> None:
    torch.manual_seed(seed)
    shards = [[torch.randn(size) for size in shard] for shard in sizes]
    if spread == "ties":
        shards = [[x.mul(2).round() for x in shard] for shard in shards]
    if spread == "zeros":
        shards = [[x * (x > 1) * (1 - 2 * (torch.rand_like(x) < 0.5).float()) for x in shard] for shard in shards]
    if spread == "wide":
        shards = [[x * 10 ** x.mul(3) for x in shard] for shard in shards]
    shards = [[x.to(dtype) for x in shard] for shard in shards]
    n = sum(map(sum, sizes))
    if n == 0:
        return
    k = 1 + round(place * (n - 1))
    whole = torch.cat([x.float() for shard in shards for x in shard])
    ranked = (whole.abs() if absolute else whole).sort(descending=True).values
    expected = float(ranked[k - 1]), k - int((ranked > ranked[k - 1]).sum())
    ranks = Ranks(len(shards))
    with pytest.MonkeyPatch.context() as patch:
        if not with_core:
            patch.setattr(native, "core", lambda: None)
        with ThreadPoolExecutor(len(shards)) as pool:
            found = list(pool.map(lambda shard: kth_largest(shard, k, ranks.reduce, absolute=absolute), shards))
    assert found == [expected] * len(shards)


def alone(counts: Tensor) -> None:
    """The sum over one process."""


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("k", [0, 7])
def test_rank_that_there_is_not(k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} must be from 1 to 6, the number of scores"):
        kth_largest([torch.randn(2, 3)], k, alone)


@pytest.mark.usefixtures("path")
def test_no_scores_at_all() -> None:
    with pytest.raises(ValueError, match="k=1 must be from 1 to 0, the number of scores"):
        kth_largest([], 1, alone)


@pytest.mark.usefixtures("path")
def test_scores_that_lie_negated() -> None:
    scores = [pair.conj().imag for pair in torch.tensor([[1 + 1j], [1 - 2j], [1 + 3j]])]
    assert [kth_largest(scores, k, alone) for k in (1, 2, 3)] == [(2.0, 1), (-1.0, 1), (-3.0, 1)]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("sign", [1, -1])
def test_threshold_too_small_to_be_normal_where_torch_flushes_it(sign: int) -> None:
    smallest = sign * torch.arange(1, 101, dtype=torch.int32).view(torch.float32)
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush numbers too small to be normal")
    try:
        found = kth_largest([smallest], 30, alone)
    finally:
        torch.set_flush_denormal(False)
    assert found == ((71 if sign > 0 else -30) * 2.0**-149, 1)


def work(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", world_size=PROCESSES, rank=rank)
    shard = [part.chunk(PROCESSES)[rank] for part in scores()]
    threshold, equals = kth_largest(shard, 3000, torch.distributed.all_reduce, absolute=True)
    torch.save((threshold, equals), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def scores() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(200, 50, generator=generator), torch.randn(20_000, generator=generator)]


def test_processes_agree(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path),), PROCESSES)
    selection = keep_largest(scores(), 3000, absolute=True)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)] == [(selection.threshold, 1)] * PROCESSES
