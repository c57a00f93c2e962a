from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.reference import evaluate, run
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

from sparsecycle.lab.models import MODELS, build
from sparsecycle.runtime.fuse import fuse
from sparsecycle.runtime.graph import Add, Convolution, Graph
from sparsecycle.runtime.parts import NativePart
from sparsecycle.runtime.trace import Traced, filled, trace

# Small enough to be computed in float64 in no time.
SMALL = ["conv3", "lenet-5-caffe", "linear", "resnet-20-a"]
# Deeper than another one that is made of the same blocks.
DEEPER = {"conv-4", "conv-6", "resnet-20", "resnet-32", "resnet-56", "resnet-32-a", "resnet-56-a"}
DEEPER |= {"vgg-like", "vgg-16", "vgg-19", "vgg-19-qureshi"}
IMAGES = torch.linspace(-3, 3, 2 * 3 * 5 * 4).reshape(2, 3, 5, 4)


def only_graph(found: Traced) -> Graph:
    (part,) = found.parts
    assert isinstance(part, NativePart)
    return part.graph


def used(model: nn.Module) -> nn.Module:
    """With running statistics as of some training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias, 0, 0.2)
    return model


def in_float64(model: nn.Module, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return model.eval().double()(*(x.double() for x in inputs))


def from_the_laboratory(name: str) -> tuple[nn.Module, Traced, Graph]:
    """A network of the laboratory as one graph, and that as few steps."""
    torch.manual_seed(0)
    shape = (1, 28, 28) if name in ("linear", "lenet-300-100", "lenet-5-caffe") else (3, 32, 32)
    model = used(build(name, shape, 10))
    found = trace(model, torch.randn(1, *shape))
    assert (found.outputs, found.structure, found.constants) == (found.parts[0].outputs, 0, {})
    fused = fuse(only_graph(found))
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    shortcuts = 2 if name == "resnet-20-a" else 0  # that select and pad
    assert len([step for step in fused.steps if isinstance(step, Convolution)]) == len(layers) + shortcuts
    assert not any(isinstance(step, Add) for step in fused.steps)
    return model, found, fused


@pytest.mark.parametrize("name", sorted(MODELS.keys() - DEEPER - set(SMALL)))
def test_every_network_of_the_laboratory_is_one_graph(name: str) -> None:
    from_the_laboratory(name)


@pytest.mark.parametrize("name", SMALL)
def test_graphs_compute_what_the_network_does(name: str) -> None:
    model, found, fused = from_the_laboratory(name)
    map_ = fused.maps[0]
    x = torch.randn(1, map_.channels, map_.height, map_.width)
    got = evaluate(found, x), run(fused, x)[0].flatten(1)
    want = in_float64(model, x)
    for logits in got:  # whose batch norms' factors are of float32
        torch.testing.assert_close(logits, want, rtol=0, atol=1e-6 * want.abs().max().item())


class Function(nn.Module):
    """A function of one convolution, one linear layer and the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 3, 3, padding="same")
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(2))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    "returned",
    [
        lambda n, x: n.conv(x),
        lambda n, x: (n.conv(x),),
        lambda n, x: [n.conv(x), (x, {"a": n.linear(x), "b": []})],
        lambda n, x: OrderedDict(b=n.conv(x), a=x),
        lambda n, x: defaultdict(list, b=n.conv(x), a=None),
        lambda n, x: Pair(left=n.linear(x), right=[n.conv(x), n.conv.bias, 3]),
        lambda n, x: (x, n.calls + 1, x),
        lambda n, x: (y := n.conv(x), y, F.relu(y)),
    ],
    ids=["tensor", "tuple", "nested", "ordered", "default", "named", "no parts", "twice"],
)
def test_what_a_network_returns_keeps_its_structure(returned: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = Function(returned)
    found = trace(model, [IMAGES])
    got = evaluate(found, IMAGES)
    want = in_float64(model, IMAGES)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert type(got) is type(want)


def test_structures_of_other_kinds() -> None:
    with pytest.raises(ValueError, match="the network returns a set; allowed are tuples, lists and dicts"):
        filled({1}, [])


def test_what_does_not_depend_on_the_inputs_is_constant() -> None:
    model = Function(lambda n, x: (n.calls + torch.arange(2), n.conv.bias, "text", None, n.calls + torch.rand(2)))
    found = trace(model, IMAGES)
    assert found.outputs[2:4] == ("returned_2", "returned_3")
    assert list(found.constants) == list(found.outputs[:4])
    sums, bias, *plain = found.constants.values()
    assert plain == ["text", None]
    assert sums.tolist() == [0, 1]
    assert torch.equal(bias, model.conv.bias)
    assert bias.data_ptr() != model.conv.bias.data_ptr()
    assert not bias.requires_grad
    (part,) = found.parts  # random numbers are drawn at every call
    assert part.outputs == found.outputs[4:]


def test_the_network_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Sequential(nn.Dropout(), nn.ReLU(inplace=True)))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = IMAGES.clone()
    found = trace(model, x)
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(evaluate(found, x), in_float64(model, x), rtol=1e-6, atol=1e-6)
    assert torch.equal(x, IMAGES)


