from __future__ import annotations

import pytest
import torch
from benchmarks.layers import rows
from torch import nn

from sparsecycle import native, runtime

pytestmark = pytest.mark.skipif(native.core() is None, reason="the native core was not built")


def test_what_is_told_of_a_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU())
    weight = next(model.parameters()).detach()
    weight[torch.rand(weight.shape) < 0.9] = 0
    kept = int(weight.count_nonzero())
    layer, rest = rows(runtime.compile(model, torch.randn(1, 8, 16, 16), threads=1))
    name, kernel, milliseconds, gain, of_limit, useful, loads, visit, rate = layer
    assert name == "0"
    assert kernel.startswith(("sparse", "dense"))
    limit = weight.numel() / kept
    assert float(of_limit.rstrip("%")) / 100 == pytest.approx(float(gain) / limit, abs=0.02 + 0.05 / limit)
    assert 0 < float(useful.rstrip("%")) <= 100
    assert 0.5 < float(loads) < 3
    assert float(visit) > 0
    assert float(rate) == pytest.approx(kept * 16 * 16 / float(milliseconds) / 1e6, rel=0.02, abs=0.1)
    assert rest[0] == "all else"
