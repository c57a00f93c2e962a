"""What a sparse network gains when it runs: the runtime beside dense engines and DeepSparse, on seven networks.

The weights are random, pruned by magnitude; the first convolution, the classifier and depthwise convolutions stay
dense. All engines take turns in one run, each in a process of its own. Those that are not installed are left out:
`pip install onnx onnxruntime openvino` into this environment; DeepSparse 1.8.0 needs one of its own (Python 3.11,
"deepsparse==1.8.0" "numpy<2" "protobuf<4"), whose interpreter --deepsparse names.

    python -m benchmarks.inference [--networks NAME ...] [--batches 1 16 64] [--threads 1 2] [--out DIR]
        [--sparsities 0.8 0.9 0.95 0.98] [--scope uniform|global] [--values fp32 bf16 int8] [--seconds 60]
        [--isa avx2] [--deepsparse PYTHON] [--rival FILE.py:FUNCTION fp32|int8]

Run it from the repository's root. Results go into DIR as results.json and results.md; what is in results.json already
is not measured again, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsecycle.files.container import write_whole
from sparsecycle.lab.bench.inference import RIVALS, Entrant, Values, measure, ours
from sparsecycle.lab.bench.networks import pruned
from sparsecycle.lab.bench.report import machine
from sparsecycle.lab.bench.speedups import READING, speedups
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.bench.tables import of_threads
from sparsecycle.lab.models import Shape
from sparsecycle.lab.models.initialisation import kaiming_convolutions, kaiming_fan_in
from sparsecycle.lab.models.vgg import VGG

SUBJECTS = {
    "vgg-16": Subject("benchmarks.inference:vgg_16", (3, 32, 32), 10, 0.0),
    "resnet-18": Subject("resnet-18", (3, 32, 32), 10, 0.0),
    "resnet-20": Subject("resnet-20", (3, 32, 32), 10, 0.0),
    "resnet-50": Subject("resnet-50", (3, 224, 224), 1000, 0.0),
    "mobilenet-v2": Subject("mobilenet-v2", (3, 32, 32), 10, 0.0),
    "lenet-300-100": Subject("lenet-300-100", (1, 28, 28), 10, 0.0),
    "mlp": Subject("benchmarks.inference:mlp", (768, 1, 1), 10, 0.0),
}
CALIBRATION = 64  # images


def vgg_16(shape: Shape, classes: int) -> nn.Module:
    """VGG-16 with batch norm, five poolings and one linear layer: what most call VGG-16 for CIFAR."""
    return kaiming_convolutions(VGG(16, shape[0], nn.Linear(512, classes), bias=False, last_pool=True))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """Four hidden layers as wide as the input."""
    width = shape[0]
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(4):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return kaiming_fan_in(nn.Sequential(*layers, nn.Linear(width, classes)))


def entrants(
    networks: Sequence[str], values: Sequence[Values], python: str, rivals: Sequence[tuple[str, Values]]
) -> list[Entrant]:
    """Dense engines, the runtime, then whatever else runs sparse networks."""
    others = [Entrant("deepsparse", "deepsparse", python=python)] if python else []
    others += [Entrant(engine.rpartition(":")[2], engine, its) for engine, its in rivals]
    return [*RIVALS, *ours(networks, values), *(replace(its, network=name) for its, name in product(others, networks))]


def run(subject: Subject, batch: int, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    networks = {"dense": pruned(subject)}
    for sparsity in arguments.sparsities:
        networks[f"{100 * sparsity:.4g} %"] = pruned(replace(subject, sparsity=sparsity), arguments.scope)
    lots = torch.Generator().manual_seed(1)
    inputs, *calibration = (
        (torch.randn(batch, *subject.shape, generator=lots),) for _ in range(1 + max(1, CALIBRATION // batch))
    )
    found = measure(
        networks,
        entrants(list(networks), arguments.values, arguments.deepsparse, arguments.rival),
        inputs,
        calibration,
        threads=threads,
        seconds=arguments.seconds,
        isa=arguments.isa,
        say=lambda label: print(f"  {label}", flush=True),
    )
    return {"machine": machine(), "batch": batch, "threads": threads, **found}


def report(results: dict[str, Any]) -> str:
    lines = ["# Inference", "", READING]
    described = ""
    for key, found in results.items():
        its = ", ".join(f"{name}: {value}" for name, value in found["machine"].items())
        lines += ["", f"## {key}", ""]
        if its != described:
            lines += [its, ""]
            described = its
        if found["entrants"]:
            versions = dict.fromkeys(entrant["version"] for entrant in found["entrants"])
            undisturbed = f"{found['undisturbed']:.0%} of the samples undisturbed"
            lines += [f"{', '.join(versions)}; {found['rounds']} rounds, {undisturbed}", ""]
        lines.append(speedups(found, found["batch"]))
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9, 0.95, 0.98])
    parser.add_argument("--values", nargs="*", default=["fp32", "bf16", "int8"], choices=["fp32", "bf16", "int8"])
    parser.add_argument("--scope", default="uniform", choices=["uniform", "global"])
    parser.add_argument("--seconds", type=float, default=60, help="for each table, about")
    parser.add_argument("--isa", default="", choices=["", "avx2"], help="what engines that can be told so stay below")
    parser.add_argument("--deepsparse", default="", metavar="PYTHON", help="the interpreter that has DeepSparse")
    parser.add_argument(
        "--rival",
        nargs=2,
        action="append",
        default=[],
        metavar=("FILE.py:FUNCTION", "VALUES"),
        help="an engine of your own, see sparsecycle.lab.bench.engines, and what it computes with: fp32 or int8",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/inference"), metavar="DIR")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name, batch, threads in product(arguments.networks, arguments.batches, arguments.threads):
        key = f"{name}, {arguments.scope}, batch {batch}, {of_threads(threads)}"
        key += f", {arguments.isa}" if arguments.isa else ""
        if key in results:
            continue
        print(key, flush=True)
        results[key] = run(SUBJECTS[name], batch, threads, arguments)
        write_whole(file, json.dumps(results, indent=1).encode())
        write_whole(arguments.out / "results.md", report(results).encode())
        print(f"\n{speedups(results[key], batch)}\n", flush=True)


if __name__ == "__main__":
    main()
