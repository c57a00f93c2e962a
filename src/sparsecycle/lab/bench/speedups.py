"""The table of one race of inference engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsecycle.lab.bench.tables import figure, table

__all__ = ["READING", "speedups"]

READING = """\
ms an image: the median; the ratios, too, are medians, over the rounds of the ratio within a round, with the middle half
of the rounds behind them. Error: root mean square of the difference to torch's outputs in float64, relative to them."""


def speedups(found: Mapping[str, Any], images: int) -> str:
    """A row for each entrant, with what it is times faster than the fastest dense engine in fp32 and in int8.

    Args:
        found: What :func:`sparsecycle.lab.bench.inference.measure` gave.
        images: Images a forward pass.
    """
    entrants = found["entrants"]
    over = entrants[0]["over"] if entrants else {}
    head = ["", "network", "ms an image", *(f"× {best['name']} {values}" for values, best in over.items()), "error"]
    rows = [
        [
            f"{its['name']} {its['values']}",
            its["network"],
            _milliseconds(its["milliseconds"] / images),
            *(_ratio(its["over"][values]) for values in over),
            f"{its['error']:.0e}" if its["error"] else "",
        ]
        for its in entrants
    ]
    left_out = [f"Left out: {label}: {reason}." for label, reason in found["left out"].items()]
    return "\n".join([table(head, rows), *(["", *left_out] if left_out else [])])


def _milliseconds(number: float) -> str:
    """Three digits that count: 0.0291, 3.14, 254."""
    return f"{number:#.3g}" if number < 99.95 else f"{number:,.0f}"


def _ratio(its: Mapping[str, Any]) -> str:
    return f"{figure(its['ratio'])} ({figure(its['quartiles'][0])} to {figure(its['quartiles'][1])})"
