from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecycle.lab.bench import steps
from sparsecycle.lab.bench.steps import BARE, COPY, EVERY_STEP, HOOKS, METHODS, STEPS, Training, race
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.methods import progressive

SUBJECT = Subject("lenet-300-100", (1, 8, 8), 4, 0.9)


@pytest.fixture(scope="module")
def training() -> Training:
    return Training.of(SUBJECT, 4)


def test_a_training_says_what_it_is(training: Training) -> None:
    assert training.kind == "batch 4, fp32"
    assert Training.of(Subject("resnet-20", (3, 8, 8), 4, 0.9), 2).kind.endswith("channels last")


def test_what_cannot_be_trained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "build", lambda self: nn.Sequential(nn.Flatten(), nn.Linear(5, 4)))
    with pytest.raises(
        ValueError, match=r"lenet-300-100 cannot be trained on 4 images of shape \(1, 8, 8\) in 4 classes"
    ):
        Training.of(SUBJECT, 4)


@pytest.mark.parametrize("name", [BARE, COPY, *METHODS, HOOKS])
def test_every_loop_trains(name: str, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = Subject.build

    def build(self: Subject) -> nn.Module:
        made.append(real(self))
        return made[-1]

    monkeypatch.setattr(Subject, "build", build)
    step = training.loop(name)
    (model,) = made
    before = [parameter.clone() for parameter in model.parameters()]
    for _ in range(3):
        step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not any(map(torch.equal, model.parameters(), before))
    zeros = 1 - sum(int(layer.weight.count_nonzero()) for layer in (model.fc1, model.fc2, model.fc3)) / 49_600
    half = {EVERY_STEP, f"progressive, a mask every {steps.EPOCH} steps", HOOKS}
    assert zeros == pytest.approx(0.45 if name in half else zeros, abs=0.05)
    assert (zeros == 0) == (name in (BARE, COPY) or name.startswith("gsm"))


def test_a_sparsifier_is_put_half_way() -> None:
    model = SUBJECT.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = progressive(model, optimizer, 0.9, STEPS)
    steps._half_way(model, sparsifier)
    assert sparsifier.report().steps == (STEPS // 2, STEPS)
    assert round(49_600 * sparsifier.sparsity) == round(49_600 * 0.9 * (STEPS // 2 + 1) / STEPS)
    optimizer.step()  # the weights are not taken for those of another run
    sparsifier.step()


def test_a_race_has_the_loops_that_are_asked_for(training: Training) -> None:
    times = race(training, 0.0, [EVERY_STEP])
    assert list(times.seconds) == [BARE, COPY, EVERY_STEP]
    assert times.rounds == 5
    assert list(race(training, 0.0).seconds) == [BARE, COPY, *METHODS, HOOKS]
