"""The network that :func:`sparsecycle.runtime.compile` makes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsecycle.native import core
from sparsecycle.runtime import cache
from sparsecycle.runtime.calibrate import calibrate
from sparsecycle.runtime.cost import Form
from sparsecycle.runtime.cost8 import Form8
from sparsecycle.runtime.fuse import fuse
from sparsecycle.runtime.graph import Convolution
from sparsecycle.runtime.lower import lower
from sparsecycle.runtime.parts import NativePart, TorchPart
from sparsecycle.runtime.plan import Entry, Plan
from sparsecycle.runtime.quantize import Quantized
from sparsecycle.runtime.trace import Traced, filled, trace
from sparsecycle.runtime.tuning import Tuned, apply, homes, tune

if TYPE_CHECKING:
    from sparsecycle.native._core import Call

__all__ = ["VALUES", "Compiled", "compile"]

VALUES = ("fp32", "bf16", "int8")
"""What a compiled network computes with."""
PROFILE = 0.1
"""Seconds for which a plan's times are taken, about."""


class Native:
    """A part of a network as a native program.

    Args:
        part: What it computes; its graph is fused.
        threads: How many compute it at most.
        values: One of :data:`VALUES`.
        quantized: Which steps are computed in 8 bits, and how; None if none are.
        tuned: What was chosen before, or None to choose now.

    Raises:
        ValueError: If what was chosen is for another network or machine.
    """

    def __init__(
        self,
        part: NativePart,
        threads: int,
        values: str,
        quantized: Quantized | None = None,
        tuned: Tuned | None = None,
    ) -> None:
        native = core()
        assert native is not None
        graph = part.graph
        forms = [Form(*form) for form in native.forms()]
        forms8 = [Form8(*form) for form in native.int8_forms()] if quantized else []
        self.part = part
        self.quantized = quantized
        if tuned is None:
            homes8 = homes(graph, forms8, 4 * native.widest(), threads, native.int8_windows()) if quantized else {}
            images = {size: lanes.images * groups for size, (lanes, groups) in homes8.items()}
            tuned = Tuned(homes(graph, forms, native.widest(), threads, None, images or None), homes8, ())
        if not {(shape.height, shape.width) for shape in graph.maps} <= tuned.homes.keys():
            raise ValueError("these choices are for another network: they do not have all of its maps")
        self.program = native.Program(graph.images, threads)
        self.lowered = lower(graph, tuned.homes, self.program, quantized, tuned.homes8)
        if tuned.choices:
            apply(self.lowered, forms, tuned.choices, forms8)
        else:
            tuned = replace(tuned, choices=tune(self.lowered, graph, forms, values, forms8))
        self.tuned = tuned
        self._counts = [shape.channels * shape.height * shape.width * graph.images for shape in graph.maps]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        lying = [x.contiguous() for x in inputs]
        outputs = [torch.empty(shape) for shape in self.part.shapes]
        self.program.run([x.data_ptr() for x in lying], [y.data_ptr() for y in outputs])
        return outputs

    def entries(self) -> list[Entry]:
        """The plan's, with times measured now."""
        graph = self.part.graph
        inputs = [torch.randn(self._counts[value]) for value in graph.inputs]
        outputs = [torch.empty(self._counts[value]) for value in graph.outputs]
        addresses = [x.data_ptr() for x in inputs], [y.data_ptr() for y in outputs]
        runs = [self.program.profile(*addresses) for _ in range(5)]
        while len(runs) < 100 and len(runs) * sum(runs[0]) < PROFILE:
            runs.append(self.program.profile(*addresses))
        seconds = [min(times) for times in zip(*runs, strict=True)]
        choices = dict(zip(self.lowered.convolutions, self.tuned.choices, strict=True))
        entries = []
        for number, (name, time) in enumerate(zip(self.lowered.names, seconds, strict=True)):
            gather = self.lowered.gathers.get(number)
            if gather is not None:
                entries.append(Entry(name, "sparse, channels in lanes", time * 1e3, _sparsity(gather)))
                continue
            step, choice = self.lowered.convolutions.get(number), choices.get(number)
            if step is None or choice is None:
                entries.append(Entry(name, "", time * 1e3))
                continue
            gain = choice.dense_seconds / choice.seconds if choice.dense_seconds and choice.seconds else None
            entries.append(Entry(name, str(choice.form), time * 1e3, _sparsity(step), gain))
        return entries


