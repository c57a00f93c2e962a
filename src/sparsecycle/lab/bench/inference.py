"""A forward pass by every inference engine there is, in turns: the same weights, images and threads, one clock.

Each engine has a process of its own, so that no two of them meet in one. What an engine computes is compared with torch
before it is timed.
"""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sparsecycle.lab import hardware
from sparsecycle.lab.bench import engines, timing
from sparsecycle.lab.bench.engines import Job
from sparsecycle.lab.bench.exports import quantize, save_arrays, to_export, to_onnx
from sparsecycle.lab.bench.process import Process
from sparsecycle.lab.bench.timing import Times

__all__ = ["RIVALS", "Entrant", "Values", "measure", "ours", "results"]

Values = Literal["fp32", "bf16", "int8"]

_TOLERANCE = 1e-3  # of fp32, relative to the outputs' size: more is another network


@dataclass(frozen=True)
class Entrant:
    """An engine and what it runs.

    Args:
        name: What tables call it.
        engine: See :class:`sparsecycle.lab.bench.engines.Job`.
        values: What it computes with.
        network: Which of the networks it runs.
        baseline: Whether ratios are taken over it, if no other one with these values is faster.
        python: The interpreter that has the engine; ours if empty.
    """

    name: str
    engine: str
    values: Values = "fp32"
    network: str = "dense"
    baseline: bool = False
    python: str = ""

    @property
    def label(self) -> str:
        """Distinct for every entrant of a race."""
        return f"{self.name} {self.values}, {self.network}"


RIVALS = (
    Entrant("torch", "torch", baseline=True),
    Entrant("torch, channels last", "torch channels_last", baseline=True),
    Entrant("torch.compile", "torch.compile", baseline=True),
    Entrant("torch.compile, frozen", "torch.compile frozen", baseline=True),
    Entrant("onnxruntime", "onnxruntime", baseline=True),
    Entrant("openvino", "openvino", baseline=True),
    Entrant("onnxruntime", "onnxruntime", "int8", baseline=True),
    Entrant("openvino", "openvino", "int8", baseline=True),
)
"""The engines for dense networks."""


def ours(networks: Iterable[str], values: Sequence[Values]) -> list[Entrant]:
    """The runtime with each of these networks and values."""
    return [Entrant("sparsecycle", "sparsecycle", its, network) for its, network in product(values, networks)]


class _Files:
    """The networks and images as files in a folder; a network's are written when they are first asked for."""

    def __init__(
        self,
        folder: Path,
        networks: Mapping[str, nn.Module],
        inputs: Sequence[Tensor],
        calibration: Sequence[Sequence[Tensor]],
        test: Tensor | None,
        threads: int,
        isa: str,
    ) -> None:
        self._folder, self._networks, self._inputs, self._calibration = folder, networks, inputs, calibration
        self._references: dict[str, Tensor] = {}
        save_arrays(inputs, folder / "inputs.npz")
        for i, batch in enumerate(calibration):
            save_arrays(batch, folder / f"calibration{i}.npz")
        if test is not None:
            np.save(folder / "test.npy", test.numpy())
        self._job = Job(
            engine="",
            model="",
            inputs=str(folder / "inputs.npz"),
            outputs=str(folder / "outputs.npy"),
            threads=threads,
            test="" if test is None else str(folder / "test.npy"),
            isa=isa,
        )

    def job(self, entrant: Entrant) -> Job:
        """What the entrant's process is to run."""
        scales = range(len(self._calibration)) if entrant.values == "int8" else ()
        return replace(
            self._job,
            engine=entrant.engine,
            model=str(self._model(entrant)),
            values=entrant.values,
            calibration=tuple(str(self._folder / f"calibration{i}.npz") for i in scales),
        )

    def outputs(self) -> Tensor:
        """What the last process that got ready has computed."""
        return torch.from_numpy(np.load(self._job.outputs))

    def reference(self, network: str) -> Tensor:
        """What torch computes for ``inputs``, in float64 if the network can."""
        if network not in self._references:
            model = self._networks[network]
            with torch.no_grad():
                try:
                    outputs = copy.deepcopy(model).double()(*(x.double() for x in self._inputs))
                except RuntimeError:  # its own code makes float32 tensors
                    outputs = model(*self._inputs)
            self._references[network] = (outputs if isinstance(outputs, Tensor) else outputs[0]).double()
        return self._references[network]

    def _model(self, entrant: Entrant) -> Path:
        exported = self._folder / f"{entrant.network}.pt2"
        if not exported.exists():
            to_export(self._networks[entrant.network], self._inputs, exported)
        if entrant.engine not in engines.ONNX:
            return exported
        onnx = exported.with_suffix(".onnx")
        if not onnx.exists():
            to_onnx(exported, onnx)
        if entrant.values == "fp32":
            return onnx
        quantized = exported.with_suffix(".int8.onnx")
        if not quantized.exists():
            quantize(onnx, self._calibration, quantized, narrow=bool(self._job.isa) or not hardware.has_int8_sums())
        return quantized


