from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import sparsecycle as sc
from sparsecycle.lab.models import build
from sparsecycle.runtime import compiled as module

pytestmark = pytest.mark.usefixtures("native")


def pruned(model: nn.Module, sparsity: float = 0.9) -> nn.Module:
    """With weights of small magnitude at zero, and batch norms that do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                weight = layer.weight
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
                weight[weight.abs() < weight.abs().flatten().quantile(sparsity)] = 0
            elif isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.copy_(0.1 * torch.randn(layer.num_features, generator=generator))
                layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
    return model.eval()


def small() -> nn.Module:
    return pruned(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
    )


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def error(found: torch.Tensor, model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected = model.double()(x.double())
        model.float()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet-300-100", (1, 28, 28)),
        ("lenet-5-caffe", (1, 28, 28)),
        ("resnet-20", (3, 32, 32)),
        ("mobilenet-v2", (3, 32, 32)),
    ],
)
@pytest.mark.parametrize("batch", [1, 17])
def test_gives_what_the_network_gives(name, shape, batch):
    model = pruned(build(name, shape, 10))
    x = images(batch, *shape)
    assert error(sc.runtime.compile(model, x, threads=1)(x), model, x) < 1e-4


def test_threads_share_a_batch_and_a_single_image():
    model = small()
    for batch in (1, 5, 16):
        x = images(batch, 3, 8, 8)
        assert error(sc.runtime.compile(model, x, threads=2)(x), model, x) < 1e-4


def test_bf16_rounds_the_weights_of_sparse_layers_only():
    model = pruned(nn.Sequential(nn.Flatten(), nn.Linear(64, 32)), 0.5)
    x = images(16, 64)
    compiled = sc.runtime.compile(model, x, threads=1, values="bf16")
    rounded = nn.Sequential(nn.Flatten(), nn.Linear(64, 32))
    rounded.load_state_dict(model.state_dict())
    with torch.no_grad():
        rounded[1].weight.copy_(model[1].weight.bfloat16())
    assert error(compiled(x), rounded, x) < 1e-6
    assert "bf16" in str(compiled.plan)


def test_the_network_is_left_as_it_is():
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    sc.runtime.compile(model, images(1, 3, 8, 8), threads=1)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_bits_are_the_same_in_every_run_and_from_several_threads():
    model, x = small(), images(9, 3, 8, 8)
    compiled = sc.runtime.compile(model, x, threads=1)
    first = compiled(x)
    found: list[torch.Tensor] = []

    def work() -> None:
        found.extend(compiled(x) for _ in range(20))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 80
    assert all(torch.equal(first, other) for other in found)


def test_an_input_that_is_not_contiguous_is_read_right():
    model, x = small(), images(4, 3, 8, 8)
    compiled = sc.runtime.compile(model, x, threads=1)
    assert torch.equal(compiled(x), compiled(x.to(memory_format=torch.channels_last)))


def test_what_has_no_native_form_runs_in_torch_and_is_named():
    model = pruned(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 10)), 0.5)
    x = images(8, 32)
    compiled = sc.runtime.compile(model, x, threads=1)
    assert error(compiled(x), model, x) < 1e-4
    named = [entry for entry in compiled.plan if entry.choice.startswith("PyTorch")]
    assert len(named) == 1
    assert "gelu" in named[0].choice


def test_results_keep_their_structure():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            body = self.body(x).relu()
            return {"head": self.head(body), "body": (body, x)}

    model, x = Heads(), images(5, 8)
    found = sc.runtime.compile(model, x, threads=1)(x)
    expected = model(x)
    torch.testing.assert_close(found["head"], expected["head"].detach())
    torch.testing.assert_close(found["body"][0], expected["body"][0].detach())
    assert torch.equal(found["body"][1], x)


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        (
            (torch.zeros(2, 3, 8, 8),),
            ValueError,
            "input 0 has the shape (2, 3, 8, 8); the network was compiled for (1, 3, 8, 8)",
        ),
        ((torch.zeros(1, 3, 8, 8).double(),), TypeError, "input 0 is of torch.float64"),
        (([1.0],), TypeError, "input 0 is of type list; it must be a tensor"),
        ((), TypeError, "0 inputs were given; the network was compiled for 1"),
    ],
    ids=["shape", "dtype", "kind", "number"],
)
def test_other_inputs_are_refused(inputs, kind, message):
    compiled = sc.runtime.compile(small(), torch.zeros(1, 3, 8, 8), threads=1)
    with pytest.raises(kind) as caught:
        compiled(*inputs)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "threads=0 must be a positive integer"),
        ({"threads": 1.5}, "threads=1.5 must be a positive integer"),
        ({"values": "fp8"}, "values='fp8' must be one of 'fp32', 'bf16'"),
    ],
    ids=["no threads", "half threads", "values"],
)
def test_other_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sc.runtime.compile(small(), torch.zeros(1, 3, 8, 8), **arguments)


def test_without_the_core_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(module, "core", lambda: None)
    with pytest.raises(RuntimeError, match="native core, which is not installed"):
        sc.runtime.compile(small(), torch.zeros(1, 3, 8, 8))


def test_the_plan_names_every_layer():
    x = images(1, 3, 8, 8)
    plan = sc.runtime.compile(small(), x, threads=1).plan
    layers = {entry.name: entry for entry in plan if entry.sparsity is not None}
    assert layers.keys() == {"0", "5"}
    assert layers["0"].sparsity == pytest.approx(0.9, abs=0.01)
    assert all(entry.milliseconds >= 0 for entry in plan)
    assert plan.milliseconds == pytest.approx(sum(entry.milliseconds for entry in plan))
    assert plan.threads == 1


def test_networks_in_which_nothing_is_computed() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(3)

    x = torch.randn(2, 3)
    assert torch.equal(sc.runtime.compile(nn.Identity(), x, threads=1)(x), x)
    assert torch.equal(sc.runtime.compile(Constant(), x, threads=1)(x), torch.ones(3))


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_one_output_is_returned_as_the_network_returns_it(kind: type) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> object:
            return kind(logits=self.layer(x)) if kind is dict else kind([self.layer(x)])

    model, x = Wrapped(), torch.randn(2, 3)
    found = sc.runtime.compile(model, x, threads=1)(x)
    assert type(found) is kind
    (logits,) = found.values() if kind is dict else found
    assert torch.allclose(logits, model.layer(x), atol=1e-6)
