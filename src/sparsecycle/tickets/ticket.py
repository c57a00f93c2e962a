"""The ticket: which weights are kept, where they begin, and where that was found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsecycle.files.container import digest, read, write
from sparsecycle.masks import pack, unpack
from sparsecycle.sparsifier import Sparsifier
from sparsecycle.tickets.applied import Applied, fitting
from sparsecycle.tickets.given import hold

__all__ = ["Overlap", "Ticket", "read_ticket", "write_ticket"]

_KIND = "ticket"


@dataclass(frozen=True)
class Overlap:
    """How much two tickets agree.

    Args:
        total: Jaccard index of all weights: those that both keep, as a share of those that either keeps; 1 where
            neither keeps any.
        layers: The Jaccard index of each layer.
        chance: What the total would be if each layer kept as many weights as it does, but at random: the expected
            number that both keep, as a share of the expected number that either keeps.
    """

    total: float
    layers: dict[str, float]
    chance: float


@dataclass(frozen=True, eq=False, repr=False)
class Ticket:
    """A sparse subnetwork and the weights to train it from (Frankle & Carbin, arXiv 1803.03635).

    Tickets of the same weights are combined as sets: ``a & b`` keeps what both keep (COLT's overlap, Hossain et al.,
    arXiv 2212.12770), ``a | b`` what either keeps, ``a - b`` what only the left one keeps. The weights are the left
    one's.

    Args:
        masks: Bool tensors on the CPU by parameter name: True where the weight is kept.
        weights: The state to rewind to, on the CPU: parameters and buffers by name, pruned weights as they were.
        provenance: Where the ticket came from: plain JSON values.

    Raises:
        ValueError: If there is no mask, a mask is not bool or not of its weight's shape, a tensor is not on the CPU,
            or the provenance is not plain.
    """

    masks: dict[str, Tensor]
    weights: dict[str, Tensor]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        if not any(mask.numel() for mask in self.masks.values()):
            raise ValueError(f"masks={self.masks} must have at least one weight")
        for name, mask in self.masks.items():
            if mask.dtype != torch.bool:
                raise ValueError(f"masks: {name} is of {mask.dtype}; it must be of torch.bool")
            has = tuple(self.weights[name].shape) if name in self.weights else "none"
            if has != tuple(mask.shape):
                raise ValueError(f"masks: {name} has shape {tuple(mask.shape)}, and its weight: {has}")
        for word, tensors in (("masks", self.masks), ("weights", self.weights)):
            for name, tensor in tensors.items():
                if tensor.device.type != "cpu":
                    raise ValueError(f"{word}: {name} is on {tensor.device}; it must be on the CPU")
        try:
            plain = json.loads(json.dumps(self.provenance, allow_nan=False)) == self.provenance
        except (TypeError, ValueError):
            plain = False
        if not plain:
            raise ValueError(f"provenance={self.provenance!r} must be a dict of plain JSON values")

    # --- how much ----------------------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """Number of masked weights that are kept."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def total(self) -> int:
        """Number of masked weights, kept or not."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def sparsity(self) -> float:
        """Share of the masked weights that are pruned."""
        return 1 - self.kept / self.total

    @property
    def digest(self) -> str:
        """SHA-256 of masks and weights, 64 hexadecimal digits: the same for the same ticket, wherever it came from."""
        masks = {f"mask {name}": mask for name, mask in self.masks.items()}
        return digest({**masks, **{f"weight {name}": weight for name, weight in self.weights.items()}})

    def __repr__(self) -> str:
        where = self.provenance.get("method", self.provenance.get("operation", "unknown"))
        return f"Ticket({self.kept} of {self.total} weights in {len(self.masks)} layers, from: {where})"

    # --- in a file ---------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all; masks take one bit a weight."""
        write_ticket(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ticket:
        """Read what :meth:`save` wrote. Nothing in the file is ever executed.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not whole, not a ticket, of another version, or was changed.
        """
        return read_ticket(path)[0]

    # --- in a model --------------------------------------------------------------------------------------------

    def apply(self, model: nn.Module) -> Applied:
        """Rewind a model to the ticket's weights, zero the pruned ones, and keep them zero.

        A hook masks the gradient of each pruned parameter, so a fresh optimizer that moves a weight by its own
        gradient, momentum and decay leaves the zeros alone. One that mixes gradients (Muon, Shampoo) does not:
        call ``enforce()`` of what is returned after its steps, or use :meth:`sparsifier`.

        What the model has in another shape (the head for another data set) keeps the model's own values and is
        not masked; so does what the ticket does not know. A ticket that was applied before is replaced. A copy of
        the model (``copy.deepcopy``) has no hooks.

        Raises:
            ValueError: If the model lacks a parameter or buffer of the ticket, or no mask fits; the model is left
                as it was then.
        """
        return Applied(model, self.masks, self.weights)

    def sparsifier(self, model: nn.Module, optimizer: torch.optim.Optimizer, total_steps: int) -> Sparsifier:
        """A sparsifier that holds this mask all through a run, under an optimizer that may have run before.

        The model's weights are pruned, not rewound: call :meth:`apply` first for that. Masks that do not fit are left
        out, as there.

        Raises:
            ValueError: If the model lacks a parameter or buffer of the ticket, no mask fits, a pruned weight is
                frozen, or :class:`sparsecycle.Sparsifier` refuses an argument.
        """
        fit = fitting(self.masks, self.weights, getattr(model, "_orig_mod", model))
        return hold({name: mask for name, mask in self.masks.items() if name in fit}, model, optimizer, total_steps)

    # --- beside another ----------------------------------------------------------------------------------------

    def __and__(self, other: Ticket) -> Ticket:
        return self._combine("&", other, torch.logical_and) if isinstance(other, Ticket) else NotImplemented

    def __or__(self, other: Ticket) -> Ticket:
        return self._combine("|", other, torch.logical_or) if isinstance(other, Ticket) else NotImplemented

    def __sub__(self, other: Ticket) -> Ticket:
        return (
            self._combine("-", other, lambda left, right: left & ~right)
            if isinstance(other, Ticket)
            else NotImplemented
        )

    def overlap(self, other: Ticket) -> Overlap:
        """How much two tickets of the same weights agree, and how much they would by chance.

        Raises:
            ValueError: If their masks differ in names or shapes.
        """
        _check_comparable(self.masks, other.masks)
        layers, all_both, all_either = {}, 0, 0
        both_by_chance = either_by_chance = 0.0
        for name, mine in self.masks.items():
            theirs = other.masks[name]
            both, either = int((mine & theirs).sum()), int((mine | theirs).sum())
            layers[name] = _share(both, either)
            all_both, all_either = all_both + both, all_either + either
            expected = int(mine.sum()) * int(theirs.sum()) / max(mine.numel(), 1)
            both_by_chance += expected
            either_by_chance += int(mine.sum()) + int(theirs.sum()) - expected
        return Overlap(_share(all_both, all_either), layers, _share(both_by_chance, either_by_chance))

    def _combine(self, operation: str, other: Ticket, combine: Callable[[Tensor, Tensor], Tensor]) -> Ticket:
        _check_comparable(self.masks, other.masks)
        masks = {name: combine(mask, other.masks[name]) for name, mask in self.masks.items()}
        return Ticket(masks, self.weights, {"operation": operation, "of": [self.provenance, other.provenance]})


def write_ticket(path: str | os.PathLike[str], ticket: Ticket, **beside: Any) -> None:
    """Write a ticket and, ``beside`` it, plain values that are not part of it."""
    tensors = {
        **{f"masks/{name}": pack(mask) for name, mask in ticket.masks.items()},
        **{f"weights/{name}": tensor for name, tensor in ticket.weights.items()},
    }
    shapes = {name: list(mask.shape) for name, mask in ticket.masks.items()}
    names = list(ticket.weights)  # a file has them in its own order
    write(path, _KIND, tensors, {"shapes": shapes, "weights": names, "provenance": ticket.provenance, "beside": beside})


def read_ticket(path: str | os.PathLike[str]) -> tuple[Ticket, dict[str, Any]]:
    """A ticket and what was written ``beside`` it; raises as :meth:`Ticket.load` does."""
    tensors, content = read(path, _KIND)
    try:
        masks = {name: unpack(tensors[f"masks/{name}"], shape) for name, shape in content["shapes"].items()}
        weights = {name: tensors[f"weights/{name}"] for name in content["weights"]}
        return Ticket(masks, weights, content["provenance"]), content["beside"]
    except KeyError as error:
        raise ValueError(f"{path} is not complete: it lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a sound ticket: {error}") from error


def _check_comparable(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    for name in [*mine, *theirs]:
        left, right = (tuple(m[name].shape) if name in m else "absent" for m in (mine, theirs))
        if left != right:
            raise ValueError(
                f"the tickets are of different weights: {name} is {left} in the left, {right} in the right"
            )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0
