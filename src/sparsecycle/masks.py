"""The masks: hold them, enforce them, pack them into bits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from sparsecycle import native

__all__ = ["Competing", "Masks", "clear", "forget_momentum", "pack", "unpack"]


class _Flow:
    """Whether gradients are left as they are; apart, so that the hooks know this and the mask alone.

    A hook that knew the masks' owner would keep it alive as long as the weight.
    """

    dense = False


Competing: TypeAlias = "tuple[tuple[int, ...], int, int, float | None, float]"
"""The layers, by their indices; how many weights they keep from now on, and until now; where the threshold may be, and
how far from there at most, relative to it."""


class Masks:
    """One mask a weight: one byte, where the native core takes the weights.

    Elsewhere masks are ones and zeros of the weight's own type: torch multiplies by these several times faster than by
    bools, and does so at every step.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self._weights = dict(weights)
        self._flow = _Flow()
        kind = torch.bool if native.fits(list(weights.values())) else None
        self._gates = {name: torch.ones_like(w, dtype=kind, requires_grad=False) for name, w in weights.items()}
        self._view = native.View(list(self._weights.values()), list(self._gates.values()))
        self._strayed = False  # whether a pruned weight was found changed since the optimizer's state was cleared

    def __getitem__(self, name: str) -> Tensor:
        """A bool copy of one mask: True where the weight is kept."""
        return self._gates[name].to(torch.bool, copy=True)

    def kept(self) -> dict[str, int]:
        """How many weights of each tensor are kept."""
        return {name: int(gate.count_nonzero()) for name, gate in self._gates.items()}

    def replace(self, masks: Sequence[Tensor]) -> None:
        """Take these masks, in the weights' order."""
        for gate, mask in zip(self._gates.values(), masks, strict=True):
            gate.copy_(mask.view(torch.uint8))  # torch converts bytes several times faster than bools

    def enforce(self, *, negative: bool = False) -> None:
        """Zero the pruned weights.

        Args:
            negative: Whether some of them may be negative, which times 0 is -0; those already zeroed are not.
        """
        if (layers := self._view.layers()) is not None:
            if layers.enforce([], torch.get_num_threads()):
                self._strayed = True
                native.increment_versions(self._weights.values())
            return
        with torch.no_grad():
            torch._foreach_mul_(list(self._weights.values()), list(self._gates.values()))
            if negative:
                torch._foreach_add_(list(self._weights.values()), 0.0)

    @torch.no_grad()
    def part(self, stored: Sequence[Tensor]) -> None:
        """Zero the pruned weights, and keep their values in ``stored``, which is 0 elsewhere."""
        weights: list[Tensor] = list(self._weights.values())
        torch._foreach_copy_(list(stored), weights)
        self.enforce(negative=True)
        torch._foreach_sub_(list(stored), weights)

    @torch.no_grad()
    def join(self, stored: Sequence[Tensor]) -> None:
        """Give the pruned weights their ``stored`` values."""
        torch._foreach_add_(list(self._weights.values()), list(stored))

    @torch.no_grad()
    def settle(self, optimizer: torch.optim.Optimizer, came_back: Mapping[str, Tensor]) -> None:
        """Zero the pruned weights' gradients and all that the optimizer holds of them.

        Whatever state has a weight's shape is taken to belong to it element by element.

        Args:
            optimizer: The optimizer of the weights.
            came_back: Where weights were pruned until now and are kept from here on: their state is cleared too.

        Raises:
            ValueError: If the optimizer's state of a weight is no mapping.
        """
        self.mask_gradients()
        for name, weight in self._weights.items():
            for state in _states(optimizer, weight):
                clear(self._gates[name], state)
                if name in came_back:
                    state.masked_fill_(came_back[name], 0)
        self._strayed = False

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the pruned weights' gradients."""
        for name, weight in self._weights.items():
            if weight.grad is not None:
                clear(self._gates[name], weight.grad)

    def prune(
        self, optimizer: torch.optim.Optimizer, shares: Sequence[Competing], returns: bool, floor: int
    ) -> list[float | None] | None:
        """Keep the weights of the largest magnitude, and zero all that belongs to the others, in the native core.

        Reads the weights once where few of them fall, as where masks change at every step, and twice otherwise.

        Args:
            optimizer: The optimizer of the weights.
            shares: Who competes for how many places.
            returns: Whether a pruned weight, being 0, competes too.
            floor: How many weights every layer keeps that competes with others.

        Returns:
            The shares' thresholds; one that keeps nothing has none. None, with no mask changed, if the core cannot take
            the weights.

        Raises:
            ValueError: If a weight is NaN or infinite; no mask is changed then. If the optimizer's state of a weight is
                no mapping.
        """
        if (layers := self._view.layers()) is None:
            return None
        companions, belongings, complete = self._view.belongings(optimizer.state)
        thresholds = layers.prune(companions, shares, returns, floor, torch.get_num_threads())
        native.increment_versions([*self._weights.values(), *belongings])
        if self._strayed or not complete:
            self.settle(optimizer, {})
        return thresholds

    def hook_gradients(self) -> list[torch.utils.hooks.RemovableHandle]:
        """From here on every gradient is zero where its weight is pruned, as soon as it is there.

        Clipping and a gradient scaler then see only what the optimizer will use. While :attr:`dense_gradients` is
        true, gradients are left as they are.
        """

        def masked_by(gate: Tensor, flow: _Flow) -> Any:
            core = native.core()
            if core is not None and gate.dtype == torch.bool:
                return core.Gate(gate, flow, clear)

            def mask_gradient(weight: Tensor) -> None:
                if weight.grad is not None and not flow.dense:
                    clear(gate, weight.grad)

            return mask_gradient

        return [
            w.register_post_accumulate_grad_hook(masked_by(self._gates[n], self._flow))
            for n, w in self._weights.items()
        ]

    @property
    def dense_gradients(self) -> bool:
        """Whether the hooks leave the gradients as they are."""
        return self._flow.dense

    @dense_gradients.setter
    def dense_gradients(self, dense: bool) -> None:
        self._flow.dense = bool(dense)

    def apply_to(self, model: nn.Module) -> None:
        """Zero the pruned weights of another copy of the network.

        Raises:
            ValueError: If the copy lacks one of the weights, or has it in another shape.
        """
        theirs = dict(model.named_parameters(remove_duplicate=False))
        for name, gate in self._gates.items():
            # An averaged model keeps the network under the name "module".
            weight = theirs.get(name, theirs.get(f"module.{name}"))
            if weight is None or weight.shape != gate.shape:
                has = "no such weight" if weight is None else f"shape {tuple(weight.shape)}"
                raise ValueError(f"{name} of shape {tuple(gate.shape)} is pruned here, but the model has {has}")
        with torch.no_grad():
            for name, gate in self._gates.items():
                weight = theirs.get(name, theirs.get(f"module.{name}"))
                assert weight is not None
                weight.masked_fill_((gate == 0).to(weight.device), 0)


