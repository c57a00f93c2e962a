"""The three pictures of a comparison: accuracy over sparsity, accuracy over cost, and sparsity over time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.lines import Line2D

from sparsecycle.lab.labels import label
from sparsecycle.lab.panels import (
    DENSE,
    FAMILIES,
    MUTED,
    by_family,
    family,
    finish,
    legend,
    limits,
    panels,
    style,
    threshold,
    widened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sparsecycle.lab.comparison import Row

__all__ = ["DPI", "Curve", "accuracy", "costs", "drawn", "schedules"]

DPI = 110
"""With a width of 10 inches: 1100 pixels, what a README shows."""

_RANDOM = "#9a9a9a"
_NAME = 84.0  # points: as wide as the longest name with its accuracy
_ACCURACY = "test accuracy after the last epoch, %"


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


def drawn(rows: Sequence[Row]) -> list[Row]:
    """The pruned rows that the accuracy is drawn of: those with at least half of the requested sparsity."""
    sparse = [row for row in rows if row.method != "dense" and row.requested < 1]
    return [row for row in sparse if row.achieved >= row.requested / 2]


def accuracy(rows: Sequence[Row], title: str = "") -> Figure:
    """Test accuracy (%) over sparsity: a line a method, bars of one standard deviation, dense as a level.

    The horizontal axis is the logarithm of the share of weights that is kept, so that 90, 95 and 98 % stand
    apart; it is placed at the requested sparsity. More than eight methods are drawn in panels, a family each, with
    the random mask in all of them. A point far below all others is an arrow at the lower edge, with its accuracy.

    Raises:
        ValueError: There is no row to draw.
    """
    if not rows:
        raise ValueError("rows is empty: there is no finished run to draw")
    sparse, dense = drawn(rows), [row for row in rows if row.method == "dense"]
    shown = by_family(list(dict.fromkeys(row.method for row in sparse)))
    alone = len(shown) == 1
    figure, axes = panels(title, [name for name, _ in shown], "" if alone else _note(rows, alone))
    levels = sorted({row.requested for row in sparse})
    values = [row.accuracy for row in (*sparse, *dense)]
    bars = [row.deviation for row in (*sparse, *dense)]
    limit = threshold(values)
    far = Counter((row.requested, alone or family(row.method)) for row in sparse if row.accuracy < limit)
    width = _range([1 - level for level in levels])
    for ax, (_, methods) in zip(axes, shown, strict=True):
        ax.set_xscale("log")
        if levels:  # Before the lines: limits of their own choice fail for a single place.
            ax.set_xlim((1 - levels[0]) * math.exp(0.08 * width), (1 - levels[-1]) * math.exp(-0.08 * width))
        lines = {
            method: sorted((row for row in sparse if row.method == method), key=lambda row: row.requested)
            for method in methods
        }
        for row in dense:
            _level(ax, row)
        if not alone:  # As the lines end, from above.
            methods = sorted(methods, key=lambda method: -lines[method][-1].accuracy)
        for method in methods:
            # Points of one sparsity stand side by side: their bars would cover each other.
            place = list(lines).index(method)
            shift = math.exp(-0.008 * width * (place - (len(lines) - 1) / 2))
            colour, marker = style(place)
            ax.errorbar(
                [(1 - row.requested) * shift for row in lines[method]],
                [100 * row.accuracy for row in lines[method]],
                yerr=[100 * row.deviation for row in lines[method]],
                color=colour,
                marker=marker,
                markersize=5.5,
                linewidth=1.6,
                elinewidth=1,
                capsize=2.5,
                label=method,
            )
        if "random" not in lines:
            points = sorted((row for row in sparse if row.method == "random"), key=lambda row: row.requested)
            if points and not alone:
                _random(ax, points)
        if far:
            ax.set_ylim(limits(values, bars, max(far.values())))
            _arrows(ax, [(row, style(i)[0]) for i, line in enumerate(lines.values()) for row in line])
        ax.set_xticks([1 - level for level in levels], [_percent(level) for level in levels])
        ax.set_xticks([], minor=True)
        legend(ax, _note(rows, alone) if alone else "")
    finish(axes, "sparsity: share of weights that are zero", _ACCURACY)
    return figure


def costs(rows: Sequence[Row], title: str = "") -> Figure:
    """Test accuracy (%) over training cost, as a multiple of the dense run's: a panel a sparsity, dense as a level.

    The search for a ticket is part of its cost. The horizontal axis is logarithmic where the costs differ by more
    than a factor of 4. Of more than four sparsities the highest four are drawn.

    Raises:
        ValueError: There is no method with a cost.
    """
    sparse = [row for row in drawn(rows) if row.cost is not None]
    if not sparse:
        raise ValueError("rows has no method with a cost to draw: a cost needs a dense run and a pruned one")
    dense = [row for row in rows if row.method == "dense" and row.cost is not None]
    levels = sorted({row.requested for row in sparse})[-4:]
    alone = len(levels) == 1
    names = [f"{title}, {_percent(level)} sparse".strip(", ") if alone else _percent(level) for level in levels]
    figure, axes = panels(title, names, share_y=False)
    shown = [row for row in sparse if row.requested in levels]
    places = [row.cost for row in (*shown, *dense) if row.cost is not None]
    first, last = min(places), max(places)
    colours = {name: style(i) for i, name in enumerate(FAMILIES)}
    labels: list[tuple[Axes, list[tuple[float, float, str, str]]]] = []
    for ax, level in zip(axes, levels, strict=True):
        points = [*dense, *(row for row in shown if row.requested == level)]
        values = [row.accuracy for row in points]
        low, high = limits(values, [0.0] * len(values), int(min(values) < threshold(values)))
        if last > 4 * first:
            ax.set_xscale("log")
            ticks = [m * 10.0**e for e in range(-3, 5) for m in (1, 2, 5) if first <= 1.1 * m * 10.0**e <= 1.2 * last]
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.set_xticks([], minor=True)
        ax.set_ylim(low, high + 0.06 * (high - low))  # names of a crowd stand higher than it
        texts = []
        for row in points:
            assert row.cost is not None
            colour, marker = (DENSE, "*") if row.method == "dense" else colours[family(row.method)]
            text, y = row.method, 100 * row.accuracy
            if y < low:
                text, y = f"{row.method} ↓ {y:.3g}", low + 0.05 * (high - low)
            ax.plot(row.cost, y, color=colour, marker=marker, markersize=9 if row.method == "dense" else 5.5)
            texts.append((row.cost, y, "" if row.method == "dense" else text, colour))
        for row in dense:
            y = 100 * row.accuracy
            ax.axhline(y, color=DENSE, linewidth=1.0, linestyle=(0, (5, 3)), zorder=1, alpha=0.6)
            across = ax.get_yaxis_transform()
            ax.text(1.0, y, "dense", transform=across, ha="right", va="bottom", fontsize=8, color=DENSE)
        labels.append((ax, texts))
    finish(axes, "training time over that of the dense run", _ACCURACY)
    families = [name for name in FAMILIES if any(family(row.method) == name for row in shown)]
    figure.legend(
        [Line2D([], [], color=colours[name][0], marker=colours[name][1], linestyle="none") for name in families],
        families,
        loc="outside lower left",
        ncols=len(families),
        frameon=False,
        title=_note(rows, False).replace("mean and standard deviation", "mean"),
        title_fontsize=9,
        alignment="left",
    ).get_title().set_color(MUTED)
    figure.draw_without_rendering()  # the places of the axes, which the labels' depend on
    # Room for a name on both sides, as a share of the width.
    side = _NAME * figure.dpi / 72 / axes[0].get_window_extent().width
    axes[0].set_xlim(widened(first, last, side / (1 - 2 * side), axes[0].get_xscale() == "log"))
    for ax, texts in labels:
        label(ax, texts)
    return figure


def schedules(curves: Mapping[str, Curve], title: str = "") -> Figure:
    """Sparsity (%) over the run: a line a method as its schedule asks, dots where a run's weights were counted.

    Methods with the same schedule share a line. More than eight methods are drawn in panels, a family each.

    Raises:
        ValueError: There is no curve to draw.
    """
    if not curves:
        raise ValueError("curves is empty: there is no method with a schedule to draw")
    shown = by_family(list(curves))
    note = "line: the schedule{}dot: counted at an epoch's end" if any(c.epochs for c in curves.values()) else ""
    figure, axes = panels(title, [name for name, _ in shown], note.format("; "))
    for ax, (_, methods) in zip(axes, shown, strict=True):
        same: dict[tuple[tuple[float, ...], tuple[float, ...]], list[str]] = {}
        for method in methods:
            same.setdefault((tuple(curves[method].times), tuple(curves[method].asked)), []).append(method)
        for place, ((times, asked), members) in enumerate(same.items()):
            colour, marker = style(place)
            ax.plot(
                [100 * t for t in times],
                [100 * s for s in asked],
                color=colour,
                linewidth=1.8,
                drawstyle="steps-post",
            )
            for curve in (curves[method] for method in members):
                ax.plot(
                    [100 * t for t in curve.epochs],
                    [100 * s for s in curve.counted],
                    color=colour,
                    marker=marker,
                    markersize=5,
                    linestyle="none",
                )
            dots = any(curves[method].epochs for method in members)
            ax.plot([], [], color=colour, marker=marker if dots else None, markersize=5, label="\n".join(members))
        ax.set_xlim(0, 101)
        ax.set_ylim(-1, 104)
        legend(ax, note.format("\n") if len(shown) == 1 else "")
    finish(axes, "share of the training run, %", "sparsity, % of the prunable weights")
    return figure


def _level(ax: Axes, row: Row) -> None:
    """The dense network's accuracy as a level over all sparsities."""
    ax.axhline(100 * row.accuracy, color=DENSE, linewidth=1.4, linestyle=(0, (5, 3)), label="dense", zorder=1)
    low, high = (100 * (row.accuracy + sign * row.deviation) for sign in (-1, 1))
    ax.axhspan(low, high, color=DENSE, alpha=0.08, linewidth=0, zorder=0)


