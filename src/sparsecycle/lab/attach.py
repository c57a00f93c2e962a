"""A method at work on a trainer's network: the laboratory gives it what it asks for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparsecycle.lab.catalogue import DENSE, parameters
from sparsecycle.masks import pack
from sparsecycle.methods import METHODS
from sparsecycle.prunable import choose
from sparsecycle.tickets.given import hold

if TYPE_CHECKING:
    from sparsecycle.lab.experiment import Experiment
    from sparsecycle.lab.training import Trainer
    from sparsecycle.sparsifier import Sparsifier

__all__ = ["attach", "balanced"]

#: Training images of each class that GraSP's scores are taken from, as in its paper.
_EACH = 10


def attach(experiment: Experiment, trainer: Trainer) -> Sparsifier | None:
    """The method on the trainer's network and optimizer; None for a dense run.

    SNIP sees the first batch of the run, GraSP the first images of each class, both augmented as in training. Zeros
    that are to be kept are pruned from the first step on; a dense run then holds these alone.

    Raises:
        ValueError: If more weights are zero that are to be kept than are to be pruned.
    """
    if experiment.keep_zeros:
        return _with_zeros(experiment, trainer)
    return None if experiment.method == DENSE else _attach(experiment, trainer)


def _attach(experiment: Experiment, trainer: Trainer) -> Sparsifier:
    takes = parameters(experiment.method)
    words: dict[str, Any] = experiment.words()
    if "seed" in takes:
        words["seed"] = experiment.seed
    if "update_every" not in takes:  # else the method has an interval of its own
        words["update_every"] = trainer.steps_per_epoch if experiment.update == "epoch" else 1
    if "batches" in takes:
        batches = trainer.batches(0)
        classes = len(trainer.data.classes)
        words["batches"] = [balanced(batches, classes, _EACH) if experiment.method == "grasp" else next(batches)]
        words["loss"] = partial(cross_entropy, label_smoothing=experiment.recipe.label_smoothing)
    if "input_shape" in takes:
        words["input_shape"] = trainer.data.shape
    method = METHODS[experiment.method]
    return method(trainer.model, trainer.optimizer, experiment.sparsity, trainer.total_steps, **words)


def _with_zeros(experiment: Experiment, trainer: Trainer) -> Sparsifier:
    """As :func:`_attach`, with the weights that are zero pruned before the first step."""
    model = trainer.model
    nonzero = {name: weight.detach() != 0 for name, weight in model.named_parameters()}
    if experiment.method == DENSE:
        masks = {name: nonzero[name].cpu() for name in choose(model).weights}
        return hold(masks, model, trainer.optimizer, trainer.total_steps)
    sparsifier = _attach(experiment, trainer)
    masks = {name: mask & nonzero[name] for name, mask in sparsifier.masks.items()}
    total = sum(mask.numel() for mask in masks.values())
    pruned = total - sum(int(mask.count_nonzero()) for mask in masks.values())
    if pruned > round(experiment.sparsity * total):
        raise ValueError(
            f"keep_zeros=True with sparsity={experiment.sparsity!r}: {pruned} of {total} weights are zero in "
            f"{experiment.init} or pruned by the first mask; a higher sparsity or another scope has room for them"
        )
    sparsifier.load_state_dict({**sparsifier.state_dict(), "masks": {name: pack(m) for name, m in masks.items()}})
    # A sparsifier whose state was loaded waits until the weights that its first mask zeroed are written again.
    sparsifier.apply_to(model)
    return sparsifier


def balanced(batches: Iterable[tuple[Tensor, Tensor]], classes: int, each: int) -> tuple[Tensor, Tensor]:
    """The first ``each`` images of every class, in the order in which they come; fewer where there are no more.

    Args:
        batches: Images (n, c, h, w) and labels (n,).
        classes: Labels run from 0 to this, exclusive.
        each: Images a class.
    """
    chosen: list[tuple[Tensor, Tensor]] = []
    missing = [each] * classes
    for images, labels in batches:
        taken = []
        for i, label in enumerate(labels.tolist()):
            if missing[label]:
                missing[label] -= 1
                taken.append(i)
        chosen.append((images[taken], labels[taken]))
        if not any(missing):
            break
    images, labels = (torch.cat(parts) for parts in zip(*chosen, strict=True))
    return images, labels
