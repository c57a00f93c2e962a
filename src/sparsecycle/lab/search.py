"""Finding a ticket: what a search trains here, where its rounds lie, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsecycle.files.weights import load_weights
from sparsecycle.lab.catalogue import SEARCHES, parameters
from sparsecycle.lab.data.dataset import Dataset, Split
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import build
from sparsecycle.lab.progress import Reporter
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.store import RunFolder
from sparsecycle.lab.training import Trainer, stream
from sparsecycle.prunable import choose
from sparsecycle.report import multiply_adds
from sparsecycle.tickets import Ticket

__all__ = ["Found", "expected_trainings", "partition", "search"]


@dataclass(frozen=True)
class Found:
    """A ticket, and what its search cost.

    Attributes:
        ticket: Over all prunable weights of the experiment's network, at the sparsity that was asked for.
        start: The optimizer step from which the ticket is to be trained.
        trainings: Networks trained.
        epochs: Images trained on over the images of the train part.
        multiply_adds: 3 x those of the kept weights' forward pass (the backward pass has two) x images trained on.
        seconds: Training time.
    """

    ticket: Ticket
    start: int
    trainings: int
    epochs: float
    multiply_adds: int
    seconds: float


def search(experiment: Experiment, runs: Path | str, data: Dataset, device: torch.device, reports: Reporter) -> Found:
    """Search for the experiment's ticket, or go on searching, or read what was found.

    Rounds lie in a folder that searches for other sparsities share. Every network is trained by the experiment's
    recipe and seed, without distillation, and noted in the folder's ``metrics.jsonl`` with its test accuracy.

    Args:
        experiment: Of one of the methods that train several times.
        runs: The folder of all runs.
        data: What to train on.
        device: Where.
        reports: Is told how each training goes on.

    Raises:
        ValueError: If the method refuses an argument, or the sparsity cannot be had because the search does not prune
            the output layer (COLT's by classes).
    """
    words = experiment.words()
    by = words.pop("by", "classes")
    parts = [data]
    if "partitions" in parameters(experiment.method):
        count = words.get("partitions", parameters(experiment.method)["partitions"].default)
        parts = partition(data, count, by, experiment.seed)
    model = _build(experiment, data, max(len(part.classes) for part in parts))
    network = _build(experiment, data, len(data.classes))
    # A partition's network, like another data set's, differs in the output layer.
    shapes = {name: w.shape for name, w in model.named_parameters()}
    prunable = choose(network, exclude=experiment.exclude or None).weights
    heads = {name: w for name, w in prunable.items() if w.shape != shapes[name]}
    sizes = {name: w.numel() for name, w in prunable.items()}
    pruned, body = round(experiment.sparsity * sum(sizes.values())), [name for name in sizes if name not in heads]
    size = sum(sizes[name] for name in body)
    if pruned > size:
        raise ValueError(
            f"sparsity={experiment.sparsity!r} prunes {pruned} weights, but {experiment.method!r} does not prune "
            f"{', '.join(heads)}, and the other layers have {size}"
        )
    folder = _folder(experiment, runs)
    recipe = replace(experiment.recipe, distillation=0.0)
    with folder.lock(wait=True):
        rounds = folder.path / "rounds"
        rounds.mkdir(exist_ok=True)
        train = partial(_train, recipe, experiment, parts, device, reports, folder)
        function = SEARCHES[experiment.method]
        found = function(model, train, pruned / size, **{**words, "include": body, "exclude": None}, store=rounds)
    trainer = Trainer(network, data, recipe, seed=experiment.seed, device=device)
    per_layer, _ = multiply_adds(network, trainer.example, list(sizes))
    start = int(words.get("rewind_to", 0))
    whole = len(data.train) * recipe.epochs
    # Images of a round; with a rewinding point in the run, the first round's are those before it and after it.
    images = [whole * (1 - start / trainer.total_steps if r.index else 1.0) for r in found.rounds]
    kept = [{**sizes, **r.kept} for r in found.rounds]
    passes = [sum(per_layer[name] * count[name] / sizes[name] for name in sizes) for count in kept]
    return Found(
        ticket=complete(found.ticket, network, prunable),
        start=start,
        trainings=found.trainings,
        epochs=sum(images) / len(data.train),
        multiply_adds=round(sum(3 * n * each for n, each in zip(images, passes, strict=True))),
        seconds=sum(r.seconds for r in found.rounds),
    )


def complete(ticket: Ticket, network: nn.Module, prunable: Mapping[str, Tensor]) -> Ticket:
    """The ticket over all of a network's prunable weights.

    Weights that it has in another shape, as an output layer for other classes, or does not prune are kept whole, at
    the network's own values.
    """
    own = {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}
    lacking = {n: t for n, t in own.items() if n not in ticket.weights or ticket.weights[n].shape != t.shape}
    whole = {name: torch.ones(w.shape, dtype=torch.bool) for name, w in prunable.items()}
    fitting = {name: mask for name, mask in ticket.masks.items() if name not in lacking}
    return replace(ticket, masks={**whole, **fitting}, weights={**ticket.weights, **lacking})


def partition(data: Dataset, count: int, by: str, seed: int) -> list[Dataset]:
    """The data set in ``count`` parts, train and test images alike.

    Args:
        data: The whole.
        count: Parts, from 1 to the number of classes, or to that of images.
        by: ``"classes"``: consecutive classes, as equally many as can be, labels from 0 (COLT's). ``"random"``: images
            at random, of every class.
        seed: Of the random parts.

    Raises:
        ValueError: If ``by`` is neither, or there are not so many parts.
    """
    if by not in ("classes", "random"):
        raise ValueError(f"by={by!r}; allowed are classes and random")
    most = len(data.classes) if by == "classes" else min(len(data.train), len(data.test))
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"partitions={count!r}; allowed is a whole number from 1 to {most}")
    if by == "classes":
        bounds = [round(i * len(data.classes) / count) for i in range(count + 1)]
        return [
            replace(data, train=_of(data.train, a, b), test=_of(data.test, a, b), classes=data.classes[a:b])
            for a, b in pairwise(bounds)
        ]
    parts = []
    orders = [_order(split, stream(seed, 0, f"partition {i}")) for i, split in enumerate((data.train, data.test))]
    for i in range(count):
        train, test = (
            Split(split.images[order[i::count]], split.labels[order[i::count]])
            for split, order in zip((data.train, data.test), orders, strict=True)
        )
        parts.append(replace(data, train=train, test=test))
    return parts


def expected_trainings(experiment: Experiment) -> int:
    """About how many networks are trained for the experiment, the one that is scored included."""
    if experiment.method not in SEARCHES or not 0 < experiment.sparsity < 1:
        return 1
    takes, words = parameters(experiment.method), experiment.words()
    rate = words.get("rate", takes["rate"].default)
    rate = rate if isinstance(rate, float) and 0 < rate < 1 else 0.2
    partitions = words.get("partitions", takes["partitions"].default) if "partitions" in takes else 1
    return math.ceil(math.log(1 - experiment.sparsity) / math.log(1 - rate)) * partitions + 1


def _train(
    recipe: Recipe,
    experiment: Experiment,
    parts: list[Dataset],
    device: torch.device,
    reports: Reporter,
    folder: RunFolder,
    model: nn.Module,
    part: int = 0,
    *,
    start: int = 0,
    stop: int | None = None,
) -> nn.Module:
    """Train the steps from ``start`` to ``stop`` of a run on one part; what a search calls."""
    data = parts[part]
    trainer = Trainer(model, data, recipe, seed=experiment.seed, device=device)
    steps = trainer.steps_per_epoch
    stop = trainer.total_steps if stop is None else stop
    if stop > trainer.total_steps or start >= trainer.total_steps:
        raise ValueError(f"rewind_to={start or stop}; a training has {trainer.total_steps} steps")
    kept = 1 - sum(int((w == 0).sum()) for w in choose(model).weights.values()) / sum(
        w.numel() for w in choose(model).weights.values()
    )
    reports.begin(
        f"{experiment.method} {100 * kept:.2g} % kept, seed {experiment.seed}", recipe.epochs, steps, start // steps
    )
    try:
        for epoch in range(start // steps, math.ceil(stop / steps)):
            trainer.train_epoch(
                epoch,
                on_step=partial(reports.step, epoch),
                first_step=max(0, start - epoch * steps),
                last_step=min(steps, stop - epoch * steps),
            )
    finally:
        reports.end()
    score = trainer.evaluate(data.test, recipe.epochs - 1)
    folder.add_metrics({"part": part, "kept": kept, "stop": stop, "test_accuracy": score.accuracy})
    return trainer.model


def _folder(experiment: Experiment, runs: Path | str) -> RunFolder:
    recipe = replace(experiment.recipe, distillation=0.0, temperature=Recipe.temperature)
    it = replace(experiment, sparsity=0.0, recipe=recipe)
    label = f"{it.data}-{it.model}-{it.method}-search-seed{it.seed}"
    return RunFolder(runs, label, {"search": it.config()})


def _build(experiment: Experiment, data: Dataset, classes: int) -> nn.Module:
    torch.manual_seed(experiment.seed)
    model = build(experiment.model, data.shape, classes)
    if experiment.init:
        load_weights(experiment.init, model)
    return model


def _of(split: Split, first: int, end: int) -> Split:
    here = (split.labels >= first) & (split.labels < end)
    return Split(split.images[here], split.labels[here] - first)


def _order(split: Split, seed: int) -> Tensor:
    return torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
