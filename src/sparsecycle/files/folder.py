"""A packed file in a folder of its own, with a card that tells people what it is: what model hubs take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sparsecycle.files.container import write_whole
from sparsecycle.files.inspection import Inspection, inspect
from sparsecycle.files.narrow import Values
from sparsecycle.files.packed import NAME, save

__all__ = ["card", "save_pretrained"]


def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    values: Values = "fp32",
    *,
    name: str | None = None,
    results: Mapping[str, str] | None = None,
    **about: Any,
) -> None:
    """Write a folder with the packed file, ``model.safetensors``, and its card, ``README.md``.

    ``sparsecycle.load(folder)`` reads it; a folder like this can be pushed to a model hub as it is.

    Args:
        model: The network.
        folder: It is made where it is not there yet.
        values: See :func:`sparsecycle.save`.
        name: The network's name on the card; None: the folder's.
        results: What was measured, for the card: ``{"accuracy on CIFAR-10's test set": "89.3 %"}``.
        **about: What else is known of the network; see :func:`sparsecycle.save`.

    Raises:
        ValueError: See :func:`sparsecycle.save`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder / NAME, values, **about)
    text = card(inspect(folder), name or folder.resolve().name, results or {})
    write_whole(folder / "README.md", text.encode())


def card(inspection: Inspection, name: str, results: Mapping[str, str]) -> str:
    """The model card of a packed file: Markdown, with the head that model hubs read.

    Args:
        inspection: The file.
        name: The network's name.
        results: What was measured, by what it is.
    """
    about, ratio = inspection.contents.about, inspection.dense_bytes / inspection.bytes
    lines = ["---", "library_name: sparsecycle", "tags:", "- pruning", "- sparsity", "- pytorch", "---", ""]
    lines += [f"# {name}", ""]
    lines.append(
        f"{inspection.sparsity:.2%} of the weights of this network are zero. It is {_bytes(inspection.bytes)} large, "
        f"{ratio:.1f} times smaller than the {_bytes(inspection.dense_bytes)} of its tensors."
    )
    lines += ["", "```python", "import sparsecycle as sc", ""]
    if about.factory is None:
        lines.append('model = sc.load("path/to/this/folder", model)  # the network that it was saved from')
    else:
        lines.append('model = sc.load("path/to/this/folder")')
    if about.shape is not None:
        lines.append("fast = sc.runtime.compile(model.eval(), images)  # several times faster on a CPU")
    lines += ["```", ""]
    if results:
        lines += ["## Results", "", "| measured | |", "| --- | ---: |"]
        lines += [f"| {_cell(what)} | {_cell(found)} |" for what, found in results.items()]
        lines.append("")
    lines += _inputs(inspection)
    lines += _pruning(inspection)
    lines += [
        "## Layers",
        "",
        "| layer | shape | weights | kept | sparsity | bytes |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for m in inspection.contents.matrices:
        cells = [_cell(m.name), "×".join(map(str, m.shape)), f"{m.weights:,}", f"{m.kept:,}"]
        lines.append(f"| {' | '.join(cells)} | {1 - m.kept / m.weights:.2%} | {sum(m.lengths):,} |")
    lines += ["", f"Weights are stored as {inspection.contents.values}, what is no matrix as it is."]
    return "\n".join(lines) + "\n"


def _inputs(inspection: Inspection) -> list[str]:
    about, lines = inspection.contents.about, []
    if about.shape is not None:
        lines.append(f"An input has the shape {about.shape}.")
    if about.mean is not None and about.std is not None:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (about.mean, about.std))
        lines.append(f"Its values, from 0 to 1, are normalised with mean {mean} and standard deviation {std}.")
    if about.classes is not None:
        lines.append(f"The {len(about.classes)} outputs are {', '.join(map(_cell, about.classes))}.")
    return ["## Inputs and outputs", "", *lines, ""] if lines else []


def _pruning(inspection: Inspection) -> list[str]:
    report = inspection.contents.about.report
    if report is None:
        return []
    settings = [f"| {_cell(key)} | {_cell(value)} |" for key, value in report.get("settings", {}).items()]
    asked = [f"| {key} | {report[key]:.4%} |" for key in ("requested", "achieved") if key in report]
    return ["## Pruning", "", "| setting | |", "| --- | --- |", *settings, *asked, ""]


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"


def _cell(value: Any) -> str:
    """A value in a table, on one line, in which nothing is markup of the table."""
    return " ".join(str(value).split()).replace("|", "\\|")
