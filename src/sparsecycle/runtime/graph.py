"""The runtime's language: a network as a list of steps over maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from torch import Tensor

__all__ = [
    "Activate",
    "Activation",
    "Add",
    "Concatenate",
    "Convolution",
    "Flatten",
    "Graph",
    "Map",
    "Pool",
    "Step",
    "is_scaling",
    "operands",
    "renumbered",
]

Activation = Literal["none", "relu", "relu6", "silu"]
"""What a step does to its sums last."""


@dataclass(frozen=True)
class Map:
    """The shape of one image's value; a vector of features is a map of 1x1."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution; a linear layer is one of 1x1 on a map of 1x1.

    Attributes:
        name: The module's path in the network, ``"layer1.0.conv1"``, for the plan and for errors.
        input: A value's number.
        weight: (out, in / groups, height, width), on the CPU, contiguous; float32 as traced.
        bias: (out,), or None.
        stride, padding, dilation: Of rows and columns; the padding is with zeros, as much on either side.
        groups: Into how many parts the channels fall that see nothing of each other.
        activation: Of the sums.
        residual: The number of a value that is added before the activation.
    """

    name: str
    input: int
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    activation: Activation = "none"
    residual: int | None = None


@dataclass(frozen=True, eq=False)
class Pool:
    """The largest or the average value of each window; windows may differ in size and overlap.

    Attributes:
        name: As a convolution's.
        input: A value's number.
        kind: What is taken of a window.
        rows: Where each of the result's rows starts and stops in the input; clipped to it, never empty.
        columns: The same of columns.
        divisors: (height, width), float32: what each window's sum is divided by; None where the largest is taken.
    """

    name: str
    input: int
    kind: Literal["max", "average"]
    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]
    divisors: Tensor | None


@dataclass(frozen=True, eq=False)
class Add:
    """The sum of two values of one shape."""

    name: str
    left: int
    right: int
    activation: Activation = "none"


@dataclass(frozen=True, eq=False)
class Activate:
    """An activation on its own."""

    name: str
    input: int
    activation: Activation


@dataclass(frozen=True, eq=False)
class Concatenate:
    """Several values' channels, one after the other."""

    name: str
    inputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Flatten:
    """A map (c, h, w) as one of (c * h * w, 1, 1), in that order."""

    name: str
    input: int


Step: TypeAlias = Convolution | Pool | Add | Activate | Concatenate | Flatten


@dataclass(frozen=True, eq=False)
class Graph:
    """Steps from inputs to outputs; each value is ``images`` maps of one shape.

    Attributes:
        images: How many images each value has.
        inputs: The inputs' numbers, 0 and on.
        outputs: The outputs' numbers; a value may be there twice, and an input too.
        maps: The shape of every value.
        steps: In an order in which they can run: the i-th makes the value ``len(inputs) + i``.
    """

    images: int
    inputs: list[int]
    outputs: list[int]
    maps: list[Map]
    steps: list[Step]


def operands(step: Step) -> tuple[int, ...]:
    """The numbers of the values that a step reads."""
    match step:
        case Convolution(residual=int() as residual):
            return (step.input, residual)
        case Add():
            return (step.left, step.right)
        case Concatenate():
            return step.inputs
        case _:
            return (step.input,)


def renumbered(step: Step, numbers: Mapping[int, int]) -> Step:
    """The same step on values that have new numbers."""
    match step:
        case Convolution(residual=int() as residual):
            return replace(step, input=numbers[step.input], residual=numbers[residual])
        case Add():
            return replace(step, left=numbers[step.left], right=numbers[step.right])
        case Concatenate():
            return replace(step, inputs=tuple(numbers[i] for i in step.inputs))
        case _:
            return replace(step, input=numbers[step.input])


def is_scaling(step: Step) -> bool:
    """Whether a step gives each channel a factor and a summand and does nothing else, as a batch norm does."""
    return (
        isinstance(step, Convolution)
        and step.weight.shape == (step.groups, 1, 1, 1)
        and (step.stride, step.padding) == ((1, 1), (0, 0))
        and (step.activation, step.residual) == ("none", None)
    )
