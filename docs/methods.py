"""Writes methods.md from the code: ``python docs/methods.py``; a test says when it is out of date."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparsecycle as sc
from sparsecycle.lab.catalogue import SEARCHES, parameters
from sparsecycle.recovery import RECOVERIES

HEAD = """\
# Methods

What each method is, read from the code by `python docs/methods.py`. The words are the defaults of
`sparsecycle.methods` on a run of 1,000 steps; every one of them is an argument. `granularity` is `weight` throughout.
Trainings are those of the search for 95, 98 and 99 % of the weights pruned, and one of the network itself. COLT takes
fewer, the less its partitions' networks agree; here are the most.

| method | paper | schedule | criterion | scope | recovery | trainings | ours |
| --- | --- | --- | --- | --- | --- | ---: | --- |
"""


def page() -> str:
    """The whole of methods.md."""
    rows = [_row(name, function, _words(name, function), "1") for name, function in sc.methods.METHODS.items()]
    rows += [_row(name, function, _search_words(name), _trainings(name)) for name, function in SEARCHES.items()]
    return HEAD + "\n".join(rows) + "\n"


def _row(name: str, function: Callable[..., Any], words: tuple[str, ...], trainings: str) -> str:
    text = " ".join(inspect.cleandoc(function.__doc__ or "").replace("``", "`").split())
    paper = re.search(r"\(((?:[^()]|\([^()]*\))*arXiv \d{4}\.\d{4,5})", text)
    cited = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[\1](https://arxiv.org/abs/\1)", paper.group(1)) if paper else "none"
    ours = re.search(r"Ours: (.*?)(?: Args:| Returns:| Raises:|$)", text)
    differs = ours.group(1) if ours else "no difference known."
    return f"| {name} | {cited} | {' | '.join(words)} | {trainings} | {differs} |"


def _words(name: str, function: Callable[..., Any]) -> tuple[str, ...]:
    """Schedule, criterion, scope and recovery of the method's sparsifier on a small network."""
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))
    needs: dict[str, Any] = {"batches": [(torch.zeros(2, 10), torch.tensor([0, 1]))], "input_shape": (10,)}
    given = {key: value for key, value in needs.items() if key in parameters(name)}
    sparsifier = function(model, torch.optim.SGD(model.parameters(), 0.1), 0.5, 1000, **given)
    scope, recovery = (sparsifier.report().settings[word] for word in ("scope", "recovery"))
    words = [f"`{_short(word)}`" for word in (sparsifier._plan.schedule, sparsifier._criterion)]
    return (*words, scope, recovery if recovery in RECOVERIES else f"`{_short(sparsifier._recovery)}`")


def _search_words(name: str) -> tuple[str, ...]:
    takes = parameters(name)
    rate = takes["rate"].default
    scope = takes["scope"].default if "scope" in takes else "global"
    return f"{100 * rate:g} % of the rest a round", "`Magnitude()`", scope, "none; rewound"


def _trainings(name: str) -> str:
    takes = parameters(name)
    each = takes["partitions"].default if "partitions" in takes else 1
    rounds = [math.ceil(math.log(1 - s) / math.log(1 - takes["rate"].default)) for s in (0.95, 0.98, 0.99)]
    share = f" of 1/{each} of the data" if each > 1 else ""
    return ", ".join(str(each * r) for r in rounds) + f"{share}, + 1"


def _short(word: Any) -> str:
    """A dataclass as it would be written, without what is at its default."""
    parts = []
    for field in fields(word):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(word, field.name)
        if field.repr and value != default:
            shown = f"{value:.4g}" if isinstance(value, float) else repr(value)
            parts.append(f"{field.name}={shown}")
    return f"{type(word).__name__}({', '.join(parts)})"


if __name__ == "__main__":
    path = Path(__file__).with_suffix(".md")
    path.write_text(page(), encoding="utf-8")
    print(path)
