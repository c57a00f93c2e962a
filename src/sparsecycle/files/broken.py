"""What is wrong with a file."""

from __future__ import annotations

__all__ = ["Broken", "demand"]


class Broken(ValueError):
    """A part of a file does not add up; whoever knows which part and which file says so."""


def demand(holds: bool, otherwise: str) -> None:
    """Raise :class:`Broken` unless something holds.

    Args:
        holds: What must hold.
        otherwise: What is wrong if it does not.
    """
    if not holds:
        raise Broken(otherwise)
