"""Iterative magnitude pruning: the lottery ticket's search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from numbers import Real
from pathlib import Path

from torch import Tensor, nn

from sparsecycle.names import named, nearest
from sparsecycle.scopes import Share, apportion, share_out
from sparsecycle.selection import keep_largest
from sparsecycle.tickets.rounds import Rounds, Search, Train, is_number, whole

__all__ = ["check_rate", "lottery_ticket"]

_REWINDS = ("weights", "learning rate")
_SCOPES = ("global", "uniform")


def lottery_ticket(
    model: nn.Module,
    train: Train,
    sparsity: float,
    *,
    rate: float | Mapping[str, float] = 0.2,
    scope: str = "global",
    rewind: str = "weights",
    rewind_to: int = 0,
    include: Iterable[str | type[nn.Module]] | None = None,
    exclude: Iterable[str | type[nn.Module]] | None = None,
    floor: int = 1,
    store: Path | str | None = None,
) -> Search:
    """Search for a lottery ticket (Frankle & Carbin, arXiv 1803.03635, section 1): iterative magnitude pruning.

    Train the network, prune the smallest of the weights that are left, rewind the others, and again. After r rounds
    round((1 - rate)^r · n) of n weights are kept; the last round prunes only what is missing to the sparsity, and a
    round too small to prune one weight is left out.

    Ours: all layers compete; the paper prunes fully connected networks layer by layer, the output at half the rate.

    Args:
        model: The network, initialized; it is copied and stays as it is.
        train: ``train(model) -> model`` trains the network it is given, or returns another of the same architecture.
            It builds its optimizer and its learning-rate schedule anew, and seeds what it draws, if the search is
            to give the same ticket again. With ``rewind_to=k`` it is also called with ``start=k``, to train from step
            k to the end, and, if weights are rewound, with ``stop=k``, to train up to there.
        sparsity: Share of the prunable weights to prune, from 0 to less than 1.
        rate: Share of the weights left that a round prunes, between 0 and 1; or the layers' own, by globs for the
            names of weights or their modules, of which the first that matches counts (the paper's LeNet:
            ``{"fc3": 0.1, "*": 0.2}``; 0 leaves a layer alone). In the last round each layer then keeps its
            (1 - rate)^f, with one f for all.
        scope: With one rate: ``"global"``, all layers compete, or ``"uniform"``, each is pruned alike.
        rewind: ``"weights"``: back to the initial weights, or to those after ``rewind_to`` steps (late rewinding;
            Frankle et al., arXiv 1912.05671). ``"learning rate"``: the trained weights stay, and training is repeated
            from step ``rewind_to`` (Renda et al., arXiv 2003.02389). Buffers go with the weights.
        rewind_to: The step k to rewind to.
        include: What to prune instead of the default; see :func:`sparsecycle.prunable.choose`.
        exclude: What not to prune.
        floor: Weights that every layer keeps at least.
        store: A folder that keeps what is finished. A search that was killed goes on from there, and searches that
            differ in the sparsity alone share their rounds.

    Returns:
        The ticket, whose weights are those to go on training from, and the rounds.

    Raises:
        ValueError: If an argument is not allowed, the sparsity cannot be had, the store is of another search, a
            training diverged, or ``train`` does not return such a network.
    """
    named("rewind", rewind, {name: name for name in _REWINDS})
    named("scope", scope, {name: name for name in _SCOPES})
    rounds = Rounds(
        model,
        train,
        sparsity,
        partitions=None,
        rewind=rewind,
        rewind_to=rewind_to,
        include=include,
        exclude=exclude,
        floor=floor,
    )
    names, shapes = list(rounds.shapes), list(rounds.shapes.values())
    own: dict[str, float] = {}
    if isinstance(rate, Mapping):
        if scope != "global":
            raise ValueError(
                f"scope={scope!r} beside the layers' own rates, which prune each layer on its own: drop it"
            )
        own = dict(zip(names, _own_rates(rate, names), strict=True))
        plan = list(_by_own_rates(list(own.values()), shapes, rounds.floor, rounds.wanted))
    else:
        plan = list(_by_one_rate(check_rate(rate), scope, shapes, rounds.floor, rounds.wanted))

    def prune(
        trained: Sequence[Mapping[str, Tensor]], masks: Mapping[str, Tensor], history: Sequence[int]
    ) -> tuple[dict[str, Tensor], bool]:
        shares, clipped = plan[len(history) - 1]  # history begins with the dense network
        kept = dict(masks)
        for share in shares:
            layers = [names[i] for i in share.layers]
            selection = keep_largest(
                [trained[0][name] for name in layers],
                share.keep,
                absolute=True,
                among=[masks[name] for name in layers],
                floor=rounds.floor if len(layers) > 1 else 0,
            )
            kept.update(zip(layers, selection.masks, strict=True))
        return kept, clipped

    settings = {
        "method": "lottery ticket",
        "rate": own if isinstance(rate, Mapping) else float(rate),
        "scope": scope,
        "rewind": rewind,
    }
    return rounds.search(prune, settings, store)


def check_rate(rate: float) -> float:
    """The rate, if it is one."""
    if not (is_number(Real, rate) and 0 < rate < 1):
        raise ValueError(f"rate={rate!r} must be between 0 and 1: the share of the weights left that a round prunes")
    return float(rate)


def _own_rates(by_glob: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """The rate of each weight, by the first glob that matches its name or its module's."""
    for glob, rate in by_glob.items():
        if not any(_matches(name, glob) for name in names):
            raise ValueError(f"rate: {glob!r} matches none of the pruned weights{nearest(glob, names)}")
        if not (is_number(Real, rate) and 0 <= rate < 1):
            raise ValueError(f"rate: the rate of {glob!r} is {rate!r}; it must be from 0 to less than 1")
    rates = []
    for name in names:
        own = [rate for glob, rate in by_glob.items() if _matches(name, glob)]
        if not own:
            raise ValueError(f'rate: no glob matches {name}: every pruned weight needs a rate, such as "*": 0.2')
        rates.append(float(own[0]))
    return rates


