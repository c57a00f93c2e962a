"""The common suite: what is promised of every method under every optimizer."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsecycle as sc
from sparsecycle.methods import METHODS
from sparsecycle.recovery import RECOVERIES

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True, weight_decay=1e-2),
    "adamw-fused": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.005, momentum=0.9, centered=True, weight_decay=1e-2),
}
if hasattr(torch.optim, "Adafactor"):  # since torch 2.5
    OPTIMIZERS["adafactor"] = lambda p: torch.optim.Adafactor(p, 0.05)


class Net(nn.Module):
    """A convolution, a batch norm and two linear layers: 54 + 480 + 30 prunable weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.hidden = nn.Linear(48, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(torch.tanh(self.norm(self.conv(x))).flatten(1))))


def a_batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + number)
    x = torch.randn(8, 2, 4, 4, generator=generator)
    return x, torch.randint(0, 3, (8,), generator=generator)


#: What a method must be given, or is given so that things happen in twelve steps.
NEEDS: dict[str, dict[str, Any]] = {
    "snip": {"batches": [a_batch(-1), a_batch(-2)]},
    "grasp": {"batches": [a_batch(-1)]},
    "synflow": {"input_shape": (2, 4, 4), "rounds": 10},
    "dpf": {"update_every": 3},
    "set": {"update_every": 2},
    "rigl": {"update_every": 2},
    "acdc": {"switches": (0.2, 0.5, 0.7)},
}
#: Methods whose mask stays as it is from the start.
FIXED = ("random", "magnitude", "snip", "grasp", "synflow")
#: Optimizers that stand for all where it is enough that there is state of every kind, and one fused step.
FEW = ("nesterov", "amsgrad", "adamw-fused")


class Run:
    """A training run whose every step sees its own batch, so that it can be taken up anywhere."""

    total = 12
    weights = 564
    names = ("conv.weight", "hidden.weight", "head.weight")

    def __init__(
        self,
        method: str,
        optimizer: str = "sgd",
        *,
        seed: int = 0,
        sparsity: float = 0.9,
        constant: float | None = None,
        **words: Any,
    ) -> None:
        torch.manual_seed(seed)
        self.model = Net()
        if constant is not None:
            for weight in self.prunable.values():
                nn.init.constant_(weight, constant)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        words = {**NEEDS.get(method, {}), **words}
        self.sparsity = sparsity
        self.sparsifier: sc.Sparsifier = METHODS[method](self.model, self.optimizer, self.sparsity, self.total, **words)
        self.steps = 0

    @property
    def parts(self) -> tuple[nn.Module, torch.optim.Optimizer, sc.Sparsifier]:
        return self.model, self.optimizer, self.sparsifier

    @property
    def prunable(self) -> dict[str, nn.Parameter]:
        return {name: self.model.get_parameter(name) for name in self.names}

    @property
    def recovery(self) -> sc.Recovery | sc.Regrow:
        name = self.sparsifier.report().settings["recovery"]
        return RECOVERIES[name] if name in RECOVERIES else eval(name, vars(sc))

    @property
    def watches(self) -> bool:
        """Whether gradients are dense until the optimizer's step."""
        return bool(self.recovery.trains != "kept" or "Movement" in self.sparsifier.report().settings["criterion"])

    def expected_kept(self, step: int) -> int:
        """Weights that are kept while this step trains, from the method's schedule alone."""
        settings = self.sparsifier.report().settings
        every = settings["update_every"]
        end = min(step // every * every + every, self.total)
        schedule = eval(settings["schedule"], vars(sc))
        return self.weights - round(self.sparsity * schedule(end / self.total) * self.weights)

    @property
    def kept_at_the_end(self) -> int:
        return self.expected_kept(self.total - 1)

    def batch(self) -> tuple[Tensor, Tensor]:
        return a_batch(self.steps)

    def loss(self) -> Tensor:
        x, y = self.batch()
        return F.cross_entropy(self.model(x), y)

    def train(self, steps: int = 1) -> Run:
        for _ in range(steps):
            self.loss().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.sparsifier.step()
            self.steps += 1
        return self

    def train_until_pruned(self, steps: int) -> Run:
        """At least so many steps, and on until something is pruned."""
        self.train(steps)
        while self.sparsifier.sparsity == 0:
            self.train()
        return self

    def checkpoint(self) -> bytes:
        file = io.BytesIO()
        torch.save({"steps": self.steps, "parts": [part.state_dict() for part in self.parts]}, file)
        return file.getvalue()

    def resume(self, checkpoint: bytes) -> Run:
        saved = torch.load(io.BytesIO(checkpoint), weights_only=True)
        self.steps = saved["steps"]
        for part, state in zip(self.parts, saved["parts"], strict=True):
            part.load_state_dict(state)
        return self


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Where two nested states differ; tensors are compared bit by bit."""
    if isinstance(a, Tensor):
        if not (isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))):
            yield path
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from differences(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{path}.{i}")
    elif a != b:
        yield path


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32) if tensor.dtype == torch.float32 else tensor.detach()


def first_difference(a: Run, b: Run) -> str | None:
    """Where two runs differ, if they do: model, optimizer and sparsifier, bit by bit."""
    states = [[part.state_dict() for part in run.parts] for run in (a, b)]
    return next(differences(*states), None)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=FEW)
def some_optimizer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start() -> type[Run]:
    """Begins a run: ``start(method, optimizer, **words)``."""
    return Run


@pytest.fixture
def difference() -> Callable[[Run, Run], str | None]:
    return first_difference
