"""COLT: networks of several partitions of the data agree on one ticket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsecycle.selection import keep_largest
from sparsecycle.tickets.lottery import check_rate
from sparsecycle.tickets.rounds import Map, Rounds, Search, Train, whole

__all__ = ["colt"]


def colt(
    model: nn.Module,
    train: Train,
    sparsity: float,
    *,
    partitions: int = 2,
    rate: float = 0.15,
    rewind_to: int = 0,
    include: Iterable[str | type[nn.Module]] | None = None,
    exclude: Iterable[str | type[nn.Module]] | None = None,
    floor: int = 1,
    store: Path | str | None = None,
    map: Map = map,
) -> Search:
    """Search for a cyclic overlapping lottery ticket (COLT; Hossain et al., arXiv 2212.12770).

    In each round one network a partition of the data is trained from the shared initial weights and pruned globally
    by ``rate`` of the weights left; all are rewound, and only weights that every one of them keeps stay. One partition
    makes it iterative magnitude pruning, :func:`sparsecycle.tickets.lottery_ticket`.

    The last round prunes each network as much as leaves no less than what is wanted in all, and drops what is left
    over, fewer weights than partitions, by the smallest mean of |w| over them. A layer on which the networks
    agree less than ``floor`` asks for is filled up with its largest by that mean.

    Ours: every layer that is not excluded is pruned, the paper's convolutions alone; statistics of batch norms are
    rewound with the weights, which the paper's code leaves.

    Args:
        model: The network, initialized; it is copied and stays as it is. The paper prunes convolutions
            only, ``include=[nn.Conv2d]``; a head at any rate belongs in ``exclude``.
        train: ``train(model, part) -> model`` trains the network it is given on partition ``part``, from 0, or
            returns another of the same architecture. It builds its optimizer and its learning-rate schedule anew,
            and seeds what it draws, if the search is to give the same ticket again.
        sparsity: Share of the prunable weights to prune, from 0 to less than 1.
        partitions: How many. The paper gives each an equal share of the classes.
        rate: Share of the weights left that a round prunes in each network, between 0 and 1.
        rewind_to: The step to rewind to: 0 in the paper. The weights after k steps on partition 0 are then the shared
            ones, and ``train`` is called with ``stop=k`` to get there, with ``start=k`` from there.
        include: What to prune instead of the default; see :func:`sparsecycle.prunable.choose`.
        exclude: What not to prune.
        floor: Weights that every layer keeps at least.
        store: A folder that keeps what is finished. A search that was killed goes on from there, and searches that
            differ in the sparsity alone share their rounds.
        map: Runs a round's trainings, which need nothing of each other: an executor's ``map`` runs them side by side.
            Processes need a ``train`` that can be pickled.

    Returns:
        The ticket, whose weights are the shared ones, and the rounds.

    Raises:
        ValueError: If an argument is not allowed, the sparsity cannot be had, the store is of another search, a
            training diverged, or ``train`` does not return such a network.
    """
    rate = check_rate(rate)
    rounds = Rounds(
        model,
        train,
        sparsity,
        partitions=partitions,
        rewind="weights",
        rewind_to=rewind_to,
        include=include,
        exclude=exclude,
        floor=floor,
    )
    wanted, floor = rounds.wanted, rounds.floor

    def prune(
        trained: Sequence[Mapping[str, Tensor]], masks: Mapping[str, Tensor], history: Sequence[int]
    ) -> tuple[dict[str, Tensor], bool]:
        full = _due(history, rate)
        agreed = _agreed(trained, masks, max(full, wanted), floor)
        clipped = full < wanted or _count(agreed) < wanted
        if _count(agreed) < wanted:
            agreed = _clipped(trained, masks, (max(full, wanted), history[-1]), wanted, floor)
        return dict(zip(masks, agreed, strict=True)), clipped

    settings = {"method": "colt", "partitions": int(partitions), "rate": rate}
    return rounds.search(prune, settings, store, map)


def _due(history: Sequence[int], rate: float) -> int:
    """How many weights each network keeps of those left, before the networks' masks are intersected.

    Reckoned with the fractions of a weight that rounding dropped, so that without disagreement round r keeps
    round((1 - rate)^r n). A rate too small to prune one weight counts twice.
    """
    exact = float(history[0])
    for before, after in zip(history, [*history[1:], None], strict=True):
        exact *= 1 - rate
        while whole(exact) == before:
            exact *= 1 - rate
        if after is not None:
            exact -= whole(exact) - after
    return whole(exact)


def _agreed(
    trained: Sequence[Mapping[str, Tensor]], masks: Mapping[str, Tensor], keep: int, floor: int
) -> list[Tensor]:
    """Prune each network to ``keep`` weights by magnitude, and intersect the masks."""
    old = list(masks.values())
    pruned = [
        keep_largest([weights[name] for name in masks], keep, absolute=True, among=old, floor=floor).masks
        for weights in trained
    ]
    agreed = [reduce(torch.logical_and, layer) for layer in zip(*pruned, strict=True)]
    return [
        layer if int(layer.sum()) >= floor else _filled(layer, _mean_magnitude(trained, name), old_layer, floor)
        for layer, (name, old_layer) in zip(agreed, masks.items(), strict=True)
    ]


def _filled(mask: Tensor, worth: Tensor, among: Tensor, floor: int) -> Tensor:
    scores = worth.masked_fill(mask, torch.inf)
    return keep_largest([scores], min(floor, mask.numel()), among=[among]).masks[0]


def _clipped(
    trained: Sequence[Mapping[str, Tensor]],
    masks: Mapping[str, Tensor],
    between: tuple[int, int],
    wanted: int,
    floor: int,
) -> list[Tensor]:
    """The masks of the fewest weights a network that still agree on ``wanted``, less what they agree on beyond it."""
    too_few, enough = between
    while enough - too_few > 1:  # the more each keeps, the more they agree on
        middle = (too_few + enough) // 2
        if _count(_agreed(trained, masks, middle, floor)) < wanted:
            too_few = middle
        else:
            enough = middle
    agreed = _agreed(trained, masks, enough, floor)
    worths = [_mean_magnitude(trained, name).masked_fill(~mask, -1) for name, mask in zip(masks, agreed, strict=True)]
    return keep_largest(worths, wanted, floor=floor).masks


def _mean_magnitude(trained: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    return torch.stack([weights[name].double().abs() for weights in trained]).mean(0)


def _count(masks: Iterable[Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)