def clear(gate: Tensor, tensor: Tensor) -> None:
    """Zero a tensor where a mask, bools or the tensor's own ones and zeros, is zero."""
    if gate.dtype != torch.bool or not native.clear(gate, tensor):
        tensor.mul_(gate)


def pack(mask: Tensor) -> Tensor:
    """A mask's elements in index order, eight a byte, on the CPU."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def unpack(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The bool mask of this shape that :func:`pack` packed.

    Raises:
        ValueError: If the number of bytes does not fit the shape.
    """
    size = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.shape != (-(-size // 8),):
        raise ValueError(
            f"a mask of shape {tuple(shape)} packs into {-(-size // 8)} bytes, "
            f"not into {tuple(bits.shape)} of {bits.dtype}"
        )
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=size).astype(bool)).view(tuple(shape))


@torch.no_grad()
def forget_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Clear the momentum of all of an optimizer's parameters (torch's names: SGD's and RMSprop's, Adam's)."""
    for state in optimizer.state.values():
        for name in ("momentum_buffer", "exp_avg"):
            if torch.is_tensor(state.get(name)):
                state[name].zero_()


def _states(optimizer: torch.optim.Optimizer, weight: Tensor) -> Iterator[Tensor]:
    """What the optimizer holds of a weight, element by element."""
    held = optimizer.state.get(weight, {})
    if not isinstance(held, Mapping):
        raise ValueError(f"an optimizer's state of a weight must be a mapping, not a {type(held).__name__}")
    for state in held.values():
        if torch.is_tensor(state) and state.shape == weight.shape:
            yield state
