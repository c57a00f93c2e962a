"""A network from the factory that a file names, which is called only if that is wanted."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sparsecycle.files.contents import About

__all__ = ["make"]

#: Where the package's own networks are. Named, not imported: reading files does not need the laboratory.
_OWN = "sparsecycle.lab.models"


class _NothingWritten(TorchFunctionMode):
    """Within, what would write into a tensor does nothing: drawing weights on meta loads half a second of modules."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        words = kwargs or {}
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        return (args or (words["tensor"],))[0] if in_place else func(*args, **words)


def make(about: About, allow: Collection[str], check: Callable[[nn.Module], None]) -> nn.Module:
    """Call the factory of a file, if it is one of the package's own networks or allowed by name.

    A network of the package's own is made without memory, since the file's arguments may ask for any size. Once it is
    checked it gets some, which nothing fills: all of its state is about to be read, and drawing weights takes longer.

    Args:
        about: What the file says of its factory.
        allow: Factories that may be called.
        check: Raises ValueError if a network is not that of the file.

    Raises:
        ValueError: If the file names none, or one that is not allowed, or that gives no network, or another one.
    """
    if about.factory is None:
        raise ValueError("names no factory that makes its network; pass the network: load(path, model)")
    own = importlib.import_module(_OWN)
    if about.factory in own.MODELS:
        try:
            with _NothingWritten(), torch.device("meta"):
                made: nn.Module = own.build(about.factory, *_places(about.arguments))
        except (ArithmeticError, RuntimeError, TypeError) as error:
            raise ValueError(f"calls {about.factory!r} with {about.arguments}: {error}") from error
        check(made)
        state = {name: torch.empty(its.shape, dtype=its.dtype) for name, its in made.state_dict().items()}
        made.load_state_dict(state, assign=True)
        return made
    if about.factory not in ([allow] if isinstance(allow, str) else allow):
        raise ValueError(
            f"names the factory {about.factory!r}, which is not called unless you say so: "
            f"load(path, model) with your network, or load(path, allow=[{about.factory!r}]) if you trust it"
        )
    module, _, function = about.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"names the factory {about.factory!r}, which is not here: {error}") from error
    arguments = about.arguments
    found = factory(**arguments) if isinstance(arguments, dict) else factory(*arguments)
    if not isinstance(found, nn.Module):
        raise ValueError(f"names the factory {about.factory!r}, which gave a {type(found).__name__} and no network")
    check(found)
    return found


def _places(arguments: tuple[Any, ...] | dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of the laboratory's networks, an image's shape and the number of classes, by place."""
    if not isinstance(arguments, dict):
        return arguments
    if set(arguments) != {"shape", "classes"}:
        raise TypeError(f"arguments are {', '.join(arguments) or 'none'}; allowed are shape and classes")
    return arguments["shape"], arguments["classes"]
