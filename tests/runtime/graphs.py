"""Networks and layouts drawn at random, for tests of the runtime."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle.runtime.cost import can_gather, work
from sparsecycle.runtime.graph import Activate, Add, Concatenate, Convolution, Flatten, Graph, Map, Pool, Step, operands
from sparsecycle.runtime.layouts import Lanes

ACTIVATIONS = st.sampled_from(["none", "relu", "relu6", "silu"])
DENSITIES = st.sampled_from([0.0, 0.03, 0.3, 1.0])
POWERS = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 11, 14])

Homes = dict[tuple[int, int], tuple[Lanes, int]]


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether float32 has what float64 has, of numbers that are around 1 on the way there."""
    scale = max(1.0, expected.nan_to_num(0, 0, 0).abs().max().item())
    return torch.allclose(found.double(), expected, rtol=0, atol=1e-5 * scale, equal_nan=True)


def numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def windows(draw: st.DrawFn, length: int, same: bool) -> tuple[int, int, int, int, int]:
    """A kernel's size, stride, padding and dilation along one axis, and how many results there are."""
    size = draw(st.sampled_from([1, 3, 5])) if same else draw(st.integers(1, 7))
    dilation = draw(st.integers(1, max(d for d in (1, 2, 3) if d * (size - 1) < length + 2 * size)))
    reach = dilation * (size - 1) + 1
    if same:
        return size, 1, reach // 2, dilation, length
    stride = draw(st.integers(1, 3))
    padding = draw(st.integers(max(0, math.ceil((reach - length) / 2)), size))
    return size, stride, padding, dilation, (length + 2 * padding - reach) // stride + 1


