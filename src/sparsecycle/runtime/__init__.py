"""Pruned networks that run fast on an ordinary CPU.

:func:`compile` makes of a network one that runs in a native call; :func:`save` and :func:`load` keep it.
"""

from sparsecycle.runtime.compiled import Compiled, compile
from sparsecycle.runtime.plan import Entry, Plan
from sparsecycle.runtime.store import load, save

__all__ = ["Compiled", "Entry", "Plan", "compile", "load", "save"]
