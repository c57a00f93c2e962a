"""Train, prune, rewind, and again: what every search for a ticket has in common.

A search says how a round prunes; the rounds do the rest. They copy the model for each training, keep what is pruned at
zero while it runs, rewind, and with a store leave every finished training and round behind, so that a killed search
goes on with the next.
"""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsecycle.files.container import digest
from sparsecycle.prunable import choose
from sparsecycle.scopes import share_out
from sparsecycle.tickets.applied import state_of
from sparsecycle.tickets.store import Pruned, Store, Trained
from sparsecycle.tickets.ticket import Ticket

__all__ = ["Map", "Prune", "Round", "Rounds", "Search", "Train", "is_number", "whole"]

Train = Callable[..., nn.Module]
Map = Callable[..., Iterable[Any]]

# Given the networks that a round trained, the masks that they were trained under, and how many weights were kept in
# each round so far, this one last: the next masks, and whether they were clipped to meet the sparsity.
Prune = Callable[[Sequence[Mapping[str, Tensor]], Mapping[str, Tensor], Sequence[int]], tuple[dict[str, Tensor], bool]]


@dataclass(frozen=True)
class Round:
    """One round: train, then prune.

    Args:
        index: From 0.
        kept: Weights that were kept while it trained, by name.
        sparsity: Share of the prunable weights that were pruned while it trained.
        trainings: Networks that it trained.
        seconds: What its trainings took, one after the other; in the first round with the steps to the rewinding
            point, if there is one.
    """

    index: int
    kept: dict[str, int]
    sparsity: float
    trainings: int
    seconds: float


@dataclass(frozen=True)
class Search:
    """What a search found, and what it cost.

    Args:
        ticket: The ticket, at the sparsity that was asked for and not yet trained at it.
        rounds: The rounds that led to it, in order.
    """

    ticket: Ticket
    rounds: list[Round]

    @property
    def trainings(self) -> int:
        """Networks trained in all rounds."""
        return sum(r.trainings for r in self.rounds)


