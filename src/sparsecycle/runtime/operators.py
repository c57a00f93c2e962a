"""What PyTorch's operators are in the runtime's steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsecycle.runtime.graph import Activate, Activation, Add, Concatenate, Convolution, Flatten, Map, Pool, Step

__all__ = ["OPERATORS", "Call", "Native", "Operand", "Unsupported", "seen"]

_Windows: TypeAlias = "list[tuple[int, int]]"


class Unsupported(Exception):
    """A call has no native form; the message says why, to be read after the operator's name."""


@dataclass(frozen=True)
class Operand:
    """A value that an operator reads.

    Attributes:
        number: The value's number.
        shape: The tensor's.
        images: As how many images the step that makes it sees it; None if no step makes it.
    """

    number: int
    shape: tuple[int, ...]
    images: int | None


@dataclass(frozen=True)
class Call:
    """One use of an operator: the name of its place in the network, and the shape of what it makes."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Native:
    """An operator's use as a step.

    Attributes:
        images: As how many images it sees what it reads and makes.
        step: The step; or the number of the operand that it passes on as it is.
    """

    images: int
    step: Step | int


def seen(shape: tuple[int, ...], images: int) -> Map | None:
    """The map that a tensor has for each of so many images, its elements in their order; None if it has none.

    A tensor (n, c, h, w) can be n images, and (n, c), with any number of ones behind, n vectors of features; every
    tensor can be as many vectors as it has along its last dimension.
    """
    elements = math.prod(shape)
    if len(shape) == 4 and shape[0] == images:
        return Map(*shape[1:])
    if len(shape) > 1 and shape[0] == images and elements == images * shape[1]:
        return Map(shape[1], 1, 1)
    channels = shape[-1] if shape else 1
    return Map(channels, 1, 1) if elements == images * channels else None


_Operator: TypeAlias = Callable[..., Native]

OPERATORS: dict[str, _Operator] = {}
"""What has a native form, by PyTorch's name with the overload, ``"aten.conv2d.default"``.

