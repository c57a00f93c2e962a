"""The tables of ``sparsecycle bench``, and the same as plain values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sparsecycle import native
from sparsecycle.lab import hardware
from sparsecycle.lab.bench import memory, steps, update
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.bench.tables import figure, of_threads, table
from sparsecycle.lab.bench.timing import Times

__all__ = [
    "bench_steps",
    "bench_update",
    "machine",
    "of_steps",
    "of_updates",
    "steps_table",
    "summary",
    "table",
    "update_table",
    "write",
]

READING = """\
An update is complete: threshold, mask, weights zeroed. "In a run" it is all that a sparsifier does at a step half-way
through a run, where few weights fall; "from dense", all of the sparsity at once; the first one knows no threshold yet.
reads: how many times as long as one read of all weights, the limit. Extra memory: the most at a time beside the weights
and the sparsifier's masks, which it holds all the time and which take {masks:.2f} bytes a weight; what torch's ways
make for masks is in it.
"""


Say = Callable[[str], object]


def _print(text: str) -> None:
    print(text, flush=True)


def bench_update(subject: Subject, *, threads: Sequence[int], seconds: float, say: Say = _print) -> dict[str, Any]:
    """Measure what updates cost, and say each table as soon as it is there.

    Args:
        subject: The network.
        threads: Numbers of threads, each measured by itself.
        seconds: For each number of threads, about.
        say: Called with every table.

    Returns:
        All that was measured, as plain values.

    Raises:
        ValueError: If the network cannot be built or pruned as asked.
    """
    network = update.Network(subject)
    found = {
        **_about(subject),
        "weights": network.size,
        "bytes": network.bytes,
        "bytes of masks": network.bytes_of_masks(),
        "extra memory": _memory(subject, max(threads)),
        "updates": [],
    }
    size = f"{network.size:,} weights, {network.bytes / 2**20:.1f} MiB"
    say(f"{subject.model}, {size}, from dense to {subject.sparsity:.4g} sparse")
    for count in threads:
        with _threads(count):
            times = update.race(network, seconds)
        found["updates"].append({"threads": count, **of_updates(*times)})
        say(f"\n{of_threads(count)}, {_quality(times)}:\n\n{update_table(found, -1)}")
    say(f"\n{READING.format(masks=found['bytes of masks'] / network.size)}")
    return found


def bench_steps(
    subject: Subject,
    *,
    threads: Sequence[int],
    seconds: float,
    batch_size: int = 128,
    methods: Sequence[str] = tuple(steps.METHODS),
    say: Say = _print,
) -> dict[str, Any]:
    """Measure what pruning adds to training steps, and say each table as soon as it is there.

    Args:
        subject: The network.
        threads: Numbers of threads, each measured by itself.
        seconds: For each number of threads, about.
        batch_size: Images a step.
        methods: Which of :data:`sparsecycle.lab.bench.steps.METHODS` are compared.
        say: Called with every table.

    Returns:
        All that was measured, as plain values.

    Raises:
        ValueError: If the network cannot be trained as asked.
    """
    training = steps.Training.of(subject, batch_size)
    found: dict[str, Any] = {**_about(subject), "batch": batch_size, "kind": training.kind, "steps": []}
    for count in threads:
        with _threads(count):
            times = steps.race(training, seconds, methods)
        found["steps"].append({"threads": count, **of_steps(times)})
        say(f"{subject.model}, training steps, {training.kind}, {of_threads(count)}, {_quality([times])}:\n")
        say(f"{steps_table(found, -1)}\n")
    return found


def _about(subject: Subject) -> dict[str, Any]:
    return {"machine": machine(), **asdict(subject), "shape": list(subject.shape)}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _memory(subject: Subject, threads: int) -> dict[str, int]:
    if not memory.is_known():
        return {}
    return {name: memory.extra_memory(subject, name, threads) for name in memory.LOOKED_AT}


def of_updates(quick: Times, everyone: Times) -> dict[str, Any]:
    """What two races give: reads by the one of many rounds, where a contestant was in it; all else by the other."""
    found = {}
    for name in everyone.seconds:
        times = quick if name in quick.seconds else everyone
        found[name] = {
            "milliseconds": times.median(name) * 1e3,
            "reads": times.ratio(name, update.READ),
            "times faster than torch": everyone.ratio(update.STOCK, name),
        }
    return {**_rounds([quick, everyone]), "contestants": found}


def of_steps(times: Times) -> dict[str, Any]:
    """What a race of training steps gives."""
    found = {
        name: {
            "milliseconds": times.median(name) * 1e3,
            "ratio": times.ratio(name, steps.BARE),
            "middle": list(times.middle(name, steps.BARE)),
        }
        for name in times.seconds
    }
    return {**_rounds([times]), "loops": found}


def _rounds(races: Sequence[Times]) -> dict[str, Any]:
    return {"rounds": [times.rounds for times in races], "undisturbed": [times.undisturbed for times in races]}


def update_table(found: Mapping[str, Any], which: int) -> str:
    """The updates with one of the numbers of threads, and their memory."""
    rows = []
    for name, its in found["updates"][which]["contestants"].items():
        extra = found["extra memory"].get(name)
        rows.append(
            [
                name,
                figure(its["milliseconds"]),
                figure(its["reads"]),
                figure(its["times faster than torch"]),
                "" if extra is None else f"{figure(100 * extra / found['bytes'])} %",
            ]
        )
    return table(["", "ms", "reads", "times faster than torch", "extra memory, of the weights"], rows)


def steps_table(found: Mapping[str, Any], which: int) -> str:
    """The training steps with one of the numbers of threads."""
    rows = []
    for name, its in found["steps"][which]["loops"].items():
        lower, upper = its["middle"]
        over = ["", ""] if name == steps.BARE else [_more(its["ratio"]), f"{_more(lower)} to {_more(upper)}"]
        rows.append([name, f"{its['milliseconds']:.3f}", *over])
    return table(["", "ms a step", "over the bare loop", "middle half of the rounds"], rows)


def summary(updates: Mapping[str, Any], trained: Mapping[str, Any] | None) -> str:
    """The figures of interest, a row for each number of threads."""
    extra = updates["extra memory"].get(update.UPDATE)
    rows = []
    for i, its in enumerate(updates["updates"]):
        theirs = its["contestants"]
        rows.append(
            [
                f"{updates['model']}, {of_threads(its['threads'])}",
                f"{updates['weights']:,}",
                f"{figure(theirs[update.READ]['milliseconds'])} ms",
                f"{figure(theirs[update.UPDATE]['milliseconds'])} ms = {theirs[update.UPDATE]['reads']:.1f} reads",
                f"{figure(theirs[update.STOCK]['milliseconds'])} ms = "
                f"{figure(theirs[update.UPDATE]['times faster than torch'])} updates",
                "" if extra is None else f"{100 * extra / updates['bytes']:.1f} %",
                "" if trained is None else _more(trained["steps"][i]["loops"][steps.EVERY_STEP]["ratio"]),
            ]
        )
    return table(["", "weights", "one read", "an update", "torch's own", "extra memory", "step with a new mask"], rows)


def machine() -> dict[str, Any]:
    """What the figures depend on, as plain values."""
    core = native.core()
    described, of_cpu = hardware.describe(torch.device("cpu")), hardware._cpu_info()
    keys = {"device_name": "processor", "cpus": "cores", "torch": "torch", "python": "python", "system": "system"}
    return {
        **{name: described[key] for key, name in keys.items()},
        **{key: of_cpu[key] for key in ("cpu family", "model") if key in of_cpu},  # clouds hide the name
        "torch's vectors": torch.backends.cpu.get_cpu_capability(),
        "native core": "not there" if core is None else core.isa(),
    }


def write(path: Path | None, results: Mapping[str, Any]) -> None:
    """Store the results as JSON, if there is a path."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _more(ratio: float) -> str:
    return f"{ratio - 1:+.1%}"


def _quality(races: Sequence[Times]) -> str:
    return ", then ".join(f"{race.rounds} rounds, {race.undisturbed:.0%} of the samples undisturbed" for race in races)
