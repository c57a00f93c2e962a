"""What was chosen for networks on this machine, kept between programs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from sparsecycle.files.container import write_whole
from sparsecycle.native import core
from sparsecycle.runtime.describe import describe
from sparsecycle.runtime.graph import Graph
from sparsecycle.runtime.quantize import Quantized
from sparsecycle.runtime.tuning import Tuned

__all__ = ["find", "folder", "keep", "key"]


def folder() -> Path:
    """Where choices are kept: ``SPARSECYCLE_CACHE``, or ``sparsecycle`` in the user's folder for caches."""
    own = os.environ.get("SPARSECYCLE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsecycle"


def key(graphs: Sequence[Graph], threads: int, values: str, quantized: Sequence[Quantized | None]) -> str:
    """A name for these networks, compiled so on this machine; it changes with every weight that becomes zero or not."""
    native = core()
    assert native is not None
    sha = hashlib.sha256()
    for part in (native.isa(), _processor(), str(native.forms()), str(native.int8_forms()), str(threads), values):
        sha.update(f"{part}\0".encode())
    for graph in graphs:
        content, tensors = describe(graph)
        sha.update(json.dumps(content).encode())
        for tensor in tensors:
            sha.update((tensor != 0).numpy().data)
    for steps in quantized:
        sha.update(str(steps and sorted(steps.steps)).encode())
    return sha.hexdigest()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line
    return platform.processor() or platform.machine()


def find(name: str) -> list[Tuned] | None:
    """What was chosen, or None if that is not known."""
    try:
        return [Tuned.from_plain(plain) for plain in json.loads((folder() / f"{name}.json").read_bytes())]
    except (OSError, ValueError, TypeError, KeyError):  # not there, or not ours
        return None


def keep(name: str, tuned: Sequence[Tuned]) -> None:
    """Keep what was chosen; where that cannot be written, it is chosen again the next time."""
    with contextlib.suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        write_whole(folder() / f"{name}.json", json.dumps([one.plain() for one in tuned]).encode())
