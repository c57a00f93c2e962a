import pytest
import torch
from torch import nn

from sparsecycle.lab.models import build


def of(name, shape=(3, 32, 32)):
    with torch.device("meta"):
        return build(name, shape, 10)


def kinds(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize(
    ("name", "convolutions", "in_convolutions", "bias", "pools", "linear", "dropout"),
    [
        ("vgg-16", 13, 14_710_464, False, 4, [(512, 10)], []),
        ("vgg-19", 16, 20_018_880, False, 4, [(512, 10)], []),
        ("vgg-19-qureshi", 16, 20_018_880, True, 5, [(512, 512), (512, 512), (512, 10)], [0.3, 0.3]),
        ("vgg-like", 13, 14_710_464, True, 5, [(512, 512), (512, 10)], [0.5, 0.5]),
        ("vgg-like-snip", 13, 14_710_464, True, 5, [(512, 512), (512, 10)], []),
    ],
)
def test_layers(name, convolutions, in_convolutions, bias, pools, linear, dropout):
    model = of(name)
    convs = kinds(model, nn.Conv2d)
    assert len(convs) == convolutions
    assert sum(conv.weight.numel() for conv in convs) == in_convolutions
    assert all((conv.bias is not None) == bias for conv in convs)
    assert len(kinds(model, nn.MaxPool2d)) == pools
    assert [(m.in_features, m.out_features) for m in kinds(model, nn.Linear)] == linear
    assert [m.p for m in kinds(model, nn.Dropout)] == dropout


def test_snip_counts_weights_and_biases_without_norms():
    layers = kinds(of("vgg-like-snip"), (nn.Conv2d, nn.Linear))
    assert sum(layer.weight.numel() + layer.bias.numel() for layer in layers) == 14_982_474


@pytest.mark.parametrize(("name", "side"), [("vgg-19", 2), ("vgg-like", 1)])
def test_what_is_left_of_32_pixels_is_averaged_as_published(name, side):
    torch.manual_seed(0)
    model = build(name, (3, 32, 32), 10).eval()
    convolutions = model.features[:-2]
    with torch.inference_mode():
        images = torch.rand(2, 3, 32, 32)
        left = convolutions(images)
        assert left.shape == (2, 512, side, side)
        expected = model.classifier(left.mean((2, 3)))
        torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("name", ["vgg-like", "vgg-19"])
def test_larger_images_need_no_more_weights(name):
    small, large = of(name), of(name, (3, 64, 64))
    assert [p.shape for p in small.parameters()] == [p.shape for p in large.parameters()]
    with torch.device("meta"):
        assert large.eval()(torch.empty(2, 3, 64, 64)).shape == (2, 10)
