"""Fewer steps: scalings, activations and sums go into the convolutions before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from sparsecycle.runtime.graph import (
    Activate,
    Add,
    Convolution,
    Graph,
    Map,
    Pool,
    Step,
    is_scaling,
    operands,
    renumbered,
)

__all__ = ["fuse"]


def fuse(graph: Graph) -> Graph:
    """The same network in fewer steps.

    A value that one step makes and only one step reads need not be made where the two can be one:

    - a scaling, as of a batch norm, goes into the weights and the bias of the convolution before it;
    - an activation becomes that of the convolution or the sum before it;
    - a sum becomes the residual of a convolution before it, of the later one if there are two;
    - every n-th row or column, read by a convolution of 1x1, becomes its stride.

    The joint step stands where the second stood: there all that it reads has been made. Steps that no output needs are
    dropped.

    Args:
        graph: Is left as it is. Its weights may have any floating-point type, and keep it.
    """
    steps = _needed(graph)
    uses = Counter([*graph.outputs, *(value for step in steps.values() for value in operands(step))])
    for value in list(steps):
        while (found := _join(steps, uses, value, graph.maps)) is not None:
            source, steps[value] = found
            del steps[source]
    numbers = {value: i for i, value in enumerate([*graph.inputs, *steps])}
    return Graph(
        images=graph.images,
        inputs=list(graph.inputs),
        outputs=[numbers[value] for value in graph.outputs],
        maps=[graph.maps[value] for value in numbers],
        steps=[renumbered(step, numbers) for step in steps.values()],
    )


def _needed(graph: Graph) -> dict[int, Step]:
    """The steps that an output needs, by the value that they make, in their order."""
    steps = dict(enumerate(graph.steps, len(graph.inputs)))
    needed = set(graph.outputs)
    for value in reversed(steps):
        if value in needed:
            needed.update(operands(steps[value]))
    return {value: step for value, step in steps.items() if value in needed}


def _join(steps: dict[int, Step], uses: Counter[int], value: int, maps: Sequence[Map]) -> tuple[int, Step] | None:
    """A value that need not be made, and the step that makes ``value`` without it; None if there is none."""
    for source in sorted(operands(steps[value]), reverse=True):
        if source in steps and uses[source] == 1:
            joint = _joint(steps[source], steps[value], source, maps)
            if joint is not None:
                return source, joint
    return None


def _joint(first: Step, second: Step, between: int, maps: Sequence[Map]) -> Step | None:
    """Two steps as one; ``between`` is what the first makes for the second. None if they cannot be one."""
    match first, second:
        case Convolution(activation="none", residual=None), Convolution() if is_scaling(second):
            return _scaled(first, second)
        case ((Convolution(activation="none") | Add(activation="none")), Activate()):
            return replace(first, activation=second.activation)
        case Convolution(activation="none", residual=None), Add():
            other = second.left if second.right == between else second.right
            return replace(first, residual=other, activation=second.activation)
        case Pool(kind="max"), Convolution(input=value, padding=(0, 0)) if value == between:
            before = maps[first.input]
            rows, columns = _every(first.rows, before.height), _every(first.columns, before.width)
            if second.weight.shape[2:] == (1, 1) and rows is not None and columns is not None:
                return replace(second, input=first.input, stride=(second.stride[0] * rows, second.stride[1] * columns))
    return None


def _scaled(convolution: Convolution, scaling: Convolution) -> Convolution:
    """The convolution whose results are scaled; its weights and its bias are computed in float64."""
    weight, factors = convolution.weight, scaling.weight.double().flatten()
    bias = torch.zeros_like(factors) if convolution.bias is None else convolution.bias.double() * factors
    if scaling.bias is not None:
        bias = bias + scaling.bias.double()
    weights = weight.double() * factors[:, None, None, None]
    return replace(convolution, weight=weights.to(weight.dtype), bias=bias.to(weight.dtype))


def _every(windows: Sequence[tuple[int, int]], length: int) -> int | None:
    """The distance of windows if they are every n-th of so many pixels from the first on; None if they are not."""
    distance = windows[1][0] if len(windows) > 1 else length
    regular = [(start, start + 1) for start in range(0, length, max(distance, 1))]
    return distance if list(windows) == regular else None
