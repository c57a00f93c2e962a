"""Residual networks: ResNet-18, -20, -32 and -56 for small images, and ImageNet's ResNet-50."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsecycle.lab.models.initialisation import kaiming_convolutions, kaiming_fan_in, kaiming_fan_out
from sparsecycle.lab.models.shapes import Shape, check

Shortcut = Literal["projection", "padding"]


class PaddingShortcut(nn.Module):
    """Every second pixel, and zeros for the new channels, half of them on either side; no parameters.

    Source: He et al. (arXiv 1512.03385), section 4.2, option A.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif shortcut == "projection":
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))
        else:
            self.shortcut = PaddingShortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem without pooling, stages of basic blocks, an average over the image, one linear layer.

    Args:
        channels: channels of an image.
        classes: number of classes.
        widths: channels of each of three or four stages; each but the first halves height and width.
        blocks: basic blocks of each stage.
        shortcut: how a shortcut changes its shape: a 1x1 convolution with batch norm, or zero padding.
    """

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...], blocks: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], blocks, 1, shortcut)
        self.layer2 = _stage(widths[0], widths[1], blocks, 2, shortcut)
        self.layer3 = _stage(widths[1], widths[2], blocks, 2, shortcut)
        # Empty where there are three stages: it passes its input on and adds no name.
        self.layer4 = _stage(widths[2], widths[3], blocks, 2, shortcut) if len(widths) > 3 else nn.Sequential()
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        logits: Tensor = self.linear(x)
        return logits


class Bottleneck(nn.Module):
    """1x1 to a quarter of the outputs, 3x3, 1x1, each with batch norm, around a shortcut; ReLU after the sum.

    The 3x3 convolution has the stride, as in Goyal et al. (arXiv 1706.02677), section 5.1.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        # Empty where shapes agree: it passes its input on and adds no name.
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x))


class ResNet50(nn.Module):
    """A 7x7 stem and max pooling, 3, 4, 6 and 3 bottlenecks, an average over the image, one linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _bottlenecks(64, 256, 3, 1)
        self.layer2 = _bottlenecks(256, 512, 4, 2)
        self.layer3 = _bottlenecks(512, 1024, 6, 2)
        self.layer4 = _bottlenecks(1024, 2048, 3, 2)
        self.fc = nn.Linear(2048, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        logits: Tensor = self.fc(x)
        return logits


def resnet_18(shape: Shape, classes: int) -> ResNet:
    """ResNet-18 at CIFAR size: widths 64 to 512, 11,164,352 prunable weights on CIFAR-10.

    11,159,232 of them in convolutions; 11,173,962 parameters. Source: Qureshi et al. (arXiv 2606.12278), the
    authors' code, initial weights included.

    Raises:
        ValueError: if the images are smaller than 8x8 or the number of classes is not positive.
    """
    channels, _, _ = check("resnet-18", shape, classes, smallest=8)
    return kaiming_fan_out(ResNet(channels, classes, (64, 128, 256, 512), 2, "projection"))


def resnet_20(shape: Shape, classes: int) -> ResNet:
    """ResNet-20 with 1x1 projection shortcuts: 270,896 prunable weights on CIFAR-10.

    The network that Frankle & Carbin (arXiv 1803.03635) call "Resnet-18". Initial weights are He's; batch
    norm starts as the identity.

    Raises:
        ValueError: if the images are smaller than 4x4 or the number of classes is not positive.
    """
    return _thin("resnet-20", shape, classes, "projection")


def resnet_32(shape: Shape, classes: int) -> ResNet:
    """ResNet-32 with 1x1 projection shortcuts: 464,432 prunable weights on CIFAR-10.

    Raises:
        ValueError: if the images are smaller than 4x4 or the number of classes is not positive.
    """
    return _thin("resnet-32", shape, classes, "projection")


def resnet_56(shape: Shape, classes: int) -> ResNet:
    """ResNet-56 with 1x1 projection shortcuts: 851,504 prunable weights on CIFAR-10.

    Raises:
        ValueError: if the images are smaller than 4x4 or the number of classes is not positive.
    """
    return _thin("resnet-56", shape, classes, "projection")


def resnet_20_a(shape: Shape, classes: int) -> ResNet:
    """ResNet-20 with zero-padding shortcuts: 268,336 prunable weights on CIFAR-10.

    The network of He et al. (arXiv 1512.03385), section 4.2. Parameters are named as in
    akamaster/pytorch_resnet_cifar10, whose trained weights load.

    Raises:
        ValueError: if the images are smaller than 4x4 or the number of classes is not positive.
    """
    return _thin("resnet-20-a", shape, classes, "padding")


def resnet_32_a(shape: Shape, classes: int) -> ResNet:
    """ResNet-32 with zero-padding shortcuts: 461,872 prunable weights on CIFAR-10.

    Raises:
        ValueError: if the images are smaller than 4x4 or the number of classes is not positive.
    """
    return _thin("resnet-32-a", shape, classes, "padding")


def resnet_56_a(shape: Shape, classes: int) -> ResNet:
    """ResNet-56 with zero-padding shortcuts: 848,944 prunable weights on CIFAR-10.

    Raises:
        ValueError: if the images are smaller than 4x4 or the number of classes is not positive.
    """
    return _thin("resnet-56-a", shape, classes, "padding")


def resnet_50(shape: Shape, classes: int) -> ResNet50:
    """ResNet-50 of ImageNet: 25,502,912 prunable weights and 25,557,032 parameters with 1000 classes.

    He et al. (arXiv 1512.03385), table 1, with the strides of Goyal et al. (arXiv 1706.02677). Parameters are named as
    in torchvision, whose trained weights load.

    Raises:
        ValueError: if the images are smaller than 32x32 or the number of classes is not positive.
    """
    channels, _, _ = check("resnet-50", shape, classes, smallest=32)
    return kaiming_convolutions(ResNet50(channels, classes))


def _thin(name: str, shape: Shape, classes: int, shortcut: Shortcut) -> ResNet:
    channels, _, _ = check(name, shape, classes, smallest=4)
    # Two convolutions a block, three stages, the stem and the linear layer make the depth in the name.
    blocks = (int(name.split("-")[1]) - 2) // 6
    return kaiming_fan_in(ResNet(channels, classes, (16, 32, 64), blocks, shortcut))


def _stage(inputs: int, outputs: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))


def _bottlenecks(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inputs, outputs, stride)
    return nn.Sequential(first, *(Bottleneck(outputs, outputs, 1) for _ in range(blocks - 1)))
