"""Small plain convolutional networks: Conv-2, Conv-4, Conv-6 and conv3."""

from __future__ import annotations

from torch import nn

from sparsecycle.lab.models.initialisation import glorot, kaiming_fan_in
from sparsecycle.lab.models.shapes import Shape, check


def conv_2(shape: Shape, classes: int) -> nn.Sequential:
    """Conv-2: two 3x3 convolutions of 64, then 256-256-classes; 4,300,992 prunable weights on CIFAR-10.

    Every two padded convolutions (with ReLU) are followed by a 2x2 max pooling that rounds down. No norm.
    Source: Frankle & Carbin (arXiv 1803.03635), figure 2, with Glorot-normal initial weights.

    Raises:
        ValueError: if the images are smaller than 2x2 or the number of classes is not positive.
    """
    return _conv("conv-2", (64,), shape, classes)


def conv_4(shape: Shape, classes: int) -> nn.Sequential:
    """Conv-4: Conv-2 with two more convolutions of 128; 2,425,024 prunable weights on CIFAR-10.

    Raises:
        ValueError: if the images are smaller than 4x4 or the number of classes is not positive.
    """
    return _conv("conv-4", (64, 128), shape, classes)


def conv_6(shape: Shape, classes: int) -> nn.Sequential:
    """Conv-6: Conv-4 with two more convolutions of 256; 2,261,184 prunable weights on CIFAR-10.

    The paper prints 1.7 million in all and 1.1 million in the convolutions. The convolutions agree
    (1,144,512); the linear layers as it describes them have 1,116,672.

    Raises:
        ValueError: if the images are smaller than 8x8 or the number of classes is not positive.
    """
    return _conv("conv-6", (64, 128, 256), shape, classes)


def conv3(shape: Shape, classes: int) -> nn.Sequential:
    """conv3: three 3x3 convolutions of 64, 128 and 256, averaged, and one linear layer.

    Each convolution has a bias and is followed by batch norm, 2x2 max pooling and ReLU, in this order. On
    CIFAR-10 370,368 weights are in convolutions, 372,928 are prunable, and 374,282 parameters are trained.
    Source: COLT (Hossain et al., arXiv 2212.12770), the authors' code; initial weights are He's.

    Raises:
        ValueError: if the images are smaller than 8x8 or the number of classes is not positive.
    """
    channels, _, _ = check("conv3", shape, classes, smallest=8)
    layers: list[nn.Module] = []
    for width in (64, 128, 256):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.MaxPool2d(2),
            nn.ReLU(),
        ]
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return kaiming_fan_in(nn.Sequential(*layers))


def _conv(name: str, widths: tuple[int, ...], shape: Shape, classes: int) -> nn.Sequential:
    channels, height, width = check(name, shape, classes, smallest=2 ** len(widths))
    layers: list[nn.Module] = []
    for filters in widths:
        for inputs in (channels, filters):
            layers += [nn.Conv2d(inputs, filters, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        channels, height, width = filters, height // 2, width // 2
    layers += [nn.Flatten(), nn.Linear(channels * height * width, 256), nn.ReLU()]
    layers += [nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, classes)]
    return glorot(nn.Sequential(*layers))