def _sparsity(step: Convolution) -> float:
    return 1 - int(torch.count_nonzero(step.weight)) / step.weight.numel()


class Compiled(nn.Module):
    """A network that runs in one native call, or in few with PyTorch between them.

    It is called as the network that it was made from, with tensors of the shapes and types of the examples, and returns
    what that one returns; what it returns has no gradients. It can be called from several threads at once.

    Args:
        traced: The network in parts; their graphs are fused.
        examples: Shape and type of each input.
        threads: How many compute it at most.
        values: One of :data:`VALUES`.
        quantized: Of each native part, which steps are computed in 8 bits, and how.
        tuned: What was chosen before for each native part, or None to choose now.

    Raises:
        ValueError: If what was chosen is for another network or machine.
    """

    def __init__(
        self,
        traced: Traced,
        examples: Sequence[tuple[tuple[int, ...], torch.dtype]],
        threads: int,
        values: str,
        quantized: Sequence[Quantized | None],
        tuned: Sequence[Tuned] | None = None,
    ) -> None:
        super().__init__()
        self.traced = traced
        self.examples = tuple(examples)
        self.threads = threads
        self.values = values
        natives = sum(isinstance(part, NativePart) for part in traced.parts)
        if tuned is not None and len(tuned) != natives:
            raise ValueError(f"choices for {len(tuned)} native parts were given; the network has {natives}")
        known: Iterator[Tuned | None] = iter(tuned if tuned is not None else [None] * natives)
        how = iter(quantized)
        self._parts: list[Native | TorchPart] = [
            Native(part, threads, values, next(how), next(known)) if isinstance(part, NativePart) else part
            for part in traced.parts
        ]
        self._call = self._usual()
        self.eval()

    def _usual(self) -> Call | None:
        """What computes the usual network, one native part with one output, from the usual inputs."""
        if len(self._parts) != 1 or len(self.traced.outputs) != 1:
            return None
        traced, (part,) = self.traced, self._parts
        if not isinstance(part, Native) or (part.part.inputs, part.part.outputs) != (traced.inputs, traced.outputs):
            return None
        native = core()
        assert native is not None
        shapes = [torch.Size(shape) for shape, _ in self.examples]
        call: Call = native.Call(part.program, shapes, torch.empty(part.part.shapes[0]))
        return call

    @property
    def tuned(self) -> list[Tuned]:
        """What was chosen for each native part."""
        return [part.tuned for part in self._parts if isinstance(part, Native)]

    @property
    def quantized(self) -> list[Quantized | None]:
        """Of each native part, which steps are computed in 8 bits, and how."""
        return [part.quantized for part in self._parts if isinstance(part, Native)]

    @property
    def plan(self) -> Plan:
        """How it computes what it does, with times measured now."""
        native = core()
        assert native is not None
        entries: list[Entry] = []
        for part in self._parts:
            if isinstance(part, Native):
                entries += part.entries()
            else:
                entries.append(Entry(", ".join(part.outputs), f"PyTorch: {part.reason}", None))
        images = next((part.part.graph.images for part in self._parts if isinstance(part, Native)), 1)
        return Plan(tuple(entries), images, self.threads, native.isa())

    def forward(self, *inputs: Tensor) -> Any:
        """Compute the network's outputs.

        Raises:
            TypeError: If an input is not a tensor of the example's type on the CPU, or their number is wrong.
            ValueError: If an input's shape is not the example's.
        """
        if self._call is not None and (output := self._call(inputs)) is not None:
            return output if self.traced.structure == 0 else filled(self.traced.structure, [output])
        self._check(inputs)
        with torch.no_grad():
            return self._forward(inputs)

    def _forward(self, inputs: Sequence[Tensor]) -> Any:
        values: dict[str, Any] = dict(zip(self.traced.inputs, inputs, strict=True))
        values.update(self.traced.constants)
        for part in self._parts:
            if isinstance(part, Native):
                made: Sequence[Any] = part([values[name] for name in part.part.inputs])
                values.update(zip(part.part.outputs, made, strict=True))
            else:
                made = part.module(*(values[name] for name in part.inputs))
                values.update(zip(part.outputs, made, strict=True))
        return filled(self.traced.structure, [values[name] for name in self.traced.outputs])

    def _check(self, inputs: Sequence[object]) -> None:
        if len(inputs) != len(self.examples):
            raise TypeError(f"{len(inputs)} inputs were given; the network was compiled for {len(self.examples)}")
        for value, (shape, dtype) in zip(inputs, self.examples, strict=True):
            if not (isinstance(value, Tensor) and value.dtype is dtype and value.is_cpu and value.shape == shape):
                raise self._refusal(inputs)

    def _refusal(self, inputs: Sequence[object]) -> TypeError | ValueError:
        """What is wrong with the first input that is not like its example."""
        for i, (value, (shape, dtype)) in enumerate(zip(inputs, self.examples, strict=True)):
            if not isinstance(value, Tensor):
                return TypeError(f"input {i} is of type {type(value).__name__}; it must be a tensor")
            if value.dtype != dtype or not value.is_cpu:
                return TypeError(
                    f"input {i} is of {value.dtype} on {value.device}; the network was compiled for {dtype} on cpu"
                )
            if value.shape != shape:
                return ValueError(
                    f"input {i} has the shape {tuple(value.shape)}; the network was compiled for {tuple(shape)}"
                )
        raise AssertionError("all inputs are like their examples")


