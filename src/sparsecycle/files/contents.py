"""A packed file's table of contents: what each tensor is and how its bytes are coded, checked before they are read."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecycle.files.broken import Broken, demand
from sparsecycle.files.entropy import Frame, compress
from sparsecycle.files.plain import read
from sparsecycle.files.values import Form

__all__ = ["DTYPES", "About", "Contents", "Dense", "Matrix", "digest_of", "dtype_name"]

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
"""The types that a packed file can hold, by their names in it."""

_FLOATING = [name for name, dtype in DTYPES.items() if dtype.is_floating_point]

_LARGEST = 1 << 22  # bytes of the table, unpacked; JSON takes 25 times as much memory at worst
_DIMENSIONS = 32  # at most, of a tensor
_SIZE = 1 << 48  # elements, at most, of a tensor; so that no product of sizes overflows


def dtype_name(tensor: Tensor) -> str:
    """A tensor's type as :data:`DTYPES` names it."""
    return str(tensor.dtype).removeprefix("torch.")


def digest_of(data: bytes | NDArray[np.uint8], digits: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of some bytes."""
    return hashlib.sha256(data if isinstance(data, bytes) else data.data).hexdigest()[:digits]


@dataclass(frozen=True)
class Matrix:
    """A tensor with bytes of its own.

    Args:
        name: Its name in the model's state_dict.
        shape: Its shape.
        dtype: Its type.
        stored: The type of its values in the file: its own, a narrower one, or ``"int8"`` with scales.
        kept: How many of its weights are not zero.
        block: See :class:`sparsecycle.files.structure.Structure`.
        alive: Whether the first dimensions (two at most) have a list of living channels.
        channels_last: See ``Structure``.
        code: See :class:`sparsecycle.files.positions.Positions`.
        k: See ``Positions``.
        values: See :class:`sparsecycle.files.values.Form`.
        scales: Likewise, of the scales of ``"int8"``.
        lengths: Bytes of each part: living channels, positions, scales, values.
        digest: See :func:`digest_of`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    kept: int
    block: tuple[int, ...]
    alive: tuple[bool, ...]
    channels_last: bool
    code: str
    k: int
    values: Form
    scales: Form | None
    lengths: tuple[int, ...]
    digest: str

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensor itself."""
        return self.weights * DTYPES[self.dtype].itemsize

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of its positions, scales and values in the file."""
        values, scales = sum(self.lengths[-2:]), sum(self.lengths[-4:-2]) if self.scales else 0
        return {"positions": sum(self.lengths) - values - scales, "scales": scales, "values": values}

    def check(self) -> None:
        """Raise :class:`Broken` if it does not fit together."""
        _check_dtype(self.dtype)
        _check_shape(self.shape)
        demand(len(self.shape) > 1 and self.weights > 0, f"its shape is {self.shape}, which is no matrix's")
        demand(DTYPES[self.dtype].is_floating_point, f"its type is {self.dtype!r}, which is no matrix's")
        whole = self.stored == "int8"
        demand(whole or self.stored in _FLOATING, f"values are stored as {self.stored!r}")
        demand(0 <= self.kept <= self.weights, f"{self.kept} of {self.weights} weights are kept")
        demand(whole == (self.scales is not None), "scales are there if values are int8 alone")
        demand(min(self.lengths, default=0) >= 0, f"a part has {min(self.lengths, default=0)} bytes")


@dataclass(frozen=True)
class Dense:
    """Tensors that share their bytes, one after the other: norms, biases, counters.

    Args:
        dtype: Their type.
        shapes: Their shapes, by name.
        values: See :class:`sparsecycle.files.values.Form`.
        lengths: Bytes of each part.
        digest: See :func:`digest_of`.
    """

    dtype: str
    shapes: dict[str, tuple[int, ...]]
    values: Form
    lengths: tuple[int, ...]
    digest: str

    @property
    def name(self) -> str:
        """What the file calls their bytes."""
        return f"sparsecycle/{self.dtype}"

    @property
    def weights(self) -> int:
        """Number of elements."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensors themselves."""
        return self.weights * DTYPES[self.dtype].itemsize

    def check(self) -> None:
        """Raise :class:`Broken` if it does not fit together."""
        _check_dtype(self.dtype)
        for name, shape in self.shapes.items():
            try:
                _check_shape(shape)
            except Broken as error:
                raise Broken(f"{name}: {error}") from error
        demand(min(self.lengths, default=0) >= 0, f"a part has {min(self.lengths, default=0)} bytes")


@dataclass(frozen=True)
class About:
    """What is known about a network beside its tensors; everything may be unknown.

    Args:
        factory: What makes the network: a name of the laboratory's networks, or ``"package.module:function"``.
        arguments: What the factory is called with, by place or by name: plain JSON values.
        report: The sparsity report, as :meth:`sparsecycle.Report.to_dict` gives it.
        classes: The outputs' names, in order.
        shape: Of one input.
        mean: Of each channel of an input, which is subtracted first.
        std: Of each channel, by which it is divided then.
    """

    factory: str | None = None
    arguments: tuple[Any, ...] | dict[str, Any] = ()
    report: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Contents:
    """All of a packed file but the bytes.

    Args:
        values: What its matrices were asked to be stored as.
        matrices: Tensors with bytes of their own.
        dense: All others, by type.
        names: All tensors' names, in the state_dict's order.
        ties: Names that are other names of a tensor, and that.
        about: What else is known.
    """

    values: str
    matrices: tuple[Matrix, ...]
    dense: tuple[Dense, ...]
    names: tuple[str, ...]
    ties: dict[str, str] = field(default_factory=dict)
    about: About = field(default_factory=About)

    @property
    def stored(self) -> tuple[Matrix | Dense, ...]:
        """All that has bytes."""
        return (*self.matrices, *self.dense)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by its name, in the state_dict's order."""
        found = {matrix.name: matrix.shape for matrix in self.matrices}
        for dense in self.dense:
            found |= dense.shapes
        return {name: found[self.ties.get(name, name)] for name in self.names}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Every tensor's type by its name, in the state_dict's order."""
        found = {matrix.name: matrix.dtype for matrix in self.matrices}
        for dense in self.dense:
            found |= dict.fromkeys(dense.shapes, dense.dtype)
        return {name: DTYPES[found[self.ties.get(name, name)]] for name in self.names}

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense model."""
        return sum(stored.dense_bytes for stored in self.stored)

    def pack(self) -> bytes:
        """The table as a file has it.

        Raises:
            ValueError: If something in ``about`` has no JSON, or :meth:`unpack` would refuse the table.
        """
        self._check()
        try:
            text = json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.about} must be plain JSON values: {error}") from error
        data = text.encode()
        if len(data) > _LARGEST:
            raise ValueError(f"the table of contents takes {len(data)} bytes; allowed are {_LARGEST}")
        return compress(data)

    @classmethod
    def unpack(cls, data: NDArray[np.uint8]) -> Contents:
        """Read what :meth:`pack` wrote.

        Raises:
            Broken: If it is not that, or does not fit together.
        """
        text = Frame(data).take(_LARGEST + 1, fewer=True)
        demand(len(text) <= _LARGEST, f"the table of contents has more than {_LARGEST} bytes")
        try:
            found: Contents = read(cls, json.loads(text.tobytes()))
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            raise Broken(f"the table of contents cannot be read ({str(error) or type(error).__name__})") from error
        found._check()
        return found

    def _check(self) -> None:
        for stored in self.stored:
            try:
                stored.check()
            except Broken as error:
                raise Broken(f"{stored.name}: {error}") from error
        there = [matrix.name for matrix in self.matrices] + [name for dense in self.dense for name in dense.shapes]
        demand(len({stored.name for stored in self.stored}) == len(self.stored), "two parts have one name")
        demand(len(set(there)) == len(there), "a tensor is there twice")
        demand(sorted([*there, *self.ties]) == sorted(self.names), "the names are not those of the tensors")
        demand(all(name in there for name in self.ties.values()), "a tie is to a tensor that is not there")
        # They are printed, and a terminal may be told things by others.
        for text in (*self.names, *(self.about.classes or ()), self.about.factory or ""):
            demand(text.isprintable(), f"{text!r} is no name that can be printed")


def _check_dtype(dtype: str) -> None:
    demand(dtype in DTYPES, f"its type is {dtype!r}; allowed are {', '.join(DTYPES)}")


def _check_shape(shape: tuple[int, ...]) -> None:
    demand(len(shape) <= _DIMENSIONS, f"it has {len(shape)} dimensions; allowed are {_DIMENSIONS}")
    # Empty tensors too: torch multiplies the other sizes for their strides.
    size = math.prod(n for n in shape if n)
    demand(min(shape, default=0) >= 0 and size <= _SIZE, f"its shape is {shape}")
