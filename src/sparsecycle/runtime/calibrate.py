"""Runs a network on some inputs, to choose the scales with which it is computed in 8 bits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsecycle.runtime.graph import Graph
from sparsecycle.runtime.interpret import interpret
from sparsecycle.runtime.parts import NativePart
from sparsecycle.runtime.quantize import Quantized, quantize
from sparsecycle.runtime.trace import Traced

__all__ = ["calibrate"]

MEMORY = 256 * 2**20
"""Bytes of a batch's values, about."""


@torch.no_grad()
def calibrate(
    traced: Traced,
    examples: Sequence[tuple[tuple[int, ...], torch.dtype]],
    batches: Iterable[Tensor | Sequence[Tensor]],
    keep: Collection[str],
    bound: float | None,
) -> list[Quantized]:
    """How each native part of a network is computed in 8 bits.

    Args:
        traced: The network.
        examples: Shape and type of each of its inputs.
        batches: Inputs, of which the first tensors of each batch are taken.
        keep: Names of modules that stay in float32.
        bound: The largest relative error of a part's outputs that is allowed.

    Raises:
        ValueError: If there are no batches, or one is not as the examples are.
    """
    natives = [part for part in traced.parts if isinstance(part, NativePart)]
    seen: list[list[list[Tensor]]] = [[] for _ in natives]
    for number, batch in enumerate(batches):
        tensors = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        _check(number, tensors, examples, whole=len(traced.parts) == 1)
        values: dict[str, Any] = dict(zip(traced.inputs, tensors, strict=False)) | dict(traced.constants)
        native = 0
        for part in traced.parts:
            if isinstance(part, NativePart):
                graph = part.graph
                maps = [
                    values[name].reshape(-1, shape.channels, shape.height, shape.width)
                    for name, shape in zip(part.inputs, graph.maps, strict=False)
                ]
                seen[native].append(maps)
                native += 1
                made: Sequence[Any] = ()
                if len(traced.parts) > 1:
                    found = interpret(graph, maps)
                    made = [
                        found[value].reshape(-1, *shape[1:])
                        for value, shape in zip(graph.outputs, part.shapes, strict=True)
                    ]
                values.update(zip(part.outputs, made, strict=False))
            else:
                values.update(zip(part.outputs, part.module(*(values[name] for name in part.inputs)), strict=True))
    names = {step.name for part in natives for step in part.graph.steps}
    for name in keep:
        if name not in names:
            raise ValueError(f"keep has {name!r}; it must have names of {', '.join(map(repr, sorted(names)))}")
    return [
        quantize(
            part.graph,
            _joined(part.graph, maps),
            [name for name in keep if name in {step.name for step in part.graph.steps}],
            bound,
        )
        for part, maps in zip(natives, seen, strict=True)
    ]


def _joined(graph: Graph, batches: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The same images in larger batches, which take PyTorch less time each."""
    most = max(1, MEMORY // (4 * sum(shape.channels * shape.height * shape.width for shape in graph.maps)))
    every = [torch.cat(maps).split(most) for maps in zip(*batches, strict=True)]
    return [list(maps) for maps in zip(*every, strict=True)]


def _check(
    number: int,
    tensors: Sequence[Tensor],
    examples: Sequence[tuple[tuple[int, ...], torch.dtype]],
    whole: bool,
) -> None:
    if len(tensors) < len(examples):
        raise ValueError(
            f"calibration batch {number} has {len(tensors)} tensors; the network has {len(examples)} inputs"
        )
    for value, (shape, dtype) in zip(tensors, examples, strict=False):
        same = value.shape[1:] == shape[1:] if whole and len(shape) > 1 else value.shape == shape
        if not same or value.dtype != dtype or not value.is_cpu:
            allowed = f"{dtype} on cpu, {tuple(shape)}" + (", of any number of images" if whole else "")
            raise ValueError(
                f"calibration batch {number} is {value.dtype} on {value.device}, {tuple(value.shape)}; it must be as "
                f"the example: {allowed}"
            )
