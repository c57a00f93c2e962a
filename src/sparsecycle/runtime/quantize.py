"""Which numbers of 8 bits stand for a network's values and weights, from what it computes on some inputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsecycle.runtime.graph import Concatenate, Convolution, Flatten, Graph, Pool, operands
from sparsecycle.runtime.interpret import evaluate, interpret
from sparsecycle.runtime.layouts import Scale

__all__ = ["Quantized", "Weights", "quantize"]

LEVELS = 255
"""The largest number that stands for a value."""
LIMIT = 127
"""The largest number that stands for a weight."""
BINS = 2048
"""Of the histogram from which a value's range is chosen."""
CLIPS = 60
"""Ranges that are compared, from the whole one down to a twentieth of it."""
WEIGHT_CLIPS = 20
"""Of an output channel's weights, from the whole range down to half of it."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A convolution's weights.

    Attributes:
        numbers: As the weights, int8, from -127 to 127.
        steps: (out,), float32: what an output channel's numbers are multiplied with.
    """

    numbers: Tensor
    steps: Tensor

    def values(self) -> Tensor:
        """What they stand for."""
        return self.numbers * self.steps[:, None, None, None]


@dataclass(frozen=True, eq=False)
class Quantized:
    """How a graph is computed in 8 bits.

    Attributes:
        scales: Of values, by their numbers.
        weights: Of the convolutions that are computed in 8 bits, by the value that they make.
        steps: The values that steps make in 8 bits.
    """

    scales: Mapping[int, Scale]
    weights: Mapping[int, Weights]
    steps: frozenset[int]

    def read(self, graph: Graph) -> set[int]:
        """The values that steps read in 8 bits."""
        first = len(graph.inputs)
        return {source for value in self.steps for source in operands(graph.steps[value - first])}

    def kept(self, graph: Graph) -> set[int]:
        """The values that steps make in 8 bits and that are kept so.

        What only steps on float32 read, a convolution on 8 bits makes in float32.
        """
        return set(self.steps) - (self.weights.keys() - self.read(graph))


def quantize(
    graph: Graph, batches: Sequence[Sequence[Tensor]], keep: Collection[str] = (), bound: float | None = None
) -> Quantized:
    """Choose scales for a graph's values and weights.

    A value's range, and that of each output channel's weights, is the one with the least squared error. Values that are
    concatenated, or only moved or compared, have one range.

    Args:
        graph: Its steps are fused already; it has float32 weights.
        batches: Inputs that the network may get, several of them: for each batch, a tensor (images, channels, height,
            width) for each of the graph's inputs; any number of images.
        keep: Names of steps that stay in float32.
        bound: The largest relative error of the outputs on the batches that is allowed; the steps that lose most stay
            in float32 until it holds. None allows any.

    Raises:
        ValueError: If there are no batches, values are not finite, or a name in ``keep`` is no step's.
    """
    names = {step.name for step in graph.steps}
    for name in keep:
        if name not in names:
            raise ValueError(f"keep has {name!r}; it must have names of {', '.join(map(repr, sorted(names)))}")
    if not batches:
        raise ValueError("calibration has no batches; int8 needs some, to choose the ranges of values from")
    scales = _scales(graph, batches)
    first = len(graph.inputs)
    chosen = {value for value, step in enumerate(graph.steps, first) if step.name not in keep}
    weights = {
        value: _weights(step.weight)
        for value, step in enumerate(graph.steps, first)
        if isinstance(step, Convolution) and value in chosen
    }
    quantized = Quantized(scales, weights, frozenset(chosen))
    return quantized if bound is None else _within(bound, quantized, graph, batches)


def _within(bound: float, quantized: Quantized, graph: Graph, batches: Sequence[Sequence[Tensor]]) -> Quantized:
    """The same with fewer steps in 8 bits: without those that, in 8 bits alone, change the outputs most."""

    def only(steps: frozenset[int]) -> Quantized:
        weights = {value: its for value, its in quantized.weights.items() if value in steps}
        return Quantized(quantized.scales, weights, steps)

    exact = [_outputs(graph, batch, only(frozenset())) for batch in batches]

    def error(steps: frozenset[int]) -> float:
        found = [_outputs(graph, batch, only(steps)) for batch in batches]
        off = sum(float((a - b).square().sum()) for a, b in zip(found, exact, strict=True))
        return math.sqrt(off / max(sum(float(b.square().sum()) for b in exact), 1e-30))

    steps = quantized.steps
    worst = sorted(quantized.weights, key=lambda value: error(frozenset([value])))
    while worst and error(steps) > bound:
        steps -= {worst.pop()}
    # Without a convolution there is nothing to gain from 8 bits.
    return only(steps if worst else frozenset())


