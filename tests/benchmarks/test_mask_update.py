from __future__ import annotations

from typing import Any

import torch
from benchmarks.mask_update import SUBJECTS, misses

from sparsecycle.lab.bench.update import UPDATE
from sparsecycle.prunable import choose


def test_vgg_16_has_the_weights_of_the_paper() -> None:
    with torch.device("meta"):
        model = SUBJECTS["vgg-16"].build()
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(weight.numel() for weight in choose(model).weights.values()) == 138_344_128
    assert sum(parameter.numel() for parameter in model.parameters()) == 138_357_544


def found(weights: int, reads: float, speedup: float, extra: float) -> dict[str, Any]:
    its = {"threads": 1, "contestants": {UPDATE: {"reads": reads, "times faster than torch": speedup}}}
    return {
        "model": "net",
        "weights": weights,
        "bytes": 4 * weights,
        "extra memory": {UPDATE: extra * 4 * weights},
        "updates": [its],
    }


def test_only_what_is_missed_by_far_is_a_failure() -> None:
    large = 11_000_000
    assert misses(found(large, 3.5, 250, 0.06)) == []
    assert misses(found(large, 6.1, 400, 0.02)) == ["net, threads 1: 6.1 reads, 400 times faster"]
    assert misses(found(large, 2.0, 149, 0.02)) == ["net, threads 1: 2.0 reads, 149 times faster"]
    assert misses(found(large, 2.0, 400, 0.11)) == ["net: extra memory 11.0%"]
    assert misses(found(266_200, 6.1, 10, 0.9)) == [], "the page claims nothing of small networks"
