"""A run from its checkpoint, or from nothing, to its stored result."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsecycle.files.packed import NAME, load, save
from sparsecycle.files.weights import load_weights
from sparsecycle.lab import data as datasets
from sparsecycle.lab import hardware
from sparsecycle.lab.attach import attach
from sparsecycle.lab.catalogue import DENSE, SEARCHES, TICKET
from sparsecycle.lab.data.dataset import Dataset, Split
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import build, factory_of
from sparsecycle.lab.progress import Kind, Reporter, reporter
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.result import Result
from sparsecycle.lab.search import Found, complete, search
from sparsecycle.lab.store import RunFolder
from sparsecycle.lab.training import Trainer
from sparsecycle.prunable import choose
from sparsecycle.tickets import Ticket

if TYPE_CHECKING:
    from sparsecycle.sparsifier import Sparsifier

__all__ = ["run"]


def run(
    experiment: Experiment,
    runs: Path | str,
    *,
    progress: Kind | Reporter = "auto",
    checkpoint_every: float = 30.0,
    device: str = "auto",
    root: Path | None = None,
    wait: bool = False,
) -> Result:
    """Train, or go on training, or return what was trained.

    Where the recipe distils, the dense network of the same recipe is trained first, as a run of its own; where the
    method trains several times, its ticket is searched first.

    Killed at any moment and called again, it goes on from the last checkpoint and ends with the same bits, on
    the same machine with as many threads. The global random generators are left as they were.

    Args:
        experiment: What to run.
        runs: The folder of all runs.
        progress: See :func:`sparsecycle.lab.progress.reporter`.
        checkpoint_every: At least so many seconds lie between two checkpoints, which are taken between
            epochs; 0: after every epoch.
        device: See :func:`sparsecycle.lab.hardware.pick_device`.
        root: Where the data sets lie; None: see :func:`sparsecycle.lab.data.load`.
        wait: Wait for another process that is at the same run, instead of raising ``RunInUse``.

    Raises:
        ValueError: Something in the experiment is not known or does not fit; ``Diverged`` where the loss
            stops being finite (the folder then has ``failed.json``); ``BrokenFile`` where a file of the run
            is damaged.
        OSError: The data cannot be had or the folder not be written; ``RunInUse`` where another process is at
            the same run.
    """
    if not checkpoint_every >= 0:
        raise ValueError(f"checkpoint_every={checkpoint_every!r}; allowed is a number of seconds, 0 or more")
    experiment = experiment.resolved()
    folder = experiment.folder(runs)
    if (stored := Result.stored(folder)) is not None:
        return stored
    reports = reporter(progress)
    chosen = hardware.pick_device(device)
    with torch.random.fork_rng(devices=[chosen] if chosen.type == "cuda" else []):
        data = _load(experiment.data, root).normalised_by(experiment.mean, experiment.std)
        teacher = None
        if experiment.recipe.distillation:
            dense = replace(experiment.recipe, distillation=0.0, temperature=Recipe.temperature)
            teaching = replace(experiment, method=DENSE, ticket="", keep_zeros=False, recipe=dense).resolved()
            teacher = run(
                teaching,
                runs,
                progress=reports,
                checkpoint_every=checkpoint_every,
                device=device,
                root=root,
                wait=True,
            )
        torch.manual_seed(experiment.seed)
        model = build(experiment.model, data.shape, len(data.classes))
        with folder.lock(wait=wait):
            # It may have been finished by the process that held the lock until now.
            if (stored := Result.stored(folder)) is not None:
                return stored
            try:
                return _go_on(experiment, Path(runs), folder, data, model, teacher, chosen, reports, checkpoint_every)
            except Exception as error:
                folder.write_json("failed.json", {"error": type(error).__name__, "message": str(error)})
                raise


def _go_on(
    experiment: Experiment,
    runs: Path,
    folder: RunFolder,
    data: Dataset,
    model: nn.Module,
    teaching: Result | None,
    device: torch.device,
    reports: Reporter,
    checkpoint_every: float,
) -> Result:
    """Train ``experiment`` in its locked ``folder`` from the last checkpoint on; see :func:`run`."""
    recipe = experiment.recipe
    state = folder.load_checkpoint() or {}
    validation = None
    if recipe.validation:
        data, validation = data.split_validation(recipe.validation, experiment.seed)
    if experiment.init:
        begun = load_weights(experiment.init, model)
        folder.write_json("init.json", {"file": experiment.init, "renamed": begun.renamed, "kept": begun.kept})
    found = search(experiment, runs, data, device, reports) if experiment.method in SEARCHES else None
    ticket = found.ticket if found else None
    if experiment.method == TICKET:
        ticket = Ticket.load(experiment.ticket)
        ticket.apply(model).remove()  # raises where nothing of it fits
        ticket = complete(ticket, model, choose(model).weights)
    if ticket is not None:
        ticket.apply(model).remove()  # from here on the sparsifier holds it
    # What "auto" meant when the run began stays, also where another machine goes on with it.
    trainer = Trainer(
        model,
        data,
        recipe,
        seed=experiment.seed,
        device=device,
        precision=state.get("precision"),
        channels_last=state.get("channels_last"),
        teacher=None if teaching is None else _network(experiment, data, teaching),
    )
    begin = time.perf_counter()
    start = found.start if found else 0
    sparsifier: Sparsifier | None
    if ticket is not None:
        sparsifier = ticket.sparsifier(trainer.model, trainer.optimizer, trainer.total_steps - start)
    else:
        sparsifier = attach(experiment, trainer)
    seconds = state.get("seconds", time.perf_counter() - begin)
    first, metrics = state.get("epoch", start // trainer.steps_per_epoch), state.get("metrics", [])
    if state:
        trainer.load_state_dict(state["trainer"])
        if sparsifier is not None:
            sparsifier.load_state_dict(state["sparsifier"])
    folder.add_start(
        {
            **hardware.describe(device),
            "precision": trainer.precision,
            "channels_last": trainer.channels_last,
            "from_epoch": first,
        }
    )
    folder.set_metrics(metrics)
    title = folder.path.name.rpartition("-")[0]
    reports.begin(title, recipe.epochs, trainer.steps_per_epoch, first)
    try:
        saved = time.monotonic()
        for epoch in range(first, recipe.epochs):
            if epoch == first and recipe.compile:
                reports.say("compiling")
            trained = trainer.train_epoch(
                epoch,
                after_step=sparsifier.step if sparsifier is not None else None,
                on_step=functools.partial(reports.step, epoch),
                first_step=max(0, start - epoch * trainer.steps_per_epoch),
            )
            seconds += trained.seconds
            entry = {
                "epoch": epoch + 1,
                "train_loss": trained.score.loss,
                "train_accuracy": trained.score.accuracy,
                "lr": trained.lr,
                # After the epoch's last step: already the mask of the next epoch, where one began there.
                "sparsity": sparsifier.sparsity if sparsifier is not None else 0.0,
                "seconds": seconds,
            }
            if (epoch + 1) % recipe.evaluate_every == 0 or epoch + 1 == recipe.epochs:
                reports.say("evaluating")
                entry |= _scores(trainer, epoch, test=data.test, validation=validation)
            metrics.append(entry)
            folder.add_metrics(entry)
            reports.epoch(entry)
            if epoch + 1 < recipe.epochs and time.monotonic() - saved >= checkpoint_every:
                reports.say("saving a checkpoint")
                folder.save_checkpoint(
                    epoch + 1,
                    {
                        "epoch": epoch + 1,
                        "trainer": trainer.state_dict(),
                        "sparsifier": sparsifier.state_dict() if sparsifier is not None else None,
                        "metrics": metrics,
                        "seconds": seconds,
                        "precision": trainer.precision,
                        "channels_last": trainer.channels_last,
                    },
                )
                saved = time.monotonic()
        return _finish(experiment, folder, trainer, sparsifier, metrics, seconds, teaching, found)
    finally:
        reports.end()


def _scores(trainer: Trainer, epoch: int, **splits: Split | None) -> dict[str, float]:
    scores: dict[str, float] = {}
    for name, split in splits.items():
        if split is not None:
            score = trainer.evaluate(split, epoch)
            scores |= {f"{name}_loss": score.loss, f"{name}_accuracy": score.accuracy}
    return scores


def _finish(
    experiment: Experiment,
    folder: RunFolder,
    trainer: Trainer,
    sparsifier: Sparsifier | None,
    metrics: list[dict[str, Any]],
    seconds: float,
    teaching: Result | None,
    found: Found | None,
) -> Result:
    """Write what came out; ``result.json`` last, since it is what makes the run a finished one."""
    achieved, report = 0.0, None
    if sparsifier is not None:
        report = sparsifier.finalize(trainer.example)
        achieved = report.achieved
        folder.write_json("report.json", report.to_dict())
        folder.write_bytes("report.txt", f"{report}\n".encode())
    data = trainer.data
    factory, arguments = factory_of(experiment.model, data.shape, len(data.classes))
    save(
        trainer.model,
        folder.path / NAME,
        factory=factory,
        arguments=arguments,
        report=report,
        classes=data.classes,
        shape=data.shape,
        mean=data.mean,
        std=data.std,
    )
    if found is not None:
        found.ticket.save(folder.path / "ticket.safetensors")
    folder.set_metrics(metrics)
    recipe, last = experiment.recipe, metrics[-1]
    images = min(len(trainer.data.train), trainer.steps_per_epoch * recipe.batch_size) * recipe.epochs
    if found is not None:
        images = round(images * (1 - found.start / trainer.total_steps))
    result = Result(
        accuracy=last["test_accuracy"],
        loss=last["test_loss"],
        validation_accuracy=last.get("validation_accuracy"),
        sparsity=achieved if experiment.method == TICKET else experiment.sparsity,
        achieved=achieved,
        epochs=recipe.epochs,
        seconds=seconds + (teaching.seconds if teaching else 0.0) + (found.seconds if found else 0.0),
        trainings=1 + (1 if teaching else 0) + (found.trainings if found else 0),
        search_epochs=found.epochs if found else 0.0,
        search_multiply_adds=found.multiply_adds if found else 0,
        images_per_second=images / seconds,
        precision=trainer.precision,
        device=str(trainer.device),
        path=folder.path,
    )
    folder.write_json("result.json", {key: value for key, value in vars(result).items() if key != "path"})
    folder.drop_checkpoints()
    return result


@functools.lru_cache(maxsize=1)
def _load(name: str, root: Path | None) -> Dataset:
    """A comparison's runs share their data set."""
    return datasets.load(name, root)


def _network(experiment: Experiment, data: Dataset, trained: Result) -> nn.Module:
    """The network that a finished run left."""
    return load(trained.path, build(experiment.model, data.shape, len(data.classes)))
