"""A ticket in force on a model: rewound, pruned, and kept pruned under any fresh optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Applied", "fitting", "state_of", "tensors_of"]

# The hook that masks a weight's gradient; weakly, so that it keeps no weight alive.
_hooks: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's own parameters and persistent buffers, by name; one that is shared under each of its names."""
    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    saved = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in named if name in saved}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of :func:`tensors_of` on the CPU."""
    tensors = tensors_of(model).items()
    return {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors}


def fitting(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors that have the shape they have in ``weights``, by name.

    Raises:
        ValueError: If the model lacks one of the names, or none of the masks fits.
    """
    own = tensors_of(model)
    for name, tensor in weights.items():
        if name not in own:
            raise ValueError(
                f"the ticket has {name} of shape {tuple(tensor.shape)}, but {type(model).__name__} has no such "
                "parameter or buffer: is it another architecture?"
            )
    fit = {name: own[name] for name, tensor in weights.items() if own[name].shape == tensor.shape}
    if not any(name in fit for name in masks):
        name = next(iter(masks))
        raise ValueError(
            f"no pruned weight of the ticket fits {type(model).__name__}: {name} has shape "
            f"{tuple(masks[name].shape)} in the ticket and {tuple(own[name].shape)} in the model"
        )
    return fit


class Applied:
    """What :meth:`sparsecycle.tickets.Ticket.apply` put into force.

    It need not be kept: the hooks stay on the model's parameters, until :meth:`remove` or another ticket.

    Args:
        model: The network, which is changed here.
        masks: Bool masks by parameter name.
        weights: The state to rewind to, by name.

    Attributes:
        left_out: Names that kept the model's own values, because the ticket has them in another shape or not at all.
    """

    left_out: tuple[str, ...]

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        model = getattr(model, "_orig_mod", model)  # torch.compile wraps it and prefixes its names
        fit = fitting(masks, weights, model)
        own = tensors_of(model)
        self.left_out = tuple(name for name in own if name not in fit)
        with torch.no_grad():
            for name, tensor in fit.items():
                tensor.copy_(weights[name])
        for tensor in own.values():
            _unhook(tensor)
        self._pruned = [
            (fit[name], mask.to(fit[name].device), _hook(fit[name], mask))
            for name, mask in masks.items()
            if name in fit
        ]
        self.enforce()

    @torch.no_grad()
    def enforce(self) -> None:
        """Zero the pruned weights and their gradients again; after another ticket or :meth:`remove`, nothing."""
        for weight, mask, handle in self._pruned:
            if _hooks.get(weight) is handle:
                dead = ~mask.to(weight.device)
                weight.masked_fill_(dead, 0)
                if weight.grad is not None:
                    weight.grad.masked_fill_(dead, 0)

    def remove(self) -> None:
        """Take the hooks away. The zeros stay, but training may change them from here on."""
        for weight, _, handle in self._pruned:
            if _hooks.get(weight) is handle:
                _unhook(weight)


def _hook(weight: Tensor, mask: Tensor) -> RemovableHandle:
    gate = mask.to(weight.device, weight.dtype)

    # Knows the mask alone: a hook that knew its ticket would keep all its weights alive as long as this one.
    def mask_gradient(weight: Tensor) -> None:
        nonlocal gate
        if weight.grad is not None:
            if gate.device != weight.grad.device:  # the model was moved
                gate = gate.to(weight.grad.device)
            weight.grad.mul_(gate)

    frozen = not weight.requires_grad
    weight.requires_grad_(True)  # a weight that is frozen now may be thawed later, and takes no hook before
    handle: RemovableHandle = weight.register_post_accumulate_grad_hook(mask_gradient)
    _hooks[weight] = handle
    weight.requires_grad_(not frozen)
    return handle


def _unhook(tensor: Tensor) -> None:
    handle = _hooks.pop(tensor, None)
    if handle is not None:
        handle.remove()
