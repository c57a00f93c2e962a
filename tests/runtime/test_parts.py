from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.runtime.reference import evaluate
from torch import Tensor, nn
from torch.nn import functional as F

from sparsecycle.runtime.parts import NativePart, TorchPart
from sparsecycle.runtime.trace import Traced, trace


class Net(nn.Module):
    """Two 3x3 convolutions, two linear layers, a batch norm, and any function of them and the inputs."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.linear1 = nn.Linear(4, 4)
        self.linear2 = nn.Linear(4, 4)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def traced(function: Callable[..., object], *inputs: Tensor) -> Traced:
    """Traced, and the same as the network in float64."""
    torch.manual_seed(0)
    net = Net(function)
    found = trace(net, inputs)
    got = evaluate(found, *inputs)
    with torch.no_grad():
        want = net.eval().double()(*(x.double() if x.is_floating_point() else x for x in inputs))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    return found


def kinds(found: Traced) -> list[str]:
    """Of each part: how many images it sees, or why it is PyTorch's."""
    return [f"{p.graph.images} images" if isinstance(p, NativePart) else p.reason for p in found.parts]


IMAGES = torch.linspace(-3, 3, 2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
VECTORS = torch.linspace(-2, 2, 2 * 5 * 4).reshape(2, 5, 4)
GELU = "aten.gelu has no native form"


def test_one_part_where_all_is_native() -> None:
    found = traced(lambda n, x: F.relu(n.conv2(F.relu(n.conv1(x))) + x), IMAGES)
    (part,) = found.parts
    assert isinstance(part, NativePart)
    assert (part.inputs, part.outputs) == (found.inputs, found.outputs)
    assert part.shapes == ((2, 3, 5, 4),)
    assert [step.name for step in part.graph.steps] == ["conv1", "relu", "conv2", "add", "relu"]


def test_three_parts_around_what_is_not() -> None:
    found = traced(lambda n, x: n.conv2(F.gelu(n.conv1(x))), IMAGES)
    assert kinds(found) == ["2 images", GELU, "2 images"]
    first, gelu, last = found.parts
    assert gelu.inputs == first.outputs
    assert gelu.outputs == last.inputs


def test_branches_wait_for_each_other() -> None:
    # By their depth alone conv1 would be in a part before gelu, and conv2 in one behind.
    assert kinds(traced(lambda n, x: n.conv1(x) + n.conv2(F.gelu(x)), IMAGES)) == [GELU, "2 images"]
    # And here the two uses of gelu.
    assert kinds(traced(lambda n, x: F.gelu(n.conv1(x)) + F.gelu(x), IMAGES)) == ["2 images", GELU]


def test_parts_for_each_number_of_images() -> None:
    found = traced(lambda n, x: n.linear2(n.linear1(n.conv1(x))), IMAGES)
    assert kinds(found) == ["2 images", "30 images"]
    assert [p.shapes for p in found.parts if isinstance(p, NativePart)] == [((2, 3, 5, 4),), ((2, 3, 5, 4),)]
    found = traced(lambda n, x: n.linear1(n.conv1(x).view(-1, 4)), IMAGES)
    assert kinds(found) == ["2 images", "30 images"]
    found = traced(lambda n, x, y: (n.conv1(n.linear1(n.conv2(x))), n.linear1(F.silu(y))), IMAGES, VECTORS)
    assert kinds(found) == ["2 images", "30 images", "10 images", "2 images"]


def test_sum_of_values_that_are_seen_differently() -> None:
    found = traced(lambda n, x: F.relu(n.conv1(x) + n.linear1(x)), IMAGES)
    assert sorted(kinds(found)) == ["2 images", "30 images"]


@pytest.mark.parametrize(
    "function",
    [
        lambda n, x: F.relu(x),
        lambda n, x: F.max_pool2d(F.relu(x), 2),
        lambda n, x: n.norm(x),
    ],
    ids=["activation", "pool", "batch norm"],
)
def test_without_a_convolution_nothing_is_native(function: Callable[..., object]) -> None:
    assert kinds(traced(function, IMAGES)) == ["no convolution or linear layer is in it"]


def test_between_others_what_is_not_worth_the_way_is_theirs() -> None:
    found = traced(lambda n, x: n.conv1(F.gelu(F.relu(F.gelu(x)))), IMAGES)
    assert kinds(found) == [GELU, "2 images"]


def test_each_operator_gives_one_reason() -> None:
    found = traced(lambda n, x: n.conv1(torch.tanh(F.gelu(F.gelu(x[:1] + x[1:])))), IMAGES)
    slices = "aten.slice is along dimension 0, not rows or columns"
    assert kinds(found) == [f"{slices}; {GELU}; aten.tanh has no native form", "1 images"]


def test_what_is_never_native() -> None:
    found = traced(lambda n, x, i: n.conv1(x)[i] + n.conv2(x)[i], IMAGES, torch.tensor([0, 1, 1]))
    assert kinds(found)[1].startswith("aten.index has no native form")
    indices = traced(lambda n, x: F.max_pool2d(n.conv1(x), 2, return_indices=True), IMAGES)
    assert kinds(indices) == ["2 images", "aten.max_pool2d_with_indices makes several tensors that are used"]
    assert kinds(traced(lambda n, x: F.max_pool2d(n.conv1(x), 2, return_indices=True)[0], IMAGES)) == ["2 images"]
    halves = traced(lambda n, x: n.conv1(x).double().relu(), IMAGES)
    assert kinds(halves)[1].startswith("aten._to_copy has no native form; aten.relu reads torch.float64")
    empty = traced(lambda n, x: torch.cat([n.conv1(x), x[:, :0]], 1), IMAGES)
    assert kinds(empty) == [
        "2 images",
        "aten.slice makes an empty tensor; aten.cat reads a tensor of shape (2, 0, 5, 4)",
    ]


def test_shapes_that_depend_on_values() -> None:
    found = traced(lambda n, x: n.linear1(n.linear2(x)[(x > 0).any(-1)]), VECTORS)
    assert kinds(found)[0] == "10 images"
    assert "aten.linear reads a tensor of shape (u0, 4)" in kinds(found)[1]


def test_what_passes_a_value_on_is_no_part_of_its_own() -> None:
    found = traced(lambda n, x: (n.conv1(x.clone()).flatten(1), x.clone()), IMAGES)
    (part,) = found.parts
    assert isinstance(part, NativePart)
    assert part.graph.outputs == [2, 0]
    assert part.shapes == ((2, 60), (2, 3, 5, 4))


def test_pytorch_has_copies_of_the_weights_it_needs() -> None:
    net = Net(lambda n, x: F.layer_norm(n.linear1(x), (4,), n.linear2.weight[0], n.linear2.bias))
    _, part = trace(net, VECTORS).parts
    assert isinstance(part, TorchPart)
    held = dict(part.module.named_buffers())
    assert sorted(t.shape for t in held.values()) == [(4,), (4,)]
    (got,) = part.module(VECTORS)
    want = F.layer_norm(VECTORS, (4,), net.linear2.weight[0], net.linear2.bias)
    with torch.no_grad():
        net.linear2.weight.zero_()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(part.module(VECTORS)[0], want)
    assert not got.requires_grad


def test_transformer() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(2, 3, 8)
    found = trace(layer, x)
    torch.testing.assert_close(evaluate(found, x), layer.eval().double()(x.double()), rtol=1e-10, atol=1e-10)
    layers = [[s.name for s in p.graph.steps] for p in found.parts if isinstance(p, NativePart)]
    assert layers == [["self_attn.linear"], ["self_attn.linear"], ["linear1", "relu", "linear2", "add"]]
    assert sum("scaled_dot_product_attention" in reason for reason in kinds(found)) == 1
