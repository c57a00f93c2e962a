"""Reading a pickle that may hold plain values and byte arrays, and nothing that could act."""

from __future__ import annotations

import io
import pickle
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecycle.lab.data.files import DataError


class _ByteType:
    """Stands for ``numpy.dtype``; only unsigned bytes are let through."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"an array of type {code!r}; allowed is u1, unsigned bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes."""


class _Array:
    """Stands for ``numpy.ndarray``: takes the state numpy pickles, after checking it."""

    def __init__(self) -> None:
        self.values: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple(shape), _ByteType(), fortran, bytes(data)) if not fortran:
                if any(not isinstance(n, int) or n < 0 for n in shape) or prod(shape) != len(data):
                    raise pickle.UnpicklingError(f"an array of shape {shape} with {len(data):,} bytes")
                self.values = np.frombuffer(data, np.uint8).reshape(shape)
            case _:
                raise pickle.UnpicklingError("an array that is not plain unsigned bytes, rows first")


def _reconstruct(*_: object) -> _Array:
    return _Array()


# Not numpy's own classes: their __setstate__ trusts its argument, and they moved within numpy 2.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _ByteType,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; allowed are plain values and numpy arrays of unsigned bytes"
            ) from None


def read_pickle(data: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a pickle of lists, numbers, bytes and numpy arrays of unsigned bytes.

    Every other class or function the pickle asks for is refused before it is imported.

    Args:
        data: the pickle, of Python 2 or 3.
        where: the file's name, for errors.

    Returns:
        The dictionary with its keys as text and its (read-only) arrays as numpy's.

    Raises:
        DataError: where the pickle is broken, asks for anything else, or is no dictionary.
    """
    try:
        content = _Reader(io.BytesIO(data), encoding="bytes").load()
    # A pickle is a program: a broken one may fail in any way its instructions can.
    except Exception as error:
        raise DataError(f"{where} was not read: {error or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise DataError(f"{where} holds a {type(content).__name__}, expected a dictionary")
    return {
        key.decode("latin-1") if isinstance(key, bytes) else str(key): (
            value.values if isinstance(value, _Array) else value
        )
        for key, value in content.items()
    }