def _outputs(graph: Graph, batch: Sequence[Tensor], quantized: Quantized) -> Tensor:
    """A graph's outputs, one after the other, with the numbers that its weights and values become in 8 bits."""
    first = len(graph.inputs)
    kept = quantized.kept(graph)
    coded = kept | quantized.read(graph)
    exact: list[Tensor] = []  # as steps on float32 read them
    near: list[Tensor] = []  # as steps in 8 bits do
    for value in range(len(graph.maps)):
        if value < first:
            made = batch[value]
        else:
            step = graph.steps[value - first]
            if isinstance(step, Convolution) and value in quantized.weights:
                step = replace(step, weight=quantized.weights[value].values())
            made = evaluate(step, near if value in quantized.steps else exact)
        near.append(rounded(made, quantized.scales[value]) if value in coded else made)
        exact.append(near[value] if value in kept else made)
    return torch.cat([exact[value].flatten() for value in graph.outputs])


def rounded(value: Tensor, scale: Scale) -> Tensor:
    """The values nearest to these that numbers stand for."""
    numbers = (value / scale.step).round_().add_(scale.zero).clamp_(0, LEVELS)
    return numbers.sub_(scale.zero).mul_(scale.step)


def _scales(graph: Graph, batches: Sequence[Sequence[Tensor]]) -> dict[int, Scale]:
    """Of every value, by the histogram of what it is on the batches."""
    groups = _together(graph)
    lows = dict.fromkeys(groups, 0.0)
    highs = dict(lows)
    for batch in batches:
        for value, tensor in enumerate(interpret(graph, batch)):
            low, high = (float(x) for x in tensor.aminmax())
            if not (low > -torch.inf and high < torch.inf):  # NaN is neither
                raise ValueError(f"calibration makes value {value} of the network {low} to {high}; it must be finite")
            lows[groups[value]] = min(lows[groups[value]], low)
            highs[groups[value]] = max(highs[groups[value]], high)
    counts = {group: torch.zeros(BINS, dtype=torch.float64) for group in lows}
    for batch in batches:
        for value, tensor in enumerate(interpret(graph, batch)):
            group = groups[value]
            if highs[group] > lows[group]:
                counts[group] += torch.histc(tensor, BINS, lows[group], highs[group])
    return {value: _scale(lows[group], highs[group], counts[group]) for value, group in enumerate(groups)}


def _together(graph: Graph) -> list[int]:
    """For each value, the first of those that have its scale."""
    groups = list(range(len(graph.maps)))

    def join(a: int, b: int) -> None:
        old, new = max(groups[a], groups[b]), min(groups[a], groups[b])
        groups[:] = [new if group == old else group for group in groups]

    for value, step in enumerate(graph.steps, len(graph.inputs)):
        if isinstance(step, Flatten | Concatenate) or (isinstance(step, Pool) and step.kind == "max"):
            for source in operands(step):
                join(source, value)
    return groups


def _scale(low: float, high: float, counts: Tensor) -> Scale:
    """The scale with the least squared error, for values from ``low``, at most 0, to ``high``, at least 0."""
    if not counts.any():
        return Scale(1.0, 0)
    width = (high - low) / BINS
    centres = low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)
    scales = [_affine(low * share, high * share) for share in torch.linspace(1, 0.05, CLIPS).tolist()]
    errors = [float((counts * (rounded(centres, scale) - centres) ** 2).sum()) for scale in scales]
    return scales[errors.index(min(errors))]


def _affine(low: float, high: float) -> Scale:
    step = (high - low) / LEVELS
    return Scale(step, round(-low / step))


def _weights(weight: Tensor) -> Weights:
    """Numbers for weights, of each output channel with the step that has the least squared error."""
    rows = weight.flatten(1)
    largest = rows.abs().amax(1)
    best = torch.full_like(largest, torch.inf)
    steps = torch.ones_like(largest)
    for share in torch.linspace(1, 0.5, WEIGHT_CLIPS):
        step = torch.where(largest > 0, largest * share / LIMIT, 1)
        numbers = (rows / step[:, None]).round_().clamp_(-LIMIT, LIMIT)
        error = numbers.mul_(step[:, None]).sub_(rows).square_().sum(1)
        better = error < best
        best = torch.where(better, error, best)
        steps = torch.where(better, step, steps)
    numbers = (rows.double() / steps.double()[:, None]).round_().clamp_(-LIMIT, LIMIT)
    return Weights(numbers.to(torch.int8).reshape(weight.shape).contiguous(), steps)
