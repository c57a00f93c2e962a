from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lab.tiny import SHORT, InterruptTraining, go, metrics, normed, only, tiny
from torch import Tensor

from sparsecycle.files.packed import read_state
from sparsecycle.lab import running as module
from sparsecycle.lab.catalogue import NAMES, SEARCHES
from sparsecycle.lab.data import Dataset, Split
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import MODELS
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.running import run
from sparsecycle.tickets import Ticket

#: What makes a method quick: fewer rounds.
QUICK: dict[str, tuple[str, ...]] = {"synflow": ("rounds=3",), "lottery-ticket": ("rate=0.5",), "colt": ("rate=0.5",)}


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_load", tiny)
    monkeypatch.setitem(MODELS, "normed", normed)


def prunable(path: Path) -> list[Tensor]:
    return [w for w in read_state(path).values() if w.dim() > 1]


def zeros(path: Path) -> int:
    return sum(int((w == 0).sum()) for w in prunable(path))


@pytest.mark.parametrize("method", NAMES)
def test_every_method_trains_to_its_sparsity_and_goes_on_where_it_was_interrupted(tmp_path: Path, method: str) -> None:
    settings: dict[str, Any] = {"method": method, "sparsity": 0.8, "arguments": QUICK.get(method, ())}
    whole = go(tmp_path / "whole", **settings)
    ends_dense = method in ("dense", "dsd")
    assert whole.achieved == pytest.approx(0 if ends_dense else 0.8, abs=1e-12)
    assert whole.sparsity == (0 if method == "dense" else 0.8)
    if not ends_dense:
        assert zeros(whole.path) == 39_680
    assert len(metrics(whole.path)) == 3
    assert metrics(whole.path)[-1]["sparsity"] == pytest.approx(whole.achieved, abs=1e-12)
    assert (whole.trainings > 1) == (method in SEARCHES)
    assert (whole.search_epochs > 0) == (whole.search_multiply_adds > 0) == (method in SEARCHES)

    experiment = Experiment(recipe=SHORT, **settings)
    interrupt = InterruptTraining(whole.trainings - 1)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path, progress=interrupt, checkpoint_every=0, device="cpu")
    result = go(tmp_path, **settings)
    starts = json.loads((result.path / "environment.json").read_text())
    assert [start["from_epoch"] for start in starts] == [0, 1]
    assert metrics(result.path) == metrics(whole.path)
    for file in ("model.safetensors", *([] if method == "dense" else ["report.json"])):
        assert (result.path / file).read_bytes() == (whole.path / file).read_bytes()


@pytest.mark.parametrize("method", ["grasp", "synflow", "rigl", "movement", "gsm", "dpf", "acdc", *SEARCHES])
def test_networks_with_batch_norm(tmp_path: Path, method: str) -> None:
    result = go(tmp_path, model="normed", method=method, sparsity=0.35, arguments=QUICK.get(method, ()))
    assert [w.numel() for w in prunable(result.path)] == [36, 288, 512]
    assert zeros(result.path) == 293
    assert result.achieved == pytest.approx(293 / 836)


