"""Markdown tables, and figures in as many digits as count."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["figure", "of_threads", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, all but the first one to the right."""
    widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(_line(row, widths) for row in [head, rule, *rows])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = widths
    return (
        " | ".join(["| " + cells[0].ljust(first), *(c.rjust(w) for c, w in zip(cells[1:], others, strict=True))]) + " |"
    )


def figure(number: float) -> str:
    """Two or three digits that count: 0.029, 3.1, 254."""
    return f"{number:#.2g}" if number < 1 else f"{number:.1f}" if number < 99.95 else f"{number:,.0f}"


def of_threads(threads: int) -> str:
    """How many threads, in words."""
    return f"{threads} thread{'' if threads == 1 else 's'}"
