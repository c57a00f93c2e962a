"""The options of the command, typed once: from a data set's defaults, then a YAML file, then the flags."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from sparsecycle.lab import data as datasets
from sparsecycle.lab.catalogue import DENSE, NAMES, TICKET, TIMES, parameters
from sparsecycle.lab.data.augment import Augment
from sparsecycle.lab.experiment import Experiment, Pruning
from sparsecycle.lab.hardware import pick_device
from sparsecycle.lab.models import MODELS
from sparsecycle.lab.recipe import Recipe
from sparsecycle.names import nearest

__all__ = ["DEFAULTS", "METHODS", "Compare", "Options", "Train", "UsageError", "parse", "usage"]

METHODS = (DENSE, "progressive", "one-cycle", "agp", "iterative", "one-shot", "cyclical")
"""What is compared where nothing else is said: the schedules."""


class UsageError(ValueError):
    """What was asked for cannot be done as it was written; the command ends with exit code 2."""

    exit_code = 2


@contextmanager
def usage() -> Iterator[None]:
    """A ValueError within is the options' fault: it becomes a UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


_IMAGES = Recipe(epochs=30, nesterov=True, lr_update="step", warmup=0.5, augment=Augment(crop=4, flip=True))
_DIGITS = Recipe(epochs=20)
_HALF = Pruning(update="epoch", end=0.5)

DEFAULTS: dict[str, tuple[str, Pruning, Recipe]] = {
    "digits": ("lenet-300-100", _HALF, Recipe(epochs=40, batch_size=64, lr=0.05)),
    "mnist": ("lenet-300-100", _HALF, _DIGITS),
    "fashion-mnist": ("lenet-300-100", _HALF, _DIGITS),
    "cifar10": ("resnet-20", Pruning(end=0.75), _IMAGES),
    "cifar100": ("resnet-20", Pruning(end=0.75), _IMAGES),
}
"""Each data set's network, pruning and recipe where nothing else is said; ``--data NAME --help`` shows them.

One end for all methods that take one, so that every network has as long to train at its final sparsity.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `train` and `compare` have in common."""

    config: Path | None = None
    """YAML file with any of these options, a line each (epochs: 160); a flag overrides its line."""

    data: str = "digits"
    """Data set: digits, mnist, fashion-mnist, cifar10 or cifar100. What is not said otherwise is
    what suits it: add --help to see that."""

    model: str = "lenet-300-100"
    """Network: a name of the laboratory, package.module:factory, or timm:NAME."""

    init: str = ""
    """Weights to begin with: a file of torch.save, safetensors or sparsecycle.save, or a run; empty: random ones."""

    keep_zeros: bool = False
    """Hold weights at zero that are zero in the file, and count them as pruned."""

    mean: tuple[float, ...] = ()
    """Each channel's mean that images are normalised with, of values from 0 to 1; empty: the data set's own."""

    std: tuple[float, ...] = ()
    """Each channel's standard deviation, likewise."""

    runs: Path = Path("runs")
    """Folder of the runs. A finished run found there is not run again, a killed one goes on."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""

    pruning: Pruning = field(default_factory=Pruning)

    recipe: Recipe = field(default_factory=Recipe)

    def experiment(self, methods: Sequence[str]) -> Experiment:
        """These options as an experiment, with the method, the sparsity and the seed still to be put in.

        A time that none of ``methods`` takes is left out where it is only the data set's default.
        """
        words = {entry.name: getattr(self.pruning, entry.name) for entry in fields(Pruning)}
        for name in TIMES:
            default = getattr(DEFAULTS[self.data][1], name)
            if words[name] == default and not any(name in parameters(method) for method in methods):
                words[name] = None
        for name in ("data", "model", "init", "keep_zeros", "mean", "std", "recipe"):
            words[name] = getattr(self, name)
        ticket = getattr(self, "ticket", "")
        return Experiment(method=TICKET if ticket else DENSE, ticket=ticket, **words)


@dataclass(frozen=True, kw_only=True)
class Train(Options):
    """Train a network once and prune it on the way: one run a seed.

    Example: sparsecycle train --data mnist --method one-cycle --sparsity 0.95 --seeds 0 1 2
    """

    method: str = "progressive"
    """dense; before training: random, magnitude, snip, grasp, synflow; gradually: progressive, one-cycle, agp,
    iterative, one-shot; with recovery: movement, gsm, cyclical, acdc, dsd, dpf, set, rigl; in several trainings:
    lottery-ticket, colt; or ticket, with --ticket."""

    sparsity: float = 0.9
    """Share of the prunable weights that are zero at the end; a ticket has its own."""

    ticket: str = ""
    """File of a ticket, found on this data set or on another, to be trained by the method ticket."""

    seeds: tuple[int, ...] = (0,)
    """One run a seed."""


@dataclass(frozen=True, kw_only=True)
class Compare(Options):
    """Compare methods with the dense network: the same network, data, recipe, budget and seeds for all.

    Example: sparsecycle compare --data digits --sparsities 0.9 0.98
    """

    methods: tuple[str, ...] = METHODS
    """Methods to compare (see train --help), or all. Dense is trained once a seed; without it there is no cost."""

    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95, 0.98)
    """Shares of the prunable weights that are zero at the end; each is a run of its own."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of everything a seed."""

    jobs: int | None = None
    """Runs at a time, in processes that share the cores; None: one a core on a CPU (8 at most), one on a GPU."""

    def __post_init__(self) -> None:
        if self.methods == ("all",):
            object.__setattr__(self, "methods", NAMES)
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"jobs={self.jobs}; allowed is a whole number of at least 1")


