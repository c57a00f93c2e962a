"""The laboratory's training loop against the fastest loop written by hand for the same training.

Both take the same images from uint8 tensors in memory, in the same precision and layout, with the same fused
optimizer; the loop by hand does nothing else: no accuracy, no learning rate, no progress, no hooks. They train in
turns of a few steps in one process, so that what disturbs the machine disturbs both, and the figure is the median
of the ratios of neighbouring turns.

    python benchmarks/training_loop.py [--turns 30] [--steps 10] [--threads N] [--compile] [--models resnet-20 ...]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sparsecycle.lab import hardware
from sparsecycle.lab.data import Augment, Dataset, Split
from sparsecycle.lab.models import build
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.training import Trainer, make_optimizer

BATCH = 128
WARM_UP = 2
SHAPES = {"lenet-300-100": (1, 28, 28), "lenet-5-caffe": (1, 28, 28)}


def synthetic(shape: tuple[int, int, int], images: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    split = Split(
        torch.randint(0, 256, (images, *shape), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (images,), generator=generator),
    )
    mean = (0.5,) * shape[0]
    return Dataset("synthetic", split, split, tuple("0123456789"), mean, mean)


def by_hand(model: torch.nn.Module, data: Dataset, recipe: Recipe, trainer: Trainer) -> Iterator[None]:
    """One optimizer step each time it is advanced."""
    device, layout = trainer.device, torch.channels_last if trainer.channels_last else torch.contiguous_format
    model = model.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = make_optimizer(recipe, model)
    train = data.train.to(device)
    mean = torch.tensor(data.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(data.std, device=device).view(1, -1, 1, 1)
    generator = torch.Generator(device).manual_seed(0)
    bf16 = trainer.precision == "bf16"

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images).float(), labels)

    compute = torch.compile(loss_of, dynamic=False) if recipe.compile else loss_of
    augment = recipe.augment != Augment()
    while True:
        for chosen in torch.randperm(len(train), device=device).split(BATCH):
            images = train.images.index_select(0, chosen)
            images = recipe.augment(images, generator) if augment else images.float().div_(255)
            images = images.sub_(mean).div_(std).contiguous(memory_format=layout)
            labels = train.labels.index_select(0, chosen)
            with torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
                loss = compute(images, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield


def in_turns(trainer: Trainer, bare: Iterator[None], steps: int, turns: int) -> list[tuple[float, float]]:
    """Seconds of ``steps`` steps by hand and of as many in the loop, turn after turn.

    The loop trains one whole epoch; after every turn's last step its callback lets the hand-written loop have its
    turn, so that the loop's time has everything that an epoch has, beginning and end too.
    """
    pairs: list[tuple[float, float]] = []
    begin = 0.0

    def clock() -> float:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        return time.perf_counter()

    def on_step(step: int) -> None:
        nonlocal begin
        if step % steps:
            return
        middle = clock()
        for _ in range(steps):
            next(bare)
        end = clock()
        pairs.append((end - middle, middle - begin))
        begin = clock()

    begin = clock()
    trainer.train_epoch(0, on_step=on_step)
    # What follows the last step belongs to the loop.
    pairs[-1] = (pairs[-1][0], pairs[-1][1] + clock() - begin)
    assert len(pairs) == turns
    return pairs


def measure(name: str, recipe: Recipe, turns: int, steps: int) -> tuple[str, float, float, float]:
    shape = SHAPES.get(name, (3, 32, 32))
    data = synthetic(shape, BATCH * steps * (WARM_UP + turns))
    torch.manual_seed(0)
    model = build(name, shape, 10)
    trainer = Trainer(copy.deepcopy(model), data, recipe)
    bare = by_hand(model, data, recipe, trainer)

    # In the first turns both compile, and take their memory.
    pairs = in_turns(trainer, bare, steps, WARM_UP + turns)[WARM_UP:]
    setting = [trainer.precision]
    if trainer.channels_last:
        setting.append("channels last")
    if recipe.augment != Augment():
        setting.append("augmented")
    if recipe.compile:
        setting.append("compiled")
    rates = [[steps * BATCH / seconds for seconds in turn] for turn in zip(*pairs, strict=True)]
    ratio = statistics.median(hand / loop for hand, loop in pairs)
    return ", ".join(setting), statistics.median(rates[0]), statistics.median(rates[1]), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["lenet-300-100", "resnet-20"])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = hardware.describe(hardware.pick_device())
    table = Table(
        title=f"batch {BATCH}, {machine['device_name']}, {machine['threads']} threads, torch {machine['torch']}"
    )
    for title in ("model", "setting", "by hand, images/s", "loop, images/s", "ratio"):
        table.add_column(title, justify="left" if title in ("model", "setting") else "right")
    for name in arguments.models:
        augment = Augment() if name in SHAPES else Augment(crop=4, flip=True)
        recipe = Recipe(epochs=1, batch_size=BATCH, lr=0.01, augment=augment, compile=arguments.compile)
        # A LeNet's step takes milliseconds: a turn of more steps is as short as another network's.
        steps = arguments.steps * (10 if name in SHAPES else 1)
        setting, hand, loop, ratio = measure(name, recipe, arguments.turns, steps)
        table.add_row(name, setting, f"{hand:,.0f}", f"{loop:,.0f}", f"{ratio:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
