"""What a way of computing a convolution costs, as a model: it ranks the ways, of which the best few are then timed.

Sparse kernels are bound by loads, two a cycle: a tile of R vectors takes R of them, and half of one for its weight and
offset, of which four come at a time: (2 R + 1) / 4 cycles. To that comes what a visit to a tile's sums costs, and the
traffic of weights and activations from the outer caches. Figures are cycles of the processors that this was fitted on;
only their ratios matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch

from sparsecycle.runtime.graph import Convolution, Map
from sparsecycle.runtime.layouts import Layout

__all__ = ["Form", "Work", "can_gather", "cycles", "gather_cycles", "work"]

FIRST_CACHE = 32 * 1024
SECOND_CACHE = 512 * 1024
SECOND_BANDWIDTH = 32.0
"""Bytes a cycle."""
THIRD_CACHE = 8 * 1024 * 1024
"""A processor's share of it."""
THIRD_BANDWIDTH = 5.0
MEMORY_BANDWIDTH = 1.0
STREAM = 20.0
"""Bytes a cycle of weights, which are read one after the other."""
VISIT = 14.0
"""Cycles that a bundle takes to begin and end, without its sums."""
LATENCY = 4.0
"""Of a multiply-add."""


@dataclass(frozen=True)
class Form:
    """How a kernel goes about a convolution, as the native core lists them.

    Attributes:
        lanes: Of its vectors.
        rows, columns: Of its tile, in vectors.
        step: Vectors from one output's input to the next one's.
        bundle: Output channels in lockstep.
        dense: Whether all weights are multiplied, zeros too.
        bfloat16: Whether weights are kept so.
    """

    lanes: int
    rows: int
    columns: int
    step: int
    bundle: int
    dense: bool
    bfloat16: bool

    @property
    def vectors(self) -> int:
        """Of a tile."""
        return self.rows * self.columns

    def __str__(self) -> str:
        kind = "dense" if self.dense else "sparse"
        half = ", bf16" if self.bfloat16 else ""
        return f"{kind} {self.rows}x{self.columns}x{self.lanes}, {self.bundle} channels{half}"


@dataclass(frozen=True)
class Work:
    """What has to be computed.

    Attributes:
        inputs: Channels that each output channel sees.
        outputs: Channels.
        taps: Of the kernel.
        kept: Weights that are not zero.
        source: The input's map.
        size, stride, dilation: Of the kernel.
        groups: Into how many parts the channels fall that see nothing of each other.
    """

    inputs: int
    outputs: int
    taps: int
    kept: int
    source: Map
    size: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    dilation: tuple[int, int] = (1, 1)


def work(step: Convolution, source: Map) -> Work:
    """Of a convolution of a map of that shape."""
    outputs, inputs, height, width = step.weight.shape
    kept = int(torch.count_nonzero(step.weight))
    size = (height, width)
    return Work(inputs, outputs, height * width, kept, source, size, step.stride, step.groups, step.dilation)


def can_gather(step: Work, size: tuple[int, int]) -> bool:
    """Whether a convolution can be computed with output channels in its lanes: ``native/runtime/gather.h``."""
    same = (step.source.height, step.source.width) == size and step.groups == 1
    one = size == (1, 1) and step.size == (1, 1)
    two = size == (2, 2) and (step.size, step.stride, step.dilation) == ((3, 3), (1, 1), (1, 1))
    return same and (one or two)


def gather_cycles(step: Work, lanes: int) -> float:
    """Of a convolution with ``lanes`` output channels in its lanes, which wait for the one with the most weights."""
    blocks = math.ceil(step.inputs / (2 * lanes)) * step.taps * math.ceil(step.outputs / lanes)
    mean = step.kept / (blocks * lanes)
    longest = min(2 * lanes, mean + 1.7 * math.sqrt(mean) + 0.3)
    pairs = 16 / 9 if step.taps == 9 else 1
    # In 512 bits one instruction picks from two vectors, and there are registers enough.
    pick = 0.95 if lanes == 16 or pairs == 1 else 2.4
    traffic = 5 * lanes / STREAM
    return blocks * (longest * max(0.7 + pairs * pick, traffic) + 2 + pairs)


def met(step: Work, out: Layout, rows: int, columns: int) -> float:
    """Which share of its taps a tile has to look at: where lanes are images, those on padding alone are left out."""
    places = max(1, columns // out.groups)
    down = 1.0 if out.lanes.rows > 1 else _met(step.size[0], out.map.height, rows)
    return down if out.lanes.columns > 1 else down * _met(step.size[1], out.map.width, places)


@cache
def _met(taps: int, places: int, wide: int) -> float:
    """The same along one axis, of tiles of so many places."""
    before = taps // 2
    found = [
        min(taps, places + before - start) - max(0, before - min(places, start + wide) + 1)
        for start in range(0, places, wide)
    ]
    return sum(found) / (len(found) * taps)


def cycles(step: Work, out: Layout, form: Form, blocks: int) -> float:
    """Of one thread, for one group of images.

    Args:
        step: What has to be computed.
        out: The result's layout.
        form: The kernel's.
        blocks: Ranges of input channels that are gone through one after the other.
    """
    passes = math.ceil(step.inputs / math.ceil(step.inputs * step.groups / blocks))  # of each group
    row = out.block[1] * out.groups
    tiles = math.ceil(out.block[0] / form.rows) * math.ceil(row / form.columns)
    exact = out.vectors / (tiles * form.vectors)  # smaller kernels finish rows
    vectors = form.vectors * exact
    share = met(step, out, form.rows, form.columns)
    if form.dense:
        entries = step.inputs * step.taps * share
        bundles = math.ceil(step.outputs / step.groups / form.bundle) * step.groups
        slots = entries * bundles
        inner = max(form.bundle * vectors, vectors + form.bundle, LATENCY * 2) / 2 * slots
        weights = slots * form.bundle * 4
    else:
        slots = step.kept * share
        inner = max((2 * vectors + 1) / 4, LATENCY / form.bundle) * slots
        # Kernels of few channels take the last weights of a visit one by one.
        inner += step.outputs * passes * (1.5 if form.bundle < 4 else 0.3 * form.bundle**0.5) * vectors
        bundles = math.ceil(step.outputs / form.bundle)
        weights = slots * (4 if form.bfloat16 else 6)
    visits = passes * bundles * (VISIT + form.bundle * vectors * 1.5)
    # What a tile reads of the input: once from an outer cache, if that much stays in the first one.
    reach = (form.rows - 1) * step.stride[0] + step.size[0]
    across = (max(1, form.columns // out.groups) - 1) * step.stride[1] + step.size[1]
    footprint = reach * across * min(out.groups, form.columns) * form.lanes * 4.0
    channels = step.inputs * step.groups
    if footprint * math.ceil(channels / blocks) > FIRST_CACHE:
        inner *= 1.6
    activations = (
        channels * step.source.height * step.source.width + step.outputs * out.map.height * out.map.width
    ) * (4.0 * out.images)
    outer = THIRD_BANDWIDTH if activations < THIRD_CACHE else MEMORY_BANDWIDTH
    bandwidth = SECOND_BANDWIDTH if activations < SECOND_CACHE else outer
    traffic = footprint * channels / bandwidth
    traffic += weights / (SECOND_BANDWIDTH if weights < SECOND_CACHE / 2 else STREAM)
    return tiles * (inner + visits + traffic)
