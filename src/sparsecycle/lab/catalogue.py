"""Every method by its name, what it takes, and how a word on the command line becomes an argument of it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

from sparsecycle.methods import METHODS
from sparsecycle.names import nearest
from sparsecycle.tickets import Search, colt, lottery_ticket

__all__ = ["DENSE", "KEEP_ZEROS", "NAMES", "SEARCHES", "TICKET", "TIMES", "arguments", "own", "parameters", "takes"]

#: The method that prunes nothing.
DENSE = "dense"
#: The method that trains a stored ticket.
TICKET = "ticket"
#: The methods that train several networks to find a ticket.
SEARCHES: dict[str, Callable[..., Search]] = {"lottery-ticket": lottery_ticket, "colt": colt}
#: All methods but ``ticket``, which needs a file.
NAMES = (DENSE, *METHODS, *SEARCHES)
#: The methods that can hold weights at zero: one that is zero is worth least to them, and they bring none back.
KEEP_ZEROS = (DENSE, "magnitude", "snip", "synflow", "progressive", "one-cycle", "agp", "iterative", "one-shot")
#: Options that say when a method prunes; not every method takes every one of them.
TIMES = ("start", "end", "at")

#: What the laboratory gives a method by itself, or through options of their own.
_GIVEN = frozenset(
    f"""model optimizer sparsity total_steps words within train store map batches loss input_shape seed
    scope recovery include exclude floor {" ".join(TIMES)}""".split()
)
#: What the laboratory adds to a method's own arguments: COLT's partitions are by "classes" or "random".
_ADDED = {"colt": ("by",)}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType({**METHODS, **SEARCHES})


def parameters(method: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a method's function by their names; none of ``dense`` and ``ticket``."""
    return inspect.signature(_FUNCTIONS[method]).parameters if method in _FUNCTIONS else {}


def takes(method: str, name: str) -> bool:
    """Whether a method takes a word of the sparsifier's, such as scope, itself or to pass it on."""
    return name in parameters(method) or "words" in parameters(method)


def own(method: str) -> list[str]:
    """The names of a method's own arguments, which the laboratory has no option for."""
    return [*(name for name in parameters(method) if name not in _GIVEN), *_ADDED.get(method, ())]


def arguments(method: str, words: Sequence[str]) -> dict[str, Any]:
    """A method's own arguments from words such as ``"beta=6"``; values as in YAML.

    Raises:
        ValueError: A word is not of the form name=value, comes twice, or is no argument of the method's own.
    """
    known = own(method)
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise ValueError(f"arguments: {word!r} must be of the form name=value, such as beta=6")
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise ValueError(f"arguments: {method!r} has no {name!r}, it has {allowed}{nearest(name, known)}")
        if name in found:
            raise ValueError(f"arguments: {name!r} comes twice")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"arguments: the value in {word!r} cannot be read: {reason}") from error
        if found[name] == value.strip():  # not in quotes
            with contextlib.suppress(ValueError):  # YAML takes 1e-3 for text
                found[name] = float(found[name])
    return found
