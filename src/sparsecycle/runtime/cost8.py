"""What a way of computing a convolution in 8 bits costs, as a model, in cycles as those of ``cost.py``.

Sparse kernels are bound by arithmetic: four weights of a channel take four loads, eight unpacks and, for each of four
registers of sums, one instruction where there is VNNI and three where there is not. Dense ones interleave once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsecycle.runtime.cost import FIRST_CACHE, SECOND_BANDWIDTH, SECOND_CACHE, STREAM, THIRD_BANDWIDTH, Work, met
from sparsecycle.runtime.layouts import Layout

__all__ = ["Form8", "gather8_cycles"]

FOUR = 6.0
"""Cycles that four weights take for a register, without the parts that it is put together from."""
VISIT = 32.0
"""Cycles in which a register of sums begins, becomes activations, and is written."""


@dataclass(frozen=True)
class Form8:
    """How a kernel goes about a convolution, as the native core lists them.

    Attributes:
        lanes: Of its vectors.
        vectors: Of a tile.
        bundle: Output channels: side by side in a register, or of a dense kernel one after the other.
        dense: Whether all weights are multiplied, zeros too.
    """

    lanes: int
    vectors: int
    bundle: int
    dense: bool

    def __str__(self) -> str:
        kind = "dense" if self.dense else "sparse"
        return f"{kind} int8 {self.vectors}x{self.lanes}, {self.bundle} channels"

    def fits(self, step: Work, out: Layout) -> bool:
        """Whether it can compute a convolution whose result is laid out so."""
        run = out.groups if step.stride[1] > 1 and out.groups > 1 else out.block[1] * out.groups
        return self.lanes == out.lanes.count and self.vectors <= run

    def cycles(self, step: Work, out: Layout, blocks: int) -> float:
        """Of one thread, for one group of images; ``blocks`` are ranges of input channels, one after the other."""
        passes = blocks if step.groups == 1 else 1
        tiles = out.vectors / self.vectors
        share = met(step, out, 1, self.vectors)
        channels = step.inputs * step.groups
        # Fours are filled up, on average with one and a half of them in each block.
        if self.dense:
            fours = step.inputs * step.taps * share / 4 + passes
            bundles = math.ceil(step.outputs / step.groups / self.bundle) * step.groups
            inner = bundles * fours * self.bundle * 4.2 + fours * step.groups * 10
            weights = bundles * fours * self.bundle * 8
            visits = bundles * self.bundle * passes * VISIT
            interleaved = fours / passes * self.lanes * 8
        else:
            fours = step.kept * share / 4 + 0.4 * step.outputs * passes
            bundles = math.ceil(step.outputs / self.bundle)
            inner = fours / self.bundle * ((FOUR - 0.5 + 1.2 * (self.bundle - 1)) * self.vectors + 1.5)
            weights = fours * 16
            visits = bundles * passes * (10 + VISIT * self.vectors)
            interleaved = 0
        across = (self.vectors - 1) // out.groups * step.stride[1] + step.size[1]
        footprint = step.size[0] * across * min(out.groups, self.vectors) * self.lanes
        if footprint * math.ceil(channels / blocks) + interleaved > FIRST_CACHE:
            inner *= 1.3
        activations = (
            channels * step.source.height * step.source.width + step.outputs * out.map.height * out.map.width
        ) * out.images
        traffic = footprint * channels / (SECOND_BANDWIDTH if activations < SECOND_CACHE else THIRD_BANDWIDTH)
        traffic += weights / (SECOND_BANDWIDTH if weights < SECOND_CACHE / 2 else 2 * THIRD_BANDWIDTH)
        return tiles * (inner + visits + traffic)


def gather8_cycles(step: Work, size: tuple[int, int], lanes: int, window: int) -> float:
    """Of a convolution of maps of this height and width, with ``lanes`` channels in the lanes.

    Args:
        step: What has to be computed.
        size: Of the result.
        lanes: Bytes of a vector.
        window: How many inputs a step picks from.
    """
    rows = lanes // 4  # of output channels, which wait for the one with the most weights
    mean = step.kept / (step.outputs * step.inputs * step.taps) * min(window, step.inputs)
    longest = min(min(window, step.inputs), mean + 1.7 * math.sqrt(mean))
    steps = max(1 - math.exp(-mean * rows), longest / 4 + 0.1)
    pairs = 1.0
    for places, before, taps, stride in zip(
        size, (step.source.height, step.source.width), step.size, step.stride, strict=True
    ):
        inputs = (place * stride - taps // 2 + tap for place in range(places) for tap in range(taps))
        pairs *= sum(0 <= i < before for i in inputs) / taps
    bundles = math.ceil(step.outputs / rows) * step.taps
    windows = math.ceil(step.inputs / window) * step.groups
    traffic = 2 * lanes / STREAM
    # In 128 bits and more one instruction picks from all of a window; else there is one for each 16 channels.
    picking = 2.5 if window == 128 else 1.5 * (1 + window / 16)
    return bundles * (windows * steps * max(pairs * picking + 1, traffic) + 15)
