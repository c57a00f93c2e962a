"""What pruning adds to a training step at batch 128.

The same network is trained with the same optimizer (fused SGD with momentum and weight decay) on the same batches:
by a bare loop, by a copy of it (what differs between these two is noise), with a sparsifier that takes a new mask at
every step, with one that takes a new mask once an epoch of 391 steps, with methods that look at gradients, and with
torch.nn.utils.prune's hooks, which never change their mask. They take turns step by step in one process; the figure is
the median over the rounds of the ratio to the bare loop's step of the same round, in processor time with one thread.
The sparsifiers are half-way through ten epochs to 90 %.

    python benchmarks/step_overhead.py [--models lenet-300-100 resnet-20] [--threads 1 2] [--seconds 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timing
import torch
import torch.nn.functional as F
from timing import Contestant
from torch import nn
from torch.nn.utils import prune

from sparsecycle.lab.models import build
from sparsecycle.methods import dpf, gsm, movement, progressive, rigl

BATCH, EPOCH, EPOCHS = 128, 391, 10
SPARSITY = 0.9
DENSE, COPY, HOOKS = "bare loop", "the same once more: noise", "prune.global_unstructured's hooks"
METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "progressive, a mask at every step": (progressive, {"update_every": 1}),
    f"progressive, a mask every {EPOCH} steps": (progressive, {"update_every": EPOCH}),
    "rigl: dense gradients every 100 steps": (rigl, {}),
    f"movement: at every step, a mask every {EPOCH}": (movement, {"update_every": EPOCH}),
    "dpf: at every step, a mask every 16": (dpf, {}),
    "gsm: at every step, with a selection": (gsm, {}),
}
# Input, bf16 and channels last, and rounds before the measurement: the weights must have filled the gap that is
# left where masks were taken without training.
SETTINGS = {"lenet-300-100": ((1, 28, 28), False, 200), "resnet-20": ((3, 32, 32), True, 3)}


def loop(name: str, pruning: str) -> Callable[[], None]:
    """One training step a call."""
    shape, bf16, _ = SETTINGS[name]
    layout = torch.channels_last if bf16 else torch.contiguous_format
    torch.manual_seed(0)
    model = build(name, shape, 10)
    if pruning == HOOKS:  # before the layout, since it cannot prune a channels-last weight
        modules = [(module, "weight") for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        prune.global_unstructured(modules, prune.L1Unstructured, amount=SPARSITY / 2)
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.rand(BATCH, *shape).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    after_step: Callable[[], None] = lambda: None  # noqa: E731
    if pruning in METHODS:
        method, words = METHODS[pruning]
        steps = EPOCH * EPOCHS
        sparsifier = method(model, optimizer, SPARSITY, steps, **words)
        for _ in range(steps // 2):
            sparsifier.step()
        after_step = sparsifier.step

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after_step()

    return step


def measure(name: str, seconds: float) -> timing.Times:
    steps = {pruning: loop(name, pruning) for pruning in (DENSE, COPY, *METHODS, HOOKS)}
    begin = time.perf_counter()
    for step in [*steps.values()] * 3:
        step()
    round_takes = (time.perf_counter() - begin) / 3
    # The clock must not run out: no mask changes after the last step.
    rounds = max(10, min(1000, round(seconds / round_takes)))
    return timing.race({pruning: Contestant(step) for pruning, step in steps.items()}, rounds, SETTINGS[name][2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=15, help="for each model and number of threads, about")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": timing.machine(), "measurements": []}
    print(json.dumps(results["machine"]))
    for name in arguments.models:
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            times = measure(name, arguments.seconds)
            found, rows = {}, []
            for pruning in times.seconds:
                ratio = times.ratio(pruning, DENSE)
                lower, _, upper = statistics.quantiles(times.ratios(pruning, DENSE), n=4)
                found[pruning] = {"milliseconds": times.median(pruning) * 1e3, "ratio": ratio, "middle": [lower, upper]}
                rows.append(
                    [
                        pruning,
                        f"{times.median(pruning) * 1e3:.3f}",
                        f"{ratio - 1:+.1%}",
                        f"{lower - 1:+.1%} to {upper - 1:+.1%}",
                    ]
                )
            kind = "bf16, channels last" if SETTINGS[name][1] else "fp32"
            measurement = {"model": name, "kind": kind, "threads": threads, "rounds": times.quality()}
            results["measurements"].append({**measurement, "loops": found})
            print(f"\n{name}, {kind}, {threads} thread(s), {times.quality()}\n")
            print(timing.table(["", "ms a step", "over the bare loop", "middle half of the rounds"], rows), flush=True)
    timing.write(arguments.json, results)


if __name__ == "__main__":
    main()
