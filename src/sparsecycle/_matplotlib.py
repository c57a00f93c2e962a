"""matplotlib, asked for only when something is drawn."""

from __future__ import annotations

from typing import Any


def pyplot() -> Any:
    """``matplotlib.pyplot``; an ImportError that says what to install where it is missing."""
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'sparsecycle[plot]'") from error
    return matplotlib.pyplot