def _random(ax: Axes, points: Sequence[Row]) -> None:
    """The random mask, in grey: the level to beat."""
    ax.plot(
        [1 - row.requested for row in points],
        [100 * row.accuracy for row in points],
        color=_RANDOM,
        linewidth=1.4,
        linestyle=":",
        label="random",
        zorder=1,
    )


def _arrows(ax: Axes, points: Sequence[tuple[Row, str]]) -> None:
    """What lies below the axis, written at its lower edge: one above the other, the lowest at the bottom."""
    height: dict[float, int] = {}
    for row, colour in sorted(points, key=lambda point: point[0].accuracy):
        if 100 * row.accuracy >= ax.get_ylim()[0]:
            continue
        step = height[row.requested] = height.get(row.requested, -1) + 1
        ax.text(
            1 - row.requested,
            0.015 + 0.055 * step,
            f"↓ {100 * row.accuracy:.3g}",
            transform=ax.get_xaxis_transform(),
            color=colour,
            fontsize=8,
            ha="center",
            va="bottom",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
            zorder=5,
        )


def _note(rows: Sequence[Row], alone: bool) -> str:
    """Over how many seeds, and what is not drawn; in short lines where it stands over the legend."""
    seeds = sorted({row.seeds for row in rows})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    space = "\n" if alone else " "
    note = f"mean and standard deviation{space}of {count} seed{'' if seeds == [1] else 's'}"
    kept = drawn(rows)
    missing = [row.method for row in rows if 0 < row.requested < 1 and row.method != "dense" and row not in kept]
    if missing:
        note += f"{space if alone else '; '}not drawn, as less than half{space}as sparse as asked: "
        note += ", ".join(dict.fromkeys(missing))
    return note


def _range(shares: Sequence[float]) -> float:
    """The logarithmic width of the axis; 1 where there is only one place on it."""
    return math.log(max(shares) / min(shares)) if len(set(shares)) > 1 else 1.0


def _percent(share: float) -> str:
    return f"{100 * share:.10g} %"
