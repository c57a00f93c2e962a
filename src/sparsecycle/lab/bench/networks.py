"""A pruned network to time: no training, but weights, masks and batch norm that run as a trained network's would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sparsecycle.lab.bench.subject import Subject
from sparsecycle.prunable import choose
from sparsecycle.selection import keep_largest

__all__ = ["Scope", "prunable", "pruned"]

Scope = Literal["uniform", "global"]

_IMAGES = 16  # that the batch norm's statistics come from
_LEAST_VARIANCE = 0.01  # of a channel, as a share of its layer's largest


def pruned(subject: Subject, scope: Scope = "uniform") -> nn.Module:
    """The subject's network in evaluation mode, its random weights pruned by magnitude, the same at every call.

    Batch norm has scales and shifts at random and the statistics of random images, so that activations keep their size
    from layer to layer at any sparsity.

    Args:
        subject: The network, and the share of :func:`prunable`'s weights that are zeroed.
        scope: ``uniform``: every layer has the same sparsity; ``global``: one threshold for all layers.

    Raises:
        ValueError: If the network cannot be built as asked.
    """
    if scope not in ("uniform", "global"):
        raise ValueError(f"scope={scope!r}; allowed are 'uniform' and 'global'")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = subject.build()
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.0, 0.1)
            norm.momentum = 1.0
        if subject.sparsity:
            _prune(prunable(model), subject.sparsity, scope)
        if norms:
            model.train()(torch.randn(_IMAGES, *subject.shape))
            for variance in (norm.running_var for norm in norms):
                # Channels that pruning has left without any input would have their rounding errors scaled up.
                assert variance is not None
                variance.clamp_(min=_LEAST_VARIANCE * float(variance.max()))
        return model.eval()


def prunable(model: nn.Module) -> list[Tensor]:
    """The weights that users prune: not a first convolution's, not the classifier's, not depthwise convolutions'."""
    *weights, _ = (weight.detach() for weight in choose(model).weights.values())
    if weights and weights[0].dim() == 4:
        del weights[0]
    return [weight for weight in weights if weight.dim() == 2 or weight.shape[1] > 1]


def _prune(weights: Sequence[Tensor], sparsity: float, scope: Scope) -> None:
    for group in [[weight] for weight in weights] if scope == "uniform" else [weights]:
        keep = round((1 - sparsity) * sum(weight.numel() for weight in group))
        for weight, mask in zip(group, keep_largest(group, keep, absolute=True).masks, strict=True):
            weight.mul_(mask)
