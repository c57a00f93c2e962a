import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsecycle.lab.models import build
from sparsecycle.lab.models.resnet import BasicBlock, Bottleneck, PaddingShortcut

WEIGHTS = Path(os.environ.get("SPARSECYCLE_DATA", "")) / "weights"


def convolutions(name, size):
    with torch.device("meta"):
        model = build(name, (3, 32, 32), 10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (size, size)]
    return sum(layer.weight.numel() for layer in layers)


@pytest.mark.parametrize(
    ("name", "three", "one"),
    [
        ("resnet-20", 267_696, 2_560),
        ("resnet-20-a", 267_696, 0),
        ("resnet-18", 10_987_200, 172_032),
        ("resnet-50", 11_317_248, 12_128_256),
    ],
)
def test_where_the_weights_are(name, three, one):
    assert convolutions(name, 3) == three
    assert convolutions(name, 1) == one


@pytest.mark.parametrize(("name", "depth"), [("resnet-20", 20), ("resnet-32-a", 32), ("resnet-56", 56)])
def test_the_depth_is_in_the_name(name, depth):
    with torch.device("meta"):
        model = build(name, (3, 32, 32), 10)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)]
    assert len(layers) == depth


def test_each_stage_but_the_first_halves_the_image():
    model = build("resnet-18", (1, 28, 28), 10).eval()
    sizes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda module, given, made: sizes.append(tuple(made.shape[1:])))
    with torch.inference_mode():
        model(torch.rand(1, 1, 28, 28))
    assert sizes == [(64, 28, 28), (128, 14, 14), (256, 7, 7), (512, 4, 4)]


@given(
    inputs=st.integers(1, 6),
    more=st.integers(0, 7),
    stride=st.sampled_from([1, 2]),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
def test_padding_shortcut_keeps_every_second_pixel_amid_zeros(inputs, more, stride, height, width):
    x = torch.arange(2.0 * inputs * height * width).reshape(2, inputs, height, width) + 1
    y = PaddingShortcut(inputs, inputs + more, stride)(x)
    before = more // 2
    assert y.shape[1] == inputs + more
    assert torch.equal(y[:, before : before + inputs], x[:, :, ::stride, ::stride])
    assert y.count_nonzero() == x[:, :, ::stride, ::stride].numel()


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
@pytest.mark.parametrize("size", [7, 8])
def test_block_adds_its_shortcut_before_the_last_relu(shortcut, size):
    torch.manual_seed(0)
    block = BasicBlock(4, 8, 2, shortcut).eval()
    x = torch.randn(2, 4, size, size)
    with torch.no_grad():
        residual = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
        torch.testing.assert_close(block(x), (residual + block.shortcut(x)).relu())


def test_block_of_one_shape_passes_its_input_on():
    block = BasicBlock(4, 4, 1, "projection").eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("inputs", "stride"), [(8, 1), (16, 1), (16, 2)])
def test_bottleneck_has_its_stride_in_the_middle(inputs, stride):
    torch.manual_seed(0)
    block = Bottleneck(inputs, 16, stride).eval()
    assert [conv.stride for conv in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (stride, stride), (1, 1)]
    x = torch.randn(2, inputs, 7, 7)
    with torch.no_grad():
        residual = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())).relu()
        residual = block.bn3(block.conv3(residual))
        torch.testing.assert_close(block(x), (residual + block.downsample(x)).relu())


def test_resnet_50_is_the_one_of_imagenet():
    with torch.device("meta"):
        model = build("resnet-50", (3, 224, 224), 1000).eval()
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    state = model.state_dict()
    assert state["layer4.0.downsample.0.weight"].shape == (2048, 1024, 1, 1), "torchvision's names"
    assert len(state) == 320
    sizes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda module, given, made: sizes.append(tuple(made.shape[1:])))
    with torch.device("meta"):
        model(torch.empty(1, 3, 224, 224))
    assert sizes == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="no trained weights under $SPARSECYCLE_DATA/weights")
@pytest.mark.parametrize(
    ("name", "file"),
    [("resnet-20-a", "resnet20-12fca82f.th"), ("resnet-56-a", "resnet56-4bfd9763.th")],
)
def test_published_weights_fit(name, file):
    if not (WEIGHTS / file).exists():
        pytest.skip(f"no {file}")
    stored = torch.load(WEIGHTS / file, map_location="cpu", weights_only=True)["state_dict"]
    state = {key.removeprefix("module."): value for key, value in stored.items()}
    model = build(name, (3, 32, 32), 10)
    assert set(dict(model.named_parameters())) <= set(state)
    # The file is older than batch norm's counters, which no forward pass in eval mode reads.
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == []
    assert all(key.endswith("num_batches_tracked") for key in missing)
    assert torch.equal(model.layer2[0].conv1.weight, state["layer2.0.conv1.weight"])
