"""What one run is: a data set, a network, a method, a sparsity, a seed and a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from sparsecycle.lab.catalogue import DENSE, NAMES, TICKET, TIMES, arguments, parameters, takes
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
        config = plain(it)
        if it.ticket:
            # A ticket is what is in its file, wherever that lies.
            config["ticket"] = Ticket.load(it.ticket).digest
        return RunFolder(runs, "-".join([*parts, f"seed{it.seed}"]), {"experiment": config})
