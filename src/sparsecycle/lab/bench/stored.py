"""A network that a user has as a file, and how fast it runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsecycle import runtime
from sparsecycle.files.packed import NAME, load
from sparsecycle.lab import data as datasets
from sparsecycle.lab.bench.engines import sample
from sparsecycle.lab.bench.exports import from_export
from sparsecycle.lab.bench.inference import RIVALS, Entrant, Values, measure, ours, results
from sparsecycle.lab.bench.report import machine
from sparsecycle.lab.bench.speedups import READING, speedups
from sparsecycle.lab.bench.tables import of_threads
from sparsecycle.lab.bench.timing import race
from sparsecycle.lab.models import build

__all__ = ["Stored", "bench_file", "normalised", "read"]

_CALIBRATION = 512  # images, of those that a run was trained on


@dataclass(frozen=True)
class Stored:
    """A network in evaluation mode.

    Args:
        model: The network.
        inputs: A batch.
        calibration: Batches like it, for int8.
    """

    model: nn.Module
    inputs: Sequence[Tensor]
    calibration: Sequence[Sequence[Tensor]]

    @property
    def sparsity(self) -> float:
        """Share of the weights that are zero, without biases and norms."""
        weights = [weight.detach() for weight in self.model.parameters() if weight.dim() > 1]
        size = sum(weight.numel() for weight in weights)
        return 1 - sum(int(weight.count_nonzero()) for weight in weights) / size if size else 0.0


def read(path: Path, batch: int | None = None) -> Stored:
    """What ``torch.export.save`` wrote, or a run of ``sparsecycle train``.

    Args:
        path: A file that ends in .pt2, or a run's folder.
        batch: Images of a batch of a run's network, the first ones of the test set; None: 1. A .pt2 file has a batch of
            its own: random numbers in the shapes that it was exported for.

    Raises:
        ValueError: If it is neither, or the file's batch is another.
        OSError: If the run's data cannot be had.
    """
    if (path / "config.json").exists():
        return _of_run(path, batch or 1)
    if path.is_dir() or path.suffix != ".pt2":
        raise ValueError(f"{path} is neither a file of torch.export.save, NAME.pt2, nor a run of sparsecycle train")
    model, examples = from_export(path)
    if batch is not None and batch != len(examples[0]):
        raise ValueError(f"batch_size={batch}: {path} was exported for a batch of {len(examples[0])}")
    lots = torch.Generator().manual_seed(0)
    inputs = [torch.randn(example.shape, generator=lots) for example in examples]
    return Stored(model, inputs, [inputs])


def _of_run(folder: Path, batch: int) -> Stored:
    if not (folder / NAME).exists():
        raise ValueError(f"{folder} has no {NAME}: its run is not finished; sparsecycle train goes on with it")
    experiment = json.loads((folder / "config.json").read_text(encoding="utf-8"))["experiment"]
    images = datasets.load(experiment["data"]).normalised_by(experiment.get("mean", ()), experiment.get("std", ()))
    model = build(experiment["model"], images.shape, len(images.classes))
    load(folder, model)

    def batches(split: datasets.Split, count: int) -> list[tuple[Tensor]]:
        return [(its,) for its in normalised(images, split.images[: count * batch]).split(batch) if len(its) == batch]

    return Stored(model.eval(), batches(images.test, 1)[0], batches(images.train, max(1, _CALIBRATION // batch)))


def normalised(data: datasets.Dataset, images: Tensor) -> Tensor:
    """Some of a data set's images (n, c, h, w), as networks that were trained on it get them: float32."""
    mean, std = (torch.tensor(of_channels).view(1, -1, 1, 1) for of_channels in (data.mean, data.std))
    return images.float().div_(255).sub_(mean).div_(std)


def bench_file(
    path: Path,
    *,
    batch: int | None,
    values: Sequence[Values],
    threads: Sequence[int],
    seconds: float,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Time the network in a file, and say each table, and the runtime's plan of each layer, as soon as it is there.

    Args:
        path: What :func:`read` reads, raced by the runtime and the other engines; or what ``sparsecycle.runtime.save``
            wrote, which is timed alone, as it was compiled.
        batch: See :func:`read`.
        values: What the runtime computes with.
        threads: Numbers of threads, each measured by itself.
        seconds: For each number of threads, about.
        say: Called with every text.

    Returns:
        All that was measured, as plain values.

    Raises:
        ValueError: If the file holds no network that can be timed so.
        OSError: If it is not there.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir() or path.suffix == ".pt2":
        found = _raced(read(path, batch), values, threads, seconds, say)
    else:
        found = _alone(path, threads, seconds, say)
    return {"machine": machine(), "file": str(path), **found}


def _raced(
    stored: Stored, values: Sequence[Values], threads: Sequence[int], seconds: float, say: Callable[[str], object]
) -> dict[str, Any]:
    sparsity, images = stored.sparsity, len(stored.inputs[0])
    name = f"{100 * sparsity:.4g} %"
    entrants = [replace(rival, network=name) for rival in RIVALS if rival.values in ("fp32", *values)]
    entrants += ours([name], values)
    races = []
    for count in threads:
        its = measure({name: stored.model}, entrants, stored.inputs, stored.calibration, threads=count, seconds=seconds)
        races.append({"threads": count, **its})
        say(f"batch {images}, {of_threads(count)}:\n\n{speedups(its, images)}\n")
        for entrant in its["entrants"]:
            if entrant["plan"]:
                say(f"{entrant['label']}, compiled in {entrant['compiling']:.1f} s:\n\n{entrant['plan']}\n")
    say(READING)
    return {"sparsity": sparsity, "batch": images, "races": races}


@dataclass(frozen=True)
class _Alone:
    run: Callable[[], object]
    threads: int

    def sample(self) -> tuple[float, bool]:
        return sample(self.run, self.threads)


def _alone(path: Path, threads: Sequence[int], seconds: float, say: Callable[[str], object]) -> dict[str, Any]:
    lots = torch.Generator().manual_seed(0)
    races = []
    for count in threads:
        compiled = runtime.load(path, count)
        inputs = [torch.randn(shape, generator=lots).to(dtype) for shape, dtype in compiled.examples]
        entrant = Entrant("sparsecycle", "sparsecycle", cast(Values, compiled.values))
        times = race({entrant.label: _Alone(functools.partial(compiled, *inputs), count)}, seconds, least=5, most=1000)
        (its,) = results([entrant], times)
        plan, (lower, upper), images = str(compiled.plan), its["quartiles"], len(inputs[0])
        races.append({"threads": count, **its, "plan": plan})
        say(
            f"batch {images}, {of_threads(count)}, {compiled.values}: {its['milliseconds']:.3g} ms "
            f"({lower:.3g} to {upper:.3g})\n\n{plan}\n"
        )
    return {"races": races}
