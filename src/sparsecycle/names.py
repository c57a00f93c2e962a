"""What a name stands for, and what to say of one that stands for nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = ["named", "nearest"]

_T = TypeVar("_T")


def named(word: str, value: str, choices: Mapping[str, _T]) -> _T:
    """The choice of this name; a ValueError that names the nearest one where there is none."""
    if value in choices:
        return choices[value]
    raise ValueError(f"{word}={value!r} must be one of {', '.join(map(repr, choices))}{nearest(str(value), choices)}")


def nearest(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.5) -> str:
    """``"; did you mean 'a' or 'b'?"`` with the known names that are nearest, or nothing."""
    near = difflib.get_close_matches(name, list(known), most, cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
