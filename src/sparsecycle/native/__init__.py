"""The native core's Python face: which tensors it takes, and how it is given them.

The core is one extension module, ``_core``, which the package's installation compiles. It knows nothing of torch: it
is given addresses, sizes and types. Where it is missing, everything works on torch alone.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

if TYPE_CHECKING:
    from sparsecycle.native import _core

__all__ = ["View", "clear", "core", "fits", "increment_versions", "is_dense", "layers", "lies_alike", "memory_order"]

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_BYTES = (2, 4, 8)
_PLAIN = (Tensor, nn.Parameter)


@functools.cache
def core() -> ModuleType | None:
    """The extension module, or None where it was not built; says so once."""
    try:
        from sparsecycle.native import _core
    except ImportError as error:
        warnings.warn(
            f"sparsecycle's native core is not here ({error}): torch alone updates the masks, several times slower; "
            "installing sparsecycle where there is a C++ compiler builds the core",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return _core


def memory_order(tensor: Tensor) -> list[int]:
    """The dimensions from the outermost to the innermost in memory."""
    return sorted(range(tensor.dim()), key=tensor.stride().__getitem__, reverse=True)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements lie in memory without gaps, in whatever order."""
    return tensor.is_contiguous() or tensor.permute(memory_order(tensor)).is_contiguous()


def lies_alike(one: Tensor, other: Tensor) -> bool:
    """Whether the elements of two tensors lie in the same order; one of them must be dense."""
    if one.shape != other.shape:
        return False
    return one.stride() == other.stride() or (one.is_contiguous() and other.is_contiguous())


def fits(tensors: Sequence[Tensor]) -> bool:
    """Whether the core can rank these, if they are dense: float32, bfloat16 or float16 in the processor's memory."""
    return core() is not None and all(_is_plain(t) and t.dtype in _TYPES for t in tensors)


def layers(tensors: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> _core.Layers:
    """What the core knows of dense tensors that :func:`fits`, and of bool masks that lie as they do.

    The addresses are good as long as the tensors are there.
    """
    extension = core()
    assert extension is not None
    found: _core.Layers = extension.Layers(
        [t.data_ptr() for t in tensors],
        [_TYPES[t.dtype] for t in tensors],
        [t.numel() for t in tensors],
        [0] * len(tensors) if masks is None else [mask.data_ptr() for mask in masks],
        [None if t.is_contiguous() else (list(t.shape), list(t.stride())) for t in tensors],
    )
    return found


def increment_versions(tensors: Iterable[Tensor]) -> None:
    """Tell autograd that the core wrote into these, so that it refuses a backward over what they were."""
    for tensor in tensors:  # torch 2.4 takes no list
        increment_version(tensor)


def clear(mask: Tensor, tensor: Tensor) -> bool:
    """Set a tensor to 0 where its dense bool mask is False; returns False, having done nothing, if the core cannot.

    Nor does it where autograd may have to record that: of a tensor that requires gradients.
    """
    extension, bytes_each = core(), tensor.element_size()
    fitting = _is_plain(tensor) and lies_alike(tensor, mask) and bytes_each in _BYTES
    if extension is None or not fitting or tensor.requires_grad:
        return False
    extension.clear(mask.data_ptr(), mask.numel(), tensor.data_ptr(), bytes_each, torch.get_num_threads())
    increment_version(tensor)
    return True


class View:
    """Weights and their masks as the core sees them, looked at anew when their memory has become another."""

    def __init__(self, weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        self._weights, self._masks = list(weights), list(masks)
        self._tensors: _core.Tensors | None = None  # and where they were
        self._layers: _core.Layers | None = None

    def layers(self) -> _core.Layers | None:
        """The core's view; None if the core cannot take the weights as they are now."""
        extension = core()
        if extension is None:
            return None
        if self._tensors is None or self._tensors.moved():
            self._tensors = extension.Tensors(self._weights, self._masks)
            self._layers = None
            if fits(self._weights) and all(map(self._lies_well, self._weights, self._masks)):
                self._layers = layers(self._weights, self._masks)
        return self._layers

    def belongings(self, state: Mapping[Tensor, Any]) -> tuple[list[list[tuple[int, int]]], list[Tensor], bool]:
        """What belongs to each weight element by element: its gradient, and what an optimizer's ``state`` holds of it.

        Only where there are :meth:`layers`.

        Returns:
            Addresses, with the bytes of an element, of all that lies as the weight does; these tensors; and whether
            that is all.
        """
        assert self._tensors is not None
        return self._tensors.belongings(state)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tensors": None, "_layers": None}  # addresses are those of this process

    @staticmethod
    def _lies_well(weight: Tensor, mask: Tensor) -> bool:
        return is_dense(weight) and mask.dtype == torch.bool and mask.is_cpu and lies_alike(weight, mask)


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in _PLAIN and tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_neg()
