"""What the pictures have in common: methods' families and styles, panels, axes that one low point does not ruin."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "DENSE",
    "FAMILIES",
    "MANY",
    "MUTED",
    "by_family",
    "family",
    "finish",
    "legend",
    "limits",
    "panels",
    "style",
    "threshold",
    "widened",
]

#: With more methods than this, a picture has a panel for each family.
MANY = 8

_BEFORE, _GRADUALLY, _BACK, _SEVERAL = FAMILIES = (
    "before training",
    "gradually, for good",
    "weights come back",
    "several trainings",
)
_FAMILY = {
    **dict.fromkeys(("random", "magnitude", "snip", "grasp", "synflow"), _BEFORE),
    **dict.fromkeys(("progressive", "one-cycle", "agp", "iterative", "one-shot"), _GRADUALLY),
    **dict.fromkeys(("cyclical", "acdc", "dsd", "set", "rigl", "movement", "gsm", "dpf"), _BACK),
}

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
DENSE = "#333333"
MUTED = "#666666"
_WIDTH, _HEIGHT, _TWO_ROWS = 10.0, 5.0, 8.2


def family(method: str) -> str:
    """The method's family; what is not known is taken to train several times."""
    return _FAMILY.get(method, _SEVERAL)


def by_family(methods: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The panels' names and methods: one panel without a name, or with more than ``MANY`` methods one a family."""
    if len(methods) <= MANY:
        return [("", list(methods))]
    groups = [(name, [method for method in methods if family(method) == name]) for name in FAMILIES]
    return [(name, members) for name, members in groups if members]


def style(place: int) -> tuple[str, str]:
    """Colour and marker of the method at this place."""
    return _STYLES[place % len(_STYLES)]


def panels(title: str, names: Sequence[str], note: str = "", *, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with a panel a name, 1 to 4 of them in two columns, and a note under several."""
    several = len(names) > 1
    rows, columns = math.ceil(len(names) / 2), 2 if several else 1
    figure = Figure(figsize=(_WIDTH, _TWO_ROWS if rows > 1 else _HEIGHT), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=share_y, squeeze=False)
    axes: list[Axes] = list(grid.flat)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    axes = axes[: len(names)]
    for ax in axes[-columns:]:  # the lowest of their columns
        ax.tick_params(labelbottom=True)
    if not several:
        axes[0].set_title(names[0] or title, loc="left", fontsize=12, color=DENSE, pad=10)
    else:
        figure.get_layout_engine().set(h_pad=0.08, w_pad=0.06)  # type: ignore[union-attr, call-arg]
        for ax, name in zip(axes, names, strict=True):
            ax.set_title(name, loc="left", fontsize=11, color=DENSE, pad=6)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=DENSE)
        if note:
            figure.supxlabel(note, x=0.01, ha="left", fontsize=9, color=MUTED)
    return figure, axes


def finish(axes: Sequence[Axes], x: str, y: str) -> None:
    """Frame, grid and the axes' names, where the panels of :func:`panels` stand at the figure's edge."""
    columns = 1 if len(axes) == 1 else 2
    for place, ax in enumerate(axes):
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(MUTED)
        ax.tick_params(colors=DENSE, which="both")
        ax.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        ax.set_axisbelow(True)
        if place + columns >= len(axes):
            ax.set_xlabel(x)
        if place % columns == 0:
            ax.set_ylabel(y)


def legend(ax: Axes, note: str) -> None:
    """The legend right of the panel, under a note; what is there for comparison only stands first and last."""
    handles, labels = ax.get_legend_handles_labels()
    ranks = [
        0 if text == "dense" else 2 if text == "random" and isinstance(handle, Line2D) else 1
        for handle, text in zip(handles, labels, strict=True)
    ]
    order = sorted(range(len(labels)), key=lambda i: ranks[i])
    written = ax.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        borderaxespad=0.0,
        title=note,
        title_fontsize=9,
        alignment="left",
        labelspacing=0.6,
    )
    written.get_title().set_color(MUTED)


def threshold(values: Sequence[float]) -> float:
    """Below this a value is an outlier that would take the axis from the others; -inf if none is.

    It is as far below the lowest quarter as four times what lies between that and the largest value, and at least 0.04.
    """
    if len(values) < 2:
        return -math.inf
    quarter = statistics.quantiles(values, n=4, method="inclusive")[0]
    limit = quarter - max(4 * (max(values) - quarter), 0.04)
    return limit if min(values) < limit else -math.inf


def limits(values: Sequence[float], bars: Sequence[float], arrows: int) -> tuple[float, float]:
    """The vertical axis, in %, for the shares ``values`` but those far below all others.

    Args:
        values: What is drawn.
        bars: The length of each one's error bar, to one side.
        arrows: How many of those below the axis are written one above the other.
    """
    limit = threshold(values)
    kept = [(value, bar) for value, bar in zip(values, bars, strict=True) if value >= limit]
    low, high = min(max(value - bar, limit) for value, bar in kept), max(value + bar for value, bar in kept)
    span = max(high - low, 0.001)
    return 100 * (low - (0.06 + 0.06 * arrows) * span), 100 * (high + 0.06 * span)


def widened(first: float, last: float, by: float, log: bool) -> tuple[float, float]:
    """The interval with this share of its length added to each end."""
    if log:
        return first * (first / last) ** by, last * (last / first) ** by
    length = (last - first) or 0.1
    return first - by * length, last + by * length
