"""Weights that exist: a state_dict from a file, and what its names are called in a model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sparsecycle.files.packed import KIND, file_in, read_state
from sparsecycle.names import nearest

__all__ = ["Fit", "fit", "load_weights", "read_weights"]

#: Where a checkpoint has the network's state; the first that is there is taken.
_STATES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "model_ema")
#: What a wrapper puts before a name, or in the middle of one where it wraps a part of the network.
_WRAPPERS = frozenset({"module", "_orig_mod"})
#: What a network is called in another one that holds it.
_HOLDERS = frozenset({"model", "net", "network", "backbone", "encoder"})
#: What else the same layer is called: the output layer, and a residual block's projection.
_SYNONYMS = {
    **dict.fromkeys(("linear", "classifier", "head", "output"), "fc"),
    **dict.fromkeys(("shortcut", "skip"), "downsample"),
}
_COUNTER = "num_batches_tracked"  # batch norm's, which older files lack and no evaluation reads
_SHOWN = 4  # of the names in a message


@dataclass(frozen=True)
class Fit:
    """Weights under a model's names.

    Args:
        tensors: By the model's names, in its shapes and types.
        renamed: The file's name of each tensor that has another one there, by the model's.
        kept: Names that the file lacks and that stay the model's own: counters of batch norm.
    """

    tensors: dict[str, Tensor]
    renamed: dict[str, str]
    kept: tuple[str, ...]


def load_weights(path: str | os.PathLike[str], model: nn.Module) -> Fit:
    """Give a model the weights in a file, all of them or none; see :func:`read_weights` and :func:`fit`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no weights, or not those of this model, which is left as it was then.
    """
    state = read_weights(path)
    try:
        found = fit(state, model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    model.load_state_dict(found.tensors, strict=False)
    return found


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state_dict in a file of safetensors, of ``torch.save`` or of :func:`sparsecycle.save`, or in a run's folder.

    Its tensors are on the CPU. A checkpoint that has it under a usual key, such as ``state_dict``, is looked into.
    Nothing in the file is ever executed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of neither kind or not whole, or holds anything but tensors by name.
    """
    path = file_in(path)
    with open(path, "rb") as file:
        # The length of a header that is JSON, then the header.
        is_safetensors = file.read(9)[8:] == b"{"
    content = _read_safetensors(path) if is_safetensors else _read_pickle(path)
    while isinstance(content, dict) and (key := next((k for k in _STATES if isinstance(content.get(k), dict)), None)):
        content = content.pop(key)  # taken out, since a pickled dict may hold itself
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; allowed is a state_dict: tensors by name")
    if not content:
        raise ValueError(f"{path} holds no tensors")
    for name, tensor in content.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: {name!r} is not a name; a state_dict holds dense tensors by name")
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            kind = tensor.layout if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{path}: {name!r} is of type {kind}; a state_dict holds dense tensors by name")
    return {name: tensor.detach() for name, tensor in content.items()}


