from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsecycle.lab import training
from sparsecycle.lab.data import Augment, Dataset, Split
from sparsecycle.lab.hardware import channels_last, has_bf16, pick_device, precision
from sparsecycle.lab.learning_rate import learning_rate
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.training import EVALUATION_BATCH, Diverged, Trainer, stream

CPU = torch.device("cpu")


def dataset(train: int = 50, test: int = 30, channels: int = 1) -> Dataset:
    generator = torch.Generator().manual_seed(1)

    def split(n: int) -> Split:
        return Split(
            torch.randint(0, 256, (n, channels, 6, 6), dtype=torch.uint8, generator=generator),
            torch.randint(0, 3, (n,), generator=generator),
        )

    return Dataset("tiny", split(train), split(test), ("a", "b", "c"), (0.4,) * channels, (0.3,) * channels)


def net(channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36 * channels, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))


def trainer(recipe: Recipe, model: nn.Module | None = None, data: Dataset | None = None, seed: int = 0) -> Trainer:
    return Trainer(model or net(), data or dataset(), recipe, seed=seed, device=CPU)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def normalised(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.4) / 0.3


def test_an_epoch_is_what_a_loop_written_by_hand_does() -> None:
    recipe = Recipe(epochs=2, batch_size=16, label_smoothing=0.1, clip=0.5, lr_update="step", warmup=1)
    mine, data = trainer(recipe), dataset()
    theirs = net()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4, fused=True)
    torch.manual_seed(stream(0, 1, "forward"))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(stream(0, 1, "order")))
    losses, correct = 0.0, 0
    for step, chosen in enumerate(order.split(16)):
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, 4 + step, 4)
        logits = theirs(normalised(data.train.images[chosen]))
        loss = F.cross_entropy(logits, data.train.labels[chosen], label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses += float(loss.detach()) * len(chosen)
        correct += int((logits.argmax(1) == data.train.labels[chosen]).sum())
    epoch = mine.train_epoch(1)
    assert epoch.images == 50
    assert epoch.score.loss == pytest.approx(losses / 50, rel=1e-5)
    assert epoch.score.accuracy == correct / 50
    for a, b in zip(mine.model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_label_smoothing_by_hand() -> None:
    recipe = Recipe(label_smoothing=0.3)
    model, data = net(), dataset()
    score = trainer(recipe, model, data).evaluate(data.test, 0)
    log = F.log_softmax(model(normalised(data.test.images)), 1)
    target = F.one_hot(data.test.labels, 3) * 0.7 + 0.3 / 3
    assert score.loss == pytest.approx(float(-(target * log).sum(1).mean().detach()), rel=1e-5)


def test_accuracy_counts_every_image_once_over_batches() -> None:
    data = dataset(test=EVALUATION_BATCH + 7)
    model = net()
    score = trainer(Recipe(), model, data).evaluate(data.test, 0)
    right = int((model.eval()(normalised(data.test.images)).argmax(1) == data.test.labels).sum())
    assert 0 < right < len(data.test)
    assert score.accuracy == right / len(data.test)


def test_the_order_of_a_step() -> None:
    said: list[str] = []
    mine = trainer(Recipe(epochs=1, batch_size=32))
    mine.optimizer.register_step_post_hook(lambda *_: said.append("optimizer"))

    def after_step() -> None:
        gradients = all(p.grad is not None for p in mine.model.parameters())
        said.append(f"after, gradients {gradients}")

    mine.train_epoch(0, after_step, lambda step: said.append(f"step {step}"))
    once = ["optimizer", "after, gradients True"]
    assert said == [*once, "step 1", *once, "step 2"]


@pytest.mark.parametrize(
    ("images", "batch", "sizes"),
    [(50, 16, [16, 16, 16, 2]), (48, 16, [16] * 3), (49, 16, [16] * 3), (5, 16, [5]), (1, 16, [1]), (3, 1, [1] * 3)],
)
def test_every_image_is_trained_on_but_a_last_one_alone(images: int, batch: int, sizes: list[int]) -> None:
    mine = trainer(Recipe(epochs=1, batch_size=batch), data=dataset(train=images))
    batches = list(mine.batches(0))
    assert [len(labels) for _, labels in batches] == sizes
    assert mine.steps_per_epoch == len(sizes)
    if sum(sizes) == images:
        rows = torch.cat([x.flatten(1) for x, _ in batches])
        expected = normalised(dataset(train=images).train.images).flatten(1)
        torch.testing.assert_close(rows.sum(0), expected.sum(0), rtol=1e-4, atol=1e-4)


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    recipe = Recipe(epochs=3, batch_size=16, augment=Augment(crop=1, flip=True, rotate=10.0))
    torch.manual_seed(123)
    first = [x for x, _ in trainer(recipe).batches(2)]
    torch.manual_seed(456)
    again = [x for x, _ in trainer(recipe).batches(2)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], next(iter(trainer(recipe).batches(1)))[0])
    assert not torch.equal(first[0], next(iter(trainer(recipe, seed=1).batches(2)))[0])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_going_on_from_a_state_ends_bit_identical(optimizer: str) -> None:
    recipe = Recipe(
        epochs=3,
        batch_size=16,
        lr=0.01,
        optimizer=optimizer,
        augment=Augment(crop=1, flip=True),  # type: ignore[arg-type]
    )
    whole = trainer(recipe, convolutional())
    whole.train_epoch(0)
    state = copy.deepcopy(whole.state_dict())
    whole.train_epoch(1)
    resumed = trainer(recipe, convolutional())
    resumed.load_state_dict(state)
    assert not same(resumed.model, whole.model)
    resumed.train_epoch(1)
    assert same(resumed.model, whole.model)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_epoch_in_two_parts_is_the_whole_epoch(optimizer: str, step: int) -> None:
    recipe = Recipe(
        epochs=3,
        batch_size=16,
        lr=0.01,
        lr_update="step",
        optimizer=optimizer,  # type: ignore[arg-type]
        augment=Augment(crop=1, flip=True, rotate=10.0, erase=0.5),
    )
    whole = trainer(recipe, convolutional())
    all_of_it = whole.train_epoch(1)
    begun = trainer(recipe, convolutional())
    first = begun.train_epoch(1, last_step=step)
    resumed = trainer(recipe, convolutional())
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    rest = resumed.train_epoch(1, first_step=step)
    assert same(resumed.model, whole.model)
    mine, theirs = resumed.optimizer.state_dict()["state"], whole.optimizer.state_dict()["state"]
    for index, entries in theirs.items():
        assert all(torch.equal(mine[index][name], value) for name, value in entries.items() if value is not None)
    assert (first.images, rest.images, rest.lr) == (16 * step, 50 - 16 * step, all_of_it.lr)
    assert first.lr == learning_rate(recipe, 4 + step - 1, 4)
    mean = (first.score.loss * first.images + rest.score.loss * rest.images) / 50
    assert mean == pytest.approx(all_of_it.score.loss, rel=1e-5)


def test_a_part_of_an_epoch_calls_back_for_its_own_steps() -> None:
    mine, after, steps = trainer(Recipe(epochs=1, batch_size=16)), [], []
    mine.train_epoch(0, lambda: after.append(1), steps.append, first_step=1, last_step=3)
    assert (len(after), steps) == (2, [2, 3])


@pytest.mark.parametrize(("first", "last"), [(-1, None), (4, None), (2, 2), (3, 1), (0, 5), (0, 0)])
def test_a_part_without_steps_is_refused(first: int, last: int | None) -> None:
    mine = trainer(Recipe(epochs=1, batch_size=16))
    with pytest.raises(ValueError, match=f"first_step={first}, last_step={last}; allowed is .* <= 4, the steps"):
        mine.train_epoch(0, first_step=first, last_step=last)
    assert same(mine.model, net())


def test_the_model_stays_the_callers() -> None:
    model = net()
    mine = trainer(Recipe(), model)
    assert mine.model is model
    assert list(model.state_dict()) == ["1.weight", "1.bias", "4.weight", "4.bias"]


def test_a_loss_that_is_not_finite_says_where_and_what_to_try() -> None:
    mine = trainer(Recipe(epochs=5, batch_size=16, lr=1e30))
    with pytest.raises(Diverged, match=r"epoch 2 of 5: .*lower lr \(now 1e\+30\), warmup .*clip"):
        mine.train_epoch(1)


def test_an_error_over_weights_that_are_not_finite_is_divergence_too() -> None:
    mine = trainer(Recipe(epochs=5))

    def after_step() -> None:
        with torch.no_grad():
            next(mine.model.parameters()).fill_(math.inf)
        raise ValueError("found by another")

    with pytest.raises(Diverged, match="epoch 3 of 5: the weights are no longer finite"):
        mine.train_epoch(2, after_step)


def test_other_errors_pass_as_they_are() -> None:
    def after_step() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trainer(Recipe()).train_epoch(0, after_step)


def test_precision_and_layout_follow_the_network() -> None:
    auto = Recipe()
    expected = "bf16" if has_bf16(CPU) else "fp32"
    assert precision(auto, convolutional(), CPU) == expected
    assert precision(auto, net(), CPU) == "fp32"
    assert precision(Recipe(precision="bf16"), net(), CPU) == "bf16"
    assert channels_last(auto, convolutional())
    assert not channels_last(auto, net())
    assert not channels_last(Recipe(channels_last=False), convolutional())


def test_bf16_computes_in_bf16_and_keeps_fp32_weights() -> None:
    mine = trainer(Recipe(epochs=1, precision="bf16", channels_last=True), convolutional())
    seen: list[Tensor] = []
    mine.model[0].register_forward_hook(lambda _m, inputs, output: seen.extend([inputs[0], output]))  # type: ignore[operator, union-attr]
    mine.train_epoch(0)
    assert seen[1].dtype == torch.bfloat16
    assert seen[1].is_contiguous(memory_format=torch.channels_last)
    assert {p.dtype for p in mine.model.parameters()} == {torch.float32}


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(ValueError, match="device='gpu' cannot be used here.*cuda"):
        pick_device("gpu")


def test_no_image_to_train_on() -> None:
    with pytest.raises(ValueError, match="tiny: there is no image to train on"):
        trainer(Recipe(), data=dataset(train=0))


def test_it_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=generator)
    images = torch.randint(0, 60, (300, 1, 6, 6), dtype=torch.uint8, generator=generator)
    for label in range(3):
        images[labels == label, :, 2 * label : 2 * label + 2] += 150
    data = Dataset(
        "bars", Split(images[:200], labels[:200]), Split(images[200:], labels[200:]), ("a", "b", "c"), (0.4,), (0.3,)
    )
    mine = trainer(Recipe(epochs=3, batch_size=20, lr=0.05), data=data)
    losses = [mine.train_epoch(epoch).score.loss for epoch in range(3)]
    assert losses[2] < losses[0] / 4
    assert mine.evaluate(data.test, 2).accuracy == 1.0


def test_the_time_of_compiling_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(training.time, "perf_counter", lambda: now)
    monkeypatch.setattr(torch, "compile", lambda function, *, dynamic: function)
    mine = trainer(Recipe(epochs=2, batch_size=16, compile=True))
    compiled: set[int] = set()

    def compute(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal now
        now += 3.0 if len(labels) in compiled else 100.0
        compiled.add(len(labels))
        return mine._forward(images, labels)

    monkeypatch.setattr(mine, "_compute", compute)
    # Steps of 16, 16, 16 and 2 images; 32 of the 50 images took 6 s.
    assert mine.train_epoch(0).seconds == pytest.approx(6.0 * 50 / 32)
    assert mine.train_epoch(1).seconds == pytest.approx(12.0)
