"""How activations lie in memory: which layout each value has, and which one a step needs of what it reads.

A vector holds one place of several images, or of several blocks of one image's map (``native/runtime/layout.h``). Maps
of one size all have the same lanes, so what is added or concatenated always fits together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, product

from sparsecycle.runtime.graph import Convolution, Map, Pool

__all__ = ["Lanes", "Layout", "Scale", "Window", "needed", "regular", "union"]


@dataclass(frozen=True)
class Lanes:
    """What a vector's lanes are: images, rows and columns of blocks of each image's map, and channels."""

    images: int
    rows: int
    columns: int
    channels: int = 1

    @property
    def count(self) -> int:
        """How many there are."""
        return self.images * self.rows * self.columns * self.channels


@dataclass(frozen=True)
class Scale:
    """A number from 0 to 255 stands for ``step`` times what it is more than ``zero``."""

    step: float
    zero: int


@dataclass(frozen=True)
class Layout:
    """Where the elements of a value lie.

    Attributes:
        map: The shape of one image.
        lanes: Of its vectors.
        groups: Vectors a place; each has ``lanes.images`` images.
        block: Rows and columns of a block.
        halo: Rows above and below, columns to the left and right, which are kept around a block.
        fill: What a place outside the map holds.
        scale: What its numbers of 8 bits stand for; None where they are float32.
    """

    map: Map
    lanes: Lanes
    groups: int
    block: tuple[int, int]
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: float = 0.0
    scale: Scale | None = None

    @property
    def images(self) -> int:
        """Of a group, which is computed at once."""
        return self.lanes.images * self.groups

    @property
    def vectors(self) -> int:
        """Of a group and channel, without the halo."""
        return self.block[0] * self.block[1] * self.groups

    def serves(self, need: Layout) -> bool:
        """Whether this can be read where ``need`` is needed: the same with a larger halo will do."""
        inner = replace(self, halo=need.halo) == need
        return inner and all(mine >= its for mine, its in zip(self.halo, need.halo, strict=True))


def union(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The halo that serves for both."""
    return (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


@dataclass(frozen=True)
class Window:
    """Windows along one axis: ``start = stride * i - padding``, and taps ``dilation`` apart over ``reach`` places."""

    reach: int
    stride: int
    padding: int


def regular(ranges: tuple[tuple[int, int], ...], size: int) -> Window | None:
    """The windows of a pool along one axis as those of a convolution, or None where they are not alike.

    Args:
        ranges: Starts and stops in the input, clipped to it.
        size: The input's.
    """
    starts, stops = zip(*ranges, strict=True)
    steps = {b - a for ends in (starts, stops) for a, b in pairwise(ends)} - {0}
    for stride, padding in product(sorted(steps), range(stops[0])):
        reach = stops[0] + padding
        windows = ((stride * i - padding, stride * i - padding + reach) for i in range(len(ranges)))
        if all((max(0, a), min(size, b)) == window for (a, b), window in zip(windows, ranges, strict=True)):
            return Window(reach, stride, padding)
    return None


def needed(step: Convolution | Pool, source: Map, out: Layout) -> Layout | None:
    """The layout in which a step's input has to be for the step to make a value of layout ``out``.

    Its halo is the smallest that will do; its fill is 0. None if a pool's windows differ from block to block.
    """
    if isinstance(step, Convolution):
        size, stride, padding, dilation = step.weight.shape[2:], step.stride, step.padding, step.dilation
        windows = [Window(dilation[axis] * (size[axis] - 1) + 1, stride[axis], padding[axis]) for axis in (0, 1)]
    else:
        windows = []
        for ranges, whole, lanes in (
            (step.rows, source.height, out.lanes.rows),
            (step.columns, source.width, out.lanes.columns),
        ):
            window = Window(1, 1, 0) if lanes == 1 else regular(ranges, whole)
            if window is None:
                return None
            windows.append(window)
    blocks, halos = [], []
    axes = zip(windows, (source.height, source.width), (out.lanes.rows, out.lanes.columns), out.block, strict=True)
    for window, whole, lanes, out_block in axes:
        block = whole if lanes == 1 else window.stride * out_block
        if isinstance(step, Pool) and lanes == 1:
            halos.append((0, 0))  # its windows are clipped one by one
        else:
            last = (out_block - 1) * window.stride - window.padding + window.reach - 1
            halos.append((window.padding, max(0, last - (block - 1))))
        if block * lanes < whole:
            return None
        blocks.append(block)
    return Layout(source, out.lanes, out.groups, (blocks[0], blocks[1]), (*halos[0], *halos[1]))
