"""MobileNetV2 for small images."""

from __future__ import annotations

from torch import Tensor, nn

from sparsecycle.lab.models.initialisation import kaiming_fan_out
from sparsecycle.lab.models.shapes import Shape, check

# Expansion, channels, blocks and first stride of each stage (Sandler et al., table 2); for 32x32 images the
# strides of the stem and of the sixth stage are 1.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 1),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 linear projection; a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        y: Tensor = self.residual(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """Stem, seven stages of inverted residuals, a 1x1 convolution to 1,280 channels, one linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(channels, 32, 1, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU6(inplace=True),
        ]
        inputs = 32
        for expansion, outputs, blocks, first in _STAGES:
            for block in range(blocks):
                layers.append(InvertedResidual(inputs, outputs, first if block == 0 else 1, expansion))
                inputs = outputs
        layers += [nn.Conv2d(inputs, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU6(inplace=True)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def mobilenet_v2(shape: Shape, classes: int) -> MobileNetV2:
    """MobileNetV2, width 1, at CIFAR size.

    Sandler et al. (arXiv 1801.04381) as COLT's code (arXiv 2212.12770) has it for 32x32 images: a 1x1 stem
    with a padding of one pixel, three halvings, convolutions with biases. On CIFAR-10 2,202,816 weights
    are prunable and 2,254,090 parameters are trained. Initial weights are He's, by fan-out.

    Raises:
        ValueError: if the images are smaller than 8x8 or the number of classes is not positive.
    """
    channels, _, _ = check("mobilenet-v2", shape, classes, smallest=8)
    return kaiming_fan_out(MobileNetV2(channels, classes))
