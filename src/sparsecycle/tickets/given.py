"""A ticket's mask held by a sparsifier, which also cleans the state of an optimizer that has run before."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsecycle.criteria import Criterion
from sparsecycle.files.container import digest
from sparsecycle.prunable import choose
from sparsecycle.schedules import Constant
from sparsecycle.sparsifier import Sparsifier

__all__ = ["Given", "hold"]


class Given(Criterion):
    """1 where a given mask keeps a weight, 0 where it does not.

    Args:
        masks: Bool masks by the weights' names.

    Raises:
        ValueError: From :meth:`score`, if a weight has no mask or one of another shape.
    """

    absolute: ClassVar[bool] = False

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        for name, weight in weights.items():
            has = tuple(self.masks[name].shape) if name in self.masks else "no mask"
            if has != tuple(weight.shape):
                raise ValueError(f"{name} has shape {tuple(weight.shape)}, and the given mask: {has}")
        return [self.masks[name].to(weight.device, torch.float32) for name, weight in weights.items()]

    def __repr__(self) -> str:
        # The sparsifier compares this when it loads a checkpoint: other masks must read differently.
        return f"Given({digest(self.masks)[:16]})"


def hold(
    masks: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, total_steps: int
) -> Sparsifier:
    """A sparsifier with exactly these masks from the first step to the last.

    Raises:
        ValueError: If a weight is frozen, or the sparsifier refuses an argument.
    """
    include = [glob.escape(name) for name in masks]  # a name is no pattern
    weights = choose(getattr(model, "_orig_mod", model), include).weights
    for name in masks:
        if name not in weights:
            raise ValueError(f"{name} is pruned in the ticket and frozen in the model: thaw it, or use apply(model)")
    kept, total = (sum(int(count) for count in counts) for counts in zip(*_sizes(masks), strict=True))
    return Sparsifier(
        model,
        optimizer,
        1 - kept / total,
        Constant(),
        Given(masks),
        "global",
        total_steps=total_steps,
        include=include,
        floor=0,
    )


def _sizes(masks: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    return [(int(mask.sum()), mask.numel()) for mask in masks.values()]
