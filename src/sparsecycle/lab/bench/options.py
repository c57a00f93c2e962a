"""The options of ``sparsecycle bench``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.options import UsageError, check_model

__all__ = ["Bench", "parse"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure on this machine how fast a pruned network runs, or what pruning costs.

    With FILE: a forward pass by the runtime, torch, torch.compile and, where installed, onnxruntime and OpenVINO.
    With --update: a mask update, beside torch's own pruning and one read of the weights.

    Examples: sparsecycle bench pruned.pt2 --threads 1 2
              sparsecycle bench --update --model resnet-18
    """

    file: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FILE]")] = None
    """A network: a file of torch.export.save, NAME.pt2; the folder of a finished run of sparsecycle train; or a file of
    sparsecycle.runtime.save, which is measured alone."""

    values: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32",)
    """What the runtime computes with. The scales of int8 come from images that the run was trained on; for a .pt2 file
    from random numbers, which is enough to see how fast it is."""

    update: bool = False
    """What a mask update costs in time and memory, and what it adds to a training step."""

    model: str = "lenet-300-100"
    """Network: a name of the laboratory, package.module:factory, or timm:NAME."""

    shape: tuple[int, int, int] | None = None
    """Channels, height and width of an image; None: 1 28 28 for a LeNet, 3 32 32 for others."""

    classes: int = 10
    """Number of classes."""

    batch_size: int | None = None
    """Images a training step, 128 by default; or a forward pass of a run's network, 1 by default. A .pt2 file has its
    own."""

    sparsity: float = 0.9
    """Share of the prunable weights that an update zeroes, and that a training is half-way to."""

    threads: tuple[int, ...] = ()
    """Numbers of threads to measure with; by default 1 and as many as torch takes."""

    seconds: float = 15.0
    """For each table and number of threads, about; slow networks take longer, and getting ready comes on top."""

    steps: bool = True
    """Whether to train, too: eight copies of the network, in turns."""

    json: Path | None = None
    """File for all that was measured."""

    def __post_init__(self) -> None:
        if not self.threads:
            object.__setattr__(self, "threads", tuple(sorted({1, torch.get_num_threads()})))
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size!r}; allowed is a whole number of at least 1")
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"values={self.values!r}; allowed are fp32, bf16 and int8, each once")
        if min(self.threads) < 1:
            raise ValueError(f"threads={self.threads!r}; allowed are whole numbers of at least 1")
        if len(set(self.threads)) < len(self.threads):
            raise ValueError(f"threads={self.threads!r} names a number more than once")
        if not 0.0 < self.sparsity < 1.0:
            raise ValueError(f"sparsity={self.sparsity!r}; allowed is a share of the weights above 0 and below 1")
        if not 0.0 <= self.seconds < float("inf"):
            raise ValueError(f"seconds={self.seconds!r}; allowed is a number of at least 0")
        if self.json is not None and not self.json.parent.is_dir():
            raise ValueError(f"json={self.json}: there is no folder {self.json.parent}")

    def subject(self) -> Subject:
        """The network to measure."""
        shape = self.shape or ((1, 28, 28) if self.model.startswith("lenet") else (3, 32, 32))
        return Subject(self.model, shape, self.classes, self.sparsity)


def parse(arguments: Sequence[str], prog: str) -> Bench:
    """Read the flags of ``bench``.

    Raises:
        UsageError: nothing is asked to be measured, an unknown network, a value out of its range.
        SystemExit: with code 2 where a flag is wrong (what is wrong is printed), 0 after ``--help``.
    """
    options = tyro.cli(Bench, prog=prog, args=list(arguments))
    if options.update == (options.file is not None):
        raise UsageError(
            "say what to measure: --update, a mask update and a training step, or FILE, a network that runs; "
            "bench --help says more"
        )
    check_model(options.model)
    return options
