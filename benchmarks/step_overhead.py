"""What pruning adds to a training step at batch 128: the networks that docs/performance.md speaks of.

The second half of `sparsecycle bench --update` for each of them. The bars are about a mask at every step; --short
leaves the other loops away, so that the time goes where they are.

    python -m benchmarks.step_overhead [--models NAME ...] [--threads 1] [--seconds 120] [--short] [--json FILE]

Run it from the repository's root. Ends with status 1 if a mask at every step misses by a factor of two what the page
claims: 1 % on ResNet-20, 3 % on LeNet-300-100.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sparsecycle.lab.bench.report import bench_steps, write
from sparsecycle.lab.bench.steps import EVERY_STEP, METHODS
from sparsecycle.lab.bench.subject import Subject

BARS, SLACK = {"resnet-20": 0.01, "lenet-300-100": 0.03}, 2.0
SUBJECTS = {
    "lenet-300-100": Subject("lenet-300-100", (1, 28, 28), 10, 0.9),
    "resnet-20": Subject("resnet-20", (3, 32, 32), 10, 0.9),
}


def misses(found: dict[str, Any]) -> list[str]:
    """What is missed by far."""
    every_step = [(its["threads"], its["loops"][EVERY_STEP]["ratio"] - 1) for its in found["steps"]]
    bar = BARS[found["model"]]
    return [f"{found['model']}, threads {n}: {over:+.1%}" for n, over in every_step if over > SLACK * bar]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=120, help="for each model and number of threads, about")
    parser.add_argument("--short", action="store_true", help="only the bare loops and a mask at every step")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    methods = [EVERY_STEP] if arguments.short else list(METHODS)
    found = [
        bench_steps(SUBJECTS[name], threads=arguments.threads, seconds=arguments.seconds, methods=methods)
        for name in arguments.models
    ]
    write(arguments.json, {"networks": found})
    missed = [line for its in found for line in misses(its)]
    if missed:
        sys.exit("\n".join(["", "missed by far:", *missed]))


if __name__ == "__main__":
    main()
