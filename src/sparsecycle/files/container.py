"""Tensors and plain values in one safetensors file, written whole or not at all, checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["digest", "read", "write", "write_whole"]

_VERSION = "1"


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256, in 64 hexadecimal digits, of the tensors' names, types, shapes and bits, and of ``text``."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def write(path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write a file that :func:`read` reads back, in one piece.

    Args:
        path: Where; the folder must be there.
        kind: What the file is, in words; ``read`` asks for the same.
        tensors: Tensors by name.
        content: Plain JSON values, kept beside the tensors.
    """
    # safetensors takes neither shared storage (tied weights) nor gaps.
    lying = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    text = json.dumps(content, allow_nan=False)
    metadata = {"format": "pt", "kind": kind, "version": _VERSION, "content": text, "digest": digest(lying, text)}
    write_whole(path, save(lying, metadata))


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the plain values of a file of this kind. Nothing in the file is ever executed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not whole, not of this kind or version, or not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned, since what is read may lie in the file itself, which may be replaced or deleted.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    if metadata.get("kind") != kind:
        raise ValueError(f"{path} is not a {kind} of sparsecycle, but {metadata.get('kind', 'some other file')!r}")
    if metadata.get("version") != _VERSION:
        raise ValueError(f"{path} has format version {metadata.get('version')}; this program reads {_VERSION}")
    if metadata.get("digest") != digest(tensors, metadata.get("content", "")):
        raise ValueError(f"{path} was changed after it was written: its digest does not fit its content")
    return tensors, json.loads(metadata["content"])


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that whoever reads it, after a crash too, finds the old one or the new one."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    # The new name is on the disk when the folder is; where folders cannot be opened there is no such call.
    with contextlib.suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
