"""Is a sparse network the better choice? Accuracy over milliseconds, of sparse networks and of thin dense ones.

LeNet-300-100 on MNIST, dense, thin and pruned from scratch with the same recipe; ResNet-20 on CIFAR-10, pruned from
published weights (resnet20-12fca82f.th of akamaster/pytorch_resnet_cifar10, in $SPARSECYCLE_DATA/weights) within a few
epochs, beside thin ones that were trained from scratch. Then every network runs on the test set: the sparse ones in
the runtime, the dense ones in it, in ONNX Runtime and in OpenVINO, where these are installed; fp32 and int8.

    python -m benchmarks.accuracy_over_time [--data mnist cifar10] [--networks "90 %" "width 8"] [--epochs 5]
        [--thin-epochs 30] [--batch 1] [--values fp32 int8] [--seconds 60] [--train-only] [--runs DIR] [--out DIR]

Run it from the repository's root. What is trained already in DIR is not trained again, and an interrupted training goes
on. Writes accuracy_over_time.png, results.json and results.md to DIR.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from sparsecycle.files.container import write_whole
from sparsecycle.files.weights import load_weights
from sparsecycle.lab import data as datasets
from sparsecycle.lab.bench.inference import RIVALS, Entrant, Values, measure, ours
from sparsecycle.lab.bench.report import machine
from sparsecycle.lab.bench.stored import normalised, read
from sparsecycle.lab.bench.tables import table
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import Shape, build
from sparsecycle.lab.models.initialisation import kaiming_fan_in
from sparsecycle.lab.models.resnet import ResNet, resnet_20_a
from sparsecycle.lab.options import DEFAULTS
from sparsecycle.lab.panels import finish, panels, style
from sparsecycle.lab.running import run

HERE = "benchmarks.accuracy_over_time"
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images that the published ResNet was trained on
CALIBRATION = 512  # images
ENGINES = ("onnxruntime", "openvino")


def lenet(first: int, second: int, shape: Shape, classes: int) -> nn.Module:
    """A LeNet with so many hidden units."""
    layers = (nn.Linear(shape[0] * shape[1] * shape[2], first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(second, classes))


def resnet(width: int, shape: Shape, classes: int) -> nn.Module:
    """ResNet-20 with so many channels in its first stage, and zero-padding shortcuts."""
    return kaiming_fan_in(ResNet(shape[0], classes, (width, 2 * width, 4 * width), 3, "padding"))


def published(shape: Shape, classes: int) -> nn.Module:
    """The trained ResNet-20, made for images that are normalised with the mean and deviation of CIFAR-10 itself.

    Its first convolution and batch norm take up the difference, but for the zeros around the image.
    """
    model = resnet_20_a(shape, classes)
    load_weights(datasets.data_root() / "weights" / "resnet20-12fca82f.th", model)
    images = datasets.load("cifar10")
    mean, std = torch.tensor(images.mean), torch.tensor(images.std)
    with torch.no_grad():
        weight = model.conv1.weight / torch.tensor(STD).view(1, -1, 1, 1)
        model.bn1.running_mean -= weight.sum((2, 3)) @ (mean - torch.tensor(MEAN))
        model.conv1.weight.copy_(weight * std.view(1, -1, 1, 1))
    return model


lenet_150_50, lenet_75_25, lenet_38_13, lenet_19_7 = (
    partial(lenet, *hidden) for hidden in ((150, 50), (75, 25), (38, 13), (19, 7))
)
resnet_12, resnet_8, resnet_6, resnet_4 = (partial(resnet, width) for width in (12, 8, 6, 4))


def experiments(data: str, epochs: int, thin_epochs: int) -> dict[str, Experiment]:
    """What is trained, by name; the published network is not."""
    recipe = DEFAULTS[data][2]
    if data == "mnist":
        dense = {"300-100": "lenet-300-100"}
        dense |= {its: f"{HERE}:lenet_{its.replace('-', '_')}" for its in ("150-50", "75-25", "38-13", "19-7")}
        full, thin, pruning = dense["300-100"], recipe, recipe
    else:
        dense = {f"width {its}": f"{HERE}:resnet_{its}" for its in (12, 8, 6, 4)}
        full, thin = f"{HERE}:published", replace(recipe, epochs=thin_epochs)
        pruning = replace(recipe, epochs=epochs, lr=0.02)
    common = Experiment(data=data, method="dense", recipe=thin)
    sparse = replace(common, model=full, method="one-cycle", scope="global", recipe=pruning)
    return {
        **{f"{100 * sparsity:.4g} %": replace(sparse, sparsity=sparsity) for sparsity in SPARSITIES},
        **{name: replace(common, model=model) for name, model in dense.items()},
    }


def entrants(networks: Sequence[str], values: Sequence[Values]) -> list[Entrant]:
    """Every network in the runtime, the dense ones in other engines too."""
    dense = [name for name in networks if not name.endswith("%")]
    rivals = [its for its in RIVALS if its.engine in ENGINES and its.values in values]
    return [*(replace(its, network=name) for its in rivals for name in dense), *ours(networks, values)]


def time(data: str, networks: Mapping[str, nn.Module], arguments: argparse.Namespace) -> dict[str, Any]:
    """Race all networks on the test set."""
    batch, images = arguments.batch, datasets.load(data)
    count = len(images.test) // batch * batch
    test = normalised(images, images.test.images[:count])
    calibration = normalised(images, images.train.images[:CALIBRATION]).split(batch)
    found = measure(
        networks,
        entrants(list(networks), arguments.values),
        (test[:batch],),
        [(its,) for its in calibration if len(its) == batch],
        threads=1,
        seconds=arguments.seconds,
        test=(test, images.test.labels[:count]),
        say=lambda label: print(f"  {label}", flush=True),
    )
    weights = {name: sum(its.numel() for its in _matrices(model)) for name, model in networks.items()}
    kept = {name: sum(int(its.count_nonzero()) for its in _matrices(model)) for name, model in networks.items()}
    return {"machine": machine(), "batch": batch, "weights": weights, "kept": kept, **found}


def _matrices(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters() if parameter.dim() > 1]


def points(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fastest engine of every network with every kind of values."""
    fastest: dict[tuple[str, str], dict[str, Any]] = {}
    for its in sorted(found["entrants"], key=lambda its: its["milliseconds"], reverse=True):
        fastest[its["values"], its["network"]] = its
    return [fastest[key] for key in dict.fromkeys((its["values"], its["network"]) for its in found["entrants"])]


