from __future__ import annotations

import pytest
from torch import nn

from sparsecycle.modes import evaluating


def _fail_in(model: nn.Module) -> None:
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError


def test_every_module_is_in_the_mode_it_was_in_also_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)))
    model[1].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError):
        _fail_in(model)
    assert [module.training for module in model.modules()] == before == [True, True, False, False, False]
