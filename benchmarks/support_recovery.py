"""Do pruned weights that may come back find more of the true support of a sparse linear regression?

Monotone pruning against cyclical pruning (Srinivas et al., arXiv 2202.01290) on data whose true support is known: the
share of it that is kept, first over the number of samples, then over the number of cycles. All methods get the same
data, initial weights, steps and learning rate, and keep exactly as many weights as the truth has. The learning rate
is not searched: it is 1/L of each problem, the largest at which plain gradient descent cannot overshoot.
Orthogonal matching pursuit, which also knows how many weights there are, shows how hard the problem is.

    python -m benchmarks.support_recovery [--seeds 20] [--steps 300] [--workers 1] [--out docs/results/linear-support]

Run it from the repository's root. Writes support.png and results.json to the folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.progress import track
from sklearn.linear_model import OrthogonalMatchingPursuit

import sparsecycle as sc
from sparsecycle.lab.bench import report
from sparsecycle.lab.panels import DENSE, MUTED, finish, style
from sparsecycle.lab.regression import SparseRegression, train

SAMPLES = (50, 65, 80, 100, 140)
CYCLES = (1, 2, 3, 5, 8)
DATA = SparseRegression(samples=80, features=200, nonzeros=20, correlation=0.5, noise=0.5)
PURSUIT = "orthogonal matching pursuit"
DEFAULT = 3  # cycles of sc.methods.cyclical


@dataclass(frozen=True)
class Entrant:
    """A method of ``sc.methods`` with its words, or the pursuit.

    ``open_for`` is the share of each cycle that trains densely: 0 by default, and 0.2 is agp's own start, so that
    only the repetition and the recovery differ from agp.
    """

    label: str
    method: str = ""
    recovery: str = "none"
    cycles: int = 0
    open_for: float = 0.0

    def recovered(self, data: SparseRegression, steps: int) -> float:
        problem = data.draw()
        if not self.method:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # it says where it stops early
                pursuit = OrthogonalMatchingPursuit(n_nonzero_coefs=data.nonzeros, fit_intercept=False)
                pursuit.fit(problem.inputs.double().numpy(), problem.targets.double().numpy())
            return problem.recovered(torch.from_numpy(pursuit.coef_))
        words: dict[str, Any] = {"recovery": self.recovery}
        if self.cycles:
            words |= {"cycles": self.cycles, "within": sc.AGP(start=self.open_for)}
        model = train(problem, getattr(sc.methods, self.method), steps, seed=data.seed, **words)
        kept = int(model.weight.count_nonzero())
        assert kept == data.nonzeros, f"{self.label} keeps {kept} weights"
        return problem.recovered(model.weight)


def cyclical(cycles: int, recovery: str, open_for: float = 0.0) -> Entrant:
    opened = ", agp's start" if open_for else ""
    return Entrant(f"cyclical, {recovery}{opened}", "cyclical", recovery, cycles, open_for)


MONOTONE = (Entrant("one-shot", "one_shot"), Entrant("progressive", "progressive"), Entrant("agp", "agp"))
FAMILIES = (("zero", 0.0), ("stored", 0.0), ("zero", 0.2))
RETURNING = tuple(cyclical(DEFAULT, *family) for family in FAMILIES)
PLACES = {entrant.label: i for i, entrant in enumerate([*MONOTONE, *(cyclical(1, *family) for family in FAMILIES)])}


@dataclass(frozen=True)
class Cell:
    """One entrant on one kind of data; ``recovered`` has a share for each seed."""

    entrant: Entrant
    data: SparseRegression
    recovered: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return statistics.mean(self.recovered)

    @property
    def deviation(self) -> float:
        return statistics.pstdev(self.recovered)

    @property
    def whole(self) -> int:
        """Seeds that found all of the support."""
        return sum(share == 1 for share in self.recovered)


def cells() -> list[Cell]:
    """Every entrant at every number of samples, then every number of cycles at the middle one; none twice."""
    entrants = [Entrant(PURSUIT), *MONOTONE, *RETURNING]
    over_samples = [Cell(entrant, replace(DATA, samples=n)) for n in SAMPLES for entrant in entrants]
    over_cycles = [Cell(cyclical(cycles, *family), DATA) for family in FAMILIES for cycles in CYCLES]
    return list(dict.fromkeys([*over_samples, *over_cycles]))


def _job(job: tuple[Cell, int, int]) -> float:
    cell, seed, steps = job
    torch.set_num_threads(1)
    return cell.entrant.recovered(replace(cell.data, seed=seed), steps)


def run(seeds: int, steps: int, workers: int) -> list[Cell]:
    jobs = [(cell, seed, steps) for cell in cells() for seed in range(seeds)]
    if workers == 1:
        found = [_job(job) for job in track(jobs, f"{len(jobs)} runs")]
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            found = list(track(pool.map(_job, jobs, chunksize=8), f"{len(jobs)} runs", total=len(jobs)))
    return [replace(cell, recovered=tuple(found[i * seeds : (i + 1) * seeds])) for i, cell in enumerate(cells())]


# What came out: two tables and one picture.


def over_samples(done: Sequence[Cell]) -> dict[str, list[Cell]]:
    labels = [PURSUIT, *(entrant.label for entrant in (*MONOTONE, *RETURNING))]
    return {
        label: [cell for cell in done if cell.entrant.label == label and cell.entrant.cycles in (0, DEFAULT)]
        for label in labels
    }


def over_cycles(done: Sequence[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in sorted(done, key=lambda cell: cell.entrant.cycles):
        if cell.entrant.cycles and cell.data.samples == DATA.samples:
            found.setdefault(cell.entrant.label, []).append(cell)
    return {label: found[label] for label in PLACES if label in found}


def _table(lines: dict[str, list[Cell]], head: Sequence[str]) -> str:
    rows = [
        [name, *(f"{cell.mean:.2f} ± {cell.deviation:.2f} ({cell.whole})" for cell in line)]
        for name, line in lines.items()
    ]
    return report.table(head, rows)


def _paired(lines: dict[str, list[Cell]]) -> str:
    """The mean difference to agp within a seed, and its standard error."""
    rows = []
    for entrant in RETURNING:
        row = [f"{entrant.label}, less agp"]
        for cell, agp in zip(lines[entrant.label], lines["agp"], strict=True):
            gains = [a - b for a, b in zip(cell.recovered, agp.recovered, strict=True)]
            error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
            row.append(f"{statistics.mean(gains):+.3f} ± {error:.3f}")
        rows.append(row)
    return report.table(["standard error", *(f"n = {n}" for n in SAMPLES)], rows)


def picture(done: Sequence[Cell], seeds: int) -> Figure:
    figure = Figure(figsize=(10, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.1, 1))
    lines = over_samples(done)
    _draw(left, lines, SAMPLES, "samples")
    _draw(right, over_cycles(done), CYCLES, "cycles")
    at = SAMPLES.index(DATA.samples)
    level = {"color": style(PLACES["agp"])[0], "linestyle": "--", "linewidth": 1.2}
    right.axhline(100 * lines["agp"][at].mean, label="agp, for comparison", **level)
    left.set_title(f"By the number of samples, cyclical with {DEFAULT} cycles", loc="left", fontsize=10.5, color=DENSE)
    right.set_title(f"By the number of cycles, {DATA.samples} samples", loc="left", fontsize=10.5, color=DENSE)
    finish([left], f"samples n, of d = {DATA.features} features", "share of the true support that is kept, %")
    finish([right], "cycles in the same number of steps", "")
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8.5, labelcolor=DENSE, loc="lower right")
    figure.suptitle("Does pruning keep the right weights?", x=0.01, ha="left", fontsize=13, color=DENSE)
    figure.supxlabel(
        f"Sparse linear regression, {DATA.nonzeros} true weights; mean of {seeds} seeds, "
        f"bars: two standard errors. Chance finds {100 * DATA.nonzeros / DATA.features:.0f} %.",
        x=0.01,
        ha="left",
        fontsize=9,
        color=MUTED,
    )
    return figure


def _draw(ax: Axes, lines: dict[str, list[Cell]], places: Sequence[int], name: str) -> None:
    width = places[-1] - places[0]
    for i, (label, line) in enumerate(lines.items()):
        reference = label == PURSUIT
        colour, marker = (MUTED, "") if reference else style(PLACES[label])
        # Bars of one place stand side by side: they would cover each other.
        shift = 0.005 * width * (i - (len(lines) - 1) / 2)
        ax.errorbar(
            [place + shift for place in places],
            [100 * cell.mean for cell in line],
            yerr=[200 * cell.deviation / max(len(cell.recovered) - 1, 1) ** 0.5 for cell in line],
            color=colour,
            marker=marker,
            linestyle=":" if reference else "-",
            markersize=5,
            linewidth=1.6,
            elinewidth=1,
            capsize=2.5,
            label=label,
        )
    ax.set_xticks(places)


def results(done: Sequence[Cell], steps: int) -> dict[str, Any]:
    kinds = [
        {
            **asdict(cell.entrant),
            "samples": cell.data.samples,
            "mean": round(cell.mean, 4),
            "standard deviation": round(cell.deviation, 4),
            "whole support": cell.whole,
            "recovered": [round(share, 4) for share in cell.recovered],
        }
        for cell in done
    ]
    data = {name: value for name, value in asdict(DATA).items() if name not in ("samples", "seed")}
    return {
        "machine": report.machine(),
        "sparsecycle": sc.__version__,
        "data": data,
        "steps": steps,
        "learning rate": "1/L of each problem",
        "batch": "all samples",
        "cells": kinds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.support_recovery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=20, help="problems of each kind (default: 20)")
    parser.add_argument("--steps", type=int, default=300, help="gradient steps in each run (default: 300)")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each (default: 1)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=Path("docs/results/linear-support"),
        help="where support.png and results.json are written (default: %(default)s)",
    )
    arguments = parser.parse_args()
    for name in ("seeds", "steps", "workers"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = run(arguments.seeds, arguments.steps, arguments.workers)
    lines = over_samples(done)
    print(f"\nshare of the true support, mean ± standard deviation over {arguments.seeds} seeds")
    print("(seeds that found all of it)\n")
    print(_table(lines, ["", *(f"n = {n}" for n in SAMPLES)]), "\n")
    print(_paired(lines), "\n")
    print(_table(over_cycles(done), [f"n = {DATA.samples}", *(f"cycles={c}" for c in CYCLES)]))
    report.write(arguments.out / "results.json", results(done, arguments.steps))
    picture(done, arguments.seeds).savefig(arguments.out / "support.png", dpi=110)


if __name__ == "__main__":
    main()
