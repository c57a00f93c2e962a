"""One linear layer: softmax regression."""

from __future__ import annotations

from torch import nn

from sparsecycle.lab.models.shapes import Shape, check


def linear(shape: Shape, classes: int) -> nn.Sequential:
    """One linear layer from all pixels to the classes, with torch's own initial weights.

    Args:
        shape: (channels, height, width) of one image, of any size.
        classes: number of classes.

    Returns:
        A module from images (n, c, h, w) to logits (n, classes); c*h*w*classes weights are prunable.

    Raises:
        ValueError: if the shape or the number of classes is not positive.
    """
    c, h, w = check("linear", shape, classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, classes))
