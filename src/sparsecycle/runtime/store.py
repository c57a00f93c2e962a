"""Compiled networks in files."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from sparsecycle.files.container import read, write
from sparsecycle.runtime.compiled import Compiled
from sparsecycle.runtime.describe import describe, restore
from sparsecycle.runtime.layouts import Scale
from sparsecycle.runtime.parts import NativePart
from sparsecycle.runtime.quantize import Quantized, Weights
from sparsecycle.runtime.trace import Traced
from sparsecycle.runtime.tuning import Tuned

__all__ = ["load", "save"]

_KIND = "compiled network"


def save(compiled: Compiled, path: str | os.PathLike[str]) -> None:
    """Write a compiled network to a file: what it computes, and what was chosen for it.

    Raises:
        ValueError: If a part of it runs in PyTorch, or an output does not depend on its inputs.
    """
    traced = compiled.traced
    parts: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for part in traced.parts:
        if not isinstance(part, NativePart):
            raise ValueError(
                f"a part of this network runs in PyTorch ({part.reason}), which a file cannot hold: save the network "
                "itself and compile it again"
            )
        content, held = describe(part.graph)
        tensors.update({f"{len(parts)}.{i}": tensor for i, tensor in enumerate(held)})
        numbers = _describe_quantized(compiled.quantized[len(parts)], f"int8.{len(parts)}", tensors)
        parts.append(
            {
                "graph": content,
                "inputs": part.inputs,
                "outputs": part.outputs,
                "shapes": part.shapes,
                "quantized": numbers,
            }
        )
    if traced.constants:
        raise ValueError(
            f"the output {next(iter(traced.constants))} does not depend on the inputs; a file cannot hold it"
        )
    content = {
        "inputs": traced.inputs,
        "outputs": traced.outputs,
        "structure": _plain(traced.structure),
        "parts": parts,
        "examples": [[list(shape), str(dtype).removeprefix("torch.")] for shape, dtype in compiled.examples],
        "threads": compiled.threads,
        "values": compiled.values,
        "tuned": [tuned.plain() for tuned in compiled.tuned],
    }
    write(path, _KIND, tensors, content)


def load(path: str | os.PathLike[str], threads: int | None = None) -> Compiled:
    """Read a compiled network. Nothing in the file is ever executed.

    Where this machine has other vector instructions than the one that wrote it, kernels are chosen anew.

    Args:
        path: What :func:`save` wrote.
        threads: How many compute it at most; as many as when it was written if None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole file of a compiled network.
    """
    tensors, content = read(path, _KIND)
    try:
        parts = tuple(
            NativePart(
                restore(part["graph"], _numbered(tensors, i)),
                tuple(part["inputs"]),
                tuple(part["outputs"]),
                tuple(tuple(shape) for shape in part["shapes"]),
            )
            for i, part in enumerate(content["parts"])
        )
        structure = _structure(content["structure"])
        traced = Traced(tuple(content["inputs"]), parts, {}, tuple(content["outputs"]), structure)
        examples = [(tuple(shape), getattr(torch, dtype)) for shape, dtype in content["examples"]]
        quantized = [_quantized(part["quantized"], f"int8.{i}", tensors) for i, part in enumerate(content["parts"])]
        tuned = [Tuned.from_plain(plain) for plain in content["tuned"]]
        written, values = content["threads"], content["values"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a compiled network: {error!r}") from error
    if threads in (None, written):
        try:
            return Compiled(traced, examples, written, values, quantized, tuned)
        except ValueError:  # other kernels
            pass
    return Compiled(traced, examples, threads or written, values, quantized)


def _describe_quantized(quantized: Quantized | None, name: str, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """In values that JSON has; adds the tensors to those of the file."""
    if quantized is None:
        return None
    for value, weights in quantized.weights.items():
        tensors[f"{name}.{value}.numbers"] = weights.numbers
        tensors[f"{name}.{value}.steps"] = weights.steps
    return {
        "scales": [[value, scale.step, scale.zero] for value, scale in quantized.scales.items()],
        "weights": list(quantized.weights),
        "steps": sorted(quantized.steps),
    }


def _quantized(plain: dict[str, Any] | None, name: str, tensors: dict[str, Tensor]) -> Quantized | None:
    if plain is None:
        return None
    return Quantized(
        {value: Scale(step, zero) for value, step, zero in plain["scales"]},
        {
            value: Weights(tensors[f"{name}.{value}.numbers"], tensors[f"{name}.{value}.steps"])
            for value in plain["weights"]
        },
        frozenset(plain["steps"]),
    )


def _numbered(tensors: dict[str, Tensor], part: int) -> list[Tensor]:
    found = [name for name in tensors if name.startswith(f"{part}.")]
    return [tensors[f"{part}.{i}"] for i in range(len(found))]


def _plain(structure: Any) -> Any:
    """What a network returns, in values that JSON has."""
    if isinstance(structure, int):
        return structure
    if isinstance(structure, dict):
        return {"dict": {str(name): _plain(inner) for name, inner in structure.items()}}
    if type(structure) not in (tuple, list):
        raise ValueError(f"the network returns a {type(structure).__name__}; a file can hold tuples, lists and dicts")
    return {type(structure).__name__: [_plain(inner) for inner in structure]}


def _structure(plain: Any) -> Any:
    if isinstance(plain, int):
        return plain
    ((kind, inner),) = plain.items()
    if kind == "dict":
        return {name: _structure(value) for name, value in inner.items()}
    return {"tuple": tuple, "list": list}[kind](map(_structure, inner))
