"""The training loop: one network on one device, an epoch at a time.

Every random number of an epoch comes from (seed, epoch), so that a run resumed at an epoch's beginning goes
on as if it had never stopped. Within an epoch nothing is read back from the device.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsecycle.lab import hardware
from sparsecycle.lab.data.augment import Augment
from sparsecycle.lab.data.dataset import Dataset, Split
from sparsecycle.lab.distillation import distillation_loss
from sparsecycle.lab.learning_rate import learning_rate
from sparsecycle.lab.optimizer import make_optimizer
from sparsecycle.lab.recipe import Recipe

__all__ = ["Diverged", "Score", "TrainedEpoch", "Trainer", "make_optimizer", "stream"]

#: Images in a forward pass of an evaluation.
EVALUATION_BATCH = 500


class Diverged(ValueError):
    """The loss or a weight is no longer a finite number."""


@dataclass(frozen=True)
class Score:
    """Mean loss (nats) and share of images that are right.

    The loss is the cross entropy, smoothed where the recipe smooths; in training that which is minimised, with the
    teacher's part where there is one.
    """

    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrainedEpoch:
    """The score over the trained steps, each before its update, and the time they took without compiling."""

    score: Score
    lr: float
    images: int
    seconds: float


def stream(seed: int, epoch: int, purpose: str) -> int:
    """A seed below 2**63 for one purpose in one epoch, unrelated to those of other purposes and epochs."""
    data = hashlib.sha256(f"{seed} {epoch} {purpose}".encode()).digest()
    return int.from_bytes(data[:8], "big") >> 1


class Trainer:
    """Holds a network, its optimizer and its data on one device, and trains an epoch at a time.

    ``model`` and ``optimizer`` are the plain torch objects: what else takes part in a step (a sparsifier) is
    made from them, and called through ``after_step``.

    Args:
        model: Moved to the device in place.
        data: Moved to the device whole, as uint8.
        recipe: How to train. ``validation`` is not used here: ``data.train`` is what is trained on.
        seed: Of order, augmentation and dropout; not of the weights, which are the model's.
        device: See :func:`sparsecycle.lab.hardware.pick_device`.
        precision: ``"fp32"`` or ``"bf16"`` (autocast); None: what the recipe says for this machine.
        channels_last: None: what the recipe says for this model.
        teacher: What to distil from where ``recipe.distillation`` is above 0: a network with as many outputs. It
            is moved like the model and put in evaluation mode, sees the same augmented images in the same
            precision, and is no part of the state.

    Raises:
        ValueError: There is no image to train on, or a teacher too many, too few or that is the model.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        precision: str | None = None,
        channels_last: bool | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        if len(data.train) == 0:
            raise ValueError(f"{data.name}: there is no image to train on")
        if (teacher is not None) != (recipe.distillation > 0):
            given = "None" if teacher is None else type(teacher).__name__
            raise ValueError(
                f"teacher={given} with distillation={recipe.distillation:g}; "
                "allowed is a network where distillation is above 0, and None where it is 0"
            )
        if teacher is model:
            raise ValueError("teacher is the model itself, which changes; allowed is another network, such as a copy")
        self.recipe = recipe
        self.seed = seed
        self.device = hardware.pick_device() if device is None else device
        self.precision = hardware.precision(recipe, model, self.device) if precision is None else precision
        self.channels_last = hardware.channels_last(recipe, model) if channels_last is None else channels_last
        self._fabric = hardware.fabric_for(self.device, self.precision)
        self._layout = torch.channels_last if self.channels_last else torch.contiguous_format
        self.data = data.to(self.device)
        self._mean = torch.tensor(data.mean, device=self.device).view(1, -1, 1, 1)
        self._std = torch.tensor(data.std, device=self.device).view(1, -1, 1, 1)
        self.model = self._place(model)
        self.teacher = None if teacher is None else self._place(teacher)
        self.optimizer = make_optimizer(recipe, self.model)
        # One graph for the full batches and one for the last: a graph for any size would be slower in both.
        self._compiled: set[int] = set()
        forward = self._forward if teacher is None else self._distil
        self._compute: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = (
            torch.compile(forward, dynamic=False) if recipe.compile else forward
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        images, batch = len(self.data.train), self.recipe.batch_size
        # Batch norm has no variance of one value, so that a last batch of one image is left out.
        return images // batch if images % batch == 1 and images > batch > 1 else math.ceil(images / batch)

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the run."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def example(self) -> Tensor:
        """One normalised test image, (1, channels, height, width), as the network gets it."""
        return self._normalise(self.data.test.images[:1].float().div_(255))

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The augmented, normalised images and the labels of each step of ``epoch``."""
        split = self.data.train
        # The order is drawn on the CPU, so that it is the same on every device.
        shuffle = torch.Generator().manual_seed(stream(self.seed, epoch, "order"))
        order = torch.randperm(len(split), generator=shuffle).to(self.device)
        generator = torch.Generator(self.device).manual_seed(stream(self.seed, epoch, "augment"))
        augmented = self.recipe.augment != Augment()
        for step in range(self.steps_per_epoch):
            chosen = order[step * self.recipe.batch_size : (step + 1) * self.recipe.batch_size]
            # index_select is ten times faster here than images[chosen].
            images = split.images.index_select(0, chosen)
            images = self.recipe.augment(images, generator) if augmented else images.float().div_(255)
            yield self._normalise(images), split.labels.index_select(0, chosen)

    def train_epoch(
        self,
        epoch: int,
        after_step: Callable[[], None] | None = None,
        on_step: Callable[[int], None] | None = None,
        *,
        first_step: int = 0,
        last_step: int | None = None,
    ) -> TrainedEpoch:
        """Train through the whole train part once, or through the steps [first_step, last_step) of that epoch.

        Two parts that follow each other do what the whole epoch does, bit by bit, in a network without dropout;
        dropout's random numbers begin anew in each part.

        Args:
            epoch: 0-based; order, augmentation, dropout and learning rate follow from it.
            after_step: Called right after every optimizer step, with the gradients still there.
            on_step: Called last in every step with the number of steps of this epoch up to it, skipped ones too.
            first_step: 0-based. The batches before it are made, so that augmentation draws its numbers, and dropped.
            last_step: Exclusive; None: to the epoch's end.

        Raises:
            ValueError: ``first_step`` and ``last_step`` bound no step of an epoch.
            Diverged: The loss is not finite at the end of the epoch, or a weight when ``after_step`` raises.
        """
        last = self.steps_per_epoch if last_step is None else last_step
        if not 0 <= first_step < last <= self.steps_per_epoch:
            raise ValueError(
                f"first_step={first_step!r}, last_step={last_step!r}; allowed is "
                f"0 <= first_step < last_step <= {self.steps_per_epoch}, the steps of an epoch"
            )
        torch.manual_seed(stream(self.seed, epoch, "forward"))
        self.model.train()
        if self.teacher is not None:
            self.teacher.eval()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        images_seen = images_timed = 0
        compiling = 0.0
        lr = self.recipe.lr
        begin = time.perf_counter()
        try:
            batches = itertools.islice(self.batches(epoch), first_step, last)
            for step, (images, labels) in enumerate(batches, start=first_step + 1):
                lr = learning_rate(self.recipe, epoch * self.steps_per_epoch + step - 1, self.steps_per_epoch)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                started = time.perf_counter()
                with self._fabric.autocast():
                    loss, right = self._compute(images, labels)
                self._fabric.backward(loss)
                if self.recipe.clip is not None:
                    nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
                self.optimizer.step()
                if after_step is not None:
                    after_step()
                self.optimizer.zero_grad(set_to_none=True)
                loss_sum.add_(loss.detach(), alpha=len(labels))
                correct.add_(right)
                images_seen += len(labels)
                if self.recipe.compile and len(labels) not in self._compiled:
                    self._compiled.add(len(labels))
                    compiling += time.perf_counter() - started
                else:
                    images_timed += len(labels)
                if on_step is not None:
                    on_step(step)
        except Exception as error:
            # Whoever looks at a weight in mid-epoch finds the NaN first, and cannot know where it comes from.
            finite = all(bool(torch.isfinite(p).all()) for p in parameters)
            if not finite or not math.isfinite(loss_sum.item()):
                raise self._diverged(epoch, "weights are no longer finite") from error
            raise
        total = loss_sum.item()
        seconds = time.perf_counter() - begin
        if images_timed:
            # The first of several runs in a process compiles for all of them: its steps that do are counted
            # as if they took as long as the others.
            seconds = (seconds - compiling) * images_seen / images_timed
        if not math.isfinite(total):
            raise self._diverged(epoch, f"training loss is {total}")
        score = Score(total / images_seen, correct.item() / images_seen)
        return TrainedEpoch(score, lr, images_seen, seconds)

    def evaluate(self, split: Split, epoch: int) -> Score:
        """The score on ``split``, without augmentation, in the precision of the training.

        Args:
            split: At least one image.
            epoch: 0-based, for the error's message.

        Raises:
            Diverged: The loss is not finite.
        """
        split = split.to(self.device)
        self.model.eval()
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            for begin in range(0, len(split), EVALUATION_BATCH):
                images = split.images[begin : begin + EVALUATION_BATCH].float().div_(255)
                labels = split.labels[begin : begin + EVALUATION_BATCH]
                with self._fabric.autocast():
                    loss, right = self._forward(self._normalise(images), labels)
                loss_sum.add_(loss, alpha=len(labels))
                correct.add_(right)
        total = loss_sum.item()
        if not math.isfinite(total):
            raise self._diverged(epoch, f"evaluation loss is {total}")
        return Score(total / len(split), correct.item() / len(split))

    def state_dict(self) -> dict[str, Any]:
        """The network's and the optimizer's state; the rest follows from recipe, seed and epoch."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _place(self, network: nn.Module) -> nn.Module:
        """``network`` on the device, in place, its kernels in the images' layout."""
        network = network.to(self.device)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self._loss(self.model(images).float(), labels)

    def _distil(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`_forward`, the loss with the teacher's part."""
        assert self.teacher is not None
        with torch.no_grad():
            taught = self.teacher(images).float()
        logits = self.model(images).float()
        loss, right = self._loss(logits, labels)
        part = self.recipe.distillation
        return (1 - part) * loss + part * distillation_loss(logits, taught, self.recipe.temperature), right

    def _loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        return loss, (logits.detach().argmax(1) == labels).sum()

    def _normalise(self, images: Tensor) -> Tensor:
        """(x - mean) / std of values in [0, 1], in place, in the network's memory layout."""
        return images.sub_(self._mean).div_(self._std).contiguous(memory_format=self._layout)

    def _diverged(self, epoch: int, what: str) -> Diverged:
        recipe = self.recipe
        advice = [f"a lower lr (now {recipe.lr:g})"]
        if recipe.warmup == 0:
            advice.append("warmup (now none)")
        if recipe.clip is None:
            advice.append("clip (now none)")
        if self.precision != "fp32":
            advice.append(f"precision fp32 (now {self.precision})")
        where = f"epoch {epoch + 1} of {recipe.epochs}"
        return Diverged(f"{where}: the {what}; try {', '.join(advice)}")
