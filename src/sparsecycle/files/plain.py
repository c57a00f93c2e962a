"""Dataclasses from the plain values that ``asdict`` and JSON made of them, every field of its declared type."""

from __future__ import annotations

import functools
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

__all__ = ["read"]


def read(kind: Any, plain: Any) -> Any:
    """A value of JSON as what it is declared to be.

    Args:
        kind: A dataclass, ``tuple[X, ...]``, ``dict[str, X]``, a number, a text, a union of those, or ``Any``, whose
            lists become tuples.
        plain: What ``json.loads`` gave.

    Raises:
        TypeError: If it is something else, or a dataclass has too many fields or too few.
        ValueError: If a number has more than 64 bits.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        fitting = [option for option in inner if type(plain) is _PLAIN.get(get_origin(option) or option)]
        return read(fitting[0] if fitting else inner[0], plain)
    wanted = _PLAIN.get(origin or kind, dict)
    if kind in (int, float) and type(plain) is int and abs(plain) >= 1 << 64:
        raise ValueError(f"{str(plain)[:40]}... is no number of 64 bits")
    if kind is float and type(plain) is int:
        plain = float(plain)
    if kind is not Any and type(plain) is not wanted:
        raise TypeError(f"{str(plain)[:40]!r} is no {wanted.__name__}")
    if is_dataclass(kind):
        build: Any = kind
        types = _types(build)
        if types.keys() != plain.keys():
            raise TypeError(f"{', '.join(sorted(types.keys() ^ plain.keys()))[:80]} is too much or too little")
        return build(**{name: read(types[name], value) for name, value in plain.items()})
    if origin is tuple:
        return tuple(read(inner[0], value) for value in plain)
    if origin is dict:
        return {name: read(inner[1], value) for name, value in plain.items()}
    if kind is Any and type(plain) is list:  # as the tuple that it may have been
        return tuple(read(Any, value) for value in plain)
    if kind is Any and type(plain) is dict:
        return {name: read(Any, value) for name, value in plain.items()}
    return plain


@functools.cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


_PLAIN: dict[Any, type] = {tuple: list, dict: dict, str: str, int: int, float: float, bool: bool, NoneType: NoneType}
"""What JSON has for the types that occur; for all others, which are dataclasses, it has a dict."""
