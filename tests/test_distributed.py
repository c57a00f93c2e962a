"""Data parallel: gradients are averaged over the processes before a method looks at them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsecycle as sc

#: Methods that look at gradients, and what makes something happen in twelve steps.
LOOKING: dict[str, dict[str, Any]] = {
    "rigl": {"update_every": 2},
    "movement": {},
    "gsm": {},
    "dpf": {"update_every": 2},
}
STEPS, PROCESSES = 12, 2


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 4, (8,), generator=generator)


def train(method: str, model: nn.Module, called: nn.Module, part: slice) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Masks and weights after a run in which ``called``, the model or a wrapper of it, sees a part of every batch."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = sc.methods.METHODS[method](model, optimizer, 0.8, STEPS, **LOOKING[method])
    for step in range(STEPS):
        x, y = batch(step)
        F.cross_entropy(called(x[part]), y[part]).backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsifier.step()
    return sparsifier.masks, copy.deepcopy(model.state_dict())


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", world_size=PROCESSES, rank=rank)
    ended = {}
    for method in LOOKING:
        model = build()
        ended[method] = train(method, model, nn.parallel.DistributedDataParallel(model), slice(rank, None, PROCESSES))
    torch.save(ended, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What every process ended with."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("method", LOOKING)
def test_processes_end_as_one_process_would(ended: list[Any], method: str) -> None:
    model = build()
    masks, weights = train(method, model, model, slice(None))
    for theirs in ended:
        their_masks, their_weights = theirs[method]
        assert all(torch.equal(their_masks[name], mask) for name, mask in masks.items())
        assert sum(int(mask.sum()) for mask in their_masks.values()) == 51  # of 256
        for name, weight in weights.items():
            torch.testing.assert_close(their_weights[name], weight, rtol=1e-9, atol=1e-12)
    assert all(
        torch.equal(a, b) for a, b in zip(ended[0][method][1].values(), ended[1][method][1].values(), strict=True)
    )
