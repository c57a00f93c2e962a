"""The packed file: a pruned network in about as few bytes as its weights' entropy.

It is a safetensors file, which any reader of these can open. Each matrix has its bytes under its own name: where its
weights are (:mod:`~sparsecycle.files.structure`, :mod:`~sparsecycle.files.positions`) and what they are
(:mod:`~sparsecycle.files.values`). What is no matrix shares the bytes of its type. What everything is stands in the
table of contents (:mod:`~sparsecycle.files.contents`), whose SHA-256 is in the file's metadata, and which has those of
all other parts.

Whoever reads such a file need not trust it: nothing in it is executed, all sizes are checked before memory is taken,
and a model that it does not fit is left as it was.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from sparsecycle.files.broken import Broken, demand
from sparsecycle.files.container import write_whole
from sparsecycle.files.contents import DTYPES, About, Contents, digest_of, dtype_name
from sparsecycle.files.factory import make
from sparsecycle.files.narrow import Values, bits_of
from sparsecycle.files.parts import Parts, join
from sparsecycle.files.tensors import Piece, pack_dense, pack_matrix, unpack
from sparsecycle.report import Report

__all__ = ["KIND", "NAME", "file_in", "load", "read_contents", "read_state", "save"]

KIND = "packed model"
NAME = "model.safetensors"
"""The file's name where it has a folder of its own."""

_VERSION = "1"
_CONTENTS = "sparsecycle/contents"


