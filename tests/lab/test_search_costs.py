from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lab.tiny import SHORT, WEIGHTS, go, metrics, only, tiny
from torch import Tensor

from sparsecycle.files.packed import read_state
from sparsecycle.lab import running as running_module
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import build
from sparsecycle.lab.progress import Silent
from sparsecycle.lab.search import Found, search
from sparsecycle.lab.training import TrainedEpoch, Trainer
from sparsecycle.tickets import Ticket

#: A search that prunes half in each round trains 49,600, 24,800 and 12,400 weights where 9,920 are to be kept.
HALVING: dict[str, Any] = {"method": "lottery-ticket", "sparsity": 0.8, "arguments": ("rate=0.5",)}
COLT: dict[str, Any] = {**HALVING, "method": "colt"}
TRAINED = [1.0, 0.5, 0.25]


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "_load", tiny)


def find(runs: Path, **settings: Any) -> Found:
    experiment = Experiment(**{"recipe": SHORT, **HALVING, **settings})
    return search(experiment, runs, tiny(), torch.device("cpu"), Silent())


def words(*more: str) -> tuple[str, ...]:
    return ("rate=0.5", *more)


def trained(runs: Path) -> list[dict[str, Any]]:
    """What the one search's networks were, in the order in which they were trained."""
    return metrics(only(runs, "*-search-*"))


def initial() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in build("lenet-300-100", (1, 8, 8), 4).state_dict().items()}


