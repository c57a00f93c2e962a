from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.lab.tiny import SHORT, tiny
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsecycle.lab.attach import attach, balanced
from sparsecycle.lab.data import Dataset
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import build
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.training import Trainer
from sparsecycle.methods import METHODS

INTERVALS = ("set", "rigl", "dpf")


def make(recipe: Recipe = SHORT, data: Dataset | None = None, seed: int = 7) -> Trainer:
    data = data or tiny()
    torch.manual_seed(seed)
    model = build("lenet-300-100", data.shape, len(data.classes))
    return Trainer(model, data, recipe, seed=seed, device=torch.device("cpu"))


def given(monkeypatch: pytest.MonkeyPatch, experiment: Experiment, trainer: Trainer) -> dict[str, Any]:
    """What the method's function is called with."""
    called: dict[str, Any] = {}

    def method(model: nn.Module, optimizer: Any, sparsity: float, total_steps: int, **words: Any) -> None:
        called.update(words, model=model, optimizer=optimizer, sparsity=sparsity, total_steps=total_steps)

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, experiment.method, method)
        attach(experiment, trainer)
    return called


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("update", ["step", "epoch"])
def test_every_method_gets_the_run_and_what_it_asks_for(
    method: str, update: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make()
    experiment = Experiment(method=method, update=update, sparsity=0.8, seed=7, floor=2, recipe=SHORT)
    words = given(monkeypatch, experiment, trainer)
    assert words.pop("model") is trainer.model
    assert words.pop("optimizer") is trainer.optimizer
    assert (words.pop("sparsity"), words.pop("total_steps"), words.pop("floor")) == (0.8, 12, 2)
    if method not in INTERVALS:
        assert words.pop("update_every") == {"step": 1, "epoch": 4}[update]
    if method in ("random", "set", "rigl"):
        assert words.pop("seed") == 7
    expected = {"snip": {"batches", "loss"}, "grasp": {"batches", "loss"}, "synflow": {"input_shape"}}
    assert set(words) == expected.get(method, set())


def test_a_dense_run_has_no_sparsifier() -> None:
    assert attach(Experiment(method="dense"), make()) is None


def test_what_is_said_of_the_pruning_goes_on_to_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(
        method="one-cycle", scope="erk", recovery="zero", end=0.5, exclude=("fc1",), arguments=("beta=6",)
    )
    words = given(monkeypatch, experiment, make())
    assert {name: words[name] for name in ("scope", "recovery", "end", "exclude", "beta")} == {
        "scope": "erk",
        "recovery": "zero",
        "end": 0.5,
        "exclude": ("fc1",),
        "beta": 6,
    }
    assert "start" not in words, "the method keeps its own"


def test_snip_is_given_the_first_batch_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    ((images, labels),) = given(monkeypatch, Experiment(method="snip", recipe=SHORT), trainer)["batches"]
    first, theirs = next(trainer.batches(0))
    assert images.shape == (16, 1, 8, 8)
    assert torch.equal(images, first)
    assert torch.equal(labels, theirs)
    trained: list[Tensor] = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: trained.append(inputs[0]))
    trainer.train_epoch(0, last_step=1)
    assert torch.equal(images, trained[0])


def test_grasp_is_given_ten_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    ((images, labels),) = given(monkeypatch, Experiment(method="grasp", recipe=SHORT), trainer)["batches"]
    assert trainer.data.train.labels.bincount()[0] == 9, "all of them"
    assert labels.bincount().tolist() == [9, 10, 10, 10]
    seen = torch.cat([labels for _, labels in trainer.batches(0)])
    shown = torch.cat([images for images, _ in trainer.batches(0)])
    chosen = sorted(i for c in range(4) for i in (seen == c).nonzero().flatten().tolist()[:10])
    assert torch.equal(images, shown[chosen])
    assert torch.equal(labels, seen[chosen])


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_the_scores_are_of_the_loss_that_is_trained(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0, 0.5]]), torch.tensor([2])
    smoothed = Recipe(epochs=1, batch_size=16, label_smoothing=0.3)
    for recipe in (SHORT, smoothed):
        loss = given(monkeypatch, Experiment(method=method, recipe=recipe), make(recipe))["loss"]
        assert loss(logits, labels) == cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    assert cross_entropy(logits, labels) != cross_entropy(logits, labels, label_smoothing=0.3)


def test_label_smoothing_changes_what_snip_keeps() -> None:
    kept = []
    for smoothing in (0.0, 0.9):
        recipe = Recipe(epochs=1, batch_size=16, label_smoothing=smoothing)
        sparsifier = attach(Experiment(method="snip", sparsity=0.9, recipe=recipe), make(recipe))
        assert sparsifier is not None
        kept.append(torch.cat([mask.flatten() for mask in sparsifier.masks.values()]))
        assert int(kept[-1].sum()) == 4960
    assert not torch.equal(*kept)


def test_synflow_is_given_the_images_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny(shape=(3, 4, 5))
    assert given(monkeypatch, Experiment(method="synflow"), make(data=data))["input_shape"] == (3, 4, 5)


@pytest.mark.parametrize("method", ["random", "set", "rigl"])
def test_the_first_mask_is_drawn_by_the_runs_seed(method: str) -> None:
    def first(seed: int) -> Tensor:
        sparsifier = attach(Experiment(method=method, seed=seed), make(seed=0))
        assert sparsifier is not None
        return torch.cat([mask.flatten() for mask in sparsifier.masks.values()])

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("dpf", list(range(16, 240, 16))),
        # Drop and grow end at three quarters of the run, before the second update.
        ("set", [100]),
        ("rigl", [100]),
    ],
)
def test_a_method_with_an_interval_of_its_own_keeps_it(method: str, expected: list[int]) -> None:
    recipe = Recipe(epochs=4, batch_size=1, lr=0.001)
    trainer = make(recipe)
    assert trainer.total_steps == 240
    sparsifier = attach(Experiment(method=method, update="epoch", sparsity=0.5, recipe=recipe), trainer)
    assert sparsifier is not None
    steps, changed = 0, []
    before = [mask.clone() for mask in sparsifier.masks.values()]

    def step() -> None:
        nonlocal steps, before
        sparsifier.step()
        steps += 1
        now = [mask.clone() for mask in sparsifier.masks.values()]
        if not all(torch.equal(a, b) for a, b in zip(before, now, strict=True)):
            changed.append(steps)
        before = now

    for epoch in range(recipe.epochs):
        trainer.train_epoch(epoch, after_step=step)
    assert changed == expected


def test_balanced_by_hand() -> None:
    images = torch.arange(8.0).view(8, 1, 1, 1)
    labels = torch.tensor([0, 1, 0, 0, 1, 2, 1, 0])
    batches = [(images[:4], labels[:4]), (images[4:7], labels[4:7]), (images[7:], labels[7:])]
    chosen, theirs = balanced(batches, 3, 2)
    assert chosen.flatten().tolist() == [0, 1, 2, 4, 5]
    assert theirs.tolist() == [0, 1, 0, 1, 2], "of the last class there is one"


def test_balanced_asks_for_no_more_batches_than_it_needs() -> None:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.zeros(2, 1, 1, 1), torch.tensor([1, 0])
        raise AssertionError("one more batch")

    _, labels = balanced(batches(), 2, 1)
    assert labels.tolist() == [1, 0]
