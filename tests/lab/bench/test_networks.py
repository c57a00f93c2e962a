from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecycle.lab.bench.networks import prunable, pruned
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.models import build


def sparsities(model: nn.Module) -> dict[str, float]:
    layers = {name: its for name, its in model.named_modules() if isinstance(its, (nn.Conv2d, nn.Linear))}
    return {name: 1 - int(its.weight.count_nonzero()) / its.weight.numel() for name, its in layers.items()}


def test_uniform_leaves_the_ends_dense() -> None:
    found = sparsities(pruned(Subject("resnet-20", (3, 8, 8), 10, 0.9)))
    assert found.pop("conv1") == found.pop("linear") == 0.0
    assert len(found) == 20
    assert all(sparsity == pytest.approx(0.9, abs=0.002) for sparsity in found.values())


def test_global_has_one_threshold() -> None:
    model = pruned(Subject("resnet-20", (3, 8, 8), 10, 0.9), "global")
    weights = prunable(model)
    kept = torch.cat([weight[weight != 0] for weight in weights])
    assert len(kept) == round(0.1 * sum(weight.numel() for weight in weights))
    found = sparsities(model)
    assert max(found.values()) - min(its for its in found.values() if its) > 0.1
    dense = torch.cat([weight.flatten() for weight in prunable(pruned(Subject("resnet-20", (3, 8, 8), 10, 0.0)))])
    assert kept.abs().min() == dense.abs().topk(len(kept)).values.min()


def test_of_mobilenet_the_1x1_layers_are_pruned() -> None:
    found = sparsities(pruned(Subject("mobilenet-v2", (3, 8, 8), 10, 0.95)))
    model = build("mobilenet-v2", (3, 8, 8), 10)
    for name, sparsity in found.items():
        layer = model.get_submodule(name)
        ends = name in ("features.0", "classifier")
        dense = ends or (isinstance(layer, nn.Conv2d) and layer.groups > 1)
        assert sparsity == pytest.approx(0.0 if dense else 0.95, abs=0.002), name


def test_a_linear_first_layer_is_pruned() -> None:
    found = sparsities(pruned(Subject("lenet-300-100", (1, 28, 28), 10, 0.8)))
    assert found == pytest.approx({"fc1": 0.8, "fc2": 0.8, "fc3": 0.0}, abs=1e-4)


@pytest.mark.parametrize("sparsity", [0.0, 0.98])
def test_activations_keep_their_size(sparsity: float) -> None:
    model = pruned(Subject("vgg-16", (3, 32, 32), 10, sparsity))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    sizes = []
    for norm in norms:
        norm.register_forward_hook(lambda module, given, made: sizes.append(float(made.std())))
    with torch.no_grad():
        model(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert len(sizes) == 13
    assert all(0.3 < size < 3 for size in sizes)
    assert all(norm.weight.std() > 0.1 and norm.bias.std() > 0.05 for norm in norms)
    assert not model.training


def test_it_is_the_same_at_every_call_and_leaves_the_random_numbers_alone() -> None:
    subject = Subject("resnet-20", (3, 8, 8), 10, 0.5)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = pruned(subject).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    other = pruned(subject).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="scope='erk'; allowed are 'uniform' and 'global'"):
        pruned(Subject("resnet-20", (3, 8, 8), 10, 0.5), "erk")  # type: ignore[arg-type]


def test_rounding_errors_are_not_scaled_up() -> None:
    model = pruned(Subject("mobilenet-v2", (3, 32, 32), 10, 0.98))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, exact = model(images).double(), model.double()(images.double())
    assert (found - exact).norm() < 1e-3 * exact.norm()