def compile(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    threads: int | None = None,
    values: str = "fp32",
    calibration: Iterable[Tensor | Sequence[Tensor]] | None = None,
    keep: Collection[str] = (),
    bound: float | None = None,
) -> Compiled:
    """Make a pruned network run fast on this machine's CPU.

    Batch norms, activations and residual sums go into the convolutions and linear layers before them; each of these is
    computed by the kernel that is fastest here, sparse or dense. What was chosen is kept in a folder of the user's
    (``SPARSECYCLE_CACHE``, or ``sparsecycle`` in the folder for caches), so that the same network is compiled at once
    the next time. What cannot run so runs in PyTorch, and the plan names it.

    Args:
        model: A network with float32 parameters on the CPU, as it is in evaluation. It is not changed.
        example_inputs: A tensor, or several; the compiled network is for these shapes and types.
        threads: How many compute it at most; as many as PyTorch uses if None.
        values: What it computes with: ``"fp32"``; ``"bf16"``, float32 with the weights of sparse layers rounded to half
            the space; or ``"int8"``, uint8 activations and int8 weights, the fastest.
        calibration: For int8, inputs that the network may get: batches as ``example_inputs``, of any number of images
            if the whole network is native. Of a longer batch, as a loader's of images and labels, the first are taken.
        keep: For int8, names of modules that stay in float32.
        bound: For int8, the largest relative error of the outputs on the calibration that is allowed: the layers that
            lose most stay in float32 until it holds. None allows any.

    Returns:
        A network that gives the same outputs: with ``"fp32"`` within a relative error of 1e-4.

    Raises:
        RuntimeError: If the native core is not installed.
        ValueError: If an argument, a parameter or an input is not as described.
    """
    native = core()
    if native is None:
        raise RuntimeError(
            "the runtime needs sparsecycle's native core, which is not installed: "
            "install sparsecycle where there is a C++ compiler"
        )
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads={threads!r} must be a positive integer, or None for as many as PyTorch uses")
    if values not in VALUES:
        raise ValueError(f"values={values!r} must be one of {', '.join(map(repr, VALUES))}")
    if values != "int8" and (calibration is not None or keep or bound is not None):
        raise ValueError(f"calibration, keep and bound are for values='int8', not for {values!r}")
    threads = threads or torch.get_num_threads()
    traced = _fused(trace(model, example_inputs))
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    examples = [(tuple(x.shape), x.dtype) for x in inputs]
    graphs = [part.graph for part in traced.parts if isinstance(part, NativePart)]
    quantized: list[Quantized | None] = [None] * len(graphs)
    if values == "int8":
        quantized = [*calibrate(traced, examples, calibration or (), keep, bound)]
    key = cache.key(graphs, threads, values, quantized)
    known = cache.find(key)
    if known is not None:
        try:
            return Compiled(traced, examples, threads, values, quantized, known)
        except ValueError:  # written by a program that had other kernels
            pass
    compiled = Compiled(traced, examples, threads, values, quantized)
    cache.keep(key, compiled.tuned)
    return compiled


def _fused(traced: Traced) -> Traced:
    parts = tuple(
        replace(part, graph=fuse(part.graph)) if isinstance(part, NativePart) else part for part in traced.parts
    )
    return replace(traced, parts=parts)
