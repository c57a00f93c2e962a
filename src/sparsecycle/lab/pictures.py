"""The two pictures of a comparison: accuracy over sparsity, and sparsity over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sparsecycle.lab.comparison import Row

__all__ = ["DPI", "Curve", "accuracy", "schedules"]

# Okabe and Ito's palette, told apart under the common kinds of colour blindness; yellow is left out (too pale
# for a line on white). The marker tells what the colour does.
_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#7F4F24", "X"),
    ("#6A4C93", "<"),
)
_DENSE = "#333333"
_MUTED = "#666666"
_SIZE = (10.0, 5.0)
DPI = 110
"""With 10 by 5 inches: 1100 by 550 pixels, what a README shows."""


@dataclass(frozen=True)
class Curve:
    """One method's sparsity over the run.

    Attributes:
        times: Shares of the run, rising from 0 to 1.
        asked: The sparsity that the schedule asks for at ``times``.
        epochs: Shares of the run at the ends of the epochs of a stored run; empty where there is none.
        counted: The sparsity counted there.
    """

    times: Sequence[float]
    asked: Sequence[float]
    epochs: Sequence[float] = ()
    counted: Sequence[float] = ()


def accuracy(rows: Sequence[Row], title: str = "") -> Figure:
    """Test accuracy (%) over sparsity: a line a method, bars of one standard deviation, dense as a level.

    The horizontal axis is the logarithm of the share of weights that is kept, so that 90, 95 and 98 % stand
    apart; it is placed at the requested sparsity.

    Raises:
        ValueError: There is no row to draw.
    """
    if not rows:
        raise ValueError("rows is empty: there is no finished run to draw")
    figure, ax = _figure(title)
    dense = [row for row in rows if row.method == "dense"]
    sparse = [row for row in rows if row.method != "dense" and row.requested < 1]
    methods = list(dict.fromkeys(row.method for row in sparse))
    levels = sorted({row.requested for row in sparse})
    ax.set_xscale("log")
    if levels:  # Before the lines: limits of their own choice fail for a single place.
        margin = math.exp(0.08 * _range([1 - level for level in levels]))
        ax.set_xlim((1 - levels[0]) * margin, (1 - levels[-1]) / margin)
    # Points of one sparsity stand side by side: their bars would cover each other.
    spread = 0.008 * _range([1 - level for level in levels])
    for place, method in enumerate(methods):
        points = sorted((row for row in sparse if row.method == method), key=lambda row: row.requested)
        shift = math.exp(-spread * (place - (len(methods) - 1) / 2))
        colour, marker = _STYLES[place % len(_STYLES)]
        ax.errorbar(
            [(1 - row.requested) * shift for row in points],
            [100 * row.accuracy for row in points],
            yerr=[100 * row.deviation for row in points],
            color=colour,
            marker=marker,
            markersize=5.5,
            linewidth=1.6,
            elinewidth=1,
            capsize=2.5,
            label=method,
        )
    for row in dense:
        ax.axhline(100 * row.accuracy, color=_DENSE, linewidth=1.4, linestyle=(0, (5, 3)), label="dense", zorder=1)
        ax.axhspan(
            100 * (row.accuracy - row.deviation),
            100 * (row.accuracy + row.deviation),
            color=_DENSE,
            alpha=0.08,
            linewidth=0,
            zorder=0,
        )
    ax.set_xticks([1 - level for level in levels], [_percent(level) for level in levels])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("sparsity: share of weights that are zero")
    ax.set_ylabel("test accuracy after the last epoch, %")
    seeds = sorted({row.seeds for row in rows})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    _finish(ax, f"mean and standard deviation\nof {count} seed{'' if seeds == [1] else 's'}", (("dense", -1),))
    return figure


def schedules(curves: Mapping[str, Curve], title: str = "") -> Figure:
    """Sparsity (%) over the run: a line a method as its schedule asks, dots where a run's weights were counted.

    Raises:
        ValueError: There is no curve to draw.
    """
    if not curves:
        raise ValueError("curves is empty: there is no method with a schedule to draw")
    figure, ax = _figure(title)
    for place, (method, curve) in enumerate(curves.items()):
        colour, marker = _STYLES[place % len(_STYLES)]
        ax.plot(
            [100 * t for t in curve.times],
            [100 * s for s in curve.asked],
            color=colour,
            linewidth=1.8,
            drawstyle="steps-post",
        )
        ax.plot(
            [100 * t for t in curve.epochs],
            [100 * s for s in curve.counted],
            color=colour,
            marker=marker,
            markersize=5,
            linestyle="none",
        )
        ax.plot([], [], color=colour, marker=marker if curve.epochs else None, markersize=5, label=method)
    ax.set_xlim(0, 101)
    ax.set_ylim(-1, 104)
    ax.set_xlabel("share of the training run, %")
    ax.set_ylabel("sparsity, % of the prunable weights")
    dots = any(curve.epochs for curve in curves.values())
    _finish(ax, "line: the schedule\ndot: counted at an epoch's end" if dots else "", ())
    return figure


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    ax = figure.subplots()
    ax.set_title(title, loc="left", fontsize=12, color=_DENSE, pad=10)
    return figure, ax


def _finish(ax: Axes, note: str, order: Sequence[tuple[str, int]]) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_MUTED)
    ax.tick_params(colors=_DENSE, which="both")
    ax.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    ax.set_axisbelow(True)
    handles, labels = ax.get_legend_handles_labels()
    ranks = dict(order)
    entries = sorted(zip(handles, labels, strict=True), key=lambda entry: ranks.get(entry[1], 0))
    legend = ax.legend(
        [handle for handle, _ in entries],
        [label for _, label in entries],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        borderaxespad=0.0,
        title=note,
        title_fontsize=9,
        alignment="left",
        labelspacing=0.6,
    )
    legend.get_title().set_color(_MUTED)


def _range(shares: Sequence[float]) -> float:
    """The logarithmic width of the axis; 1 where there is only one place on it."""
    return math.log(max(shares) / min(shares)) if len(set(shares)) > 1 else 1.0


def _percent(share: float) -> str:
    return f"{100 * share:.10g} %"
