"""The network that is looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sparsecycle.lab.models import Shape, build

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """A network by its name, what it is built for, and how much of it is pruned.

    Args:
        model: See :func:`sparsecycle.lab.models.build`.
        shape: Channels, height and width of an image.
        classes: Number of classes.
        sparsity: Share of the prunable weights that an update zeroes, of dense weights.
    """

    model: str
    shape: Shape
    classes: int
    sparsity: float

    def build(self) -> nn.Module:
        """The network with the initial weights of seed 0."""
        torch.manual_seed(0)
        return build(self.model, self.shape, self.classes)
