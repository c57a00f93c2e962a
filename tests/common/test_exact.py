"""Promise 2: as many weights as asked for, ties by index; what is reported is what was counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsecycle.scopes import share_out


def test_counts_at_every_step(start: Any, method: str, some_optimizer: str) -> None:
    run = start(method, some_optimizer)
    nested = not run.recovery.returns
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
    kept = 564 if method == "dsd" else 564 - 508  # which ends dense
    assert report.requested == (0 if method == "dsd" else 0.9)
    assert report.kept == kept == run.kept_at_the_end == sum(int(w.count_nonzero()) for w in run.prunable.values())
    assert report.achieved == 1 - kept / 564
    assert {y.name: y.kept for y in report.layers} == {n: int(m.sum()) for n, m in run.sparsifier.masks.items()}


#: Methods whose score of a constant weight depends on the rest of the network.
OF_THE_NETWORK = ("snip", "grasp", "synflow")


@pytest.mark.parametrize("constant", [0.5, -0.5, 0.0])
def test_constant_weights(start: Any, method: str, constant: float) -> None:
    run = start(method, constant=constant)
    for _ in range(run.total):
        run.sparsifier.step()  # the weights stay as they are
    masks = run.sparsifier.masks
    kept = [int(mask.sum()) for mask in masks.values()]
    scope = run.sparsifier.report().settings["scope"]
    assert sum(kept) == run.kept_at_the_end
    if method == "dsd":
        assert kept == [54, 480, 30]
    elif scope != "global":
        # (2 + 3 + 3 + 3) / 54, (48 + 10) / 480 and (10 + 3) / 30 in proportion: 56 · 11 / 82 = 7.5, 39.6 and 8.9
        assert kept == {"uniform": [5, 48, 3], "erk": [7, 40, 9]}[scope]
        assert kept == [share.keep for share in share_out(scope, [w.shape for w in run.prunable.values()], 508 / 564)]
    elif method != "random" and (method not in OF_THE_NETWORK or constant == 0):
        assert kept == [54, 1, 1]  # ties fall by index: the others keep what the floor of one weight leaves them
    for name, mask in masks.items():
        weight = run.prunable[name]
        assert set(weight.flatten().tolist()) <= {0.0, constant}
        if method in (*OF_THE_NETWORK, "random", "set", "rigl", "dsd"):
            assert weight[~mask].count_nonzero() == 0
            continue
        flat = mask.flatten()
        assert flat[: int(flat.sum())].all()
        assert torch.equal(weight, mask * constant)


@pytest.mark.parametrize("scope", ["uniform", {"hidden": 0.625}])
@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "movement", "gsm", "acdc", "dpf", "set", "rigl"])
def test_counts_under_other_scopes(start: Any, method: str, scope: Any) -> None:
    run = start(method, scope=scope, sparsity=0.6)
    for step in range(run.total):
        assert sum(int(mask.sum()) for mask in run.sparsifier.masks.values()) == run.expected_kept(step)
        run.train()
    assert [y.kept for y in run.sparsifier.finalize().layers][1] == (192 if scope == "uniform" else 180)