def train(weights: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """The weights after so many steps of the recipe, by the trainer alone."""
    model = build("lenet-300-100", (1, 8, 8), 4)
    model.load_state_dict(weights)
    trainer = Trainer(model, tiny(), SHORT, device=torch.device("cpu"))
    for epoch in range(-(-steps // 4)):
        trainer.train_epoch(epoch, last_step=min(4, steps - 4 * epoch))
    return dict(model.state_dict())


def test_what_a_search_costs(tmp_path: Path) -> None:
    result = go(tmp_path, **HALVING)
    lines = trained(tmp_path)
    assert [line["kept"] for line in lines] == pytest.approx(TRAINED)
    assert {(line["part"], line["stop"]) for line in lines} == {(0, 12)}
    assert all(0 <= line["test_accuracy"] <= 1 for line in lines)
    assert result.trainings == 4
    assert result.search_epochs == 9
    # Three times a weight and image; a layer's multiply-adds are its weights.
    assert result.search_multiply_adds == 3 * 180 * (49_600 + 24_800 + 12_400)
    own = json.loads((result.path / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    assert result.seconds > own
    assert result.images_per_second == pytest.approx(180 / own)


def test_partitions_are_trained_each_on_its_own_part(tmp_path: Path) -> None:
    found = find(tmp_path, **COLT)
    lines = trained(tmp_path)
    assert found.trainings == len(lines) == 2 * (len(lines) // 2)
    assert [line["part"] for line in lines] == [0, 1] * (len(lines) // 2)
    assert [line["kept"] for line in lines[:2]] == [1.0, 1.0]
    rounds = len(lines) // 2
    assert found.epochs == 3 * rounds, "the parts together are the whole"
    # What a round trains: the output layer in full, of the others what the round's networks agree on.
    body = [(line["kept"] * (49_200 + 200) - 200) for line in lines[::2]]
    assert found.multiply_adds == pytest.approx(3 * 180 * (sum(body) + 400 * rounds), rel=1e-9)


def test_partitions_at_random(tmp_path: Path) -> None:
    result = go(tmp_path, **{**COLT, "arguments": words("by=random", "partitions=5")})
    lines = trained(tmp_path)
    assert [line["part"] for line in lines] == [0, 1, 2, 3, 4] * (len(lines) // 5)
    # Of 12 images: one step an epoch.
    assert {line["stop"] for line in lines} == {3}
    assert result.trainings == len(lines) + 1
    assert result.achieved == pytest.approx(0.8, abs=1e-9)


def test_searches_for_other_sparsities_share_their_rounds(tmp_path: Path) -> None:
    def count(sparsity: float) -> int:
        assert find(tmp_path, sparsity=sparsity).ticket.kept == WEIGHTS - round(sparsity * WEIGHTS)
        return len(trained(tmp_path))

    assert count(0.75) == 2
    assert count(0.75) == 2, "all is there"
    assert count(0.5) == 2, "the first round's outcome"
    assert count(0.8) == 3, "one round more"
    assert count(0.875) == 4, "the third round again, to its full rate, from a network that was not kept"
    assert count(0.8) == 4


def test_a_search_does_not_distil_and_another_seed_is_another_search(tmp_path: Path) -> None:
    plain, distilled = (
        find(tmp_path / n, recipe=r) for n, r in (("a", SHORT), ("b", replace(SHORT, distillation=0.5)))
    )
    for name, mask in plain.ticket.masks.items():
        assert torch.equal(mask, distilled.ticket.masks[name])
    find(tmp_path / "a", seed=1)
    assert len(list((tmp_path / "a").glob("*-search-*"))) == 2


def interrupt(patch: pytest.MonkeyPatch, at: int) -> None:
    """Ends the process's work at the beginning of its epoch number ``at``, counted from 0 over all trainings."""
    real, calls = Trainer.train_epoch, itertools.count()

    def train_epoch(self: Trainer, *given: Any, **words: Any) -> TrainedEpoch:
        if next(calls) == at:
            raise KeyboardInterrupt
        return real(self, *given, **words)

    patch.setattr(Trainer, "train_epoch", train_epoch)


@pytest.mark.parametrize(
    ("settings", "at", "done"),
    [
        (HALVING, 0, 0),
        (HALVING, 7, 2),  # the third network's second epoch
        (HALVING, 10, 3),  # the second epoch of the run itself
        (COLT, 4, 1),  # the second part's network of the first round
        ({**HALVING, "arguments": words("rewind_to=5")}, 1, 0),  # on the way to the rewinding point
        ({**HALVING, "arguments": words("rewind_to=5")}, 3, 1),  # after it
        ({**HALVING, "arguments": words("rewind=learning rate", "rewind_to=5")}, 4, 1),
    ],
)
def test_a_killed_search_goes_on_with_the_next_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], at: int, done: int
) -> None:
    whole = go(tmp_path / "whole", **settings)
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        interrupt(patch, at)
        with pytest.raises(KeyboardInterrupt):
            go(killed, **settings)
    assert not list(killed.glob("*/result.json"))
    log = only(killed, "*-search-*") / "metrics.jsonl"
    assert (len(log.read_text().splitlines()) if log.exists() else 0) == done
    result = go(killed, **settings)
    assert trained(killed) == trained(tmp_path / "whole"), "no training twice"
    for file in ("model.safetensors", "report.json"):
        assert (result.path / file).read_bytes() == (whole.path / file).read_bytes()
    ticket, expected = (Ticket.load(it.path / "ticket.safetensors") for it in (result, whole))
    assert ticket.provenance == expected.provenance
    for name, tensor in [*expected.masks.items(), *expected.weights.items()]:
        assert torch.equal((ticket.masks if tensor.dtype == torch.bool else ticket.weights)[name], tensor)
    assert metrics(result.path) == metrics(whole.path)
    for name in ("accuracy", "achieved", "trainings", "search_epochs", "search_multiply_adds"):
        assert getattr(result, name) == getattr(whole, name)


def test_late_rewinding(tmp_path: Path) -> None:
    settings = {**HALVING, "arguments": words("rewind_to=5")}
    found = find(tmp_path, **settings)
    assert found.start == 5
    assert [(line["kept"], line["stop"]) for line in trained(tmp_path)] == [(1.0, 5), (1.0, 12), (0.5, 12), (0.25, 12)]
    after = train(initial(), 5)
    for name, weight in found.ticket.weights.items():
        assert torch.equal(weight, after[name])
    # The first network is trained from step 0 on, the later two through 7 of 12 steps.
    assert (found.trainings, found.epochs) == (3, pytest.approx(3 + 2 * 3 * 7 / 12))
    assert found.multiply_adds == 3 * 180 * (49_600 + (24_800 + 12_400) * 7 // 12)
    result = go(tmp_path, **settings)
    assert [line["epoch"] for line in metrics(result.path)] == [2, 3], "the run begins in its second epoch"
    assert metrics(result.path)[0]["sparsity"] == pytest.approx(0.8)
    assert result.trainings == 4
    own = json.loads((result.path / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    assert result.images_per_second == pytest.approx(round(180 * 7 / 12) / own)


def test_the_first_network_of_a_late_rewinding_is_the_dense_run(tmp_path: Path) -> None:
    """Trained to the rewinding point and on from there, without the momentum of the way to it."""
    dense = go(tmp_path / "dense", method="dense")
    find(tmp_path / "ticket")
    assert trained(tmp_path / "ticket")[0]["test_accuracy"] == dense.accuracy


def test_learning_rate_rewinding(tmp_path: Path) -> None:
    settings = {**HALVING, "arguments": words("rewind=learning rate", "rewind_to=5")}
    found = find(tmp_path, **settings)
    assert found.start == 5
    assert [(line["kept"], line["stop"]) for line in trained(tmp_path)] == [(1.0, 12), (0.5, 12), (0.25, 12)]
    assert (found.trainings, found.epochs) == (3, pytest.approx(3 + 2 * 3 * 7 / 12))
    begun = initial()
    for name, weight in found.ticket.weights.items():
        assert not torch.equal(weight, begun[name]), "trained weights stay"
    for name, mask in found.ticket.masks.items():
        kept = int(mask.sum())
        assert int((found.ticket.weights[name] != 0).sum()) >= kept
    result = go(tmp_path, **settings)
    zeros = sum(int((w == 0).sum()) for w in read_state(result.path).values() if w.dim() == 2)
    assert zeros == 39_680
    assert [line["epoch"] for line in metrics(result.path)] == [2, 3]


def test_a_training_of_the_search_is_the_trainers_own(tmp_path: Path) -> None:
    """The ticket is what is left of the last network's weights: here of a dense one, trained once."""
    found = find(tmp_path, sparsity=0.5)
    after = train(initial(), 12)
    every = torch.cat([after[name].flatten() for name in found.ticket.masks]).abs()
    kept = torch.cat([mask.flatten() for mask in found.ticket.masks.values()])
    assert int(kept.sum()) == 24_800
    assert every[kept].min() >= every[~kept].max()
