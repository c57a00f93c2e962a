"""On an accelerator the host never waits for the device: nothing in a step reads a value.

Tensors on the device "meta" have shapes and no values. Whatever would have to look at one raises an error there, so a
step that goes through on such tensors is a step without synchronisation.
"""

import pytest
import torch
from torch import nn

import sparsecycle as sc
from sparsecycle.masks import Masks


def without_values(sparsifier):
    """The sparsifier with everything it holds on a device that has no values."""
    weights = {name: nn.Parameter(w.to("meta")) for name, w in sparsifier._weights.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=0.1, momentum=0.9)
    for weight in weights.values():
        weight.grad = torch.empty_like(weight)
        optimizer.state[weight] = {"momentum_buffer": torch.empty_like(weight)}
    sparsifier._weights, sparsifier._optimizer, sparsifier._masks = weights, optimizer, Masks(weights)
    sparsifier._stored = [stored.to("meta") for stored in sparsifier._stored]
    return sparsifier


@pytest.mark.parametrize("words", [{}, {"scope": "erk"}, {"scope": "uniform", "floor": 3}, {"recovery": "stored"}])
@pytest.mark.parametrize("method", sc.methods.METHODS)
def test_a_step_reads_nothing_back(method, words):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = without_values(sc.methods.METHODS[method](model, optimizer, 0.9, 6, **words))
    for _ in range(5):
        sparsifier._after_optimizer_step()
        sparsifier.step()
    assert sparsifier._steps == 5
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        _ = sparsifier.sparsity  # what does read is noticed
