"""Many runs, one after the other or several at a time, with one progress for all of them."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from sparsecycle.lab.catalogue import DENSE
from sparsecycle.lab.comparison import duration
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.hardware import pick_device
from sparsecycle.lab.progress import Silent
from sparsecycle.lab.result import Result
from sparsecycle.lab.running import run
from sparsecycle.lab.search import expected_trainings
from sparsecycle.lab.workers import Done, Event, Failed, Note, Started, run_all

__all__ = ["Failure", "default_jobs", "run_experiments"]

#: Seconds between two notes of a run on how far it is.
_EVERY = 0.5


@dataclass(frozen=True)
class Failure:
    """A run that did not finish.

    Attributes:
        experiment: Which.
        message: The error in one line.
        details: The traceback, where the error is not one of the laboratory's own; else empty.
    """

    experiment: Experiment
    message: str
    details: str


def default_jobs(device: str, runs: int) -> int:
    """One run a core on a CPU, 8 at most; one at a time on another device.

    One thread each, because small networks gain little from a second thread: several runs at once use all
    cores, one run does not.

    Raises:
        ValueError: There is no such device.
    """
    return max(1, min(_cores(), runs, 8)) if pick_device(device).type == "cpu" else 1


def run_experiments(
    experiments: Sequence[Experiment], runs: Path, *, jobs: int, device: str = "auto"
) -> tuple[list[tuple[Experiment, Result]], list[Failure]]:
    """Run what has not finished yet; a run that fails does not keep the others from running.

    Progress goes to standard error. KeyboardInterrupt ends the worker processes and is raised again; every run
    can be taken up again afterwards.

    Args:
        experiments: What to run, in this order.
        runs: The folder of all runs.
        jobs: Runs at a time: 1 runs them in this process, more in as many processes, which share the cores.
        device: See :func:`sparsecycle.lab.hardware.pick_device`.

    Returns:
        The results in the order of ``experiments``, and what failed.

    Raises:
        ValueError: ``jobs`` is less than 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs={jobs} must be at least 1")
    results = {e: r for e in experiments if (r := Result.stored(e.folder(runs))) is not None}
    todo = [experiment for experiment in experiments if experiment not in results]
    failures: list[Failure] = []
    epochs = [e.recipe.epochs * expected_trainings(e) for e in todo]
    display = _display([_name(e) for e in todo], len(experiments), epochs)

    def hear(event: Event) -> None:
        if isinstance(event, Done):
            results[todo[event.index]] = event.value
        elif isinstance(event, Failed):
            details = "" if event.expected else event.details
            failures.append(Failure(todo[event.index], event.message, details))
        display.hear(event)

    # At one time a run may be another one's teacher.
    job = partial(_job, runs, device, wait=jobs > 1)
    try:
        if jobs == 1 or len(todo) == 1:
            _here(job, todo, hear)
        else:
            run_all(job, todo, hear, processes=jobs, threads=max(1, _cores() // jobs))
    finally:
        display.end()
    return [(experiment, results[experiment]) for experiment in experiments if experiment in results], failures


def _job(runs: Path, device: str, experiment: Experiment, note: Callable[[Any], None], *, wait: bool = False) -> Result:
    return run(experiment, runs, progress=_Notes(note), device=device, wait=wait)


def _here(job: Callable[[Any, Callable[[Any], None]], Any], jobs: Sequence[Any], hear: Callable[[Event], None]) -> None:
    """What :func:`run_all` does, in this process."""
    for index, item in enumerate(jobs):
        hear(Started(index))
        try:
            value = job(item, partial(_noted, hear, index))
        except Exception as error:
            hear(Failed.of(index, error))
        else:
            hear(Done(index, value))


def _noted(hear: Callable[[Event], None], index: int, payload: Any) -> None:
    hear(Note(index, payload))


class _Notes(Silent):
    """A run's reporter that notes how many epochs are done in all its trainings, with a fraction, every half second."""

    def __init__(self, note: Callable[[float], None]) -> None:
        self._note = note
        self._last = time.monotonic()
        self._steps = 1
        self._before = self._epochs = 0

    def begin(self, title: str, epochs: int, steps: int, epoch: int) -> None:
        self._steps, self._epochs = steps, epochs
        self._note(float(self._before + epoch))

    def step(self, epoch: int, step: int) -> None:
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            self._note(self._before + epoch + step / self._steps)

    def end(self) -> None:
        self._before += self._epochs


def _name(experiment: Experiment) -> str:
    sparsity = "" if experiment.method == DENSE else f" {100 * experiment.sparsity:g} %"
    return f"{experiment.method}{sparsity}, seed {experiment.seed}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Lines:
    """What all runs together have done: a line every ten seconds, for logs and pipes.

    Args:
        names: Of the runs to do.
        total: All runs of the comparison, finished ones among them.
        epochs: Of each of the runs to do.
    """

    every = 10.0

    def __init__(self, names: Sequence[str], total: int, epochs: Sequence[int]) -> None:
        self._names, self._total, self._epochs = names, total, epochs
        self._ended = total - len(names)
        self._begun: dict[int, float] = {}
        self._done = [0.0] * len(names)
        self._failed = 0
        self._busy: dict[int, None] = {}
        self._first: tuple[float, float] | None = None  # when, and the epochs trained by then
        self._last = time.monotonic()
        self._tell = ""

    def hear(self, event: Event) -> None:
        """Take it in, and say so where it is time."""
        index = event.index
        if isinstance(event, Started):
            self._busy[index] = None
        elif isinstance(event, Note):
            # The first note tells what an earlier start of the run had done, which took none of our time.
            self._begun.setdefault(index, event.payload)
            self._done[index] = event.payload
        else:
            self._busy.pop(index, None)
            self._done[index] = float(self._epochs[index])
            self._ended += 1
            if isinstance(event, Done):
                self._tell = f"{self._names[index]}: {100 * event.value.accuracy:.2f} %"
            else:
                self._failed += 1
                self.say(f"{self._names[index]} failed: {event.message}")
        if self._first is None and self._trained() > 0:
            self._first = (time.monotonic(), self._trained())
        self.draw()

    def say(self, text: str) -> None:
        """Say it now."""
        print(text, file=sys.stderr, flush=True)

    def draw(self) -> None:
        """Say how far it is, if the last line is old enough."""
        if time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            self.say(
                ", ".join(
                    part for part in (self.count(), self.left(), f"last {self._tell}" if self._tell else "") if part
                )
            )

    def count(self) -> str:
        """How many runs are over."""
        return f"{self._ended} of {self._total} runs" + (f", {self._failed} failed" if self._failed else "")

    def left(self) -> str:
        """The time left, from the epochs trained so far; empty until there is something to tell it from."""
        to_train = sum(self._epochs) - sum(self._done)
        if self._first is None or to_train <= 0:
            return ""
        # Counted from the first progress, because compiling and loading come before it.
        since, already = self._first
        gone, trained = time.monotonic() - since, self._trained() - already
        if gone < 1 or trained <= 0:
            return ""
        return f"{duration(math.ceil(gone / trained * to_train)).replace('.00', '').replace('.0', '')} left"

    def _trained(self) -> float:
        return sum(self._done) - sum(self._begun.values())

    def end(self) -> None:
        """Nothing more comes."""


class _Bar(_Lines):
    """The same on a terminal, as a bar."""

    every = 0.2

    def __init__(self, names: Sequence[str], total: int, epochs: Sequence[int]) -> None:
        super().__init__(names, total, epochs)
        self._bar = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=30)),
            TextColumn("[dim]{task.fields[now]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._bar.add_task(self.count(), total=sum(epochs) or 1, now="starting")
        self._bar.start()

    def say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)

    def draw(self) -> None:
        if time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            self._refresh()

    def end(self) -> None:
        self._refresh()
        self._bar.stop()

    def _refresh(self) -> None:
        self._bar.update(
            self._task,
            completed=sum(self._done),
            description=", ".join(part for part in (self.count(), self.left()) if part),
            now="; ".join(self._names[index] for index in self._busy),
            refresh=True,
        )


def _display(names: Sequence[str], total: int, epochs: Sequence[int]) -> _Lines:
    return (_Bar if sys.stderr.isatty() else _Lines)(names, total, epochs)
