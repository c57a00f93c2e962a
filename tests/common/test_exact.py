"""Promise 2: as many weights as asked for, ties by index; what is reported is what was counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def test_counts_at_every_step(start: Any, method: str, optimizer: str) -> None:
    run = start(method, optimizer)
    nested = run.recovery == "none"
    before = None
    for step in range(run.total):
        masks = run.sparsifier.masks
        kept = run.expected_kept(step)
        assert sum(int(mask.sum()) for mask in masks.values()) == kept
        assert run.sparsifier.sparsity == 1 - kept / run.weights
        alive = sum(int(w.count_nonzero()) for w in run.prunable.values())
        assert alive == kept if nested else alive <= kept
        if nested and before is not None:
            assert not any((masks[name] & ~before[name]).any() for name in masks)
        before = masks
        run.train()
    report = run.sparsifier.finalize()
    assert report.requested == 0.9
    assert report.kept == 564 - 508 == sum(int(w.count_nonzero()) for w in run.prunable.values())
    assert report.achieved == 508 / 564
    assert {y.name: y.kept for y in report.layers} == {n: int(m.sum()) for n, m in run.sparsifier.masks.items()}


@pytest.mark.parametrize("constant", [0.5, -0.5, 0.0])
def test_constant_weights(start: Any, method: str, constant: float) -> None:
    run = start(method, constant=constant)
    for _ in range(run.total):
        run.sparsifier.step()  # the weights stay as they are
    kept = [int(mask.sum()) for mask in run.sparsifier.masks.values()]
    # Ties fall by index: the first tensors keep all, the others what the floor of one weight leaves them.
    assert kept == {"global": [54, 1, 1], "uniform": [5, 48, 3]}[run.sparsifier.report().settings["scope"]]
    for name, mask in run.sparsifier.masks.items():
        flat = mask.flatten()
        assert flat[: int(flat.sum())].all()
        assert torch.equal(run.prunable[name], mask * constant)
