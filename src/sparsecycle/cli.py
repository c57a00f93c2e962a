"""The command ``sparsecycle``: train one network, compare methods, measure speeds, or hand a network on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from sparsecycle.lab.comparison import Row

__all__ = ["main"]

_EXTRA = ("tyro", "rich", "yaml", "matplotlib", "sklearn", "lightning_fabric")

HELP = """\
usage: sparsecycle COMMAND [OPTIONS]

Train a network once, and prune it on the way.

commands:
  train      train one network, dense or pruned by one method, once a seed
  compare    compare methods and sparsities with the dense network, over several seeds
  bench      measure on this machine how fast a pruned network runs, and what pruning costs
  inspect    show what is in a packed file, layer by layer, and what takes how many bytes
  export     write a pruned network as ONNX, for OpenVINO, as a plain PyTorch state_dict, or with a model card

  sparsecycle COMMAND --help lists the command's options.

options:
  -h, --help    show this help
  --version     show the version

examples:
  sparsecycle train                       seconds: digits, 90 % of the weights pruned
  sparsecycle train --data mnist --sparsity 0.95 --seeds 0 1 2
  sparsecycle compare --data digits       every method at 80, 90, 95 and 98 %
  sparsecycle compare --config FILE.yaml  options from a file; flags override them
  sparsecycle bench pruned.pt2            a forward pass, beside the dense engines
  sparsecycle bench --update --model resnet-18
  sparsecycle inspect runs/NAME           sizes by layer and by part
  sparsecycle export runs/NAME --to onnx  a trained network, checked with onnxruntime
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0: done. 1: something failed; what did finish is kept. 2: the command was written wrongly. 130: interrupted.

    Args:
        arguments: The words after ``sparsecycle``; None: those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(HELP, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        from sparsecycle import __version__

        print(f"sparsecycle {__version__}")
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "compare": _compare,
        "bench": _bench,
        "inspect": _inspect,
        "export": _export,
    }
    if words[0] not in commands:
        from sparsecycle.names import nearest

        hint = nearest(words[0], commands) or "."
        return _error(f"there is no command {words[0]!r}{hint} There are {', '.join(commands)}", 2)
    try:
        return commands[words[0]](words[1:])
    except SystemExit as stop:  # tyro has printed the help, or what is wrong.
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        goes_on = "; the same command takes the runs up where they are" if words[0] in ("train", "compare") else ""
        return _error(f"interrupted{goes_on}", 130)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        return _error(f"the command needs {error.name}: pip install 'sparsecycle[lab]'", 1)
    except (ValueError, OSError, ImportError) as error:
        return _error(str(error), getattr(error, "exit_code", 1))
    except RuntimeError as error:
        from sparsecycle.lab.data import DataError

        if not isinstance(error, DataError):
            raise
        return _error(str(error), 1)


def _train(words: list[str]) -> int:
    from sparsecycle.lab.comparison import duration, plan, tabulate
    from sparsecycle.lab.options import Train, parse, usage
    from sparsecycle.lab.running import run

    options = parse(Train, words, "sparsecycle train")
    with usage():
        experiments = plan(options.experiment([options.method]), [options.method], [options.sparsity], options.seeds)
    results = []
    for experiment in experiments:
        result = run(experiment, options.runs, device=options.device)
        results.append((experiment, result))
        print(f"seed {experiment.seed}: {100 * result.accuracy:.2f} %, {duration(result.seconds)}, {result.path}")
    last = results[-1][1].path / "report.txt"
    if last.exists():
        print(f"\nseed {experiments[-1].seed}:\n{last.read_text(encoding='utf-8').rstrip()}")
    (row,) = tabulate(results)
    seeds = f"{row.seeds} seed{'' if row.seeds == 1 else 's'}"
    spread = "" if row.seeds == 1 else f" ± {100 * row.deviation:.2f} (mean ± standard deviation with divisor n)"
    print(f"\ntest accuracy after the last epoch, {seeds}: {100 * row.accuracy:.2f}{spread} %")
    return 0


