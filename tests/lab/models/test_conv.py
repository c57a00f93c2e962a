import pytest
import torch
from torch import nn

from sparsecycle.lab.models import build


@pytest.mark.parametrize(
    ("name", "in_convolutions", "in_linear"),
    [
        ("conv-2", 38_592, 4_262_400),
        ("conv-4", 259_776, 2_165_248),
        ("conv-6", 1_144_512, 1_116_672),
        ("conv3", 370_368, 2_560),
    ],
)
def test_where_the_weights_are(name, in_convolutions, in_linear):
    with torch.device("meta"):
        model = build(name, (3, 32, 32), 10)
    assert sum(m.weight.numel() for m in model if isinstance(m, nn.Conv2d)) == in_convolutions
    assert sum(m.weight.numel() for m in model if isinstance(m, nn.Linear)) == in_linear


@pytest.mark.parametrize(("classes", "total"), [(5, 372_997), (10, 374_282), (100, 397_412), (200, 423_112)])
def test_conv3_at_the_paper_s_numbers_of_classes(classes, total):
    with torch.device("meta"):
        model = build("conv3", (3, 32, 32), classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_pooling_rounds_down():
    model = build("conv-6", (1, 28, 28), 10)  # 28, 14, 7, 3
    assert next(m for m in model if isinstance(m, nn.Linear)).in_features == 256 * 3 * 3
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_conv3_normalises_then_pools_then_rectifies():
    assert [type(module).__name__ for module in build("conv3", (1, 8, 8), 10)] == [
        *("Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU") * 3,
        "AdaptiveAvgPool2d",
        "Flatten",
        "Linear",
    ]
