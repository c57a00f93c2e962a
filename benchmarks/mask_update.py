"""What a new mask costs: global magnitude pruning at 90 %, exact, against what torch offers.

A selection is the threshold and the masks; an update also holds the masks and zeroes the weights. The contestants
take turns in one process, and the figures are medians of the ratios within a round, in processor time with one
thread. The extra memory of each is
the rise of the resident set's high-water mark in a process of its own, over what it was with the weights in place.

    python benchmarks/mask_update.py [--models resnet-18 lenet-300-100] [--rounds 9] [--threads 1] [--json FILE]

Ends with status 1 if an update of the largest network is not five times faster than global_unstructured, or the
selection takes more extra memory than the weights themselves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timing
import torch
from timing import Contestant
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsecycle import Sparsifier
from sparsecycle.lab.models import build
from sparsecycle.masks import Masks
from sparsecycle.prunable import choose
from sparsecycle.schedules import Constant
from sparsecycle.selection import keep_largest

SPARSITY = 0.9
SHAPES = {"lenet-300-100": (1, 28, 28)}
READ, SELECT, SELECT_NEAR = "read the weights once", "selection", "selection near the last threshold"
UPDATE, STEP, STOCK = "update", "sparsifier.step()", "prune.global_unstructured"
TOPK, KTHVALUE = "cat, topk", "cat, kthvalue"


class Network:
    """A network fresh from its initialisation, and every way to prune it."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.model = build(name, SHAPES.get(name, (3, 32, 32)), 10)
        self.parameters = choose(self.model, None, None).weights
        self.weights = [weight.detach() for weight in self.parameters.values()]
        self.size = sum(weight.numel() for weight in self.weights)
        self.pruned = round(SPARSITY * self.size)
        self.keep = self.size - self.pruned

    def read(self) -> None:
        for weight in self.weights:
            torch.aminmax(weight)

    def select(self, near: float | None = None) -> list[Tensor]:
        return keep_largest(self.weights, self.keep, absolute=True, floor=1, near=near).masks

    def topk(self) -> list[Tensor]:
        magnitudes = torch.cat([weight.reshape(-1) for weight in self.weights]).abs_()
        return self._from(torch.topk(magnitudes, self.keep, sorted=False).values.min())

    def kthvalue(self) -> list[Tensor]:
        magnitudes = torch.cat([weight.reshape(-1) for weight in self.weights]).abs_()
        return self._from(torch.kthvalue(magnitudes, self.pruned + 1).values)

    def _from(self, threshold: Tensor) -> list[Tensor]:
        return [weight.abs() >= threshold for weight in self.weights]

    def zeroing(self, select: Callable[[], list[Tensor]]) -> Callable[[], None]:
        """An update by hand: the selection, and the weights multiplied by the masks."""

        def update() -> None:
            torch._foreach_mul_(self.weights, select())

        return update

    def update(self) -> Callable[[], None]:
        masks = Masks(self.parameters)

        def update() -> None:
            masks.replace(self.select())
            masks.enforce()

        return update

    def step(self) -> Callable[[], None]:
        """A new mask out of all weights at every step, with momentum and gradients to clear too."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9, fused=True)
        sparsifier = Sparsifier(self.model, optimizer, SPARSITY, Constant(), recovery="zero", total_steps=1 << 30)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        return sparsifier.step

    def stock(self) -> None:
        prune.global_unstructured(self._modules(), prune.L1Unstructured, amount=self.pruned)

    def undo_stock(self) -> None:
        for module, name in self._modules():
            if prune.is_pruned(module):
                prune.remove(module, name)

    def _modules(self) -> list[tuple[nn.Module, str]]:
        return [(module, "weight") for module in self.model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def contestants(name: str) -> dict[str, Contestant]:
    network, stepped = Network(name), Network(name)
    saved = [weight.clone() for weight in network.weights]
    near = keep_largest(network.weights, network.keep, absolute=True).threshold
    assert near is not None
    near *= 1.003  # the weights have moved since

    def restore() -> None:
        network.undo_stock()
        torch._foreach_copy_(network.weights, saved)

    def restore_stepped() -> None:
        torch._foreach_copy_(stepped.weights, saved)

    return {
        READ: Contestant(network.read),
        SELECT_NEAR: Contestant(lambda: network.select(near), restore),
        SELECT: Contestant(network.select, restore),
        TOPK: Contestant(network.topk, restore),
        KTHVALUE: Contestant(network.kthvalue, restore),
        UPDATE: Contestant(network.update(), restore),
        STEP: Contestant(stepped.step(), restore_stepped),
        f"{TOPK}, update": Contestant(network.zeroing(network.topk), restore),
        f"{KTHVALUE}, update": Contestant(network.zeroing(network.kthvalue), restore),
        STOCK: Contestant(network.stock, restore),
    }


# Memory: one process a contestant, which prints the bytes that it took at most.


def extra_memory(name: str, contestant: str) -> int:
    command = [sys.executable, __file__, "--models", name, "--memory-of", contestant]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_extra_memory(name: str, contestant: str) -> None:
    ways: dict[str, Callable[[Network], Callable[[], object]]] = {
        SELECT: lambda network: network.select,
        TOPK: lambda network: network.topk,
        KTHVALUE: lambda network: network.kthvalue,
        UPDATE: Network.update,
        STEP: Network.step,
        STOCK: lambda network: network.stock,
    }
    ways[contestant](Network("lenet-300-100"))()  # loads what is loaded on first use
    network = Network(name)
    run = ways[contestant](network)
    network.read()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    before = _status("VmRSS")
    run()
    print(_status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["lenet-300-100", "resnet-18"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_extra_memory(arguments.models[0], arguments.memory_of)
        return
    results: dict[str, Any] = {"machine": timing.machine(), "sparsity": SPARSITY, "networks": {}}
    print(json.dumps(results["machine"]))
    for name in arguments.models:
        entrants = contestants(name)
        times = timing.race(entrants, arguments.rounds)
        size = Network(name).size
        memory = {}
        if Path("/proc/self/clear_refs").exists():
            memory = {c: extra_memory(name, c) for c in entrants if c in (SELECT, TOPK, KTHVALUE, UPDATE, STEP, STOCK)}
        speedup = 1 / times.ratio(UPDATE, STOCK)
        rows, found = [], {}
        for entrant in entrants:
            extra = memory.get(entrant)
            found[entrant] = {
                "milliseconds": times.median(entrant) * 1e3,
                "reads": times.ratio(entrant, READ),
                "times faster than global_unstructured": 1 / times.ratio(entrant, STOCK),
                "extra bytes": extra,
                "extra memory in weights": None if extra is None else extra / (4 * size),
            }
            rows.append(
                [
                    entrant,
                    f"{times.median(entrant) * 1e3:.2f}",
                    f"{times.ratio(entrant, READ):.1f}",
                    f"{1 / times.ratio(entrant, STOCK):.1f}",
                    "" if extra is None else f"{extra / 2**20:.1f} MiB = {extra / (4 * size):.2f}",
                ]
            )
        results["networks"][name] = {"weights": size, "rounds": times.quality(), "contestants": found}
        weights = f"{size:,} weights = {4 * size / 2**20:.1f} MiB"
        print(f"\n{name}, {weights}, {arguments.threads} thread(s), {times.quality()}\n")
        print(timing.table(["", "ms", "reads", "times faster than stock", "extra memory, in weights"], rows))
    timing.write(arguments.json, results)
    extra = memory.get(SELECT, 0) / (4 * size)
    print(f"\n{name}: an update is {speedup:.1f} times faster than {STOCK}; a selection takes {extra:.2f} weights")
    if speedup < 5 or extra > 1:
        sys.exit(1)


if __name__ == "__main__":
    main()
