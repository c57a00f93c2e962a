"""The VGGs of the pruning papers: the same convolutions, with and without biases, under four heads."""

from __future__ import annotations

from torch import Tensor, nn

from sparsecycle.lab.models.initialisation import kaiming_convolutions, kaiming_fan_out, variance_scaling
from sparsecycle.lab.models.shapes import Shape, check

_WIDTHS = (64, 128, 256, 512, 512)
_REPEATS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """Five stages of 3x3 convolution, batch norm and ReLU, an average over what is left, and a head.

    Args:
        depth: 16 or 19, the published networks' number of layers.
        channels: channels of an image.
        head: module from (n, 512) to logits (n, classes).
        bias: whether the convolutions have biases.
        last_pool: whether the last stage, too, ends in a 2x2 max pooling.
    """

    def __init__(self, depth: int, channels: int, head: nn.Module, *, bias: bool, last_pool: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, (width, repeats) in enumerate(zip(_WIDTHS, _REPEATS[depth], strict=True)):
            for _ in range(repeats):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=bias),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            if last_pool or stage + 1 < len(_WIDTHS):
                layers.append(nn.MaxPool2d(2))
        # The papers' fixed average pooling leaves one pixel of 32x32 images; this one leaves one of any.
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.classifier = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def vgg_16(shape: Shape, classes: int) -> VGG:
    """VGG-16 for small images, without biases and with one linear layer.

    14,715,584 prunable weights on CIFAR-10: GraSP's VGG-19 (see ``vgg_19``) with three layers fewer.

    Raises:
        ValueError: if the images are smaller than 16x16 or the number of classes is not positive.
    """
    channels, _, _ = check("vgg-16", shape, classes, smallest=16)
    return kaiming_convolutions(VGG(16, channels, nn.Linear(512, classes), bias=False, last_pool=False))


def vgg_19(shape: Shape, classes: int) -> VGG:
    """VGG-19 of GraSP: convolutions without biases, one linear layer, no last max pooling.

    20,024,000 prunable weights and 20,035,018 parameters on CIFAR-10.
    Source: Wang et al. (arXiv 2002.07376), the authors' code.

    Raises:
        ValueError: if the images are smaller than 16x16 or the number of classes is not positive.
    """
    channels, _, _ = check("vgg-19", shape, classes, smallest=16)
    return kaiming_convolutions(VGG(19, channels, nn.Linear(512, classes), bias=False, last_pool=False))


def vgg_19_qureshi(shape: Shape, classes: int) -> VGG:
    """VGG-19 of Qureshi et al.: convolutions with biases and a head of 512-512-512-classes.

    20,548,288 prunable weights and 20,567,882 parameters on CIFAR-10.
    Source: arXiv 2606.12278, the authors' code.

    Raises:
        ValueError: if the images are smaller than 32x32 or the number of classes is not positive.
    """
    channels, _, _ = check("vgg-19-qureshi", shape, classes, smallest=32)
    head = nn.Sequential(
        nn.Dropout(0.3),
        nn.Linear(512, 512),
        nn.BatchNorm1d(512),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Linear(512, 512),
        nn.BatchNorm1d(512),
        nn.ReLU(inplace=True),
        nn.Linear(512, classes),
    )
    return kaiming_convolutions(VGG(19, channels, head, bias=True, last_pool=True))


def vgg_like(shape: Shape, classes: int) -> VGG:
    """VGG-like of Qureshi et al.: VGG-16's convolutions with biases, dropout, and a head of 512-512-classes.

    14,977,728 prunable weights and 14,990,922 parameters on CIFAR-10.
    Source: arXiv 2606.12278, the authors' code.

    Raises:
        ValueError: if the images are smaller than 32x32 or the number of classes is not positive.
    """
    channels, _, _ = check("vgg-like", shape, classes, smallest=32)
    head = nn.Sequential(
        nn.Dropout(0.5),
        nn.Linear(512, 512),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(512, classes),
    )
    return kaiming_fan_out(VGG(16, channels, head, bias=True, last_pool=True))


def vgg_like_snip(shape: Shape, classes: int) -> VGG:
    """VGG-like of SNIP: as ``vgg_like``, with batch norm in the head in place of dropout.

    14,977,728 prunable weights on CIFAR-10; 14,982,474 weights and biases, which is how the paper counts, and
    14,991,946 parameters with the norms. Variance-scaled initial weights.
    Source: Lee et al. (arXiv 1810.02340), the authors' code.

    Raises:
        ValueError: if the images are smaller than 32x32 or the number of classes is not positive.
    """
    channels, _, _ = check("vgg-like-snip", shape, classes, smallest=32)
    head = nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, classes))
    return variance_scaling(VGG(16, channels, head, bias=True, last_pool=True))
