"""How small a pruned network's file is, beside what else one could write, and how long writing and reading takes.

A ResNet-18 with He's initial weights, pruned to each sparsity by global magnitude. The bound is the entropy of the
masks, layer by layer, and the plain values of what is kept and of all that is no matrix.

    python -m benchmarks.file_size [--network resnet-18] [--sparsities 0.8 0.9 0.95 0.98] [--repeats 5] [--out DIR]

Run it from the repository's root. Writes results.json and results.md to DIR. Ends with status 1 where a packed file in
fp32 misses what docs/files.md claims: 1.05 times the bound, and the dense network and the file in memory while loading.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
import zstandard
from torch import Tensor, nn

import sparsecycle as sc
from sparsecycle.files.container import write_whole
from sparsecycle.files.narrow import Values
from sparsecycle.lab.bench.memory import forget_the_highest, is_known, resident
from sparsecycle.lab.bench.report import machine
from sparsecycle.lab.bench.tables import table
from sparsecycle.lab.models import build
from sparsecycle.lab.models.initialisation import kaiming_fan_in

SHAPE, CLASSES = (3, 32, 32), 10
CLAIMED = 1.05
VALUES = get_args(Values)
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


def pruned(network: str, sparsity: float) -> nn.Module:
    """A network with random weights, of which this share is zero."""
    torch.manual_seed(0)
    model = kaiming_fan_in(build(network, SHAPE, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sc.methods.one_shot(model, optimizer, sparsity, total_steps=1, at=0.0, scope="global")
    sparsifier.step()
    sparsifier.finalize()
    return model


def matrices(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.dim() > 1}


def others(model: nn.Module, folder: Path) -> dict[str, int]:
    """Bytes of the network in the formats that people write."""
    file = folder / "dense.pt"
    torch.save(model.state_dict(), file)
    dense = file.read_bytes()
    found = {"dense, torch.save": len(dense)}
    found["the same, gzip -6"] = len(gzip.compress(dense, 6))
    for level in (3, 19):
        found[f"the same, zstd -{level}"] = len(zstandard.ZstdCompressor(level=level).compress(dense))
    weights = matrices(model)
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in weights}
    sparse = {name: weight.reshape(len(weight), -1).to_sparse_csr() for name, weight in weights.items()}
    buffer = io.BytesIO()
    torch.save({**rest, **sparse}, buffer)
    found["to_sparse_csr, torch.save"] = len(buffer.getvalue())
    kept = sum(int(weight.count_nonzero()) for weight in weights.values())
    plain = sum(tensor.nbytes for tensor in rest.values())
    found["CSR, indices of 32 bits"] = plain + 8 * kept + sum(4 * (len(weight) + 1) for weight in weights.values())
    found["bitmask and values"] = plain + 4 * kept + sum(-(-weight.numel() // 8) for weight in weights.values())
    return found


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(network: str, sparsity: float, repeats: int) -> dict[str, Any]:
    model = pruned(network, sparsity)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {"sparsity": sparsity, "others": others(model, folder), "packed": {}}
        for values in VALUES:
            path = folder / f"{values}.safetensors"

            def write(path: Path = path, values: Values = values) -> None:
                sc.save(model, path, values, factory=network, arguments=(SHAPE, CLASSES))

            def read(path: Path = path) -> nn.Module:
                return sc.load(path)

            def read_dense() -> None:
                model.load_state_dict(torch.load(folder / "dense.pt", weights_only=True))

            write()
            read()
            times = [(seconds(write), seconds(read), seconds(read_dense)) for _ in range(repeats)]
            packing, loading, dense = map(statistics.median, zip(*times, strict=True))
            inspection = sc.inspect(path)
            its: dict[str, Any] = {"bytes": inspection.bytes, "bound": inspection.bound, "parts": inspection.parts}
            its |= {"packing": packing, "loading": loading, "loading_dense": dense}
            if is_known():
                its["memory"] = memory(path, values)
                its["dense_memory"] = inspection.dense_bytes
            if values == "fp32":
                loaded = read().state_dict()
                its["identical"] = all(torch.equal(loaded[n], t) for n, t in model.state_dict().items())
            found["packed"][values] = its
    return found


def memory(path: Path, values: Values) -> int:
    """Bytes that loading takes at most, the network that is loaded among them, in a process of its own."""
    # glibc then gives every larger block back as soon as it is free: none is left over that hides a rise.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    command = [sys.executable, "-m", "benchmarks.file_size", "--memory-of", str(path), values]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def memory_here(path: Path, values: Values) -> int:
    with tempfile.TemporaryDirectory() as name:  # loads what is loaded at first use
        small = Path(name) / "small.safetensors"
        sc.save(pruned("resnet-20", 0.9), small, values, factory="resnet-20", arguments=(SHAPE, CLASSES))
        sc.load(small)
    forget_the_highest()
    before = resident("VmRSS")
    sc.load(path)
    return resident("VmHWM") - before


def tables(found: list[dict[str, Any]]) -> str:
    head = ["MB", *(f"{100 * its['sparsity']:g} %" for its in found)]
    rows = [[name, *(f"{its['others'][name] / 1e6:.2f}" for its in found)] for name in found[0]["others"]]
    for values in VALUES:
        its = [each["packed"][values] for each in found]
        rows.append([f"**packed, {values}**", *(f"**{each['bytes'] / 1e6:.3f}**" for each in its)])
    sizes = table(head, rows)
    rows = []
    for values in VALUES:
        its = [each["packed"][values] for each in found]
        rows.append([f"{values}: of the bound", *(f"{each['bytes'] / each['bound']:.3f}" for each in its)])
    for values in VALUES:
        its = [each["packed"][values] for each in found]
        rows.append([f"{values}: packing, s", *(f"{each['packing']:.2f}" for each in its)])
        rows.append([f"{values}: loading, s", *(f"{each['loading']:.3f}" for each in its)])
        if "memory" in its[0]:
            over = [each["memory"] - each["dense_memory"] for each in its]
            rows.append([f"{values}: memory beyond the network, MB", *(f"{each / 1e6:.2f}" for each in over)])
    return f"{sizes}\n\n{table(['', *head[1:]], rows)}"


def misses(found: list[dict[str, Any]]) -> list[str]:
    """What is not as it is claimed."""
    missed = []
    for its in found:
        packed, name = its["packed"]["fp32"], f"{100 * its['sparsity']:g} %"
        if not packed["identical"]:
            missed.append(f"{name}: what was loaded is not what was saved")
        if packed["bytes"] > CLAIMED * packed["bound"]:
            missed.append(f"{name}: {packed['bytes'] / packed['bound']:.3f} times the bound")
        if packed.get("memory", 0) > packed.get("dense_memory", 0) + packed["bytes"]:
            missed.append(f"{name}: loading takes {packed['memory']:,} bytes of memory")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet-18")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9, 0.95, 0.98])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(memory_here(Path(arguments.memory_of[0]), arguments.memory_of[1]))
        return 0
    found = []
    for sparsity in arguments.sparsities:
        found.append(measure(arguments.network, sparsity, arguments.repeats))
        print(f"{100 * sparsity:g} % done", file=sys.stderr)
    print(tables(found))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        content = {"network": arguments.network, "machine": machine(), "sizes": found}
        write_whole(arguments.out / "results.json", (json.dumps(content, indent=2) + "\n").encode())
        write_whole(arguments.out / "results.md", (tables(found) + "\n").encode())
    for missed in misses(found):
        print(f"missed: {missed}", file=sys.stderr)
    return 1 if misses(found) else 0


if __name__ == "__main__":
    sys.exit(main())
