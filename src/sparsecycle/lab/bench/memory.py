"""How much memory a mask update takes beside the weights, each way to do it in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.bench.update import CONTESTANTS, KTHVALUE, RUN, STOCK, TOPK, TORCH, UPDATE, Network

__all__ = ["LOOKED_AT", "extra_memory", "forget_the_highest", "is_known", "resident"]

LOOKED_AT = (RUN, UPDATE, TORCH, TOPK, KTHVALUE, STOCK)
"""The contestants whose memory is of interest; the update's is that of the first update and the next one."""

_PROCESS = Path("/proc/self")


def is_known() -> bool:
    """Whether this system says how much memory a process took at most since a moment of our choice."""
    try:
        forget_the_highest()
    except OSError:
        return False
    return True


def extra_memory(subject: Subject, contestant: str, threads: int) -> int:
    """Bytes that a contestant takes at most beside the weights, and the masks that it holds all the time.

    The rise of the resident set's high-water mark over two updates, of which the first one knows no threshold.
    """
    command = [sys.executable, "-m", "sparsecycle.lab.bench.memory", json.dumps([asdict(subject), contestant, threads])]
    # glibc then gives every larger block back as soon as it is free: none is left over that hides a rise.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return int(done.stdout)


def measure(subject: Subject, contestant: str) -> int:
    """In this process; see :func:`extra_memory`."""
    enter = CONTESTANTS[contestant]
    warm_up = enter(Network(Subject("lenet-300-100", (1, 28, 28), 10, subject.sparsity)))
    for _ in range(2):  # loads what is loaded at first use
        warm_up.prepare()
        warm_up.run()
    entrant = enter(Network(subject))
    entrant.prepare()
    forget_the_highest()
    before = resident("VmRSS")
    entrant.run()
    entrant.prepare()
    entrant.run()
    return resident("VmHWM") - before


def forget_the_highest() -> None:
    """Let the high-water mark fall to what is resident now."""
    (_PROCESS / "clear_refs").write_text("5")


def resident(field: str) -> int:
    """Bytes of this process that are resident now, ``VmRSS``, or were at most, ``VmHWM``."""
    lines = (_PROCESS / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def main(arguments: Sequence[str]) -> None:
    """Print what :func:`measure` finds."""
    subject, contestant, threads = json.loads(arguments[0])
    torch.set_num_threads(threads)
    print(measure(Subject(**{**subject, "shape": tuple(subject["shape"])}), contestant))


if __name__ == "__main__":
    main(sys.argv[1:])
