import math

import pytest
import torch
from torch import nn

from sparsecycle.lab.models import initialisation

FAN_IN, FAN_OUT = 40 * 9, 60 * 9  # of the convolution below
DEVIATIONS = {  # of the convolution, of the linear layer (200 inputs, 300 outputs)
    "kaiming_fan_out": (math.sqrt(2 / FAN_OUT), math.sqrt(2 / 300)),
    "kaiming_fan_in": (math.sqrt(2 / FAN_IN), math.sqrt(2 / 200)),
    "kaiming_convolutions": (math.sqrt(2 / FAN_OUT), 0.01),
    "glorot": (math.sqrt(2 / (FAN_IN + FAN_OUT)), math.sqrt(2 / 500)),
    "variance_scaling": (math.sqrt(1 / FAN_IN), math.sqrt(1 / 200)),
}


def filled(name):
    torch.manual_seed(0)
    layers = nn.Conv2d(40, 60, 3), nn.BatchNorm2d(60), nn.Linear(200, 300), nn.BatchNorm1d(300)
    model = nn.Sequential(*layers, nn.Conv2d(4, 4, 1, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    assert getattr(initialisation, name)(model) is model
    return layers


@pytest.mark.parametrize("name", DEVIATIONS)
def test_deviations_and_constants(name):
    conv, norm2d, linear, norm1d = filled(name)
    # 21,600 and 60,000 draws: a sample's deviation is within 2 % of the distribution's at four sigmas.
    assert conv.weight.std().item() == pytest.approx(DEVIATIONS[name][0], rel=0.02)
    assert linear.weight.std().item() == pytest.approx(DEVIATIONS[name][1], rel=0.02)
    for layer in (conv, linear):
        assert abs(layer.weight.mean().item()) < 5 * layer.weight.std().item() / layer.weight.numel() ** 0.5
        assert (layer.bias == 0).all()
    for norm in (norm2d, norm1d):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_variance_scaling_is_cut_at_two_of_its_wider_deviations():
    conv, *_ = filled("variance_scaling")
    limit = 2 * math.sqrt(1 / FAN_IN) / 0.8796256610342398
    assert 0.99 * limit < conv.weight.abs().max().item() <= limit * (1 + 1e-6)
