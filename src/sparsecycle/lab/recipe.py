"""How a network is trained, whatever prunes it: one frozen dataclass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sparsecycle.lab.data.augment import Augment
from sparsecycle.names import nearest

__all__ = ["Recipe", "check_choice"]

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
LR_SCHEDULES = ("cosine", "step", "constant")
UNITS = ("epoch", "step")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """Everything about training except the data, the network and the pruning.

    Raises:
        ValueError: where a value is out of its range; the message names the field, the value and the range.
    """

    epochs: int = 30
    """Passes over the training images."""

    batch_size: int = 128
    """Images a step. The last, smaller batch of an epoch is trained on too."""

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    """Which optimizer of torch.optim."""

    lr: float = 0.1
    """Highest learning rate."""

    momentum: float = 0.9
    """Momentum of sgd and rmsprop; the others do not use it."""

    nesterov: bool = False
    """Nesterov's momentum, for sgd."""

    weight_decay: float = 5e-4
    """Weight decay on all parameters, biases and norms too."""

    lr_schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Cosine down to 0, or times gamma at each of the milestones, or constant."""

    lr_update: Literal["epoch", "step"] = "epoch"
    """Whether the learning rate changes once an epoch or at every step."""

    lr_cycles: int = 1
    """Equal parts of the run in each of which the schedule begins anew, as cyclical pruning's does in every cycle."""

    warmup: float = 0.0
    """Epochs of linear warm-up before the schedule begins; only the first cycle has one."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of a cycle at which the step schedule multiplies the learning rate by gamma."""

    gamma: float = 0.1
    """Factor of the step schedule."""

    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""

    distillation: float = 0.0
    """Weight of the dense teacher's part in the loss, 0 to 1; 0: no teacher."""

    temperature: float = 4.0
    """Divides the logits of teacher and student in the teacher's part."""

    clip: float | None = None
    """Largest norm of the gradient of all parameters together; None: not clipped."""

    augment: Augment = field(default_factory=Augment)
    """Random changes to the training images."""

    validation: float = 0.0
    """Share of the training images held out for validation; the test images are never used to select."""

    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast; auto: bf16 for networks with convolutions where the device has it, else fp32."""

    channels_last: bool | Literal["auto"] = "auto"
    """Memory layout of images and kernels; auto: channels last for networks with convolutions."""

    compile: bool = False
    """torch.compile the forward pass and the loss: seconds to minutes at the start, then faster steps."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr_cycles", "evaluate_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r}; allowed is a whole number of at least 1")
        if self.lr_cycles > self.epochs:
            raise ValueError(
                f"lr_cycles={self.lr_cycles}; allowed is at most one an epoch, of which there are {self.epochs}"
            )
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("lr_schedule", LR_SCHEDULES),
            ("lr_update", UNITS),
            ("precision", PRECISIONS),
        ):
            check_choice(name, getattr(self, name), choices)
        self._in_range("lr", above=0.0)
        self._in_range("momentum", least=0.0, below=1.0)
        self._in_range("weight_decay", least=0.0)
        self._in_range("warmup", least=0.0, below=self.epochs / self.lr_cycles)
        self._in_range("gamma", above=0.0)
        self._in_range("label_smoothing", least=0.0, below=1.0)
        self._in_range("distillation", least=0.0, most=1.0)
        self._in_range("temperature", above=0.0)
        self._in_range("validation", least=0.0, below=1.0)
        if self.clip is not None:
            self._in_range("clip", above=0.0)
        # A list (from YAML) would make the recipe unhashable and differ from the tuple it means.
        object.__setattr__(self, "milestones", tuple(float(share) for share in self.milestones))
        if any(not 0.0 < share < 1.0 for share in self.milestones) or list(self.milestones) != sorted(
            set(self.milestones)
        ):
            raise ValueError(f"milestones={self.milestones}; allowed are rising shares of the run, in (0, 1)")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0.0):
            raise ValueError(
                f"nesterov=True with optimizer={self.optimizer!r}, momentum={self.momentum}; "
                "allowed only with sgd and a momentum above 0"
            )
        if self.channels_last not in (True, False, "auto"):
            raise ValueError(f"channels_last={self.channels_last!r}; allowed are True, False and 'auto'")

    def _in_range(
        self,
        name: str,
        *,
        least: float | None = None,
        above: float | None = None,
        below: float | None = None,
        most: float | None = None,
    ) -> None:
        value = getattr(self, name)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
            or (least is not None and value < least)
            or (above is not None and value <= above)
            or (below is not None and value >= below)
            or (most is not None and value > most)
        ):
            bounds = [f"at least {least:g}" if least is not None else f"above {above:g}"]
            if below is not None:
                bounds.append(f"below {below:g}")
            if most is not None:
                bounds.append(f"at most {most:g}")
            raise ValueError(f"{name}={value!r}; allowed is a number {' and '.join(bounds)}")
        object.__setattr__(self, name, float(value))


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a ValueError that names the nearest valid choice, unless ``value`` is one of ``choices``."""
    if value in choices:
        return
    hint = nearest(str(value).lower(), choices)
    raise ValueError(f"{name}={value!r} is not known; allowed are {', '.join(choices)}{hint}")
