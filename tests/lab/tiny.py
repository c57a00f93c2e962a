"""A data set and runs so small that a test can afford many of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsecycle.lab.data import Augment, Dataset, Split
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.progress import Silent
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.result import Result
from sparsecycle.lab.running import run

#: Of the 60 images: 3 epochs of 4 steps.
SHORT = Recipe(epochs=3, batch_size=16, lr=0.05, augment=Augment(crop=1, flip=True))

#: Prunable weights of LeNet-300-100 on 8 x 8 images of 4 classes, by layer and in all.
SIZES = {"fc1.weight": 19_200, "fc2.weight": 30_000, "fc3.weight": 400}
WEIGHTS = 49_600


def tiny(
    name: str = "digits", root: Path | None = None, *, classes: int = 4, shape: tuple[int, int, int] = (1, 8, 8)
) -> Dataset:
    """60 images to train on and 30 to test on, of noise."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (90, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (90,), generator=generator)
    parts = Split(images[:60], labels[:60]), Split(images[60:], labels[60:])
    channels = shape[0]
    return Dataset(name, *parts, tuple("abcdefghij"[:classes]), (0.5,) * channels, (0.3,) * channels)


def go(runs: Path, recipe: Recipe = SHORT, **settings: Any) -> Result:
    return run(Experiment(recipe=recipe, **settings), runs, progress="silent", device="cpu")


def metrics(path: Path) -> list[dict[str, Any]]:
    """Without the times, which no two runs share."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def only(runs: Path, pattern: str) -> Path:
    """The one folder that is called so."""
    (path,) = runs.glob(pattern)
    return path


def normed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two convolutions with batch norm and a linear layer: 36 + 288 + 128 a class prunable weights on 8 x 8 images."""
    features = [nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)]
    return nn.Sequential(*features, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, classes))


class InterruptTraining(Silent):
    """Ends a run in the second epoch of its training number ``training``, counted from 0."""

    def __init__(self, training: int = 0) -> None:
        self.left = training + 1

    def begin(self, title: str, epochs: int, steps: int, epoch: int) -> None:
        self.left -= 1

    def step(self, epoch: int, step: int) -> None:
        if self.left == 0 and epoch == 1:
            raise KeyboardInterrupt
