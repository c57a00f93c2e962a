"""Promise 7: torch.compile sees one graph, whatever number of masks comes and goes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F

import sparsecycle as sc
from sparsecycle.methods import METHODS

#: Methods with fewer than three different sparsities in a run.
LEVELS = {
    **dict.fromkeys(["random", "magnitude", "snip", "grasp", "synflow", "set", "rigl"], 1),
    **dict.fromkeys(["one-shot", "gsm", "acdc", "dsd"], 2),
}
#: And with fewer than three different masks.
MASKS = {
    **dict.fromkeys(["random", "magnitude", "snip", "grasp", "synflow"], 1),
    **dict.fromkeys(["one-shot", "gsm"], 2),
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        yield
    torch._dynamo.reset()


# Compiling takes long: one method that prunes and one that brings back stand for all where gradients are traced too.
@pytest.mark.parametrize(
    ("method", "backend"),
    [*((method, "eager") for method in METHODS), ("progressive", "aot_eager"), ("cyclical", "aot_eager")],
)
def test_one_graph(start: Any, difference: Any, method: str, backend: str) -> None:
    plain, run = start(method), start(method)
    loss_of = torch.compile(lambda x, y: F.cross_entropy(run.model(x), y), backend=backend, fullgraph=True)
    seen, masks = set(), []
    for _ in range(run.total):
        masks.append(torch.cat([mask.flatten() for mask in run.sparsifier.masks.values()]))
        loss = loss_of(*run.batch())
        loss.backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.sparsifier.step()
        run.steps += 1
        seen.add(run.sparsifier.sparsity)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    changes = sum(not torch.equal(a, b) for a, b in pairwise(masks))
    assert len(seen) == LEVELS[method] if method in LEVELS else len(seen) >= 3
    assert changes == MASKS[method] - 1 if method in MASKS else changes >= 2
    assert sum(int(w.count_nonzero()) for w in run.prunable.values()) == (564 if method == "dsd" else 56)
    plain.train(12)
    if backend == "eager":
        assert difference(plain, run) is None


def test_compiled_module_may_be_given(start: Any) -> None:
    """Its parameters are the model's own; their names begin with ``_orig_mod``."""
    run = start("progressive")
    run.sparsifier.remove()
    model = torch.compile(run.model, backend="eager", fullgraph=True)
    sparsifier = sc.Sparsifier(model, run.optimizer, 0.9, sc.Linear(), total_steps=6)
    for _ in range(6):
        x, y = run.batch()
        F.cross_entropy(model(x), y).backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        sparsifier.step()
        run.steps += 1
    assert sparsifier.finalize().kept == 56
    assert counters["stats"]["unique_graphs"] == 1
