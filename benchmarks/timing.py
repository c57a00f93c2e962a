"""Contestants timed in turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")


@dataclass(frozen=True)
class Contestant:
    """``run`` is timed; ``prepare`` comes before it, untimed."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Times:
    """Seconds of every contestant in every round, and whether they were undisturbed."""

    seconds: Mapping[str, Sequence[float]]
    clean: Mapping[str, Sequence[bool]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name][i] for i in self._rounds(name))

    def ratios(self, name: str, to: str) -> list[float]:
        """How many times longer ``name`` took than ``to``, round by round."""
        return [self.seconds[name][i] / self.seconds[to][i] for i in self._rounds(name, to)]

    def ratio(self, name: str, to: str) -> float:
        return statistics.median(self.ratios(name, to))

    def quality(self) -> str:
        samples = [clean for row in self.clean.values() for clean in row]
        return f"{len(next(iter(self.clean.values())))} rounds, {sum(samples) / len(samples):.0%} of the samples clean"

    def _rounds(self, *names: str) -> list[int]:
        """Those in which all these are clean, or all rounds where fewer than a tenth are."""
        every = range(len(self.seconds[names[0]]))
        clean = [i for i in every if all(self.clean[name][i] for name in names)]
        return clean if 10 * len(clean) >= len(every) else list(every)


def race(contestants: Mapping[str, Contestant], rounds: int, warm_up: int = 1) -> Times:
    """Every contestant once a round, each round begun by another one.

    With one thread the clock is the processor time, which others on the machine do not lengthen. A sample is clean
    if this process's threads waited for a processor for less than 2 % of it.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    clean: dict[str, list[bool]] = {name: [] for name in names}
    for i in range(-warm_up, rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            contestants[name].prepare()
            waited, begin = _waited(), clock()
            contestants[name].run()
            elapsed = clock() - begin
            if i >= 0:
                seconds[name].append(elapsed)
                clean[name].append(_waited() - waited < 0.02 * elapsed)
    return Times(seconds, clean)


def _waited() -> float:
    """Seconds that this process's threads were ready to run but did not; 0 where the system does not say."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except OSError:  # the thread has ended
            continue
    return total / 1e9


def machine() -> dict[str, Any]:
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        fields = {key.strip(): value.strip() for key, _, value in lines if key.strip()}
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "family, model": f"{fields.get('cpu family', '?')}, {fields.get('model', '?')}",
        "features": [feature for feature in FEATURES if feature in flags],
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in lines
    )


def write(path: Path | None, results: Mapping[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n")
