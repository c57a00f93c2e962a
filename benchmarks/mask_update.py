"""What a mask update costs in time and memory: the networks that docs/performance.md speaks of.

`sparsecycle bench --update --no-steps` for each of them. VGG-16 is that of ImageNet: torch's own pruning of it takes
15 times the weights' 528 MiB for a while.

    python -m benchmarks.mask_update [--models NAME ...] [--threads 1 2] [--seconds 60] [--json FILE]

Run it from the repository's root. Ends with status 1 if an update of a network of more than ten million weights misses
by a factor of two what the page claims: 3 reads of the weights, 300 times faster than global_unstructured, and extra
memory of 5 % of the weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sparsecycle.lab.bench.report import bench_update, write
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.bench.update import UPDATE
from sparsecycle.lab.models import Shape
from sparsecycle.lab.models.initialisation import kaiming_convolutions

READS, SPEEDUP, MEMORY, SLACK = 3.0, 300.0, 0.05, 2.0
SUBJECTS = {
    "lenet-300-100": Subject("lenet-300-100", (1, 28, 28), 10, 0.9),
    "resnet-18": Subject("resnet-18", (3, 32, 32), 10, 0.9),
    "vgg-16": Subject("benchmarks.mask_update:vgg_16", (3, 224, 224), 1000, 0.9),
}


def vgg_16(shape: Shape, classes: int) -> nn.Module:
    """The VGG-16 of ImageNet (Simonyan & Zisserman, arXiv 1409.1556, table 1, D): 138,344,128 prunable weights.

    With torch's own initial weights the largest layer would lose all of them at 90 %, which no training leads to.
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    for outputs, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            channels = outputs
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    features = channels * (height // 32) * (width // 32)
    for inputs, outputs in ((features, 4096), (4096, 4096)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout()]
    return kaiming_convolutions(nn.Sequential(*layers, nn.Linear(4096, classes)))


def misses(found: Mapping[str, Any]) -> list[str]:
    """What is missed by far."""
    if found["weights"] < 10_000_000:
        return []
    missed = []
    for update in found["updates"]:
        its = update["contestants"][UPDATE]
        if its["reads"] > SLACK * READS or its["times faster than torch"] < SPEEDUP / SLACK:
            missed.append(
                f"{found['model']}, threads {update['threads']}: {its['reads']:.1f} reads, "
                f"{its['times faster than torch']:.0f} times faster"
            )
    extra = found["extra memory"].get(UPDATE, 0) / found["bytes"]
    if extra > SLACK * MEMORY:
        missed.append(f"{found['model']}: extra memory {extra:.1%}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=60, help="for each model and number of threads, about")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = [
        bench_update(SUBJECTS[name], threads=arguments.threads, seconds=arguments.seconds) for name in arguments.models
    ]
    write(arguments.json, {"networks": found})
    missed = [line for its in found for line in misses(its)]
    if missed:
        sys.exit("\n".join(["", "missed by far:", *missed]))


if __name__ == "__main__":
    main()