def _compare(words: list[str]) -> int:
    from rich.console import Console

    from sparsecycle.files.weights import load_weights
    from sparsecycle.lab import data, hardware, models, outcome
    from sparsecycle.lab.comparison import plan, tabulate
    from sparsecycle.lab.options import Compare, parse, usage
    from sparsecycle.lab.runner import default_jobs, run_experiments

    options = parse(Compare, words, "sparsecycle compare")
    with usage():
        experiments = plan(options.experiment(options.methods), options.methods, options.sparsities, options.seeds)
        jobs = default_jobs(options.device, len(experiments)) if options.jobs is None else options.jobs
    # Once here, so that what every run would stumble over is said once, and data is downloaded by one process.
    images = data.load(options.data)
    with usage():
        images.normalised_by(options.mean, options.std)
        model = models.build(options.model, images.shape, len(images.classes))
        if options.init:
            load_weights(options.init, model)
    results, failures = run_experiments(experiments, options.runs, jobs=jobs, device=options.device)
    for failure in failures:
        name = f"{failure.experiment.method} {failure.experiment.sparsity:g} seed {failure.experiment.seed}"
        print(f"error: {name}: {failure.message}\n{failure.details}".rstrip(), file=sys.stderr)
    if not results:
        return 1
    environment = {**hardware.describe(hardware.pick_device(options.device)), "jobs": jobs}
    paths = outcome.write(results, failures, options.runs, environment)
    # Where nobody watches, eighty columns would cut the table.
    console = Console(width=None if sys.stdout.isatty() else 100)
    _print_table(console, tabulate(results))
    pictures = [str(path) for path in paths if path.suffix == ".png"]
    print(f"\npictures: {', '.join(pictures)}\ntable: {paths[0]}, {paths[1]}")
    print(f"\nnext: sparsecycle train --data mnist --sparsity {max(options.sparsities):g}  (a run on real images)")
    print("      sparsecycle.Sparsifier(model, optimizer, 0.9, total_steps=...)  (in your own loop; see README.md)")
    return 1 if failures else 0


def _bench(words: list[str]) -> int:
    from sparsecycle.lab.bench import report
    from sparsecycle.lab.bench.options import parse
    from sparsecycle.lab.bench.stored import bench_file
    from sparsecycle.lab.options import usage

    options = parse(words, "sparsecycle bench")
    subject, threads, seconds = options.subject(), options.threads, options.seconds
    print(", ".join(f"{key}: {value}" for key, value in report.machine().items()), end="\n\n")
    if options.file is not None:
        batch, values = options.batch_size, options.values
        with usage():
            found = bench_file(options.file, batch=batch, values=values, threads=threads, seconds=seconds)
        report.write(options.json, found)
        return 0
    with usage():
        trained = None
        if options.steps:  # first, since it may be that they cannot be had
            trained = report.bench_steps(
                subject, threads=threads, seconds=seconds, batch_size=options.batch_size or 128
            )
        updates = report.bench_update(subject, threads=threads, seconds=seconds)
    print(report.summary(updates, trained))
    report.write(options.json, {**updates, **(trained or {})})
    return 0


def _inspect(words: list[str]) -> int:
    import argparse
    import json

    from sparsecycle.files.inspection import inspect

    parser = argparse.ArgumentParser(
        prog="sparsecycle inspect", description="Show what is in a packed file, layer by layer and part by part."
    )
    parser.add_argument("file", help="a file of sparsecycle.save, or a folder with one, such as a run's")
    parser.add_argument("--json", action="store_true", help="all of it, for programs")
    options = parser.parse_args(words)
    found = inspect(options.file)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found)
    return 0


def _export(words: list[str]) -> int:
    from sparsecycle.lab.export import export, parse

    print(export(parse(words, "sparsecycle export")))
    return 0


def _print_table(console: Console, rows: Sequence[Row]) -> None:
    from rich.table import Table

    from sparsecycle.lab.comparison import HEADER, READING, cells

    table = Table(header_style="bold")
    for name in HEADER:
        table.add_column(name, justify="left" if name == "method" else "right")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends = following is not None and following.requested != row.requested
        table.add_row(*cells(row), end_section=ends)
    console.print(table)
    console.print(READING, highlight=False)


def _error(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code
