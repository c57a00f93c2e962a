"""The folder of a search: what is trained and what is pruned, so that a killed search goes on.

Files are named by the round and by how many weights are kept: by those in training for a trained network, by those that
it leaves for a round's ticket. Nothing depends on the sparsity that is searched for but a last round that was
cut short, so searches for several sparsities share a folder and the rounds that they have in common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsecycle.files.container import read, write, write_whole
from sparsecycle.tickets.ticket import Ticket, read_ticket, write_ticket

__all__ = ["Pruned", "Store", "Trained"]

_TRAINED = "trained network"


@dataclass(frozen=True)
class Trained:
    """A network after a training: parameters and buffers by name, on the CPU, and how long it took."""

    weights: dict[str, Tensor]
    seconds: float


@dataclass(frozen=True)
class Pruned:
    """A round's outcome.

    Args:
        ticket: What it left.
        clipped: Whether it pruned less than its rate, because more would have missed the sparsity.
        seconds: What its trainings took, together.
    """

    ticket: Ticket
    clipped: bool
    seconds: float


@dataclass(frozen=True)
class Store:
    """A folder, or with ``path=None`` nothing that is remembered. It travels to other processes with a job."""

    path: Path | None

    @classmethod
    def open(cls, path: Path | str | None, settings: Mapping[str, Any]) -> Store:
        """The folder of a search with these settings, made where it is not there yet.

        Raises:
            ValueError: If the folder is of a search with other settings.
        """
        if path is None:
            return cls(None)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        file, mine = folder / "settings.json", json.loads(json.dumps(settings))
        if not file.exists():
            write_whole(file, (json.dumps(mine, indent=2) + "\n").encode())
        try:
            theirs = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from error
        differing = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
        if differing:
            listed = "; ".join(f"{key} is {theirs.get(key)} there and {mine.get(key)} here" for key in differing)
            raise ValueError(f"store={str(folder)!r} is of another search: {listed}")
        return cls(folder)

    def start(self) -> Trained | None:
        """The network that every round is rewound to, if it had to be trained."""
        return self._trained("start.safetensors")

    def add_start(self, trained: Trained) -> None:
        self._add_trained("start.safetensors", trained)

    def trained(self, index: int, kept: int, part: int) -> Trained | None:
        """The network that a round trained on a partition, if it is there."""
        return self._trained(f"trained-{index:03}-kept-{kept}-part-{part}.safetensors")

    def add_trained(self, index: int, kept: int, part: int, trained: Trained) -> None:
        self._add_trained(f"trained-{index:03}-kept-{kept}-part-{part}.safetensors", trained)

    def pruned(self, index: int) -> Pruned | None:
        """A round's outcome at its full rate, if it is there."""
        found = sorted(self.path.glob(f"round-{index:03}-kept-*[0-9].safetensors")) if self.path else []
        return _read_pruned(found[0], clipped=False) if found else None

    def clipped(self, index: int, kept: int) -> Pruned | None:
        """The outcome of a round that was cut short at so many weights, if it is there."""
        path = self.path and self.path / _round(index, kept, clipped=True)
        return _read_pruned(path, clipped=True) if path and path.exists() else None

    def add_pruned(self, index: int, pruned: Pruned) -> None:
        """Keep a round's ticket, and the networks that it came from no longer."""
        if self.path:
            name = _round(index, pruned.ticket.kept, pruned.clipped)
            write_ticket(self.path / name, pruned.ticket, seconds=pruned.seconds)
            for file in self.path.glob(f"trained-{index:03}-*.safetensors"):
                file.unlink(missing_ok=True)

    def _trained(self, name: str) -> Trained | None:
        try:
            tensors, content = read(self.path / name, _TRAINED) if self.path else ({}, {})
        except FileNotFoundError:
            return None
        # A file has the names in its own order.
        return Trained({n: tensors[n] for n in content["names"]}, content["seconds"]) if tensors else None

    def _add_trained(self, name: str, trained: Trained) -> None:
        if self.path:
            content = {"names": list(trained.weights), "seconds": trained.seconds}
            write(self.path / name, _TRAINED, trained.weights, content)


def _round(index: int, kept: int, clipped: bool) -> str:
    return f"round-{index:03}-kept-{kept}{'-clipped' if clipped else ''}.safetensors"


def _read_pruned(path: Path, clipped: bool) -> Pruned:
    ticket, beside = read_ticket(path)
    return Pruned(ticket, clipped, beside["seconds"])
