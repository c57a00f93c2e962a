"""Contestants timed in turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sparsecycle.lab.bench.engines import waited

__all__ = ["Contestant", "Sampled", "Times", "race"]


class Sampled(Protocol):
    """Whatever can take part in a race."""

    def sample(self) -> tuple[float, bool]:
        """Seconds that it took once, and whether nothing disturbed it."""


@dataclass(frozen=True)
class Contestant:
    """``run`` is timed; ``prepare`` comes before it, untimed."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None

    def sample(self) -> tuple[float, bool]:
        """With one thread by the processor time, which others on the machine do not lengthen.

        It is clean if this process's threads waited for a processor for less than 2 % of it.
        """
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        self.prepare()
        before, begin = waited(), clock()
        self.run()
        elapsed = clock() - begin
        return elapsed, waited() - before < 0.02 * elapsed


@dataclass(frozen=True)
class Times:
    """Seconds of every contestant in every round, and whether they were undisturbed."""

    seconds: Mapping[str, Sequence[float]]
    clean: Mapping[str, Sequence[bool]]

    @property
    def rounds(self) -> int:
        """How many rounds there were."""
        return len(next(iter(self.seconds.values())))

    @property
    def undisturbed(self) -> float:
        """Share of the samples that are clean."""
        return statistics.fmean(clean for row in self.clean.values() for clean in row)

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[name][i] for i in self._rounds(name))

    def ratios(self, name: str, to: str) -> list[float]:
        """How many times longer ``name`` took than ``to``, round by round."""
        return [self.seconds[name][i] / self.seconds[to][i] for i in self._rounds(name, to)]

    def ratio(self, name: str, to: str) -> float:
        """The median of :meth:`ratios`."""
        return statistics.median(self.ratios(name, to))

    def middle(self, name: str, to: str) -> tuple[float, float]:
        """Between these lies the middle half of :meth:`ratios`."""
        return _middle(self.ratios(name, to))

    def quartiles(self, name: str) -> tuple[float, float]:
        """Seconds; between these lies the middle half of what it took."""
        return _middle([self.seconds[name][i] for i in self._rounds(name)])

    def _rounds(self, *names: str) -> list[int]:
        """Those in which all these are clean, or all rounds where fewer than a tenth are."""
        every = range(self.rounds)
        clean = [i for i in every if all(self.clean[name][i] for name in names)]
        return clean if 10 * len(clean) >= len(every) else list(every)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return lower, upper


def race(contestants: Mapping[str, Sampled], seconds: float, *, least: int, most: int, warm_up: int = 1) -> Times:
    """Every contestant once a round, each round in an order of its own that is drawn by lot.

    Args:
        contestants: By name.
        seconds: The last round is the first to end after so long, ...
        least: ... but there are at least so many rounds, ...
        most: ... and at most so many.
        warm_up: Rounds that come first and are not counted.
    """
    order, lots = list(contestants), random.Random(0)
    taken: dict[str, list[float]] = {name: [] for name in order}
    clean: dict[str, list[bool]] = {name: [] for name in order}
    start = 0.0
    for i in itertools.count(-warm_up):
        if i == 0:
            start = time.perf_counter()
        if i >= most or (i >= least and time.perf_counter() - start >= seconds):
            break
        lots.shuffle(order)
        for name in order:
            elapsed, undisturbed = contestants[name].sample()
            if i >= 0:
                taken[name].append(elapsed)
                clean[name].append(undisturbed)
    return Times(taken, clean)