class Rounds:
    """A search's rounds, set up and checked; nothing is trained before :meth:`search`.

    Args:
        model: The network; it is copied and stays as it is.
        train: ``train(model) -> model``, or with partitions ``train(model, part) -> model``.
        sparsity: Share of the prunable weights to prune.
        partitions: Networks that each round trains, each on its partition; None: one, on everything.
        rewind: ``"weights"``, or ``"learning rate"`` to keep the weights and repeat the later steps alone.
        rewind_to: The step to rewind to; from 1 on, ``train`` is called with ``start=rewind_to`` too, and to get
            there with ``stop=rewind_to``.
        include: What to prune instead of the default; see :func:`sparsecycle.prunable.choose`.
        exclude: What not to prune.
        floor: Weights that every layer keeps at least.

    Attributes:
        shapes: The prunable weights' shapes, by name.
        wanted: How many weights the ticket keeps.
        floor: As given.

    Raises:
        ValueError: If an argument is not allowed.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Train,
        sparsity: float,
        *,
        partitions: int | None,
        rewind: str,
        rewind_to: int,
        include: Iterable[str | type[nn.Module]] | None,
        exclude: Iterable[str | type[nn.Module]] | None,
        floor: int,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, not a {type(model).__name__}")
        if not (is_number(Real, sparsity) and 0 <= sparsity < 1):
            raise ValueError(f"sparsity={sparsity!r} must be from 0 to less than 1: the share of the weights to prune")
        for name, value, least in (("partitions", partitions, 1), ("rewind_to", rewind_to, 0), ("floor", floor, 0)):
            if value is not None and not (is_number(Integral, value) and value >= least):
                raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
        self._model = getattr(model, "_orig_mod", model)  # torch.compile wraps it and prefixes its names
        weights = choose(self._model, include, exclude).weights
        self.shapes = {name: tuple(w.shape) for name, w in weights.items()}
        self.floor = int(floor)
        self.wanted = share_out("global", list(self.shapes.values()), sparsity, floor=self.floor)[0].keep
        self._train, self._sparsity, self._partitions = train, float(sparsity), partitions
        self._keeps_weights, self._rewind_to = rewind == "learning rate", int(rewind_to)
        _check_train(train, partitions, self._rewind_to, self._keeps_weights)
        self._initial = state_of(self._model)

    def search(self, prune: Prune, settings: Mapping[str, Any], store: Path | str | None, map: Map = map) -> Search:
        """Round after round, until the ticket keeps no more than what is wanted.

        Args:
            prune: How a round prunes.
            settings: Plain values that two searches share if they find the same tickets.
            store: The folder to leave finished work in.
            map: Runs a round's trainings: ``map`` itself, or an executor's.

        Raises:
            ValueError: If the store is of another search, a training diverged, or ``train`` returned something else.
        """
        settings = {**settings, "rewind_to": self._rewind_to, "floor": self.floor}
        settings["initial weights"] = digest(self._initial)
        keeper = Store.open(store, {**settings, "shapes": {name: list(s) for name, s in self.shapes.items()}})
        dense = {name: torch.ones(shape, dtype=torch.bool) for name, shape in self.shapes.items()}
        begin = self._rewinding_point(keeper, dense)
        ticket = Ticket(dense, begin.weights, {})
        rounds: list[Round] = []
        history = [ticket.total]
        while ticket.kept > self.wanted:
            pruned = self._round(len(rounds), ticket, history, prune, settings, keeper, map)
            rounds.append(
                Round(
                    len(rounds),
                    {name: int(mask.sum()) for name, mask in ticket.masks.items()},
                    ticket.sparsity,
                    self._partitions or 1,
                    pruned.seconds + (0 if rounds else begin.seconds),
                )
            )
            ticket = pruned.ticket
            history.append(ticket.kept)
        cost = {"rounds": len(rounds), "trainings": len(rounds) * (self._partitions or 1)}
        return Search(replace(ticket, provenance={**settings, "sparsity": self._sparsity, **cost}), rounds)

    def _rewinding_point(self, store: Store, dense: dict[str, Tensor]) -> Trained:
        if self._keeps_weights or self._rewind_to == 0:
            return Trained(self._initial, 0.0)
        if (begin := store.start()) is None:
            # Partitions share it, so one of them gets there.
            part, words = () if self._partitions is None else (0,), {"stop": self._rewind_to}
            begin = _trained(self._model, self._train, Ticket(dense, self._initial, {}), part, words, "to rewind_to")
            store.add_start(begin)
        return begin

    def _round(
        self,
        index: int,
        ticket: Ticket,
        history: Sequence[int],
        prune: Prune,
        settings: Mapping[str, Any],
        store: Store,
        map: Map,
    ) -> Pruned:
        full = store.pruned(index)
        if full and full.ticket.kept >= self.wanted:
            return full
        if clipped := store.clipped(index, self.wanted):
            return clipped
        if full and self._keeps_weights:
            trained = [Trained(full.ticket.weights, full.seconds)]  # what it was pruned from, for another sparsity
        else:
            repeats = self._rewind_to > 0 and not (self._keeps_weights and index == 0)
            words = {"start": self._rewind_to} if repeats else {}
            job = partial(_job, self._model, self._train, ticket, self._partitions, words, store, index)
            trained = list(map(job, range(self._partitions or 1)))
        masks, is_clipped = prune([t.weights for t in trained], ticket.masks, history)
        weights = trained[0].weights if self._keeps_weights else ticket.weights
        after = Ticket(masks, weights, {**settings, "rounds": index + 1})
        pruned = Pruned(after, is_clipped, sum(t.seconds for t in trained))
        store.add_pruned(index, pruned)
        return pruned


def whole(count: float) -> int:
    """The nearest whole number; a power of a rate misses a half by its rounding, which must not decide."""
    return round(round(count, 6))


def _job(
    model: nn.Module,
    train: Train,
    ticket: Ticket,
    partitions: int | None,
    words: Mapping[str, int],
    store: Store,
    index: int,
    part: int,
) -> Trained:
    """One training, or what the store has of it. It needs nothing but its arguments, so it can run anywhere."""
    trained = store.trained(index, ticket.kept, part)
    if trained is None:
        on = () if partitions is None else (part,)
        trained = _trained(model, train, ticket, on, words, f"in round {index}{f' on partition {part}' if on else ''}")
        store.add_trained(index, ticket.kept, part, trained)
    return trained


def _trained(
    model: nn.Module, train: Train, ticket: Ticket, part: tuple[int, ...], words: Mapping[str, int], when: str
) -> Trained:
    network = copy.deepcopy(model)
    ticket.apply(network)
    begin = time.perf_counter()
    result = train(network, *part, **words)
    seconds = time.perf_counter() - begin
    if not isinstance(result, nn.Module):
        raise ValueError(f"train must return the trained model, not {type(result).__name__} ({when})")
    weights = state_of(getattr(result, "_orig_mod", result))
    for name in [*ticket.weights, *weights]:
        left, right = (tuple(w[name].shape) if name in w else "absent" for w in (ticket.weights, weights))
        if left != right:
            raise ValueError(
                f"train must return a network of the model's architecture: {name} is {left} in the model and {right} "
                f"in what it returned ({when})"
            )
    for name in ticket.masks:
        if not weights[name].isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity after the training {when}: it has diverged")
    _enforce(ticket.masks, weights, when)
    return Trained({name: weights[name] for name in ticket.weights}, seconds)


def _enforce(masks: Mapping[str, Tensor], weights: dict[str, Tensor], when: str) -> None:
    moved = [name for name, mask in masks.items() if weights[name][~mask].any()]
    if moved:
        warnings.warn(
            f"the training {when} moved pruned weights of {', '.join(moved)}; they are zero again. The model's own "
            "parameters keep them at zero under SGD, Adam and the like: a copy of the model does not, nor does an "
            "optimizer that mixes gradients",
            stacklevel=2,
        )
    for name, mask in masks.items():
        weights[name].masked_fill_(~mask, 0)


def _check_train(train: Train, partitions: int | None, rewind_to: int, keeps_weights: bool) -> None:
    if not callable(train):
        raise ValueError(f"train={train!r} must be a function that trains a model and returns it")
    arguments = ["model"] if partitions is None else ["model", "part"]
    keywords = ["start"] if keeps_weights else ["start", "stop"]
    calls: list[dict[str, int]] = [{keyword: rewind_to} for keyword in keywords] if rewind_to else [{}]
    try:
        signature = inspect.signature(train)
    except ValueError:  # written in C
        return
    for words in calls:
        try:
            signature.bind(*arguments, **words)
        except TypeError as error:
            call = ", ".join([*arguments, *(f"{word}={step}" for word, step in words.items())])
            raise ValueError(f"train cannot be called as train({call}), which this search needs: {error}") from error


def is_number(kind: type, value: object) -> bool:
    """Whether it is a number of this kind, numpy's included, which the type checker does not expect."""
    return isinstance(value, kind)
