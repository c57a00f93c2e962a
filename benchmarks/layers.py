"""Where the time of a sparse network goes: each layer's gain, its distance to 1 / (1 - sparsity), what lies between.

    python -m benchmarks.layers [--network vgg-16] [--batch 1] [--sparsities 0.8 0.9 0.95 0.98] [--out FILE]

Run it from the repository's root. Every layer of a table was chosen and timed inside the whole network, on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.inference import SUBJECTS

from sparsecycle import runtime
from sparsecycle.files.container import write_whole
from sparsecycle.lab.bench.networks import pruned
from sparsecycle.lab.bench.report import machine
from sparsecycle.lab.bench.tables import table
from sparsecycle.runtime.compiled import Compiled, Native

READING = """\
Gain: over the runtime's own dense kernels, timed in the same run. Of limit: the gain as a share of 1 / (1 - sparsity);
over 100 % where the dense kernel is farther from its own limit. Useful: products of kept weights with places of the
map, as a share of those that are computed; the others fill up vectors at a map's edges, and bundles of output channels
that advance in lockstep. Over 100 % where products with padding are left out. Loads: vectors loaded for each one that
is multiplied and added; a processor loads two in the cycle in which it could do two of these. Weights a visit: how many
are added to a sum before it is put away.
"""


def rows(compiled: Compiled) -> Iterator[list[str]]:
    """Of each convolution and linear layer, and then of all the rest together."""
    (part,) = (part for part in compiled._parts if isinstance(part, Native))
    entries = list(compiled.plan)
    graph, lowered = part.part.graph, part.lowered
    for number, layer in lowered.convolutions.items():
        entry, cost = entries[number], part.program.cost(number, 0)
        lanes = lowered.layouts[number].lanes.count
        value = graph.steps.index(layer) + len(graph.inputs)
        places = graph.maps[value].height * graph.maps[value].width * graph.images
        products = int(layer.weight.count_nonzero()) * places
        groups = -(-graph.images // lowered.layouts[number].images)
        vectors = cost.multiply_adds * groups
        assert entry.milliseconds is not None
        yield [
            entry.name,
            entry.choice,
            f"{entry.milliseconds:#.3g}",
            "" if entry.gain is None else f"{entry.gain:.1f}",
            "" if entry.share is None else f"{entry.share:.0%}",
            f"{products / (vectors * lanes):.0%}",
            f"{cost.loads / cost.multiply_adds:.2f}",
            f"{cost.multiply_adds / cost.visits:.0f}",
            f"{products / entry.milliseconds / 1e6:.1f}",
        ]
    rest = sum(entry.milliseconds or 0.0 for number, entry in enumerate(entries) if number not in lowered.convolutions)
    yield ["all else", "", f"{rest:#.3g}", *[""] * 6]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="vgg-16", choices=list(SUBJECTS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9, 0.95, 0.98])
    parser.add_argument("--out", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    its = ", ".join(f"{name}: {value}" for name, value in machine().items())
    lines = [f"# Layers of {arguments.network}, batch {arguments.batch}, 1 thread", "", READING, its]
    head = ["layer", "kernel", "ms", "gain", "of limit", "useful", "loads", "weights a visit", "10^9 products/s"]
    for sparsity in arguments.sparsities:
        subject = replace(SUBJECTS[arguments.network], sparsity=sparsity)
        images = torch.randn(arguments.batch, *subject.shape, generator=torch.Generator().manual_seed(1))
        compiled = runtime.compile(pruned(subject), images, threads=1)
        limit = 1 / (1 - sparsity)
        lines += ["", f"## {sparsity:.0%}, of which the limit is {limit:.3g}", "", table(head, [*rows(compiled)])]
        print("\n".join(lines[-4:]), flush=True)
    if arguments.out is not None:
        write_whole(arguments.out, "\n".join([*lines, ""]).encode())


if __name__ == "__main__":
    main()
