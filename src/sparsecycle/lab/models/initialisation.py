"""The papers' initial weights: each function fills a network in place and gives it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def kaiming_fan_out(model: Network) -> Network:
    """Convolutions and linear layers N(0, 2/fan_out), biases 0; norms start as the identity.

    Source: Qureshi et al. (arXiv 2606.12278), the authors' code, for ResNet-18 and VGG-like.
    """
    return _fill(model, _fan_out, _fan_out)


def kaiming_fan_in(model: Network) -> Network:
    """Convolutions and linear layers N(0, 2/fan_in), biases 0; norms start as the identity.

    Source: He et al. (arXiv 1512.03385), section 4.2, for the CIFAR ResNets.
    """
    return _fill(model, nn.init.kaiming_normal_, nn.init.kaiming_normal_)


def kaiming_convolutions(model: Network) -> Network:
    """Convolutions N(0, 2/fan_out), linear layers N(0, 0.01^2), biases 0; norms start as the identity.

    Source: the authors' code of GraSP (Wang et al., arXiv 2002.07376) and of Qureshi et al. (arXiv
    2606.12278), both for VGG-19.
    """
    return _fill(model, _fan_out, lambda weight: nn.init.normal_(weight, 0.0, 0.01))


def glorot(model: Network) -> Network:
    """Convolutions and linear layers N(0, 2/(fan_in + fan_out)), biases 0; norms start as the identity.

    Source: Frankle & Carbin (arXiv 1803.03635), section 2 and the authors' code.
    """
    return _fill(model, nn.init.xavier_normal_, nn.init.xavier_normal_)


def variance_scaling(model: Network) -> Network:
    """Convolutions and linear layers of variance 1/fan_in, cut off at two deviations, biases 0.

    Source: SNIP (Lee et al., arXiv 1810.02340), section 4, with the defaults of the authors' code: the normal
    distribution is widened before the cut so that the variance after it is 1/fan_in.
    """
    return _fill(model, _cut_fan_in, _cut_fan_in)


def _fan_out(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _cut_fan_in(weight: Tensor) -> Tensor:
    # A standard normal distribution cut off at +-2 has this standard deviation.
    deviation = weight[0].numel() ** -0.5 / 0.87962566103423978
    return nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)


def _fill(model: Network, convolution: Callable[[Tensor], Tensor], linear: Callable[[Tensor], Tensor]) -> Network:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            convolution(module.weight)
        elif isinstance(module, nn.Linear):
            linear(module.weight)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return model
