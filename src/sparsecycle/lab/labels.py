"""Names beside points, none of them covering another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.text import Annotation, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["label"]

_Box = tuple[float, float, float, float]
_GAP = 6.0  # points from a point's middle to its name
_LINE = 9.5  # and from one name to the next in a column
# Where a name goes if its place is taken: so many gaps outwards and lines up, the nearest first.
_SHIFTS = sorted(((step, line) for step in range(12) for line in range(-3, 4)), key=lambda s: s[0] + 1.5 * abs(s[1]))


def label(ax: Axes, points: Sequence[tuple[float, float, str, str]]) -> list[Annotation]:
    """Write names beside their points; those of a crowd in two columns beside it, with a thin line to each point.

    No name covers another, nor a point. The figure must have its final limits, and nothing may be added to it that
    moves the axes.

    Args:
        ax: Where.
        points: Places on the two axes, text (one that is empty is a place to leave free) and colour of each.
    """
    scale = 72 / ax.figure.dpi  # from here on lengths are in points
    left, low, right, top = (scale * edge for edge in ax.get_window_extent().extents)
    places = [(scale * x, scale * y) for x, y in ax.transData.transform([point[:2] for point in points])]
    written = [
        ax.annotate(
            text,
            (x, y),
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.7, "shrinkA": 0, "shrinkB": 2},
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.0},
        )
        for x, y, text, colour in points
    ]
    sizes = [_size(text, scale) for text in written]
    marks = [_box(x, y, 8.0, 8.0) for x, y in places]
    beside = [_box(x + _GAP + w / 2, y, w, h) for (x, y), (w, h) in zip(places, sizes, strict=True)]
    crowds: list[list[int]] = []
    for i, box in enumerate(beside):
        near = [
            c
            for c in crowds
            if any(not _free(box, [beside[j], marks[j]]) or not _free(marks[i], [beside[j]]) for j in c)
        ]
        crowds = [c for c in crowds if c not in near] + [[*(j for c in near for j in c), i]]
    boxes = {crowd[0]: beside[crowd[0]] for crowd in crowds if len(crowd) == 1}
    for crowd in sorted((c for c in crowds if len(c) > 1), key=len, reverse=True):
        crowd = sorted(crowd, key=lambda i: places[i][0])
        edges = {side: max(side * places[i][0] for i in crowd) + 2 * _GAP for side in (-1, 1)}
        for side, members in ((-1, crowd[: len(crowd) // 2]), (1, crowd[len(crowd) // 2 :])):
            members = sorted(members, key=lambda i: places[i][1])
            heights = _spread([places[i][1] for i in members], _LINE, low, top)
            for i, height in zip(members, heights, strict=True):
                tried = [
                    _box(s * (edges[s] + sizes[i][0] / 2 + _GAP * step), height + _LINE * line, *sizes[i])
                    for s in (side, -side)
                    for step, line in _SHIFTS
                ]
                obstacles = [*marks, *boxes.values()]
                fits = (
                    b
                    for b in tried
                    if left < b[0] and b[2] < right and low < b[1] and b[3] < top and _free(b, obstacles)
                )
                boxes[i] = next(fits, tried[0])
    for i, (x0, y0, x1, y1) in boxes.items():
        written[i].set_position(((x0 + x1) / 2 - places[i][0], (y0 + y1) / 2 - places[i][1]))
        written[i].set_in_layout(False)
    return written


def _size(text: Text, scale: float) -> tuple[float, float]:
    extent = Text.get_window_extent(text)  # an annotation's own has its line, too
    return scale * extent.width, min(scale * extent.height, _LINE - 0.5)


def _spread(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """The rising numbers that are nearest to the rising ``wanted``, ``apart`` from each other, between the limits."""
    blocks: list[tuple[float, int]] = []
    for place, value in enumerate(wanted):
        mean, size = value - place * apart, 1
        while blocks and blocks[-1][0] > mean:  # they would meet: from here on they move as one
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    highest = high - apart * (len(wanted) - 0.5)
    return [max(min(value, highest), low + apart / 2) + apart * place for place, value in enumerate(flat)]


def _box(x: float, y: float, width: float, height: float) -> _Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _free(box: _Box, others: Sequence[_Box]) -> bool:
    """Whether it overlaps none of the others."""
    return not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in others)
