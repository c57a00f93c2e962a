"""What one run is: a data set, a network, a method, a sparsity, a seed and a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from sparsecycle.files.container import digest
from sparsecycle.files.weights import read_weights
from sparsecycle.lab.catalogue import DENSE, KEEP_ZEROS, NAMES, TICKET, TIMES, arguments, parameters, takes
from sparsecycle.lab.recipe import UNITS, Recipe, check_choice
from sparsecycle.lab.store import RunFolder, plain
from sparsecycle.recovery import RECOVERIES
from sparsecycle.tickets import Ticket

__all__ = ["Experiment", "Pruning"]

SCOPES = ("paper", "global", "uniform", "erk")
_RECOVERIES = ("paper", *RECOVERIES)


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How the pruning goes, whichever method it is."""

    scope: Literal["paper", "global", "uniform", "erk"] = "paper"
    """How the total is shared among layers; paper: as each method's own paper does."""

    recovery: Literal["paper", "none", "zero", "stored", "feedback", "passive"] = "paper"
    """What becomes of a pruned weight; paper: as each method's own paper has it."""

    update: Literal["step", "epoch"] = "step"
    """How often the masks change; methods that have an interval of their own keep it."""

    start: float | None = None
    """Share of the run after which pruning begins; None: the method's own."""

    end: float | None = None
    """Share of the run at which the final sparsity is reached; None: the method's own."""

    at: float | None = None
    """Share of the run at which one-shot prunes; None: the method's own."""

    exclude: tuple[str, ...] = ()
    """Layers that stay dense, by name: fc head.*"""

    floor: int = 1
    """Weights that every layer keeps at least; with 0 a layer may die, which the report says."""

    arguments: tuple[str, ...] = ()
    """The method's own arguments, by the names in sparsecycle.methods: beta=6 cycles=4"""


@dataclass(frozen=True, kw_only=True)
class Experiment(Pruning):
    """What one run is; two equal experiments are one run.

    Raises:
        ValueError: a field is out of its range, or the method does not take it.
    """

    data: str = "digits"
    """Data set."""

    model: str = "lenet-300-100"
    """Network."""

    method: str = "progressive"
    """Pruning method, or dense for none, or ticket for a stored one."""

    sparsity: float = 0.9
    """Share of the prunable weights that are zero at the end; a ticket has its own."""

    ticket: str = ""
    """File of the ticket to train, for the method ticket."""

    init: str = ""
    """Weights to begin with: a file of torch.save, safetensors or sparsecycle.save, or a run; empty: random ones."""

    keep_zeros: bool = False
    """Hold weights at zero that are zero in the file, and count them as pruned."""

    mean: tuple[float, ...] = ()
    """Each channel's mean that images are normalised with, of values from 0 to 1; empty: the data set's own."""

    std: tuple[float, ...] = ()
    """Each channel's standard deviation, likewise."""

    seed: int = 0
    """Of the weights, the validation images, the order, the augmentation and the dropout."""

    recipe: Recipe = field(default_factory=Recipe)
    """How it is trained."""

    def __post_init__(self) -> None:
        check_choice("method", self.method, (*NAMES, TICKET))
        check_choice("scope", self.scope, SCOPES)
        check_choice("recovery", self.recovery, _RECOVERIES)
        check_choice("update", self.update, UNITS)
        if isinstance(self.sparsity, bool) or not 0.0 <= self.sparsity <= 1.0:
            raise ValueError(f"sparsity={self.sparsity!r}; allowed is a share of the weights, 0 to 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed!r}; allowed is a whole number from 0 below 2**63")
        if isinstance(self.floor, bool) or not isinstance(self.floor, int) or self.floor < 0:
            raise ValueError(f"floor={self.floor!r}; allowed is a whole number of at least 0")
        if bool(self.ticket) != (self.method == TICKET):
            raise ValueError(
                f"ticket={self.ticket!r} with method={self.method!r}; {TICKET!r} needs a file, no other does"
            )
        if self.init and self.ticket:
            raise ValueError(f"init={self.init!r} with ticket={self.ticket!r}: a ticket has weights of its own")
        if self.keep_zeros:
            self._check_zeros()
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name}={values}; allowed are finite numbers, one a channel")
            object.__setattr__(self, name, values)
        object.__setattr__(self, "exclude", tuple(self.exclude))
        object.__setattr__(self, "arguments", tuple(self.arguments))
        if self.prunes:
            arguments(self.method, self.arguments)
            for name in ("scope", "recovery"):
                if getattr(self, name) != "paper" and not takes(self.method, name):
                    said = getattr(self, name)
                    raise ValueError(
                        f"{name}={said!r}: the method {self.method!r} does not take it; allowed is 'paper'"
                    )
        for name in TIMES:
            share = getattr(self, name)
            if share is None:
                continue
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name}={share!r}; allowed is a share of the run, 0 to 1")
            if self.prunes and name not in parameters(self.method):
                allowed = [time for time in TIMES if time in parameters(self.method)]
                raise ValueError(
                    f"{name}={share!r}: the method {self.method!r} does not take it; "
                    f"of {', '.join(TIMES)} it takes {', '.join(allowed) or 'none'}"
                )

    def _check_zeros(self) -> None:
        if not self.init:
            raise ValueError("keep_zeros=True needs a file with zeros: init (--init FILE) is empty")
        if self.method not in KEEP_ZEROS:
            raise ValueError(
                f"keep_zeros=True: the method {self.method!r} may bring zeros back, or prunes others in their place; "
                f"allowed are {', '.join(KEEP_ZEROS)}"
            )
        if self.prunes and self.recovery not in ("paper", "none"):
            raise ValueError(f"keep_zeros=True with recovery={self.recovery!r}, which brings zeros back")

    @property
    def prunes(self) -> bool:
        """Whether it has a pruning method, which a dense run and one of a stored ticket have not."""
        return self.method not in (DENSE, TICKET)

    def resolved(self) -> Experiment:
        """The same run, with what it does not use at its default: all of those are one run."""
        it = self
        if not it.recipe.distillation:
            it = replace(it, recipe=replace(it.recipe, temperature=Recipe.temperature))
        if it.prunes:
            return it
        unused = {f.name: f.default for f in fields(Pruning)}
        return replace(it, sparsity=0.0, **unused)  # type: ignore[arg-type]

    def words(self) -> dict[str, Any]:
        """What is said of the pruning, as keywords of the method's function; what is left to it is left out."""
        said: dict[str, Any] = {name: value for name in TIMES if (value := getattr(self, name)) is not None}
        for name in ("scope", "recovery"):
            if getattr(self, name) != "paper":
                said[name] = getattr(self, name)
        if self.exclude:
            said["exclude"] = self.exclude
        return {**said, "floor": self.floor, **arguments(self.method, self.arguments)}

    def folder(self, runs: Path | str) -> RunFolder:
        """Where the run lies, or will lie, under ``runs``."""
        it = self.resolved()
        parts = [it.data, it.model, it.method]
        if it.prunes:
            parts.append(f"{it.sparsity:g}")
        return RunFolder(runs, "-".join([*parts, f"seed{it.seed}"]), {"experiment": it.config()})

    def config(self) -> dict[str, Any]:
        """The run as plain values.

        A file is what is in it, wherever it lies. What a run begins with is left out where that is nothing special, so
        that runs from before there were such options are still found.
        """
        config: dict[str, Any] = plain(self)
        for name in ("init", "keep_zeros", "mean", "std"):
            if not config[name]:
                del config[name]
        if self.ticket:
            config["ticket"] = Ticket.load(self.ticket).digest
        if self.init:
            config["init"] = digest(read_weights(self.init))
        return config