def measure(
    networks: Mapping[str, nn.Module],
    entrants: Sequence[Entrant],
    inputs: Sequence[Tensor],
    calibration: Sequence[Sequence[Tensor]],
    *,
    threads: int,
    seconds: float,
    test: tuple[Tensor, Tensor] | None = None,
    isa: str = "",
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Race the entrants that there are here.

    Args:
        networks: The networks in evaluation mode, by name.
        entrants: Who is to take part.
        inputs: A batch, of contiguous float32 tensors on the CPU.
        calibration: Batches like ``inputs``, for int8.
        threads: How many threads each engine may use.
        seconds: For the race, about; getting ready comes on top.
        test: Images, whole batches of which the first is ``inputs``, and their labels, to measure the accuracy on.
        isa: The instruction set that every engine that can be told so stays below; empty: the machine's newest.
        say: Called with each entrant's name as it gets ready.

    Returns:
        ``entrants``: what :func:`results` gives, each one's ``error`` (and ``accuracy``), and what it says of itself;
        ``left out``: why, by label; ``rounds`` and ``undisturbed``: how many there were, and the share of samples that
        nothing disturbed.
    """
    running: dict[str, Process] = {}
    scores: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    images, labels = test or (None, None)
    with tempfile.TemporaryDirectory(prefix="sparsecycle-bench-") as folder, contextlib.ExitStack() as stack:
        files = _Files(Path(folder), networks, inputs, calibration, images, threads, isa)
        for entrant in entrants:
            say(entrant.label)
            try:
                process = _enter(entrant, files)
                stack.callback(process.close)
                scores[entrant.label] = _scores(entrant, files, labels)
            except RuntimeError as reason:
                left_out[entrant.label] = str(reason)
            else:
                running[entrant.label] = process
        if not running:
            return {"entrants": [], "left out": left_out}
        times = timing.race(running, seconds, least=5, most=1000)
    found = results([entrant for entrant in entrants if entrant.label in running], times)
    for its in found:
        its |= {**scores[its["label"]], **running[its["label"]].about}
    return {"entrants": found, "left out": left_out, "rounds": times.rounds, "undisturbed": times.undisturbed}


def _enter(entrant: Entrant, files: _Files) -> Process:
    """The entrant's process; a RuntimeError says why there is none."""
    try:
        return Process(files.job(entrant), entrant.python)
    except ModuleNotFoundError as missing:  # what writes the engine's files
        raise RuntimeError(f"{missing.name} is not installed") from missing


def _scores(entrant: Entrant, files: _Files, labels: Tensor | None) -> dict[str, float]:
    """How right the entrant's outputs are; a RuntimeError if they are another network's."""
    outputs, expected = files.outputs(), files.reference(entrant.network)
    first = outputs[: len(expected)].double()
    error = float((first - expected).norm() / expected.norm()) if first.shape == expected.shape else math.inf
    if entrant.values == "fp32" and not error <= _TOLERANCE:
        raise RuntimeError(f"its outputs are not torch's: a relative error of {error:.1g}")
    if labels is None:
        return {"error": error}
    return {"error": error, "accuracy": float((outputs.argmax(1) == labels).float().mean())}


def results(entrants: Sequence[Entrant], times: Times) -> list[dict[str, Any]]:
    """What the race gave, an entry an entrant.

    ``milliseconds`` of a forward pass, and its ``quartiles``; ``over``: how many times faster it is than the fastest
    baseline of each kind of values, the median over the rounds of the ratio within a round, and its quartiles.
    """
    fastest: dict[str, Entrant] = {}
    for entrant in sorted(entrants, key=lambda entrant: times.median(entrant.label), reverse=True):
        if entrant.baseline:
            fastest[entrant.values] = entrant
    return [
        {
            **asdict(replace(entrant, python="")),  # a path of this machine's
            "label": entrant.label,
            "milliseconds": 1e3 * times.median(entrant.label),
            "quartiles": [1e3 * quartile for quartile in times.quartiles(entrant.label)],
            "over": {
                values: {
                    "name": best.name,
                    "ratio": times.ratio(best.label, entrant.label),
                    "quartiles": list(times.middle(best.label, entrant.label)),
                }
                for values, best in sorted(fastest.items())
            },
        }
        for entrant in entrants
    ]
