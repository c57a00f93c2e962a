"""What pruning adds to a training step.

The same network is trained with the same optimizer on the same batches: by a bare loop, by a copy of it (what differs
between these two is noise), with sparsifiers that are half-way through a run, and with torch.nn.utils.prune's hooks,
which never change their mask.

They take turns step by step, but none owns the caches when its turn comes, and one network's weights fit there where
those of all do not. So each first takes a step that is not timed, unless steps are long: a sparsifier is then neither
charged for the others' networks nor spared its own masks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsecycle import Sparsifier
from sparsecycle.lab import hardware
from sparsecycle.lab.bench import timing
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.bench.timing import Contestant, Times
from sparsecycle.lab.recipe import Recipe
from sparsecycle.methods import dpf, gsm, movement, progressive, rigl
from sparsecycle.prunable import choose

__all__ = ["BARE", "COPY", "EVERY_STEP", "HOOKS", "METHODS", "Training", "race"]

EPOCH, STEPS = 391, 20 * 391
BARE, COPY, HOOKS = "bare loop", "the same once more: noise", "prune.global_unstructured's hooks"
EVERY_STEP = "progressive, a mask at every step"
METHODS: dict[str, tuple[Callable[..., Sparsifier], dict[str, Any]]] = {
    EVERY_STEP: (progressive, {"update_every": 1}),
    f"progressive, a mask every {EPOCH} steps": (progressive, {"update_every": EPOCH}),
    "rigl: dense gradients every 100 steps": (rigl, {}),
    f"movement: at every step, a mask every {EPOCH}": (movement, {"update_every": EPOCH}),
    "dpf: at every step, a mask every 16": (dpf, {}),
    "gsm: at every step, with a selection": (gsm, {}),
}
"""A method and its words, which prune over :data:`STEPS` steps."""

_BATCHES = 4


@dataclass(frozen=True)
class Training:
    """The training that the loops have in common, in the precision and layout that the laboratory takes here.

    Raises:
        ValueError: If the network cannot be trained on such images.
    """

    subject: Subject
    images: Sequence[Tensor]
    labels: Sequence[Tensor]
    bf16: bool
    layout: torch.memory_format

    @classmethod
    def of(cls, subject: Subject, batch_size: int) -> Training:
        """Images and labels at random."""
        model, cpu = subject.build(), torch.device("cpu")
        bf16 = hardware.precision(Recipe(), model, cpu) == "bf16"
        layout = torch.channels_last if hardware.channels_last(Recipe(), model) else torch.contiguous_format
        images = [torch.rand(batch_size, *subject.shape).contiguous(memory_format=layout) for _ in range(_BATCHES)]
        labels = [torch.randint(0, subject.classes, (batch_size,)) for _ in range(_BATCHES)]
        training = cls(subject, images, labels, bf16, layout)
        try:
            training.loop(BARE)()
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(
                f"{subject.model} cannot be trained on {batch_size} images of shape {subject.shape} in "
                f"{subject.classes} classes ({str(error).splitlines()[0]}): give --shape and --classes, or --no-steps"
            ) from error
        return training

    @property
    def kind(self) -> str:
        """Batch, precision and layout in words."""
        words = [f"batch {len(self.labels[0])}", "bf16" if self.bf16 else "fp32"]
        return ", ".join([*words, *(["channels last"] if self.layout == torch.channels_last else [])])

    def loop(self, pruning: str) -> Callable[[], None]:
        """One training step a call."""
        model = self.subject.build()
        if pruning == HOOKS:  # before the layout, since it fails on weights that lie channels last
            places = [name.rpartition(".") for name in choose(model).weights]
            owners = [(model.get_submodule(path), leaf) for path, _, leaf in places]
            prune.global_unstructured(owners, prune.L1Unstructured, amount=self.subject.sparsity / 2)
        model = model.to(memory_format=self.layout)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        after_step: Callable[[], None] = lambda: None  # noqa: E731
        if pruning in METHODS:
            method, words = METHODS[pruning]
            sparsifier = method(model, optimizer, self.subject.sparsity, STEPS, **words)
            _half_way(model, sparsifier)
            after_step = sparsifier.step
        turn = 0

        def step() -> None:
            nonlocal turn
            images, labels = self.images[turn], self.labels[turn]
            turn = (turn + 1) % _BATCHES
            with torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext():
                loss = F.cross_entropy(model(images).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            after_step()

        return step


def _half_way(model: nn.Module, sparsifier: Sparsifier) -> None:
    """Put the clock forward, as if the run had been resumed there."""
    sparsifier.load_state_dict({**sparsifier.state_dict(), "steps": STEPS // 2 - 1})
    with torch.no_grad():
        for parameter in model.parameters():  # these count as the weights that come with the state
            parameter.copy_(parameter.clone())
    sparsifier.step()


def race(training: Training, seconds: float, methods: Sequence[str] = tuple(METHODS)) -> Times:
    """The bare loop, its copy and these methods' loops against each other; with all methods also torch's hooks."""
    names = [BARE, COPY, *methods, *([HOOKS] if len(methods) == len(METHODS) else [])]
    loops = {name: training.loop(name) for name in names}
    begin = time.perf_counter()
    loops[BARE]()
    # What a longer step touches does not stay in a cache anyway.
    is_short = time.perf_counter() - begin < 0.1
    contestants = {name: Contestant(step, step) if is_short else Contestant(step) for name, step in loops.items()}
    # The clock must not run out: no mask changes after the last step.
    return timing.race(contestants, seconds, least=5, most=STEPS // 5, warm_up=3)