Command = TypeVar("Command", Train, Compare)


def parse(command: type[Command], arguments: Sequence[str], prog: str) -> Command:
    """Read the flags, and the YAML file that ``--config`` names.

    Args:
        command: ``Train`` or ``Compare``.
        arguments: the command line after the command's name.
        prog: what help and errors call the command.

    Raises:
        UsageError: a file that cannot be read, an unknown key or data set, a value out of its range.
        SystemExit: with code 2 where a flag is wrong (what is wrong is printed), 0 after ``--help``.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", nargs="?")
    first.add_argument("--data", nargs="?")
    known, _ = first.parse_known_args(list(arguments))
    file = Path(known.config) if known.config else None
    settings: dict[str, Any] = _read(file, command) if file else {}
    data = known.data or settings.get("data") or "digits"
    check_name("data", data, datasets.NAMES)
    model, pruning, recipe = DEFAULTS[data]
    options = command(data=data, model=model, pruning=pruning, recipe=recipe)
    if file:
        try:
            options = _cli(command, [*_flags(settings)], f"{prog} --config {file}", options)
        except SystemExit as stop:
            raise UsageError(f"{file}: the value of an option is not allowed (see above)") from stop
    options = _cli(command, list(arguments), prog, replace(options, data=data))
    for method in (options.method,) if isinstance(options, Train) else options.methods:
        check_name("method", method, (*NAMES, TICKET) if isinstance(options, Train) else NAMES)
    check_model(options.model)
    with usage():
        pick_device(options.device)
    return options


def check_model(name: str) -> None:
    """Raise a UsageError that names the nearest network, unless ``name`` is one or is looked for elsewhere."""
    if ":" not in name:
        check_name("model", name, tuple(MODELS))


def check_name(option: str, value: str, known: Sequence[str]) -> None:
    """Raise a UsageError that names the nearest valid choice, unless ``value`` is one of ``known``."""
    if value not in known:
        hint = nearest(value, known, cutoff=0.4) or "."
        raise UsageError(f"{option} {value!r} is not known{hint} Known are {', '.join(known)}")


def _cli(command: type[Command], arguments: list[str], prog: str, default: Command) -> Command:
    return tyro.cli(command, prog=prog, args=arguments, default=default, config=(tyro.conf.OmitArgPrefixes,))


def _read(file: Path, command: type[Options]) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--config {file} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise UsageError(f"--config {file} holds a {type(content).__name__}; it must be lines of 'option: value'")
    known = [name for name in _names(command) if name != "config"]
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            hint = nearest(name, known, cutoff=0.4)
            raise UsageError(f"{file}: {key!r} is not an option of {command.__name__.lower()}{hint}")
        if isinstance(value, Mapping):
            raise UsageError(f"{file}: {key!r} holds a mapping; allowed is a value or a list of values")
        settings[name] = value
    return settings


def _names(kind: Any) -> Iterator[str]:
    """The options' names, those of nested dataclasses among them."""
    nested = {"pruning": Pruning, "recipe": Recipe, "augment": Augment}
    for entry in fields(kind):
        if entry.name in nested:
            yield from _names(nested[entry.name])
        else:
            yield entry.name


def _flags(settings: Mapping[str, Any]) -> Iterator[str]:
    """The settings as the command line would have them, so that one parser checks both."""
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool) and name != "channels_last":
            yield f"--{flag}" if value else f"--no-{flag}"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from (f"--{flag}", *(str(item) for item in value))
        else:
            yield from (f"--{flag}", str(value))
