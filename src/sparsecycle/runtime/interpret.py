"""The runtime's language, interpreted by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsecycle.runtime.graph import Activate, Activation, Add, Concatenate, Convolution, Flatten, Graph, Pool, Step

__all__ = ["activated", "evaluate", "interpret"]


def interpret(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Every value of a graph, (images, channels, height, width) each.

    Args:
        graph: What is computed.
        inputs: Of any number of images and of one floating-point type, in which everything is computed.
    """
    values = [inputs[number] for number in graph.inputs]
    for step in graph.steps:
        values.append(evaluate(step, values))
    return values


def evaluate(step: Step, values: Sequence[Tensor]) -> Tensor:
    """What one step makes of the values before it."""
    match step:
        case Convolution():
            source = values[step.input]
            bias = None if step.bias is None else step.bias.to(source.dtype)
            weight = step.weight.to(source.dtype)
            sums = F.conv2d(source, weight, bias, step.stride, step.padding, step.dilation, step.groups)
            return activated(sums if step.residual is None else sums + values[step.residual], step.activation)
        case Pool():
            return _pooled(step, values[step.input])
        case Add():
            return activated(values[step.left] + values[step.right], step.activation)
        case Activate():
            return activated(values[step.input], step.activation)
        case Concatenate():
            return torch.cat([values[i] for i in step.inputs], 1)
        case Flatten():
            return values[step.input].flatten(1)[:, :, None, None]


def activated(sums: Tensor, activation: Activation) -> Tensor:
    """An activation of every element."""
    match activation:
        case "none":
            return sums
        case "relu":
            return F.relu(sums)
        case "relu6":
            return F.relu6(sums)
        case "silu":
            return F.silu(sums)


def _pooled(step: Pool, value: Tensor) -> Tensor:
    windows = [[value[:, :, top:bottom, left:right] for left, right in step.columns] for top, bottom in step.rows]
    if step.divisors is None:
        return torch.stack([torch.stack([w.amax((2, 3)) for w in row], -1) for row in windows], -2)
    sums = torch.stack([torch.stack([w.sum((2, 3)) for w in row], -1) for row in windows], -2)
    return sums / step.divisors.to(value.dtype)
