"""Weights in narrower types: what a file stores of a tensor, and the tensor that comes of it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecycle.files.contents import DTYPES, dtype_name

__all__ = ["Values", "bits_of", "narrow", "tensor_of", "widen"]

Values = Literal["fp32", "bf16", "fp16", "int8"]
Bits = NDArray[Any]

_NARROWER = {"bf16": torch.bfloat16, "fp16": torch.float16}
_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LARGEST = 127


def narrow(tensor: Tensor, values: Values) -> tuple[str, Bits, Tensor | None]:
    """What is stored of a matrix; see :func:`sparsecycle.save` for the types.

    Args:
        tensor: Floating point, of at least two dimensions, on the CPU.
        values: What to narrow it to; what is as narrow already stays as it is.

    Returns:
        The stored type's name in a file; the stored numbers' bits, unsigned, of the tensor's shape; and for
        ``"int8"`` the scales, bfloat16 of shape (channels,). The bits of an int8 are its magnitude, and its sign above.

    Raises:
        ValueError: If a weight is not finite, or not in the narrower type.
    """
    if tensor.itemsize <= (1 if values == "int8" else _NARROWER.get(values, torch.float64).itemsize):
        return dtype_name(tensor), _without_sign(bits_of(tensor)), None
    if not torch.isfinite(tensor).all():
        raise ValueError(f"a weight is NaN or infinite, and has no place in {values}; values='fp32' stores it as it is")
    rounded = tensor.to(_NARROWER.get(values, torch.float32))
    if not torch.isfinite(rounded).all():
        raise ValueError(f"its largest magnitude is {float(tensor.abs().max()):g}, too much for {values}")
    if values != "int8":
        return dtype_name(rounded), _without_sign(bits_of(rounded)), None
    rows = rounded.reshape(len(rounded), -1)
    scales = (rows.abs().amax(1) / _LARGEST).bfloat16()
    # Of channels without weights any will do. A scale below the normal numbers would be too coarse for its channel.
    normal = scales >= torch.finfo(scales.dtype).tiny
    scales[~normal] = scales.max() if normal.any() else 1
    whole = (rows / scales.float()[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8).numpy()
    bits = np.abs(whole).astype(np.uint8) | (whole < 0).astype(np.uint8) << 7
    return "int8", bits.reshape(tensor.shape), scales


def _without_sign(bits: Bits) -> Bits:
    """The same, but 0 for -0, which a mask's product leaves of a negative weight."""
    return np.where(bits == 1 << (8 * bits.itemsize - 1), bits.dtype.type(0), bits)


def widen(bits: Bits, stored: str, dtype: torch.dtype, scales: Tensor | None) -> Tensor:
    """The weights of stored bits.

    Args:
        bits: As :func:`narrow` gives them, of shape (n,).
        stored: Their type's name in a file.
        dtype: The weights' type.
        scales: Of each of them, where they are int8.
    """
    if scales is None:
        return tensor_of(bits, DTYPES[stored]).to(dtype)
    whole = (bits & _LARGEST).astype(np.float32)
    return (torch.from_numpy(np.where(bits > _LARGEST, -whole, whole)) * scales.float()).to(dtype)


def bits_of(tensor: Tensor) -> Bits:
    """A tensor's bits, as unsigned whole numbers, in its shape."""
    flat = tensor.contiguous().reshape(-1).view(_WHOLE[tensor.itemsize])
    return flat.numpy().view(f"u{tensor.itemsize}").reshape(tensor.shape)


def tensor_of(bits: Bits, dtype: torch.dtype) -> Tensor:
    """The tensor of this type that has these bits, of shape (n,)."""
    if dtype is torch.bool:
        return torch.from_numpy(bits != 0)
    return torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(dtype)