def report(results: Mapping[str, Any]) -> str:
    """A table for each data set."""
    head = ["network", "weights", "values", "engine", "ms an image", "accuracy, %"]
    lines = ["# Accuracy over time"]
    for data, found in results.items():
        rows = [
            [
                its["network"],
                f"{found['kept'][its['network']]:,}",
                its["values"],
                its["name"],
                f"{its['milliseconds'] / found['batch']:#.3g}",
                f"{100 * its['accuracy']:.2f}",
            ]
            for its in points(found)
        ]
        lines += ["", f"## {data}, batch {found['batch']}, 1 thread", "", table(head, rows)]
        lines += ["", *(f"Left out: {label}: {reason}." for label, reason in found["left out"].items())]
    return "\n".join([*lines, ""])


def picture(results: Mapping[str, Any]) -> Figure:
    """A panel for each data set: what a millisecond buys."""
    figure, axes = panels("Accuracy over time", list(results), share_y=False)
    for ax, found in zip(axes, results.values(), strict=True):
        kinds: dict[str, list[dict[str, Any]]] = {}
        for its in points(found):
            kinds.setdefault(f"{'sparse' if its['network'].endswith('%') else 'dense'}, {its['values']}", []).append(
                its
            )
        for place, (kind, line) in enumerate(sorted(kinds.items())):
            line.sort(key=lambda its: found["kept"][its["network"]])
            colour, marker = style(place)
            x = [its["milliseconds"] / found["batch"] for its in line]
            y = [100 * its["accuracy"] for its in line]
            ax.plot(x, y, color=colour, marker=marker, label=kind)
            for its, *where in zip(line, x, y, strict=True):
                ax.annotate(
                    its["network"], where, xytext=(4, -10), textcoords="offset points", fontsize=8, color=colour
                )
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("{x:g}")
        ax.legend(frameon=False, loc="lower right")
    finish(axes, "ms an image, one thread", "test accuracy, %")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["mnist", "cifar10"], choices=["mnist", "cifar10"])
    parser.add_argument("--networks", nargs="+", default=[], metavar="NAME", help="only these of the table")
    parser.add_argument("--epochs", type=int, default=5, help="in which the published ResNet-20 is pruned")
    parser.add_argument("--thin-epochs", type=int, default=30, help="in which thin ResNets are trained")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--values", nargs="+", default=["fp32", "int8"], choices=["fp32", "int8"])
    parser.add_argument("--seconds", type=float, default=60, help="for each data set, about")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy_over_time"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy_over_time"), metavar="DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for data in arguments.data:
        trained = {}
        for name, experiment in experiments(data, arguments.epochs, arguments.thin_epochs).items():
            if arguments.networks and name not in arguments.networks:
                continue
            trained[name] = run(experiment, arguments.runs)
            print(f"{data}, {name}: {100 * trained[name].accuracy:.2f} %", flush=True)
        if arguments.train_only:
            continue
        networks = {name: read(its.path).model for name, its in trained.items()}
        if data == "cifar10":
            networks = {"width 16": build(f"{HERE}:published", (3, 32, 32), 10).eval(), **networks}
        results[data] = time(data, networks, arguments)
    if results:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.out / "results.json", json.dumps(results, indent=1).encode())
        write_whole(arguments.out / "results.md", report(results).encode())
        image = io.BytesIO()
        picture(results).savefig(image, format="png", dpi=110)
        write_whole(arguments.out / "accuracy_over_time.png", image.getvalue())
        print(report(results))


if __name__ == "__main__":
    main()
