"""What a comparison leaves in its folder: the table, the results as JSON, and the pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsecycle.files.container import write_whole
from sparsecycle.lab import pictures
from sparsecycle.lab.catalogue import TIMES, arguments, parameters
from sparsecycle.lab.comparison import markdown, tabulate
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.pictures import Curve
from sparsecycle.lab.result import Result
from sparsecycle.lab.runner import Failure
from sparsecycle.lab.store import plain
from sparsecycle.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["asked", "curves", "write"]

#: Points of a schedule's line where the masks change at every step.
_POINTS = 500


def write(
    results: Sequence[tuple[Experiment, Result]],
    failures: Sequence[Failure],
    runs: Path,
    environment: Mapping[str, Any],
) -> list[Path]:
    """Write ``table.md``, ``results.json`` and the pictures into ``runs``, each in one piece.

    The pictures are ``accuracy.png``; ``costs.png`` where a dense run and a pruned one have finished; and
    ``schedules.png`` where one that prunes within one training has.

    Args:
        results: Finished runs, at least one.
        failures: Those that did not finish; ``results.json`` names them.
        runs: The folder of the runs.
        environment: Versions and machine, for ``results.json``.

    Returns:
        The paths, pictures last.
    """
    rows = tabulate(results)
    title = _title(results[0][0])
    content = {
        "rows": [asdict(row) for row in rows],
        "runs": [{"experiment": plain(e), **_result(r, runs)} for e, r in results],
        "failures": [{"experiment": plain(f.experiment), "message": f.message} for f in failures],
        "environment": dict(environment),
    }
    paths = [
        _whole(runs / "table.md", markdown(rows).encode()),
        _whole(runs / "results.json", (json.dumps(content, indent=2) + "\n").encode()),
        _whole(runs / "accuracy.png", _png(pictures.accuracy(rows, title))),
    ]
    if any(row.cost is not None for row in pictures.drawn(rows)):
        paths.append(_whole(runs / "costs.png", _png(pictures.costs(rows, title))))
    lines = curves(results)
    if lines:
        highest = max(row.requested for row in rows)
        paths.append(
            _whole(runs / "schedules.png", _png(pictures.schedules(lines, f"{title}, to {100 * highest:.10g} %")))
        )
    return paths


def curves(results: Sequence[tuple[Experiment, Result]]) -> dict[str, Curve]:
    """Each method's sparsity over the run, at its highest sparsity: as asked, and as its run counted it.

    Methods that train several times have no schedule and are left out.
    """
    highest: dict[str, tuple[Experiment, Result]] = {}
    for experiment, result in results:
        if experiment.method in METHODS:
            before = highest.setdefault(experiment.method, (experiment, result))
            if experiment.sparsity > before[0].sparsity:
                highest[experiment.method] = (experiment, result)
    found = {}
    for method, (experiment, result) in highest.items():
        times, sparsities = asked(experiment)
        epochs, counted = _counted(result, experiment.recipe.epochs)
        found[method] = Curve(times, sparsities, epochs, counted)
    return found


def asked(experiment: Experiment) -> tuple[list[float], list[float]]:
    """The sparsity in force over the run, at shares of it; each value holds until the next.

    It is the method's own sparsifier that is asked, on 10,000 weights that nobody trains; what needs data to score
    them is given random numbers.
    """
    takes = parameters(experiment.method)
    # A method with an interval of its own counts it in steps of the run; here it would be longer than it is there.
    words: dict[str, Any] = {"update_every": 1} if "update_every" in takes else {}
    steps = experiment.recipe.epochs if experiment.update == "epoch" and not words else _POINTS
    words |= {name: v for name in TIMES if name in takes and (v := getattr(experiment, name)) is not None}
    words |= arguments(experiment.method, experiment.arguments)
    model = nn.utils.skip_init(nn.Linear, 100, 100, bias=False)
    with torch.no_grad():  # All different, and independent of the global generator.
        model.weight.copy_(torch.arange(1, 10_001).view(100, 100) / 10_000)
    if "batches" in takes:
        generator = torch.Generator().manual_seed(0)
        words["batches"] = [(torch.randn(100, 100, generator=generator), torch.arange(100))]
    if "input_shape" in takes:
        words["input_shape"] = (100,)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = METHODS[experiment.method](model, optimizer, experiment.sparsity, steps, **words)
    sparsities = []
    for _ in range(steps):
        sparsities.append(sparsifier.sparsity)
        sparsifier.step()
    return [step / steps for step in range(steps + 1)], [*sparsities, sparsities[-1]]


def _counted(result: Result, epochs: int) -> tuple[list[float], list[float]]:
    lines = (result.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    # Many dots would hide the line.
    every = max(1, round(epochs / 10))
    shown = [entry for entry in entries if entry["epoch"] % every == 0]
    return [entry["epoch"] / epochs for entry in shown], [entry["sparsity"] for entry in shown]


def _result(result: Result, runs: Path) -> dict[str, Any]:
    return {**plain(result), "path": result.path.relative_to(runs).as_posix()}


def _title(experiment: Experiment) -> str:
    epochs = experiment.recipe.epochs
    return f"{experiment.model} on {experiment.data}, {epochs} epoch{'' if epochs == 1 else 's'}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=pictures.DPI)
    return buffer.getvalue()


def _whole(path: Path, data: bytes) -> Path:
    write_whole(path, data)
    return path
