"""What pruning costs a trained network, and what it saves on the disk: published weights, pruned in a few epochs.

ResNet-20 on CIFAR-10 (resnet20-12fca82f.th of akamaster/pytorch_resnet_cifar10, in $SPARSECYCLE_DATA/weights) is pruned
by magnitude, all layers together: at once and not trained, at once and then trained, and on the one-cycle schedule.
Every network goes through a packed file of each kind of values, and what is read back is tested.

    python -m benchmarks.pretrained [--sparsities 0.8 0.9] [--epochs 3] [--lr 0.02] [--values fp32 bf16 fp16 int8]
        [--runs DIR] [--out DIR]

Run it from the repository's root. What is trained already in DIR is not trained again, and an interrupted training goes
on. Writes results.json and results.md to DIR.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from benchmarks.accuracy_over_time import MEAN, STD
from torch import nn

from sparsecycle.files.container import digest, write_whole
from sparsecycle.files.narrow import Values
from sparsecycle.files.packed import load, save
from sparsecycle.files.weights import load_weights
from sparsecycle.lab import data as datasets
from sparsecycle.lab.bench.report import machine
from sparsecycle.lab.bench.stored import normalised, read
from sparsecycle.lab.bench.tables import table
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import build
from sparsecycle.lab.options import DEFAULTS
from sparsecycle.lab.running import run
from sparsecycle.methods import magnitude

MODEL = "resnet-20-a"
FILE = "resnet20-12fca82f.th"
BATCH = 100  # images in a forward pass


def experiments(weights: Path, sparsity: float, epochs: int, lr: float) -> list[Experiment]:
    """One-shot pruning before the first step, and one-cycle pruning."""
    _, pruning, recipe = DEFAULTS["cifar10"]
    recipe = replace(recipe, epochs=epochs, lr=lr)
    one_shot = Experiment(
        data="cifar10",
        model=MODEL,
        method="one-shot",
        sparsity=sparsity,
        scope="global",
        at=0.0,
        init=str(weights),
        mean=MEAN,
        std=STD,
        recipe=recipe,
    )
    return [one_shot, replace(one_shot, method="one-cycle", at=None, end=pruning.end)]


def pruned(model: nn.Module, sparsity: float) -> nn.Module:
    """A copy without the weights of the smallest magnitude, not trained."""
    model = copy.deepcopy(model)
    magnitude(model, torch.optim.SGD(model.parameters(), lr=0.0), sparsity, total_steps=1).remove()
    return model


def accuracy_on(images: datasets.Dataset) -> Callable[[nn.Module], float]:
    """What tells a network's share of test images that are right, and tests equal ones once."""
    known: dict[str, float] = {}

    def accuracy(model: nn.Module) -> float:
        key = digest(model.state_dict())
        if key not in known:
            parts = zip(images.test.images.split(BATCH), images.test.labels.split(BATCH), strict=True)
            model.eval()
            with torch.inference_mode():
                right = sum(int((model(normalised(images, x)).argmax(1) == y).sum()) for x, y in parts)
            known[key] = right / len(images.test)
        return known[key]

    return accuracy


def files(
    model: nn.Module, values: Sequence[Values], accuracy: Callable[[nn.Module], float]
) -> dict[str, dict[str, float]]:
    """For each kind of values the packed file's bytes, and the accuracy of the network that is read from it."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in values:
            path = Path(folder) / f"{kind}.safetensors"
            save(model, path, kind)
            found[kind] = {"bytes": path.stat().st_size, "accuracy": accuracy(load(path, copy.deepcopy(model)))}
    return found


def state_dict_bytes(model: nn.Module) -> int:
    """What ``torch.save(model.state_dict())`` writes."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return len(buffer.getvalue())


def sparsity_of(model: nn.Module) -> float:
    """Share of the convolution and linear weights that are zero."""
    weights = [its.detach() for its in model.parameters() if its.dim() > 1]
    return 1 - sum(int(its.count_nonzero()) for its in weights) / sum(its.numel() for its in weights)


def report(results: Mapping[str, Any]) -> str:
    """A table of the trainings, and one of the files."""
    trained, stored = [], []
    for its in results["networks"]:
        minutes = f"{its['seconds'] / 60:.1f}" if its["epochs"] else "-"
        shares = (f"{100 * its[key]:.2f}" for key in ("sparsity", "before", "after"))
        trained.append([its["name"], str(its["epochs"]), minutes, *shares])
        for kind, file in its["files"].items():
            share = f"{100 * file['bytes'] / results['state_dict']:.1f}"
            stored.append([its["name"], kind, f"{file['bytes']:,}", share, f"{100 * file['accuracy']:.2f}"])
    head = ["network", "epochs", "minutes", "zeros, %", "accuracy before, %", "after, %"]
    return "\n".join(
        [
            "# A trained ResNet-20, pruned",
            "",
            table(head, trained),
            "",
            f"Files, beside the dense state_dict of {results['state_dict']:,} bytes:",
            "",
            table(["network", "values", "bytes", "of the dense one, %", "accuracy, %"], stored),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.02, help="the first one, which falls to 0")
    parser.add_argument("--values", nargs="+", default=list(get_args(Values)), choices=get_args(Values))
    parser.add_argument("--runs", type=Path, default=Path("runs/pretrained"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained"), metavar="DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    weights = datasets.data_root() / "weights" / FILE
    images = datasets.load("cifar10").normalised_by(MEAN, STD)
    dense = build(MODEL, images.shape, len(images.classes)).eval()
    load_weights(weights, dense)
    accuracy = accuracy_on(images)
    networks: list[dict[str, Any]] = []

    def add(name: str, model: nn.Module, epochs: int = 0, seconds: float = 0.0) -> None:
        its: dict[str, Any] = {"name": name, "epochs": epochs, "seconds": seconds, "sparsity": sparsity_of(model)}
        its |= {"before": accuracy(dense), "after": accuracy(model), "files": files(model, arguments.values, accuracy)}
        networks.append(its)
        print(f"{name}: {100 * its['after']:.2f} %", flush=True)

    add("published", dense)
    for sparsity in arguments.sparsities:
        at_once = pruned(dense, sparsity)
        add(f"{100 * sparsity:.4g} %, one-shot", at_once)
        for experiment in experiments(weights, sparsity, arguments.epochs, arguments.lr):
            result = run(experiment, arguments.runs)
            name = f"{100 * sparsity:.4g} %, {experiment.method}, trained"
            add(name, read(result.path).model, result.epochs, result.seconds)
    results = {"machine": machine(), "weights": FILE, "state_dict": state_dict_bytes(dense), "networks": networks}
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out / "results.json", json.dumps(results, indent=1).encode())
    write_whole(arguments.out / "results.md", report(results).encode())
    print(report(results))


if __name__ == "__main__":
    main()