# --- writing ---------------------------------------------------------------------------------------------------------


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    values: Values = "fp32",
    *,
    factory: str | None = None,
    arguments: Iterable[Any] | Mapping[str, Any] = (),
    report: Report | Mapping[str, Any] | None = None,
    classes: Iterable[str] | None = None,
    shape: Iterable[int] | None = None,
    mean: Iterable[float] | None = None,
    std: Iterable[float] | None = None,
) -> None:
    """Write a pruned network as small as it gets; :func:`load` reads it.

    The file is written whole or not at all.

    Args:
        model: The network; what its ``state_dict()`` has is written.
        path: Where; the folder must be there.
        values: What weights are stored as, in tensors of two and more dimensions; all others stay as they are.
            ``"fp32"``: bit for bit. ``"bf16"`` and ``"fp16"``: rounded to nearest. ``"int8"``: multiples, from -127
            to 127, of a scale of each output channel (each slice along the first dimension), which is the channel's
            largest magnitude over 127 in bfloat16. Weights that are then 0 count as pruned.
        factory: What makes the network, so that ``load(path)`` needs no model: one of the laboratory's networks, such
            as ``"resnet-18"``, or a function of your own, ``"package.module:function"``.
        arguments: What the factory is called with, by place or by name: plain JSON values. Lists come back as tuples.
        report: What the sparsifier reported, to be kept; its plain data will do.
        classes: The outputs' names, in order.
        shape: Of one input.
        mean: Of each channel of an input, which is subtracted first.
        std: Of each channel, by which it is divided then.

    Raises:
        ValueError: If the state has something else than tensors of plain types, a weight is not finite or too large
            for ``values``, or something else is not allowed.
    """
    if values not in get_args(Values):
        raise ValueError(f"values={values!r}; allowed are {', '.join(get_args(Values))}")
    about = About(
        factory,
        dict(arguments) if isinstance(arguments, Mapping) else tuple(arguments),
        report.to_dict() if isinstance(report, Report) else None if report is None else dict(report),
        None if classes is None else tuple(map(str, classes)),
        None if shape is None else tuple(map(int, shape)),
        None if mean is None else tuple(map(float, mean)),
        None if std is None else tuple(map(float, std)),
    )
    state, ties, names = _state(model)
    parts: dict[str, bytes] = {}
    matrices = []
    others: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if tensor.dim() > 1 and tensor.is_floating_point() and tensor.numel():
            matrix, parts[name] = pack_matrix(name, tensor, values)
            matrices.append(matrix)
        else:
            others.setdefault(dtype_name(tensor), {})[name] = tensor
    dense = []
    for dtype, tensors in others.items():
        group, data = pack_dense(dtype, tensors)
        parts[group.name] = data
        dense.append(group)
    contents = Contents(values, tuple(matrices), tuple(dense), names, ties, about).pack()
    parts[_CONTENTS] = contents
    metadata = {"format": "pt", "kind": KIND, "version": _VERSION, "digest": digest_of(contents, 64)}
    write_whole(path, join(parts, metadata))


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, without what torch.compile and data parallelism put around it, and before its names."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    """The state's tensors on the CPU, the names of those that are others' too, and all names in order."""
    found: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    state = _unwrapped(model).state_dict()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or nn.parameter.is_lazy(tensor):
            raise ValueError(f"{name} is of type {type(tensor).__name__}; a packed file holds tensors alone")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} is of {tensor.layout}, {tensor.dtype}; a packed file holds dense tensors alone")
        if dtype_name(tensor) not in DTYPES:
            raise ValueError(f"{name} is of {tensor.dtype}; a packed file holds {', '.join(DTYPES)}")
        if name.startswith("sparsecycle/") or tensor.is_meta:
            raise ValueError(f"{name} cannot be stored: it {'is on meta' if tensor.is_meta else 'has a name of ours'}")
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first:
            ties[name] = first[place]
            continue
        first[place] = name
        found[name] = tensor.detach().cpu()
    return found, ties, tuple(state)


# --- reading ---------------------------------------------------------------------------------------------------------


def load(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    allow: Collection[str] = (),
    limit: int | None = None,
) -> nn.Module:
    """Read a network that :func:`save` wrote.

    Nothing in the file is executed. A factory that it names is called only if it is one of the laboratory's networks,
    or allowed.

    Args:
        path: The file, or a folder with a ``model.safetensors``.
        model: The network to fill, on whatever device and in whatever type; None: the file's factory makes it, on the
            CPU, and it is in evaluation mode.
        allow: Factories, ``"package.module:function"``, that may be called if the file names them.
        limit: Bytes that the dense network may take; None: what this machine has.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not whole, or not what was written; if it does not fit the model, which is left as it was
            then; if there is no model, and no factory that may be called; if it claims more than ``limit``.
    """
    path = file_in(path)
    with Parts(path) as parts:
        contents = _contents(path, parts, limit)

        def check(network: nn.Module) -> None:
            _compare(contents, network.state_dict())

        try:
            if model is None:
                network = make(contents.about, allow, check)
            else:
                network = _unwrapped(model)
                check(network)
                if any(tensor.is_meta for tensor in network.state_dict().values()):
                    raise ValueError("cannot be read into a network on meta, which has no memory")
        except ValueError as error:
            raise ValueError(f"{path} {error}") from error
        if model is not None:
            _unpack(path, parts, contents, {})  # before a weight is touched
        _unpack(path, parts, contents, network.state_dict())
    return network.eval() if model is None else model


def read_state(path: str | os.PathLike[str], *, limit: int | None = None) -> dict[str, Tensor]:
    """The dense tensors of a packed file by name, in the order of the state_dict that was saved.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: See :func:`load`.
    """
    path = file_in(path)
    with Parts(path) as parts:
        contents = _contents(path, parts, limit)
        dtypes = contents.dtypes
        state = {name: torch.empty(shape, dtype=dtypes[name]) for name, shape in contents.shapes.items()}
        state |= {name: state[first] for name, first in contents.ties.items()}
        _unpack(path, parts, contents, state)
    return state


def read_contents(path: str | os.PathLike[str], *, limit: int | None = None) -> Contents:
    """The table of contents of a packed file, after a look whether all of its parts are there and as written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: See :func:`load`.
    """
    path = file_in(path)
    with Parts(path) as parts:
        return _contents(path, parts, limit)


def _contents(path: Path, parts: Parts, limit: int | None) -> Contents:
    kind, version = (parts.metadata.get(word) for word in ("kind", "version"))
    if kind != KIND:
        raise ValueError(f"{path} is not a {KIND} of sparsecycle, but {kind or 'some other file'!r}")
    if version != _VERSION:
        raise ValueError(f"{path} has format version {version}; this program reads {_VERSION}")
    with _saying(path):
        data = parts.read(_CONTENTS)
        sound = digest_of(data, 64) == parts.metadata.get("digest")
        demand(sound, "its table of contents was changed after it was written: its digest is another")
        contents = Contents.unpack(data)
        different = parts.names ^ {_CONTENTS, *(stored.name for stored in contents.stored)}
        demand(not different, f"its parts are not those of its table: {sorted(different)[:3]}")
        largest = _memory() if limit is None else limit
        demand(
            contents.dense_bytes <= largest,
            f"it claims {contents.dense_bytes:,} bytes of tensors; allowed are {largest:,} (limit)",
        )
    for stored in contents.stored:
        with _saying(path, stored.name):
            sound = digest_of(parts.read(stored.name)) == stored.digest
            demand(sound, "its bytes were changed after they were written: their digest is another")
    return contents


def _unpack(path: Path, parts: Parts, contents: Contents, targets: Mapping[str, Tensor]) -> None:
    """Write all tensors into their targets; read and check alone those that have none."""
    others: dict[str, list[str]] = {}
    for name, first in contents.ties.items():
        others.setdefault(first, []).append(name)
    for stored in contents.stored:
        with _saying(path, stored.name):
            data = parts.read(stored.name)
            demand(digest_of(data) == stored.digest, "its bytes have changed since it was opened")
            for name, dtype, shape, pieces in unpack(stored, data):
                names = [its for its in (name, *others.get(name, ())) if its in targets]
                _fill([targets[its] for its in names], dtype, shape, pieces)


def _fill(targets: Sequence[Tensor], dtype: torch.dtype, shape: tuple[int, ...], pieces: Iterator[Piece]) -> None:
    """Write a tensor into each of its targets, straight into their memory where that lies as the file's does."""
    direct = [t for t in targets if t.is_cpu and t.dtype == dtype and t.is_contiguous()]
    others = [t for t in targets if not any(t is one for one in direct)]
    beside = [torch.empty(shape, dtype=dtype)] if others else []
    # By numpy, which does not wait for other threads.
    memory = [bits_of(t.detach()).reshape(-1) for t in (*direct, *beside)]
    for flat in memory:
        flat.fill(0)
    for where, values in pieces:
        bits = bits_of(values)
        for flat in memory:
            flat[where] = bits
    for target in others:
        target.detach().copy_(beside[0])
    for target in direct:
        if not target.is_inference():
            increment_version(target)  # what numpy wrote, autograd has not seen


def _compare(contents: Contents, targets: Mapping[str, Any]) -> None:
    shapes = contents.shapes
    wrong = [f"it lacks {name}" for name in targets if name not in shapes]
    for name, shape in shapes.items():
        if not isinstance(targets.get(name), Tensor):
            wrong.append(f"the network has no tensor {name}")
        elif tuple(targets[name].shape) != shape:
            wrong.append(f"{name} has shape {shape} there, {tuple(targets[name].shape)} in the network")
    if wrong:
        more = f", and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(f"is of another network: {'; '.join(wrong[:4])}{more}")


@contextmanager
def _saying(path: Path, name: str = "") -> Iterator[None]:
    """What is broken within is in this file, and in this part of it."""
    try:
        yield
    except Broken as error:
        raise ValueError(f"{path}{f': {name}' if name else ''}: {error}") from error


def file_in(path: str | os.PathLike[str]) -> Path:
    """The packed file itself, of a file or a folder that has one."""
    return Path(path) / NAME if Path(path).is_dir() else Path(path)


def _memory() -> int:
    """Bytes of this machine's memory; 16 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 34
