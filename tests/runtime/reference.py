"""The runtime's language, interpreted by PyTorch in any floating-point type."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsecycle.runtime.graph import Activate, Activation, Add, Concatenate, Convolution, Flatten, Graph, Pool, Step
from sparsecycle.runtime.parts import NativePart
from sparsecycle.runtime.trace import Traced, filled


def run(graph: Graph, *inputs: Tensor, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The outputs (images, channels, height, width) of inputs of such shapes; all that is computed is of ``dtype``."""
    values: list[Tensor] = []
    for tensor, number in zip(inputs, graph.inputs, strict=True):
        values.append(tensor.to(dtype))
        assert values[number] is values[-1]
    for step in graph.steps:
        values.append(result(step, values, dtype))
    for value, map_ in zip(values, graph.maps, strict=True):
        assert value.shape == (graph.images, map_.channels, map_.height, map_.width)
    return [values[number] for number in graph.outputs]


def evaluate(traced: Traced, *inputs: Tensor, dtype: torch.dtype = torch.float64) -> Any:
    """What the traced network returns, all of it computed in ``dtype``; the traced network's own parts stay as is."""
    values = {name: _cast(value, dtype) for name, value in traced.constants.items()}
    values |= {name: _cast(value, dtype) for name, value in zip(traced.inputs, inputs, strict=True)}
    for part in traced.parts:
        given = [values[name] for name in part.inputs]
        if isinstance(part, NativePart):
            maps = [part.graph.maps[number] for number in part.graph.inputs]
            images = part.graph.images
            shaped = [t.reshape(images, m.channels, m.height, m.width) for t, m in zip(given, maps, strict=True)]
            made = run(part.graph, *shaped, dtype=dtype)
            values |= {n: t.reshape(s) for n, t, s in zip(part.outputs, made, part.shapes, strict=True)}
        else:
            values |= zip(part.outputs, copy.deepcopy(part.module).to(dtype)(*given), strict=True)
    return filled(traced.structure, [values[name] for name in traced.outputs])


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def result(step: Step, values: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """What a step makes of the values."""
    match step:
        case Convolution():
            bias = None if step.bias is None else step.bias.to(dtype)
            arguments = (step.stride, step.padding, step.dilation, step.groups)
            sums = F.conv2d(values[step.input], step.weight.to(dtype), bias, *arguments)
            return _activated(sums if step.residual is None else sums + values[step.residual], step.activation)
        case Pool():
            return _pooled(step, values[step.input])
        case Add():
            return _activated(values[step.left] + values[step.right], step.activation)
        case Activate():
            return _activated(values[step.input], step.activation)
        case Concatenate():
            return torch.cat([values[i] for i in step.inputs], 1)
        case Flatten():
            return values[step.input].flatten(1)[:, :, None, None]


def _activated(sums: Tensor, activation: Activation) -> Tensor:
    return {"none": torch.clone, "relu": F.relu, "relu6": F.relu6, "silu": F.silu}[activation](sums)


def _pooled(step: Pool, value: Tensor) -> Tensor:
    windows = [[value[:, :, top:bottom, left:right] for left, right in step.columns] for top, bottom in step.rows]
    if step.kind == "max":
        return torch.stack([torch.stack([w.amax((2, 3)) for w in row], -1) for row in windows], -2)
    assert step.divisors is not None
    sums = torch.stack([torch.stack([w.sum((2, 3)) for w in row], -1) for row in windows], -2)
    return sums / step.divisors.to(value.dtype)