def _matches(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or fnmatchcase(name.rpartition(".")[0], glob)


def _by_one_rate(
    rate: float, scope: str, shapes: Sequence[Sequence[int]], floor: int, wanted: int
) -> Iterator[tuple[list[Share], bool]]:
    """What is kept after each round, and whether the round is clipped: round((1 - rate)^r n), the last ``wanted``."""
    total = kept = sum(math.prod(shape) for shape in shapes)
    before = [math.prod(shape) for shape in shapes]
    r = 0
    while kept > wanted:
        r += 1
        full = whole(total * (1 - rate) ** r)
        due = max(full, wanted)
        if due < kept:
            kept = due
            shares = share_out(scope, shapes, 1 - kept / total, floor=floor, at_most=before)
            if scope == "uniform":
                before = [share.keep for share in shares]
            yield shares, full < wanted


def _by_own_rates(
    rates: Sequence[float], shapes: Sequence[Sequence[int]], floor: int, wanted: int
) -> Iterator[tuple[list[Share], bool]]:
    """The same with the layers' own rates; in the last round all go the same part f of their way."""
    sizes = [math.prod(shape) for shape in shapes]
    floors = [min(floor, size) for size in sizes]
    least = sum(size if rate == 0 else least for rate, size, least in zip(rates, sizes, floors, strict=True))
    if wanted < least:
        raise ValueError(
            f"the rates leave {least} of {sum(sizes)} weights at least, but {wanted} are to be kept: the sparsity may "
            f"be {1 - least / sum(sizes):.9g} at most"
        )

    def quotas(r: float) -> list[float]:
        return [max(size * (1 - rate) ** r, lo) for rate, size, lo in zip(rates, sizes, floors, strict=True)]

    kept, r = sizes, 0
    while sum(kept) > wanted:
        r += 1
        due = [whole(quota) for quota in quotas(r)]
        clipped = sum(due) < wanted
        if clipped:
            low, high = r - 1.0, float(r)
            for _ in range(60):  # a double has 53 bits
                middle = (low + high) / 2
                low, high = (middle, high) if sum(quotas(middle)) > wanted else (low, middle)
            due = apportion(quotas(high), floors, kept, wanted)
        if due != kept:
            kept = due
            yield [Share((i,), keep) for i, keep in enumerate(kept)], clipped
