"""A run is a folder named by its configuration's digest; what is in it is either whole or not there.

``config.json``        the resolved configuration; ``digest`` of it ends the folder's name
``init.json``          the file of weights that the run began with, and what they are called there
``environment.json``   versions and machine of every start
``metrics.jsonl``      one line an epoch
``checkpoint-EPOCH-DIGEST.pt``  the state after that many epochs, while the run is unfinished
``model.safetensors``  the network, packed (:func:`sparsecycle.save`), bit for bit
``report.json``, ``report.txt``  how sparse it is
``result.json``        written last: a run with it is finished
``failed.json``        why the last attempt ended early
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sparsecycle.files.container import write_whole

__all__ = ["BrokenFile", "RunFolder", "RunInUse", "digest", "plain"]

#: Raised when the same configuration would come to mean another training; old runs then are other runs.
FORMAT = 1

_CHECKPOINT = re.compile(r"checkpoint-(\d+)-([0-9a-f]{16})\.pt")


class BrokenFile(ValueError):
    """A file of a run does not hold what was written."""


class RunInUse(OSError):
    """Another process is at this run."""


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as dicts, lists and strings; a float field's whole number as a float."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {}
        for field in dataclasses.fields(value):
            entry = plain(getattr(value, field.name))
            if isinstance(entry, int) and not isinstance(entry, bool) and "float" in str(field.type):
                entry = float(entry)  # 1 and 1.0 are one configuration.
            entries[field.name] = entry
        return entries
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def digest(config: Mapping[str, Any]) -> str:
    """SHA-256 (64 hexadecimal digits) of the configuration's canonical JSON: it ignores the keys' order.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class RunFolder:
    """The folder of one configuration under ``runs``; it is made when it is first locked.

    Args:
        runs: where all runs lie.
        label: readable beginning of the folder's name.
        config: plain values (see :func:`plain`).
    """

    def __init__(self, runs: Path | str, label: str, config: Mapping[str, Any]) -> None:
        self.config = {"format": FORMAT, **plain(config)}
        self.digest = digest(self.config)
        name = re.sub(r"[^A-Za-z0-9._+-]+", "_", label)
        self.path = Path(runs) / f"{name}-{self.digest[:8]}"

    @property
    def finished(self) -> bool:
        """Whether the run has its result."""
        return (self.path / "result.json").exists()

    @contextlib.contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Keep other processes out; the kernel lets go of the lock if this process is killed.

        Args:
            wait: Wait for whoever holds it, where several runs need what one of them makes.

        Raises:
            RunInUse: another process (or another place in this one) holds it, and ``wait`` is false.
            BrokenFile: the folder holds another configuration.
        """
        import fcntl

        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise RunInUse(
                    f"{self.path}: process {holder} is at this run; wait for it, or end it and start again"
                ) from error
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            for leftover in self.path.glob(".*.tmp"):
                leftover.unlink()
            self._claim()
            yield

    def _claim(self) -> None:
        if not (self.path / "config.json").exists():
            self.write_json("config.json", self.config)
        elif (found := self.read_json("config.json")) != self.config:
            # Compared whole, since the folder's name holds 8 digits of 64 and a file can be edited.
            raise BrokenFile(
                f"{self.path / 'config.json'} holds the configuration {digest(found)[:8]}, the folder's name "
                f"says {self.digest[:8]}: it was changed; move the folder away to run it again"
            )

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file in one piece: whoever reads it, after a crash too, sees the old one or the new one."""
        write_whole(self.path / name, data)

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` (see :func:`plain`) as indented JSON, in one piece."""
        self.write_bytes(name, (json.dumps(plain(value), indent=2) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """A JSON file's content.

        Raises:
            BrokenFile: it is not JSON.
        """
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BrokenFile(f"{path} is not JSON ({error}); move the folder away to run it again") from error

    def add_start(self, environment: Mapping[str, Any]) -> None:
        """Note the versions and the machine of one more start, and forget the last failure."""
        name = "environment.json"
        before = self.read_json(name) if (self.path / name).exists() else []
        self.write_json(name, [*before, environment])
        (self.path / "failed.json").unlink(missing_ok=True)

    def add_metrics(self, entry: Mapping[str, Any]) -> None:
        """Append an epoch. A line cut short by a kill is mended by :meth:`set_metrics` at the next start."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(plain(entry)) + "\n")

    def set_metrics(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Replace all epochs."""
        self.write_bytes("metrics.jsonl", "".join(json.dumps(plain(e)) + "\n" for e in entries).encode())

    def save_checkpoint(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Write the state after ``epoch`` epochs, then remove the earlier ones.

        Its digest is in its name, because ``torch.load`` does not notice a changed bit.
        """
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        data = buffer.getvalue()
        name = f"checkpoint-{epoch:05d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
        self.write_bytes(name, data)
        self.drop_checkpoints(but=name)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The latest state, on the CPU; None where there is none.

        Raises:
            BrokenFile: the file was cut short or changed.
        """
        found = sorted(path for path in self.path.glob("checkpoint-*.pt") if _CHECKPOINT.fullmatch(path.name))
        if not found:
            return None
        path = found[-1]
        data = path.read_bytes()
        expected = path.stem.rpartition("-")[2]
        actual = hashlib.sha256(data).hexdigest()[:16]
        if actual != expected:
            raise BrokenFile(
                f"{path} is damaged: its digest is {actual}, its name says {expected}; "
                "delete it to train this run from its beginning"
            )
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return state

    def drop_checkpoints(self, but: str = "") -> None:
        """Remove every checkpoint except ``but``."""
        for path in self.path.glob("checkpoint-*.pt"):
            if path.name != but and _CHECKPOINT.fullmatch(path.name):
                path.unlink()
