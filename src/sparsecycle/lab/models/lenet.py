"""The two LeNets of the pruning literature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsecycle.lab.models.initialisation import variance_scaling
from sparsecycle.lab.models.shapes import Shape, check


class LeNet300100(nn.Module):
    """Images (n, c, h, w), flattened, through 300 and 100 hidden ReLU units to logits (n, classes)."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(pixels, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w)."""
        x = torch.flatten(images, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class LeNet5Caffe(nn.Module):
    """Convolutions of 20 and 50 5x5 filters, each pooled but not rectified, then 500 hidden ReLU units."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * _after(height) * _after(width), 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w)."""
        x = F.max_pool2d(self.conv1(images), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        logits: Tensor = self.fc2(x)
        return logits


def lenet_300_100(shape: Shape, classes: int) -> LeNet300100:
    """LeNet-300-100: 266,200 prunable weights and 266,610 parameters on MNIST.

    Any image size goes: the image is flattened. Initial weights are torch's own: N(0, 2/fan_out), which Qureshi et
    al. (arXiv 2606.12278) use for ResNet-18, gives logits so large that their MNIST recipe dies or learns far slower.

    Raises:
        ValueError: if the shape or the number of classes is not positive.
    """
    c, h, w = check("lenet-300-100", shape, classes)
    return LeNet300100(c * h * w, classes)


def lenet_5_caffe(shape: Shape, classes: int) -> LeNet5Caffe:
    """LeNet-5-Caffe: 430,500 prunable weights and 431,080 parameters on MNIST.

    As in SNIP (Lee et al., arXiv 1810.02340) and its code: no ReLU after the convolutions, and
    variance-scaled initial weights.

    Raises:
        ValueError: if the images are smaller than 16x16 or the number of classes is not positive.
    """
    check("lenet-5-caffe", shape, classes, smallest=16)
    return variance_scaling(LeNet5Caffe(shape, classes))


def _after(size: int) -> int:
    """Pixels that two rounds of an unpadded 5x5 convolution and 2x2 pooling leave of ``size``."""
    return ((size - 4) // 2 - 4) // 2
