"""Bytes by name in a safetensors file: written in one piece, read one at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from sparsecycle.files.broken import demand

__all__ = ["Parts", "join"]


def join(parts: Mapping[str, bytes], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of these parts. The library's own writer has the metadata in another order every time."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, data in parts.items():
        begin, end = end, end + len(data)
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # where the tensors begin
    return b"".join([len(text).to_bytes(8, "little"), text, *parts.values()])


class Parts:
    """Reads a file of parts. To be used in a ``with`` statement.

    Whether it is sound is left to the library; parts are read here, since it would map the whole file and copy twice.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy") as sound:
                self.metadata: dict[str, str] = sound.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
        self._file = open(path, "rb")  # noqa: SIM115 - closed at the end of the with statement
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            length = int.from_bytes(self._file.read(8), "little")
            header = json.loads(self._file.read(min(length, self._size)))
        except ValueError as error:
            self._file.close()
            raise ValueError(f"{path} was changed while it was read") from error
        self._begin = 8 + length
        self._header = {name: entry for name, entry in header.items() if name != "__metadata__"}

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def names(self) -> set[str]:
        """The parts' names."""
        return set(self._header)

    def read(self, name: str) -> NDArray[np.uint8]:
        """A part's bytes.

        Raises:
            Broken: If it is not there, or is no sequence of bytes.
        """
        demand(name in self._header, f"{name} is missing")
        entry = self._header[name]
        demand(entry["dtype"] == "U8" and len(entry["shape"]) == 1, f"{name} is no sequence of bytes")
        begin, end = entry["data_offsets"]
        demand(0 <= begin <= end <= self._size - self._begin, f"{name} is not in the file")
        self._file.seek(self._begin + begin)
        data = np.fromfile(self._file, np.uint8, end - begin)
        demand(len(data) == end - begin, f"{name} is cut off")
        return data