def test_training_comes_back_after_an_error() -> None:
    model = Function(lambda n, x: n.conv(x[0, 0]))
    with pytest.raises(RuntimeError):
        trace(model, IMAGES)
    assert model.training


def agrees(function: Callable[..., Any], *inputs: Tensor) -> Traced:
    """The traced function, which gives what the function gives in float64."""
    torch.manual_seed(0)
    model = Function(function)
    found = trace(model, inputs)
    got = evaluate(found, *inputs)
    torch.testing.assert_close(got, in_float64(model, *inputs), rtol=1e-12, atol=1e-12)
    return found


def test_changes_in_place_reach_all_that_shares_the_memory() -> None:
    def changed(n: Function, x: Tensor) -> Tensor:
        y = n.conv(x).relu_()
        z = y.view(2, 60)
        y += x
        z.clamp_(0, 6)
        return n.conv(y)

    agrees(changed, IMAGES)


def test_inputs_are_not_changed() -> None:
    x = IMAGES.clone()
    graph = only_graph(agrees(lambda n, x: n.conv(x.clone()).relu_() + n.conv(x), x))
    assert len(graph.inputs) == 1
    only_graph(trace(Function(lambda n, x: n.conv(x.relu_())), x))
    assert torch.equal(x, IMAGES)


def test_control_flow_of_its_own() -> None:
    def branches(n: Function, x: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))
        return n.conv(x) + chosen

    found = agrees(branches, IMAGES)
    assert len(found.parts) == 2
    assert "cond has no native form" in repr(found.parts[0])


def test_several_inputs_one_of_them_unused() -> None:
    found = agrees(lambda n, x, y, z: n.conv(z) + x, IMAGES, IMAGES[:1], -IMAGES)
    assert len(found.inputs) == 3
    assert {found.inputs[0], found.inputs[2]} == set(found.parts[0].inputs)


def test_shared_layers_keep_their_name() -> None:
    graph = only_graph(agrees(lambda n, x: n.conv(n.conv(x)), IMAGES))
    assert [step.name for step in graph.steps] == ["conv", "conv"]


def test_channels_last() -> None:
    model = used(build("lenet-5-caffe", (3, 16, 16), 10)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    found = trace(model, x)
    weights = [step.weight for step in only_graph(found).steps if isinstance(step, Convolution)]
    assert all(weight.is_contiguous() for weight in weights)
    torch.testing.assert_close(evaluate(found, x), in_float64(model, x), rtol=1e-6, atol=1e-6)


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def test_weights_that_are_computed_of_parameters_are_weights() -> None:
    torch.manual_seed(0)
    model = Function(lambda n, x: n.linear(n.conv(x)))
    prune.random_unstructured(model.conv, "weight", 0.5)
    parametrize.register_parametrization(model.linear, "weight", Halved())
    weight = model.conv.weight
    found = trace(model, IMAGES)
    assert model.conv.weight is weight
    steps = [part.graph.steps for part in found.parts if isinstance(part, NativePart)]
    conv, linear = steps[0][0], steps[1][0]
    assert isinstance(conv, Convolution)
    assert isinstance(linear, Convolution)
    assert (conv.name, linear.name) == ("conv", "linear.linear")
    assert torch.equal(conv.weight, model.conv.weight)
    assert (conv.weight == 0).sum() == 40  # of 81
    assert torch.equal(linear.weight[:, :, 0, 0], model.linear.weight)


def test_names_are_paths() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.act = nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.act(self.conv(x)) + x)

    graph = only_graph(trace(nn.Sequential(OrderedDict(a=Block(), b=Block())), IMAGES))
    assert [step.name for step in graph.steps[:4]] == ["a.conv", "a.act", "a.add", "a.relu"]
    assert [step.name for step in graph.steps[4:]] == ["b.conv", "b.act", "b.add", "b.relu"]


