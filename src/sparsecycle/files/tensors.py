"""A tensor as bytes of a packed file, and back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecycle.files import positions
from sparsecycle.files.broken import demand
from sparsecycle.files.contents import DTYPES, Dense, Matrix, digest_of, dtype_name
from sparsecycle.files.narrow import Values, bits_of, narrow, tensor_of, widen
from sparsecycle.files.structure import Structure, find
from sparsecycle.files.values import Numbers, encode

__all__ = ["Piece", "Unpacked", "pack_dense", "pack_matrix", "unpack"]

_PIECE = 1 << 13  # elements that are read at a time

Bytes = NDArray[np.uint8]
Piece = tuple[NDArray[np.int64], Tensor]
"""Places in a tensor made flat, and the values there, of the tensor's type."""
Unpacked = tuple[str, torch.dtype, tuple[int, ...], Iterator[Piece]]
"""A tensor's name, type and shape, and all of its values that are not zero, in pieces."""


def pack_matrix(name: str, tensor: Tensor, values: Values) -> tuple[Matrix, bytes]:
    """The bytes of a matrix, as few as there is a way for, and what they are.

    Args:
        name: Its name.
        tensor: Of floating point, at least two dimensions and at least one element, on the CPU.
        values: What its weights are stored as; see :func:`sparsecycle.save`.

    Raises:
        ValueError: If a weight is not finite or too large for ``values``.
    """
    try:
        stored, bits, scales = narrow(tensor, values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    mask = bits != 0
    kept = int(mask.sum())
    ways = []
    if 4 * kept > 3 * mask.size:  # else that costs more, whatever the values are
        way = Structure(mask.shape, (1,) * mask.ndim)
        ways.append((way, positions.Positions("all", 0, ()), bits.reshape(-1)))
    if kept < mask.size:
        coded = [(way, positions.encode(way.flat(mask))) for way in find(mask)]
        way, where = min(coded, key=lambda way: way[1].size)
        ways.append((way, where, bits.reshape(-1)[_weights(way, where, kept)]))
    packed = []
    for way, where, numbers in ways:
        alive = [np.packbits(one, bitorder="little").tobytes() for one in way.alive if one is not None]
        scaling, scale_bytes = (None, ()) if scales is None else encode(bits_of(scales), signed=True)
        form, value_bytes = encode(numbers, signed=True)
        sections = [*alive, *where.sections, *scale_bytes, *value_bytes]
        data = b"".join(sections)
        matrix = Matrix(
            name=name,
            shape=tuple(tensor.shape),
            dtype=dtype_name(tensor),
            stored=stored,
            kept=kept,
            block=way.block,
            alive=tuple(one is not None for one in way.alive),
            channels_last=way.channels_last,
            code=where.code,
            k=where.k,
            values=form,
            scales=scaling,
            lengths=tuple(map(len, sections)),
            digest=digest_of(data),
        )
        packed.append((matrix, data))
    return min(packed, key=lambda its: len(its[1]))


def pack_dense(dtype: str, tensors: Mapping[str, Tensor]) -> tuple[Dense, bytes]:
    """The bytes of some tensors of one type, on the CPU, and what they are."""
    bits = np.concatenate([bits_of(tensor).reshape(-1) for tensor in tensors.values()])
    form, sections = encode(bits, DTYPES[dtype].is_floating_point)
    data = b"".join(sections)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Dense(dtype, shapes, form, tuple(map(len, sections)), digest_of(data)), data


def unpack(stored: Matrix | Dense, data: Bytes) -> Iterator[Unpacked]:
    """The tensors of some bytes, one after the other; each must be read to its end before the next one.

    Raises:
        Broken: If the bytes are not such tensors; what was read before that may be right or wrong.
    """
    if isinstance(stored, Matrix):
        yield stored.name, DTYPES[stored.dtype], stored.shape, _read_matrix(stored, data)
        return
    dtype = DTYPES[stored.dtype]
    numbers = Numbers(
        stored.values, _split(data, stored.lengths), stored.weights, 8 * dtype.itemsize, dtype.is_floating_point
    )
    for name, shape in stored.shapes.items():
        yield name, dtype, shape, _read_dense(numbers, dtype, math.prod(shape))
    numbers.end()


def _read_matrix(matrix: Matrix, data: Bytes) -> Iterator[Piece]:
    sections = _split(data, matrix.lengths)
    way = _structure(matrix, sections)
    dense = matrix.code == "all" and way.plain
    size = math.prod(way.block)
    demand(matrix.kept % size == 0, f"{matrix.kept} weights are kept, in blocks of {size}")
    last = sum(matrix.alive)
    end = len(sections) - (4 if matrix.scales else 2)
    demand(last <= end, f"it has {len(sections)} parts")
    kept = matrix.weights if dense else matrix.kept
    places = positions.decode(matrix.code, matrix.k, sections[last:end], math.prod(way.reduced), kept // size)
    numbers = Numbers(matrix.values, sections[-2:], kept, 8 * DTYPES[matrix.stored].itemsize, True)
    scales = None
    if matrix.scales:
        reader = Numbers(matrix.scales, sections[-4:-2], matrix.shape[0], 16, True)
        scales = tensor_of(reader.take(matrix.shape[0]), torch.bfloat16)
        reader.end()
        demand(bool((scales > 0).all() and scales.isfinite().all()), "a scale is no positive number")
    row = matrix.weights // matrix.shape[0]
    found = 0
    for piece in places:
        for where in way.weights(piece):
            of_each = None if scales is None else scales[torch.from_numpy(where // row)]
            bits = numbers.take(len(where))
            found += int(np.count_nonzero(bits))
            yield where, widen(bits, matrix.stored, DTYPES[matrix.dtype], of_each)
    numbers.end()
    demand(found == matrix.kept, f"{found} weights are not zero, where {matrix.kept} are said to be")


def _read_dense(numbers: Numbers, dtype: torch.dtype, size: int) -> Iterator[Piece]:
    for begin in range(0, size, _PIECE):
        count = min(_PIECE, size - begin)
        yield np.arange(begin, begin + count), tensor_of(numbers.take(count), dtype)


def _weights(way: Structure, where: positions.Positions, kept: int) -> NDArray[np.int64]:
    """The kept weights' places in the order in which a reader finds them."""
    sections = [np.frombuffer(section, np.uint8) for section in where.sections]
    size = math.prod(way.block)
    found = positions.decode(where.code, where.k, sections, math.prod(way.reduced), kept // size)
    return np.concatenate([np.empty(0, np.int64), *(its for piece in found for its in way.weights(piece))])


def _structure(matrix: Matrix, sections: Sequence[Bytes]) -> Structure:
    demand(len(sections) >= sum(matrix.alive), f"it has {len(sections)} parts")
    alive: list[NDArray[np.bool_] | None] = []
    bitmaps = iter(sections)
    for there, n, b in zip(matrix.alive, matrix.shape, matrix.block, strict=False):
        if not there:
            alive.append(None)
            continue
        bits = next(bitmaps)
        demand(b > 0 and len(bits) == -(-(n // b) // 8), "its living channels are not as many as it has channels")
        alive.append(np.unpackbits(bits, count=n // b, bitorder="little").astype(bool))
    return Structure(matrix.shape, matrix.block, tuple(alive), matrix.channels_last)


def _split(data: Bytes, lengths: Sequence[int]) -> list[Bytes]:
    demand(sum(lengths) == len(data), f"its parts have {sum(lengths)} bytes, and there are {len(data)}")
    ends = np.cumsum([0, *lengths]).tolist()
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]