A function of a :class:`Call` and the operator's own arguments, with an :class:`Operand` for each value and a tensor for
each constant; it raises :class:`Unsupported` if no step does this. Of several tensors that an operator makes, the step
makes the first.
"""


def _operator(*names: str) -> Callable[[_Operator], _Operator]:
    def register(function: _Operator) -> _Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


@_operator("aten.conv2d.default", "aten.conv2d.padding")
def _conv2d(
    call: Call,
    input: Operand,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] | str = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Native:
    _map(input)
    weight = _constant(weight)
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(_pair(dilation), weight.shape[2:], strict=True)]
        if padding == "same" and any(pixels % 2 for pixels in reach):
            raise Unsupported(f"pads unevenly: padding='same', kernel {tuple(weight.shape[2:])}")
        padding = [pixels // 2 for pixels in reach] if padding == "same" else (0, 0)
    convolution = Convolution(
        call.name,
        input.number,
        weight,
        None if bias is None else _constant(bias),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=groups,
    )
    return Native(input.shape[0], convolution)


@_operator("aten.convolution.default")
def _convolution(
    call: Call,
    input: Operand,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Native:
    if transposed:
        raise Unsupported("is transposed")
    return _conv2d(call, input, weight, bias, stride, padding, dilation, groups)


@_operator("aten.linear.default")
def _linear(call: Call, input: Operand, weight: Tensor, bias: Tensor | None = None) -> Native:
    shape = _value(input).shape
    images = _vectors(shape)
    if seen(shape, images) != Map(shape[-1], 1, 1):
        raise Unsupported(f"reads {shape}, which could be images as well as vectors")
    weight, bias = _constant(weight)[:, :, None, None], None if bias is None else _constant(bias)
    return Native(images, _pixelwise(call, input, weight, bias))


@_operator("aten.matmul.default", "aten.mm.default")
def _matmul(call: Call, input: Operand, other: Tensor) -> Native:
    if _constant(other).dim() != 2:
        raise Unsupported(f"multiplies by a tensor {tuple(other.shape)}, not a matrix")
    return _linear(call, input, other.T)


@_operator("aten.addmm.default")
def _addmm(call: Call, bias: Tensor, input: Operand, other: Tensor, *, beta: float = 1, alpha: float = 1) -> Native:
    if (beta, alpha) != (1, 1) or _constant(bias).shape != call.shape[1:]:
        raise Unsupported("is not a matrix product plus a vector")
    return _linear(call, input, _constant(other).T, bias)


@_operator("aten._native_batch_norm_legit_no_training.default")
def _batch_norm(
    call: Call,
    input: Operand,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    epsilon: float,
) -> Native:
    shape = _value(input).shape
    if len(shape) not in (2, 4):
        raise Unsupported(f"reads {shape}, not images (n, c, h, w) or vectors (n, c)")
    factors = (_constant(variance).double() + epsilon).rsqrt()
    if weight is not None:
        factors = factors * _constant(weight)
    summands = -_constant(mean) * factors
    if bias is not None:
        summands = summands + _constant(bias)
    scaling = _pixelwise(call, input, factors.float()[:, None, None, None], summands.float(), groups=len(factors))
    return Native(shape[0], scaling)


@_operator("aten.relu.default")
def _relu(call: Call, input: Operand) -> Native:
    return _activate(call, input, "relu")


@_operator("aten.relu6.default")
def _relu6(call: Call, input: Operand) -> Native:
    return _activate(call, input, "relu6")


@_operator("aten.silu.default")
def _silu(call: Call, input: Operand) -> Native:
    return _activate(call, input, "silu")


@_operator("aten.clamp.default", "aten.clamp_min.default")
def _clamp(call: Call, input: Operand, least: float | None = None, most: float | None = None) -> Native:
    if least != 0 or most not in (None, 6):
        raise Unsupported(f"has the bounds {least} and {most}, not those of ReLU or ReLU6")
    return _activate(call, input, "relu" if most is None else "relu6")


@_operator("aten.hardtanh.default")
def _hardtanh(call: Call, input: Operand, least: float = -1, most: float = 1) -> Native:
    return _clamp(call, input, least, most)


@_operator("aten.add.Tensor")
def _add(call: Call, left: Operand, right: Operand, *, alpha: float = 1) -> Native:
    if _value(left).shape != _value(right).shape:
        raise Unsupported(f"adds {right.shape} to {left.shape}")
    if alpha != 1:
        raise Unsupported(f"adds {alpha} times a tensor")
    return Native(_images(left, right), Add(call.name, left.number, right.number))


@_operator("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default")
def _max_pool2d(
    call: Call,
    input: Operand,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Native:
    if _pair(dilation) != (1, 1):
        raise Unsupported(f"has a dilation of {_pair(dilation)}")
    rows, columns = _sliding(call, input, kernel, stride, padding)
    return _pool(call, input, rows, columns)


@_operator("aten.avg_pool2d.default")
def _avg_pool2d(
    call: Call,
    input: Operand,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Native:
    rows, columns = _sliding(call, input, kernel, stride, padding)
    if divisor_override is not None:
        divisors = torch.full((len(rows), len(columns)), float(divisor_override))
    elif count_include_pad:
        divisors = _areas(rows, columns)
    else:
        divisors = _areas(_clipped(rows, input.shape[2]), _clipped(columns, input.shape[3]))
    return _pool(call, input, rows, columns, divisors)


@_operator("aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default")
def _adaptive_avg_pool2d(call: Call, input: Operand, size: Sequence[int]) -> Native:
    rows, columns = _adaptive(call, input)
    return _pool(call, input, rows, columns, _areas(rows, columns))


@_operator("aten.adaptive_max_pool2d.default")
def _adaptive_max_pool2d(call: Call, input: Operand, size: Sequence[int]) -> Native:
    return _pool(call, input, *_adaptive(call, input))


@_operator("aten.mean.dim")
def _mean(
    call: Call,
    input: Operand,
    dimensions: Sequence[int] | None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Native:
    before = _map(input)
    if sorted(d % 4 for d in dimensions or ()) != [2, 3] or dtype not in (None, torch.float32):
        raise Unsupported(f"is over the dimensions {dimensions}, not rows and columns, or of {dtype}")
    rows, columns = [(0, before.height)], [(0, before.width)]
    return _pool(call, input, rows, columns, _areas(rows, columns))


@_operator("aten.slice.Tensor")
def _slice(
    call: Call, input: Operand, dimension: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Native:
    if call.shape == _value(input).shape:
        return _same(call, input)
    before = _map(input)
    if dimension % 4 < 2:
        raise Unsupported(f"is along dimension {dimension}, not rows or columns")
    # The largest of windows of one pixel is that pixel.
    rows, columns = ([(i, i + 1) for i in range(length)] for length in (before.height, before.width))
    if dimension % 4 == 2:
        return _pool(call, input, rows[start:stop:step], columns)
    return _pool(call, input, rows, columns[start:stop:step])


@_operator("aten.constant_pad_nd.default")
def _pad(call: Call, input: Operand, pad: Sequence[int], value: float = 0) -> Native:
    channels = _map(input).channels
    left, right, top, bottom, before, after, *images = [*pad, 0, 0, 0, 0, 0, 0][: max(6, len(pad))]
    if value != 0 or min(pad) < 0 or (left, top) != (right, bottom) or any(images):
        raise Unsupported(f"by {list(pad)} with {value}, not evenly with zeros")
    # Every channel of the result is one channel, or none.
    weight = F.pad(torch.eye(channels), (0, 0, before, after))[:, :, None, None]
    padding = Convolution(call.name, input.number, weight, None, (1, 1), (top, left), (1, 1), 1)
    return Native(input.shape[0], padding)


@_operator("aten.pad.default")
def _pad_in_mode(
    call: Call, input: Operand, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Native:
    if mode != "constant":
        raise Unsupported(f"has the mode {mode!r}")
    return _pad(call, input, pad, value or 0)


@_operator("aten.cat.default")
def _cat(call: Call, inputs: Sequence[Operand], dimension: int = 0) -> Native:
    images = _images(*map(_value, inputs))
    maps = [seen(operand.shape, images) for operand in inputs]
    channels = sum(part.channels for part in maps if part is not None)
    joint = seen(call.shape, images)
    before = math.prod(call.shape[: dimension % len(call.shape)])
    if None in maps or joint is None or joint.channels != channels or before != images:
        raise Unsupported(f"is along dimension {dimension}, not the channels")
    return Native(images, Concatenate(call.name, tuple(operand.number for operand in inputs)))


@_operator(
    "aten.flatten.using_ints",
    "aten.reshape.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
    "aten.view.default",
)
def _reshape(call: Call, input: Operand, *args: Any) -> Native:
    # The order of the elements stays: where both shapes are the same map of so many images, nothing is to be done.
    for images in (_images(input), _vectors(call.shape)):
        before, after = seen(input.shape, images), seen(call.shape, images)
        if before is not None and after == before:
            return Native(images, input.number)
        if before is not None and after == Map(before.channels * before.height * before.width, 1, 1):
            return Native(images, Flatten(call.name, input.number))
    raise Unsupported(f"makes {call.shape} of {input.shape}")


@_operator("aten.alias.default", "aten.clone.default", "aten.detach.default")
def _same(call: Call, input: Operand, **kwargs: Any) -> Native:
    return Native(_images(input), input.number)


def _value(operand: Operand | Tensor | float) -> Operand:
    if not isinstance(operand, Operand):
        raise Unsupported("reads a constant")
    return operand


def _constant(tensor: Tensor | Operand) -> Tensor:
    if isinstance(tensor, Operand):
        raise Unsupported("has weights that depend on the input")
    if tensor.dtype != torch.float32:
        raise Unsupported(f"has weights of {tensor.dtype}")
    return tensor.detach().contiguous()


def _map(operand: Operand | Tensor) -> Map:
    """The map of an operand that must be images."""
    shape = _value(operand).shape
    if len(shape) != 4:
        raise Unsupported(f"reads {shape}, not images (n, c, h, w)")
    return Map(*shape[1:])


def _images(*operands: Operand) -> int:
    """As how many images a step that does not mind sees its operands: as the step before does, if there is one."""
    for operand in operands:
        if operand.images is not None:
            return operand.images
    shape = operands[0].shape
    return shape[0] if len(shape) == 4 else _vectors(shape)


def _vectors(shape: tuple[int, ...]) -> int:
    """How many vectors a tensor has along its last dimension."""
    return math.prod(shape[:-1])


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    """Of rows and of columns; one number stands for both."""
    return numbers[0], numbers[-1]


def _pixelwise(call: Call, input: Operand, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Convolution:
    return Convolution(call.name, input.number, weight, bias, (1, 1), (0, 0), (1, 1), groups)


def _activate(call: Call, input: Operand, activation: Activation) -> Native:
    return Native(_images(_value(input)), Activate(call.name, input.number, activation))


def _pool(call: Call, input: Operand, rows: _Windows, columns: _Windows, divisors: Tensor | None = None) -> Native:
    """The average where there are divisors, or else the largest."""
    height, width = input.shape[2:]
    kind: Literal["max", "average"] = "max" if divisors is None else "average"
    pool = Pool(call.name, input.number, kind, _clipped(rows, height), _clipped(columns, width), divisors)
    return Native(input.shape[0], pool)


def _sliding(
    call: Call, input: Operand, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[_Windows, _Windows]:
    """_Windows of one size at equal distances, over the input and its padding."""
    before = _map(input)
    rows, columns = (
        [(i * step - around, min(i * step - around + size, length + around)) for i in range(count)]
        for length, count, size, step, around in zip(
            (before.height, before.width),
            call.shape[2:],
            _pair(kernel),
            _pair(stride or kernel),
            _pair(padding),
            strict=True,
        )
    )
    return rows, columns


def _adaptive(call: Call, input: Operand) -> tuple[_Windows, _Windows]:
    """As many windows as there are results, which together are the input."""
    before = _map(input)
    rows, columns = (
        [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        for length, count in zip((before.height, before.width), call.shape[2:], strict=True)
    )
    return rows, columns


def _clipped(windows: _Windows, length: int) -> tuple[tuple[int, int], ...]:
    return tuple((max(start, 0), min(stop, length)) for start, stop in windows)


def _areas(rows: Sequence[tuple[int, int]], columns: Sequence[tuple[int, int]]) -> Tensor:
    """How many pixels each window has, (height, width)."""
    heights, widths = (torch.tensor([float(b - a) for a, b in windows]) for windows in (rows, columns))
    return torch.outer(heights, widths)
