"""Draws runtime.png: how an activation lies in vectors (``python docs/runtime.py``)."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = ["#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#222255"]
ROWS, COLUMNS = 2, 4  # blocks: the lanes of a vector of eight
SIDE = 8
BLOCK = (SIDE // ROWS, SIDE // COLUMNS)


def _cell(axes: Axes, x: float, y: float, colour: str, alpha: float, edge: str = "white", width: float = 1.0) -> None:
    axes.add_patch(Rectangle((x, -y - 1), 1, 1, facecolor=colour, alpha=alpha, edgecolor=edge, linewidth=width))


def _draw_map(axes: Axes) -> None:
    axes.set_title("a map of 8 x 8 in 2 x 4 blocks", fontsize=11)
    for y in range(SIDE):
        for x in range(SIDE):
            lane = y // BLOCK[0] * COLUMNS + x // BLOCK[1]
            inner = (y % BLOCK[0], x % BLOCK[1])
            _cell(axes, x, y, COLOURS[lane], {(1, 0): 1.0, (2, 1): 0.65}.get(inner, 0.22))
            if inner in ((1, 0), (2, 1)):
                name = "a" if inner == (1, 0) else "b"
                axes.text(x + 0.5, -y - 0.5, name, ha="center", va="center", color="white", fontweight="bold")
    axes.set_xlim(-0.2, SIDE + 0.2)
    axes.set_ylim(-SIDE - 0.2, 0.2)


def _draw_block(axes: Axes) -> None:
    axes.set_title("a block's places and its halo:\neach is a vector, a lane a block", fontsize=11)
    for y in range(-1, BLOCK[0] + 1):
        for x in range(-1, BLOCK[1] + 1):
            inside = 0 <= y < BLOCK[0] and 0 <= x < BLOCK[1]
            for lane in range(8):
                left = (x + 1) * 2.4 + lane * 0.26
                alpha = 1.0 if (y, x) == (1, 0) else 0.65 if (y, x) == (2, 1) else 0.4 if inside else 0.12
                axes.add_patch(
                    Rectangle((left, -(y + 1) * 1.3 - 1), 0.26, 1, facecolor=COLOURS[lane], alpha=alpha, linewidth=0)
                )
            axes.add_patch(
                Rectangle(((x + 1) * 2.4, -(y + 1) * 1.3 - 1), 2.08, 1, fill=False, edgecolor="#555555", linewidth=0.8)
            )
    start, end = ((0 + 1) * 2.4 + 1.04, -(1 + 1) * 1.3 - 0.5), ((1 + 1) * 2.4 + 1.04, -(2 + 1) * 1.3 - 0.5)
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "linewidth": 1.8})
    axes.text(2.3, -3.1, "a", fontweight="bold", ha="right", va="center")
    axes.text(7.0, -4.4, "b", fontweight="bold", ha="left", va="center")
    axes.text(9.8, -4.4, "b is a, one row down\nand one column right", va="center", fontsize=9)
    axes.text(9.8, -0.5, "halo", va="center", fontsize=9, color="#555555")
    axes.set_xlim(-0.2, 14.5)
    axes.set_ylim(-8.2, 0.3)


def _draw_sums(axes: Axes) -> None:
    axes.set_title("a sparse layer", fontsize=11)
    lines = [
        "for each tile of places:                      # sums stay in registers",
        "    for each block of input channels:         # what it reads stays in L1",
        "        for each output channel:",
        "            for each weight that is kept:",
        "                sums += weight * input[tile + offset]",
        "",
        "offset = channel, tap row, tap column: one number of 16 bits",
        "four weights and four offsets are loaded at a time",
    ]
    for number, line in enumerate(lines):
        axes.text(0, -number, line, family="monospace", fontsize=9, va="top")
    axes.set_xlim(0, 10)
    axes.set_ylim(-len(lines), 1)


figure, parts = plt.subplots(1, 3, figsize=(15, 4.2), width_ratios=(1, 1.35, 1.75))
for axes, draw in zip(parts, (_draw_map, _draw_block, _draw_sums), strict=True):
    draw(axes)
    axes.axis("off")
    if draw is not _draw_sums:
        axes.set_aspect("equal")
figure.tight_layout()
figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)