def fit(state: Mapping[str, Tensor], model: nn.Module) -> Fit:
    """A state_dict under a model's names.

    Names may differ by what wrappers and a network around it put before them (``module.``, ``backbone.``), and by what
    the output layer (``fc``, ``linear``, ``classifier``, ``head``, ``output``) and a block's projection
    (``downsample``, ``shortcut``, ``skip``) are called. Where they differ by more, the tensors are taken in their
    order, if there they have the same shapes and the same last parts of their names.

    Args:
        state: Tensors by name.
        model: The network, which is not changed.

    Raises:
        ValueError: If a tensor is missing, left over, of another shape or kind, or holds NaN or infinity.
    """
    own = model.state_dict()
    names = _paired(own, state)
    if unfit := [(mine, its) for mine, its in names.items() if own[mine].shape != state[its].shape]:
        raise ValueError(_other_shapes(unfit, own, state))
    return Fit(
        {mine: _converted(its, state[its], own[mine]) for mine, its in names.items()},
        {mine: its for mine, its in names.items() if mine != its},
        tuple(name for name in own if name not in names),
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            kind = (file.metadata() or {}).get("kind")
            if kind == KIND:
                return read_state(path)
            if kind is not None:
                raise ValueError(f"{path} is a {kind} of sparsecycle; allowed is a state_dict: tensors by name")
            # Cloned, since what is read may lie in the file itself, which may be replaced or deleted.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with open(path, "rb") as file:  # by its name, torch would take it for another format
            return torch.load(file, map_location="cpu", weights_only=True)
    # A pickle is a program: a broken one may fail in any way its instructions can.
    except Exception as error:
        if asked := re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", str(error)):
            raise ValueError(
                f"{path} holds a pickled {asked[1]}, and only tensors are read: make a state_dict of it where you "
                "trust the file, with torch.save(model.state_dict(), 'weights.pt')"
            ) from error
        raise ValueError(f"{path} is not a whole file of safetensors or torch.save") from error


def _paired(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """The state's name of every tensor of the model that it has, by the model's."""
    failures = []
    for simplify in (_as_it_is, _unwrapped, _synonymous):
        mine, theirs = simplify(own), simplify(state)
        if len(mine) < len(own) or len(theirs) < len(state):
            continue  # two names became one
        lacking = [its for name, its in mine.items() if name not in theirs and not name.endswith(_COUNTER)]
        left_over = [its for name, its in theirs.items() if name not in mine and not name.endswith(_COUNTER)]
        if not lacking and not left_over:
            return {mine[name]: theirs[name] for name in mine if name in theirs}
        failures.append((lacking, left_over))
    first, second = ([name for name in tensors if not name.endswith(_COUNTER)] for tensors in (own, state))
    if [_kind(name, own) for name in first] == [_kind(name, state) for name in second]:
        return dict(zip(first, second, strict=True))
    raise ValueError(_other_names(*min(failures, key=lambda names: sum(map(len, names)))))


def _as_it_is(names: Iterable[str]) -> dict[str, str]:
    return {name: name for name in names}


def _unwrapped(names: Iterable[str], called: Callable[[str], str] = str) -> dict[str, str]:
    """The names by what is left of them without wrappers and without what all of them begin with."""
    short = {}
    paths = [name.split(".")[:-1] for name in names]
    common = sum(1 for _ in takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False)))
    for name in names:
        *path, leaf = name.split(".")[common:]
        path = [called(part) for part in path if part not in _WRAPPERS]
        while path and path[0] in _HOLDERS:
            del path[0]
        short[".".join([*path, leaf])] = name
    return short


def _synonymous(names: Iterable[str]) -> dict[str, str]:
    return _unwrapped(names, lambda part: _SYNONYMS.get(part, part))


def _kind(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, tuple[int, ...]]:
    return name.rpartition(".")[2], tuple(tensors[name].shape)


def _converted(name: str, tensor: Tensor, own: Tensor) -> Tensor:
    if tensor.is_floating_point() != own.is_floating_point():
        raise ValueError(f"{name} is of {tensor.dtype}, and the model's is of {own.dtype}")
    converted = tensor.to(own.dtype)
    if not converted.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity as {own.dtype}")
    return converted


def _other_shapes(unfit: list[tuple[str, str]], own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    listed = [f"{its} is {tuple(state[its].shape)}, the model's {mine} {tuple(own[mine].shape)}" for mine, its in unfit]
    output = list(own)[-1].rpartition(".")[0]
    theirs, ours = state[unfit[0][1]].shape, own[unfit[0][0]].shape
    if (
        all(mine.rpartition(".")[0] == output for mine, _ in unfit)
        and len(theirs) == len(ours)
        and theirs[1:] == ours[1:]
    ):
        return f"the output layer is one for {theirs[0]} classes, not for {ours[0]}: {_few(listed)}"
    return f"{len(unfit)} of the model's tensors have another shape: {_few(listed)}"


def _other_names(lacking: list[str], left_over: list[str]) -> str:
    reasons = []
    if lacking:
        reasons.append(f"{len(lacking)} of the model's tensors are missing: {_few(lacking)}")
    if left_over:
        reasons.append(f"{len(left_over)} are left over: {_few(left_over)}")
    hint = nearest(lacking[0], left_over, cutoff=0.7) if lacking else ""
    return f"these are not the weights of this model; {'; '.join(reasons)}{hint}"


def _few(texts: list[str]) -> str:
    return ", ".join([*texts[:_SHOWN], *(["..."] if len(texts) > _SHOWN else [])])