@st.composite
def convolutions(draw: st.DrawFn, source: Map, input: int = 0, same: bool = False) -> tuple[Convolution, Map]:
    """A convolution of a map of this shape, and the shape of what it makes."""
    axes = [draw(windows(length, same)) for length in (source.height, source.width)]
    size, stride, padding, dilation, lengths = zip(*axes, strict=True)
    groups = draw(st.sampled_from([g for g in range(1, source.channels + 1) if source.channels % g == 0]))
    channels = groups * draw(st.integers(1, max(1, 20 // groups)))
    seed = draw(st.integers(0, 2**31))
    weight = numbers((channels, source.channels // groups, *size), seed) / (source.channels * math.prod(size)) ** 0.5
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < draw(DENSITIES)
    kept[: draw(st.integers(0, 2))] = False
    bias = numbers((channels,), seed + 1) if draw(st.booleans()) else None
    activation = draw(ACTIVATIONS)
    step = Convolution("conv", input, weight * kept, bias, stride, padding, dilation, groups, activation)
    return step, Map(channels, *lengths)


@st.composite
def pools(draw: st.DrawFn, source: Map, input: int = 0) -> tuple[Pool, Map]:
    """A pool of a map of this shape, with windows as those of PyTorch or with any, and the shape of what it makes."""
    axes = [draw(ranges(length)) for length in (source.height, source.width)]
    kind = draw(st.sampled_from(["max", "average"]))
    divisors = None
    if kind == "average":
        rows, columns = ([stop - start for start, stop in axis] for axis in axes)
        divisors = torch.tensor(rows)[:, None] * torch.tensor(columns) + draw(st.sampled_from([0.0, 2.0]))
    return Pool("pool", input, kind, axes[0], axes[1], divisors), Map(source.channels, *map(len, axes))


@st.composite
def ranges(draw: st.DrawFn, length: int) -> tuple[tuple[int, int], ...]:
    kind = draw(st.sampled_from(["regular", "adaptive", "any"]))
    if kind == "adaptive":
        count = draw(st.integers(1, length + 2))
        return tuple((i * length // count, math.ceil((i + 1) * length / count)) for i in range(count))
    if kind == "any":
        starts = draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=6))
        return tuple((start, draw(st.integers(start + 1, length))) for start in starts)
    size = draw(st.integers(1, min(4, length)))
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, size // 2))
    count = draw(st.sampled_from([math.floor, math.ceil]))((length + 2 * padding - size) / stride) + 1
    bounds = ((i * stride - padding, i * stride - padding + size) for i in range(count))
    return tuple((max(0, start), min(length, stop)) for start, stop in bounds if start < length)


@st.composite
def graphs(draw: st.DrawFn, images: int, most_steps: int = 8) -> Graph:
    """Steps on what was made before, of all kinds; with several inputs and outputs, some of which may be the same."""
    size = (draw(LENGTHS), draw(LENGTHS))
    maps = [Map(draw(st.integers(1, 6)), *size) for _ in range(draw(st.integers(1, 2)))]
    inputs = list(range(len(maps)))
    steps: list[Step] = []
    for _ in range(draw(st.integers(0, most_steps))):
        step, made = draw(_steps(maps))
        steps.append(step)
        maps.append(made)
    outputs = draw(st.lists(st.integers(0, len(maps) - 1), max_size=2))
    return Graph(images, inputs, [*outputs, len(maps) - 1], maps, steps)


@st.composite
def _steps(draw: st.DrawFn, maps: list[Map]) -> tuple[Step, Map]:
    kinds = ["same", "same", "same", "convolution", "pool", "add", "activate", "concatenate", "flatten"]
    kind = draw(st.sampled_from(kinds))
    value = draw(st.integers(max(0, len(maps) - 3), len(maps) - 1))
    source = maps[value]
    alike = [i for i, other in enumerate(maps) if other == source]
    if kind == "add":
        return Add("add", value, draw(st.sampled_from(alike)), draw(ACTIVATIONS)), source
    if kind == "activate":
        return Activate("activation", value, draw(ACTIVATIONS)), source
    if kind == "pool":
        return draw(pools(source, value))
    if kind == "concatenate":
        beside = [i for i, m in enumerate(maps) if (m.height, m.width) == (source.height, source.width)]
        parts = draw(st.lists(st.sampled_from(beside), min_size=1, max_size=3))
        return Concatenate("cat", tuple(parts)), Map(sum(maps[i].channels for i in parts), source.height, source.width)
    if kind == "flatten" and source.channels * source.height * source.width < 300:
        return Flatten("flatten", value), Map(source.channels * source.height * source.width, 1, 1)
    step, made = draw(convolutions(source, value, same=kind == "same"))
    alike = [i for i, other in enumerate(maps) if other == made]
    if alike and draw(st.booleans()):
        step = replace(step, residual=draw(st.sampled_from(alike)))
    return step, made


@st.composite
def lanes(
    draw: st.DrawFn, widest: int, images: int | None = None, counts: Collection[int] = (4, 8, 16)
) -> tuple[Lanes, int]:
    """Lanes, and groups of them, of so many images or of any number."""
    count = draw(st.sampled_from([c for c in counts if c <= widest]))
    together = draw(st.sampled_from([i for i in POWERS if i <= count and (images is None or images % i == 0)]))
    groups = draw(st.integers(1, 4)) if images is None else images // together
    rows = draw(st.sampled_from([r for r in POWERS if r <= count // together]))
    return Lanes(together, rows, count // together // rows), groups


@st.composite
def homes(draw: st.DrawFn, graph: Graph, widest: int) -> Homes:
    """Lanes for the maps of each size, of so many images that no step makes a group of fewer than it reads."""
    sizes = [(shape.height, shape.width) for shape in graph.maps]
    images = {size: draw(st.sampled_from([1, 2, 4, 8, 16, 32])) for size in dict.fromkeys(sizes)}
    for _ in graph.maps:
        for value, step in enumerate(graph.steps, len(graph.inputs)):
            images[sizes[value]] = max(images[sizes[i]] for i in (value, *operands(step)))
    found = {size: draw(lanes(widest, count)) for size, count in images.items()}
    for size in found:
        if images[size] == 1 and _can_gather(graph, size) and draw(st.booleans()):
            found[size] = (Lanes(1, 1, 1, widest), 1)
    return found


@st.composite
def homes8(draw: st.DrawFn, graph: Graph, beside: Homes, counts: Collection[int], gathering: int | None) -> Homes:
    """Lanes for maps in 8 bits, of as many images as ``beside`` has for others.

    Args:
        graph: Whose maps they are.
        beside: Of float32.
        counts: Of the lanes that kernels have.
        gathering: How many channels may be in the lanes; None if there are no kernels for that.
    """
    found = {}
    for size, (side, groups) in beside.items():
        images = side.images * groups
        found[size] = draw(lanes(max(counts), images, counts))
        steps = zip(graph.steps, graph.maps[len(graph.inputs) :], strict=True)
        parts = any(isinstance(step, Concatenate) and (of.height, of.width) == size for step, of in steps)
        if images == 1 and gathering and not parts and draw(st.booleans()):
            found[size] = (Lanes(1, 1, 1, gathering), 1)
    return found


def _can_gather(graph: Graph, size: tuple[int, int]) -> bool:
    for step, made in zip(graph.steps, graph.maps[len(graph.inputs) :], strict=True):
        if (made.height, made.width) != size:
            continue
        if isinstance(step, Concatenate):
            return False
        if isinstance(step, Convolution) and not can_gather(work(step, graph.maps[step.input]), size):
            return False
    return True
