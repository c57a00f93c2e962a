"""A network for other libraries: its graph, for any batch, and how far off it is what they compute."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sparsecycle.modes import evaluating

__all__ = ["TOLERANCE", "Exported", "Run", "check", "graph", "placed", "quiet"]

TOLERANCE = 1e-5
"""ResNet-50 in float32 takes a quarter of it, most of that by PyTorch's own distance from float64."""

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A network as another library runs it: outputs of inputs, on the CPU, in the order of the network's own."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        size: Bytes, with those of the files that belong to it.
        checked: The library that computed the same from it; empty: none did, for ``lacking`` is not installed.
        error: Largest difference of an output from the network's, as a share of the output's largest value; None where
            nothing was checked.
        lacking: The package that would have checked it.
    """

    path: Path
    size: int
    checked: str = ""
    error: float | None = None
    lacking: str = ""

    def __str__(self) -> str:
        written = f"{self.path}: {self.size / 1e6:.3g} MB"
        if self.error is None:
            return f"{written}, not checked: that takes {self.lacking}, pip install 'sparsecycle[export]'"
        return f"{written}, checked: the outputs of {self.checked} are within {self.error:.1e} of the largest"


def placed(example_inputs: Tensor | Sequence[Tensor], dynamic_batch: bool) -> tuple[Tensor, ...]:
    """The example inputs, by place.

    Raises:
        ValueError: If there are none, one is no tensor, or, with ``dynamic_batch``, their batches differ.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not inputs:
        raise ValueError("example_inputs is empty; it must have a tensor for each input of the network")
    for i, value in enumerate(inputs):
        if not isinstance(value, Tensor):
            raise ValueError(f"example_inputs[{i}] is of type {type(value).__name__}; it must be a tensor")
    shapes = [tuple(x.shape) for x in inputs]
    if dynamic_batch and not (len({shape[:1] for shape in shapes}) == 1 and shapes[0][:1] > (0,)):
        raise ValueError(
            f"example_inputs has the shapes {', '.join(map(str, shapes))}, which share no first dimension, the batch: "
            "with dynamic_batch=False all dimensions stay as they are"
        )
    return tuple(x.detach() for x in inputs)


def graph(model: nn.Module, inputs: Sequence[Tensor], dynamic_batch: bool) -> ExportedProgram:
    """The network in evaluation mode as ``torch.export`` gives it; the model itself is left as it is.

    Args:
        model: The network.
        inputs: What :func:`placed` gave.
        dynamic_batch: Whether the first dimension may be of any size.

    Raises:
        ValueError: If torch cannot export it.
    """
    model, shapes = getattr(model, "_orig_mod", model), None  # torch.compile wraps it and prefixes its names
    if dynamic_batch:
        # A batch of one would be taken for a constant.
        inputs = [torch.cat([x, x]) if len(x) == 1 else x for x in inputs]
        shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    failure = f"{type(model).__name__} cannot be exported{' for any batch' if dynamic_batch else ''}"
    with evaluating(model), torch.no_grad(), quiet(failure):
        return torch.export.export(model, tuple(inputs), dynamic_shapes=shapes, strict=False)


def check(model: nn.Module, inputs: Sequence[Tensor], dynamic_batch: bool, run: Run, library: str) -> float:
    """Compare another library with the network: on the examples, on random inputs like them, and on another batch.

    Returns:
        The largest difference, as a share of the largest value of the output that it is in.

    Raises:
        ValueError: If it is more than ``TOLERANCE``, or the library cannot run the network.
    """
    errors = [0.0]
    for trial in _trials(inputs, dynamic_batch):
        shapes = ", ".join(str(tuple(x.shape)) for x in trial)
        with quiet(f"{library} cannot run it for {shapes}"):
            got = run([x.cpu() for x in trial])
        with evaluating(model), torch.no_grad():
            want = [x.cpu() for x in _leaves(model(*trial))]
        if len(got) != len(want):
            raise ValueError(f"{library} gives {len(got)} outputs where the network gives {len(want)} tensors")
        errors += map(_error, got, want)
    worst = torch.tensor(errors).max().item()  # which is NaN if one of them is
    if not worst <= TOLERANCE:
        raise ValueError(
            f"{library} computes something else: an output differs by {worst:.1e} of its largest value, allowed is "
            f"{TOLERANCE:.0e}; nothing was written"
        )
    return worst


@contextmanager
def quiet(failure: str) -> Iterator[None]:
    """Nothing is told of how a network is written; what goes wrong within becomes a ValueError of one line."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ValueError(f"{failure} ({reason})") from error
    finally:
        logger.setLevel(level)


def _trials(inputs: Sequence[Tensor], dynamic_batch: bool) -> Iterator[Sequence[Tensor]]:
    lots = torch.Generator().manual_seed(0)
    yield inputs
    yield [_like(x, x.shape, lots) for x in inputs]
    if dynamic_batch:
        yield [_like(x, (2 * len(x) + 1, *x.shape[1:]), lots) for x in inputs]


def _like(example: Tensor, shape: Sequence[int], lots: torch.Generator) -> Tensor:
    if example.is_floating_point():
        return torch.randn(shape, generator=lots).to(example)
    # Whole numbers are indices, as often as not: those of the example are allowed ones.
    places = torch.randint(max(1, example.numel()), tuple(shape), generator=lots)
    return example.flatten()[places.to(example.device)]


def _leaves(returned: Any) -> Iterator[Tensor]:
    if isinstance(returned, Tensor):
        yield returned
    elif isinstance(returned, Mapping):
        yield from _leaves(list(returned.values()))
    elif isinstance(returned, list | tuple):
        for inner in returned:
            yield from _leaves(inner)


def _error(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape:
        return float("inf")
    got, want = got.double(), want.double()
    same = (got == want) | (got.isnan() & want.isnan())
    if same.all():
        return 0.0
    largest = want.nan_to_num(0, 0, 0).abs().max()
    return ((got - want)[~same].abs().max() / largest).item()
