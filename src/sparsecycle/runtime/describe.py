"""Graphs as plain values and a list of tensors, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from sparsecycle.runtime.graph import Activate, Add, Concatenate, Convolution, Flatten, Graph, Map, Pool, Step

__all__ = ["describe", "restore"]

_STEPS: dict[str, type[Step]] = {
    kind.__name__.lower(): kind for kind in (Convolution, Pool, Add, Activate, Concatenate, Flatten)
}


def describe(graph: Graph) -> tuple[dict[str, Any], list[Tensor]]:
    """A graph as values that JSON has, which name tensors by their place in the list."""
    tensors: list[Tensor] = []

    def plain(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        tensors.append(value)
        return {"tensor": len(tensors) - 1}

    steps = [
        {"step": type(step).__name__.lower()} | {field.name: plain(getattr(step, field.name)) for field in fields(step)}
        for step in graph.steps
    ]
    content = {
        "images": graph.images,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "maps": [[shape.channels, shape.height, shape.width] for shape in graph.maps],
        "steps": steps,
    }
    return content, tensors


def restore(content: dict[str, Any], tensors: Sequence[Tensor]) -> Graph:
    """The graph that was described.

    Raises:
        ValueError: If it is not a description.
    """
    try:
        steps = [_step(dict(step), tensors) for step in content["steps"]]
        maps = [Map(*shape) for shape in content["maps"]]
        return Graph(content["images"], content["inputs"], content["outputs"], maps, steps)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"this does not describe a graph: {error!r}") from error


def _step(plain: dict[str, Any], tensors: Sequence[Tensor]) -> Step:
    kind = _STEPS[plain.pop("step")]

    def value(found: Any) -> Any:
        if isinstance(found, dict):
            return tensors[found["tensor"]]
        return tuple(map(value, found)) if isinstance(found, list) else found

    return kind(**{name: value(found) for name, found in plain.items()})