@pytest.mark.parametrize(
    ("change", "inputs", "message"),
    [
        (lambda n: n.double(), (IMAGES,), "conv.weight is of torch.float64; the runtime needs torch.float32"),
        (lambda n: n.linear.half(), (IMAGES,), "linear.weight is of torch.float16"),
        (lambda n: n.to("meta"), (IMAGES,), "conv.weight is on the device meta; the runtime needs it on the CPU"),
        (lambda n: n, (IMAGES, 3), r"example_inputs\[1\] is of type int; it must be a tensor"),
        (lambda n: n, (IMAGES.to("meta"),), r"example_inputs\[0\] is on the device meta; it must be on the CPU"),
    ],
    ids=["float64", "float16", "device", "type of input", "device of input"],
)
def test_what_cannot_be_traced(change: Callable[[Function], object], inputs: Any, message: str) -> None:
    model = Function(lambda n, x: n.conv(x))
    change(model)
    with pytest.raises(ValueError, match=message):
        trace(model, inputs)


def test_networks_with_a_state() -> None:
    with pytest.raises(ValueError, match="the network changes its buffer calls when called; the runtime has no state"):
        trace(Function(lambda n, x: n.conv(x) + n.calls.add_(1).sum()), IMAGES)


class Random(nn.Module):
    """Layers on what came before, drawn by a seed: each reads the last value, or sometimes an earlier one."""

    def __init__(self, kinds: list[str], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.kinds = kinds
        self.layers = nn.ModuleList()
        x = torch.randn(2, 4, 9, 8)
        with torch.no_grad():
            self.eval()
            for kind in kinds:
                self.layers.append(used(self.layer(kind, x)).eval())
                x = self.layers[-1](x)

    @staticmethod
    def layer(kind: str, x: Tensor) -> nn.Module:
        c = x.shape[1]
        if x.dim() == 2:
            return {
                "conv": nn.Linear(c, 6),
                "norm": nn.BatchNorm1d(c),
                "pool": nn.Hardtanh(0, 6),
                "global": nn.Dropout(),
                "residual": nn.SiLU(),
                "branches": nn.Identity(),
            }[kind]
        return {
            "conv": nn.Conv2d(c, 2 * c, 3, padding="same", groups=2 - c % 2, bias=False),
            "norm": nn.Sequential(nn.BatchNorm2d(c), nn.ReLU6(inplace=True)),
            "pool": nn.AvgPool2d(2, ceil_mode=True) if c % 8 else nn.MaxPool2d(3, 2, 1),
            "global": nn.Sequential(nn.AdaptiveMaxPool2d((2, 1)), nn.Flatten()),
            "residual": Residual(nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c, affine=False))),
            "branches": Branches([nn.Conv2d(c, 1, 3, padding=1), nn.MaxPool2d(3, 1, 1)]),
        }[kind]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        y += x
        return F.relu(y, inplace=True)


class Branches(nn.ModuleList):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


layer_kinds = st.sampled_from(["conv", "norm", "pool", "global", "residual", "branches"])


@given(kinds=st.lists(layer_kinds, min_size=1, max_size=4), seed=st.integers(0, 9))
@settings(max_examples=6, derandomize=True)
def test_random_networks(kinds: list[str], seed: int) -> None:
    model = nn.Sequential(Random(kinds, seed), nn.Flatten())
    x = torch.randn(2, 4, 9, 8)
    found = trace(model, x)
    want = in_float64(model, x)
    close = {"rtol": 0, "atol": 1e-6 * max(1.0, want.abs().max().item())}
    torch.testing.assert_close(evaluate(found, x), want, **close)
    for part in found.parts:
        if isinstance(part, NativePart):
            torch.testing.assert_close(run(fuse(part.graph), x)[0].reshape(want.shape), want, **close)
