"""Several methods, sparsities and seeds under one recipe: what to run, and the table of what came out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparsecycle.lab.catalogue import DENSE, NAMES, TICKET, TIMES, own, parameters, takes
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.recipe import check_choice
from sparsecycle.lab.result import Result
from sparsecycle.names import nearest

__all__ = ["HEADER", "READING", "Row", "cells", "duration", "markdown", "plan", "tabulate"]

HEADER = ("method", "requested", "achieved", "accuracy, %", "seeds", "time a run", "trainings", "cost")
"""Of the columns that :func:`cells` fills."""

READING = (
    "Accuracy: test images after the last epoch, mean ± standard deviation over the seeds (divisor n). "
    "Sparsity: share of the prunable weights that are zero. Trainings: networks trained for one run, those of a "
    "ticket's search included, as they are in its time. Cost: training time over that of one dense run."
)
"""How to read the table."""


@dataclass(frozen=True)
class Row:
    """One method at one sparsity, over its seeds.

    Attributes:
        method: Its name.
        requested: The sparsity asked for, a share of the prunable weights; 0 for dense.
        achieved: The share that is zero in the trained networks, the mean over seeds.
        accuracy: Test accuracy after the last epoch, a share, the mean over seeds.
        deviation: Its standard deviation over seeds, with divisor n (ddof = 0) as the papers have it.
        seeds: How many runs finished.
        seconds: Training time of one run, searching its ticket included, the mean over seeds.
        cost: ``seconds`` over those of a dense run; None where no dense run has finished.
        trainings: How many networks were trained for one run, the mean over seeds.
    """

    method: str
    requested: float
    achieved: float
    accuracy: float
    deviation: float
    seeds: int
    seconds: float
    cost: float | None
    trainings: float = 1.0


def plan(
    base: Experiment, methods: Sequence[str], sparsities: Sequence[float], seeds: Sequence[int]
) -> list[Experiment]:
    """Every run of a comparison, seed by seed, so that one that is stopped early has compared something.

    Args:
        base: Everything but the method, the sparsity and the seed. Its ``start``, ``end`` and ``at``, its scope and
            recovery, and its arguments go to the methods that take them; the others keep their own.
        methods: ``dense`` among them is run once a seed, whatever the sparsities, and so is ``ticket``, which is
            allowed where ``base`` has one.
        sparsities: Of every other method.
        seeds: Of everything.

    Raises:
        ValueError: A list is empty or names something twice, a method is not known, or none of them takes something
            that is given.
    """
    for name, values in (("methods", methods), ("sparsities", sparsities), ("seeds", seeds)):
        if not values:
            raise ValueError(f"{name} is empty; it must name at least one")
        if twice := [value for value in dict.fromkeys(values) if list(values).count(value) > 1]:
            raise ValueError(f"{name} names {twice[0]} more than once")
    for method in methods:
        check_choice("method", method, (*NAMES, TICKET))
    if TICKET in methods and not base.ticket:
        raise ValueError(f"the method {TICKET!r} needs the file of a ticket: ticket (--ticket FILE) is empty")
    if base.ticket and TICKET not in methods:
        raise ValueError(f"ticket={base.ticket!r}: {', '.join(methods)} does not take it")
    for name in TIMES:
        if getattr(base, name) is not None and not any(name in parameters(method) for method in methods):
            raise ValueError(f"{name}={getattr(base, name)!r}: {', '.join(methods)} does not take it")
    for name in ("scope", "recovery"):
        if getattr(base, name) != "paper" and not any(takes(method, name) for method in methods):
            raise ValueError(f"{name}={getattr(base, name)!r}: {', '.join(methods)} does not take it")
    for word in base.arguments:
        if not any(_name(word) in own(method) for method in methods):
            known = sorted({name for method in methods for name in own(method)})
            raise ValueError(f"arguments: {word!r}: {', '.join(methods)} does not take it{nearest(_name(word), known)}")
    planned = []
    for seed in seeds:
        for method in methods:
            words: dict[str, Any] = {name: getattr(base, name) for name in TIMES}
            words = {name: value if name in parameters(method) else None for name, value in words.items()}
            words |= {name: getattr(base, name) if takes(method, name) else "paper" for name in ("scope", "recovery")}
            words["arguments"] = tuple(word for word in base.arguments if _name(word) in own(method))
            words["ticket"] = base.ticket if method == TICKET else ""
            for sparsity in (0.0,) if method in (DENSE, TICKET) else sparsities:
                planned.append(replace(base, method=method, sparsity=sparsity, seed=seed, **words))
    return planned


def _name(word: str) -> str:
    return word.partition("=")[0].replace("-", "_")


def tabulate(results: Iterable[tuple[Experiment, Result]]) -> list[Row]:
    """The rows: dense first, then by sparsity, methods in the order in which they first come."""
    groups: dict[tuple[str, float], list[Result]] = {}
    for experiment, result in results:
        groups.setdefault((experiment.method, result.sparsity), []).append(result)
    dense = groups.get((DENSE, 0.0))
    dense_seconds = statistics.fmean(result.seconds for result in dense) if dense else None
    rows = []
    for (method, requested), group in groups.items():
        seconds = statistics.fmean(result.seconds for result in group)
        accuracies = [result.accuracy for result in group]
        rows.append(
            Row(
                method=method,
                requested=requested,
                achieved=statistics.fmean(result.achieved for result in group),
                accuracy=statistics.fmean(accuracies),
                deviation=statistics.pstdev(accuracies),
                seeds=len(group),
                seconds=seconds,
                cost=seconds / dense_seconds if dense_seconds else None,
                trainings=statistics.fmean(result.trainings for result in group),
            )
        )
    order = list(dict.fromkeys(method for method, _ in groups))
    return sorted(rows, key=lambda row: (row.method != DENSE, row.requested, order.index(row.method)))


def cells(row: Row) -> tuple[str, ...]:
    """The row's text, a cell for each column of :data:`HEADER`."""
    dense = row.method == DENSE
    return (
        row.method,
        "-" if dense else f"{100 * row.requested:.10g} %",
        "-" if dense else f"{100 * row.achieved:.2f} %",
        f"{100 * row.accuracy:.2f}" + (f" ± {100 * row.deviation:.2f}" if row.seeds > 1 else ""),
        str(row.seeds),
        duration(row.seconds),
        f"{round(row.trainings, 1):g}",
        "-" if row.cost is None else f"{row.cost:.2f}",
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, with a line on how to read it."""
    lines = [HEADER, ("---", *("---:" for _ in HEADER[1:])), *(cells(row) for row in rows)]
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", READING, ""])


def duration(seconds: float) -> str:
    """A time as a person says it: 0.83 s, 41.2 s, 6 min 04 s, 2 h 07 min."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"