@pytest.mark.parametrize(("model", "method"), [("conv-2", "snip"), ("lenet-5-caffe", "set"), ("resnet-20", "agp")])
def test_the_laboratorys_convolutional_networks(
    tmp_path: Path, model: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {"conv-2": 8, "lenet-5-caffe": 16, "resnet-20": 32}
    few = tiny(shape=(1, sides[model], sides[model]))
    few = replace(few, train=Split(few.train.images[:8], few.train.labels[:8]))
    monkeypatch.setattr(module, "_load", lambda *_: few)
    result = go(tmp_path, Recipe(epochs=1, batch_size=8, lr=0.01), model=model, method=method, sparsity=0.5)
    total = sum(w.numel() for w in prunable(result.path))
    assert zeros(result.path) == round(0.5 * total)
    assert result.achieved == pytest.approx(0.5, abs=1 / total)


# --- a stored ticket ------------------------------------------------------------------------------------------


def found(runs: Path, **settings: Any) -> Path:
    """The file of a ticket at 80 %."""
    path = go(runs, method="lottery-ticket", sparsity=0.8, arguments=("rate=0.5",), **settings).path
    return path / "ticket.safetensors"


def test_a_stored_ticket_trains_as_where_it_was_found(tmp_path: Path) -> None:
    file = found(tmp_path / "found")
    result = go(tmp_path / "stored", method="ticket", ticket=str(file))
    assert (result.path / "model.safetensors").read_bytes() == (file.parent / "model.safetensors").read_bytes()
    assert result.sparsity == result.achieved == pytest.approx(0.8, abs=1e-12)
    assert (result.trainings, result.search_epochs) == (1, 0)
    assert "ticket-seed0" in result.path.name
    again = go(tmp_path / "stored", method="ticket", ticket=str(file), sparsity=0.3, scope="erk")
    assert again.path == result.path, "a ticket has its own sparsity"
    other = go(tmp_path / "stored", method="ticket", ticket=str(file), seed=1)
    assert other.path != result.path
    masks = Ticket.load(file).masks
    for path in (result.path, other.path):
        weights = read_state(path)
        assert all(torch.equal(weights[name] != 0, mask) for name, mask in masks.items())


def test_a_ticket_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "ticket", "ticket": str(found(tmp_path / "found"))}
    whole = go(tmp_path / "whole", **settings)
    experiment = Experiment(recipe=SHORT, **settings)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path / "runs", progress=InterruptTraining(), checkpoint_every=0, device="cpu")
    result = go(tmp_path / "runs", **settings)
    assert (result.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_a_ticket_of_another_data_set_leaves_the_output_layer_dense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = found(tmp_path)
    ticket = Ticket.load(file)
    monkeypatch.setattr(module, "_load", lambda name, root: tiny(name, classes=3))
    result = go(tmp_path, data="mnist", method="ticket", ticket=str(file))
    weights = read_state(result.path)
    assert weights["fc3.weight"].shape == (3, 100)
    assert int((weights["fc3.weight"] == 0).sum()) == 0
    for name in ("fc1.weight", "fc2.weight"):
        assert torch.equal(weights[name] != 0, ticket.masks[name])
    assert result.trainings == 1


def test_a_ticket_of_another_network_is_refused(tmp_path: Path) -> None:
    file = found(tmp_path)
    with pytest.raises(ValueError, match=r"the ticket has fc1\.weight of shape .* has no such parameter"):
        go(tmp_path, model="normed", method="ticket", ticket=str(file))


def test_a_file_that_is_no_ticket_is_named(tmp_path: Path) -> None:
    network = found(tmp_path).parent / "model.safetensors"
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        go(tmp_path, method="ticket", ticket=str(network))
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        go(tmp_path / "runs", method="ticket", ticket=str(tmp_path / "gone.safetensors"))
    assert not (tmp_path / "runs").exists(), "nothing is begun"


# --- a teacher ------------------------------------------------------------------------------------------------

TAUGHT = replace(SHORT, distillation=0.5)


def test_the_teacher_is_the_dense_run_trained_first_and_once(tmp_path: Path) -> None:
    first = go(tmp_path, TAUGHT, method="progressive", sparsity=0.8)
    dense = only(tmp_path, "digits-lenet-300-100-dense-*")
    before = (dense / "result.json").stat().st_mtime_ns
    assert first.trainings == 2
    assert zeros(first.path) == 39_680
    teacher = go(tmp_path, method="dense")
    assert teacher.path == dense, "of the same recipe, without a teacher of its own"
    own = json.loads((first.path / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    assert first.seconds == pytest.approx(own + teacher.seconds)
    assert first.images_per_second == pytest.approx(180 / own)
    second = go(tmp_path, TAUGHT, method="snip", sparsity=0.8)
    assert second.trainings == 2
    assert second.achieved == pytest.approx(0.8, abs=1e-12)
    assert len(list(tmp_path.iterdir())) == 3
    assert (dense / "result.json").stat().st_mtime_ns == before
    assert len(json.loads((dense / "environment.json").read_text())) == 1
    alone = go(tmp_path, method="progressive", sparsity=0.8)
    assert alone.trainings == 1
    assert (alone.path / "model.safetensors").read_bytes() != (first.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["lottery-ticket", "colt", "dense"])
def test_a_teacher_beside_a_search_or_for_a_dense_network(tmp_path: Path, method: str) -> None:
    settings: dict[str, Any] = {"method": method, "sparsity": 0.8, "arguments": QUICK.get(method, ())}
    plain = go(tmp_path / "plain", **settings)
    taught = go(tmp_path / "taught", TAUGHT, **settings)
    assert taught.trainings == plain.trainings + 1
    assert taught.search_multiply_adds == plain.search_multiply_adds
    assert taught.achieved == plain.achieved
    assert (taught.path / "model.safetensors").read_bytes() != (plain.path / "model.safetensors").read_bytes()
    if method != "dense":
        tickets = [Ticket.load(it.path / "ticket.safetensors") for it in (plain, taught)]
        assert tickets[0].overlap(tickets[1]).total == 1, "the search has no teacher"
        assert zeros(taught.path) == 39_680


def test_the_teacher_learns_from_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, root: Path | None) -> Dataset:
        asked.append((name, root))
        return tiny(name)

    monkeypatch.setattr(module, "_load", load)
    run(Experiment(recipe=TAUGHT), tmp_path / "runs", progress="silent", device="cpu", root=tmp_path)
    assert set(asked) == {("digits", tmp_path)}


def test_an_interrupted_run_with_a_teacher_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "agp", "sparsity": 0.8}
    whole = go(tmp_path / "whole", TAUGHT, **settings)
    experiment = Experiment(recipe=TAUGHT, **settings)
    for training in (0, 1):  # the teacher, which then goes on, and the run itself
        interrupt = InterruptTraining(training)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, tmp_path / "runs", progress=interrupt, checkpoint_every=0, device="cpu")
    result = go(tmp_path / "runs", TAUGHT, **settings)
    assert (result.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert result.trainings == 2


def test_a_ticket_with_a_teacher(tmp_path: Path) -> None:
    result = go(tmp_path, TAUGHT, method="ticket", ticket=str(found(tmp_path)))
    assert result.trainings == 2
    assert zeros(result.path) == 39_680
