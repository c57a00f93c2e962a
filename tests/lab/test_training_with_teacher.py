from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsecycle.lab.data import Augment, Dataset, Split
from sparsecycle.lab.distillation import distillation_loss
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.training import Trainer, stream

CPU = torch.device("cpu")


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        yield
    torch._dynamo.reset()


def data() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (70, 1, 6, 6), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (70,), generator=generator)
    return Dataset(
        "tiny", Split(images[:40], labels[:40]), Split(images[40:], labels[40:]), ("a", "b", "c"), (0.4,), (0.3,)
    )


def net(seed: int = 0, classes: int = 3) -> nn.Module:
    """With what differs between training and evaluation mode."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32, classes),
    )


def recipe(**words: Any) -> Recipe:
    words = {"precision": "fp32", "channels_last": False, **words}
    return Recipe(epochs=2, batch_size=16, lr=0.05, augment=Augment(crop=1, flip=True), **words)


def trainer(the: Recipe, teacher: nn.Module | None = None, **words: Any) -> Trainer:
    return Trainer(net(), data(), the, device=CPU, teacher=teacher, **words)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_an_epoch_is_what_a_loop_written_by_hand_does(share: float) -> None:
    the = recipe(distillation=share, temperature=2.5, label_smoothing=0.1)
    mine = trainer(the, net(1))
    theirs, teacher = net(), net(1).eval()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    batches = list(mine.batches(0))
    torch.manual_seed(stream(0, 0, "forward"))
    losses = 0.0
    for images, labels in batches:
        logits = theirs(images)
        with torch.no_grad():
            target = (teacher(images) / 2.5).softmax(1)
        divergence = (target * (target.log() - (logits / 2.5).log_softmax(1))).sum(1).mean()
        hard = F.cross_entropy(logits, labels, label_smoothing=0.1)
        loss = (1 - share) * hard + share * 2.5**2 * divergence
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses += loss.item() * len(labels)
    assert mine.train_epoch(0).score.loss == pytest.approx(losses / 40, rel=1e-5)
    for a, b in zip(mine.model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_teacher_stays_as_it_was_and_in_evaluation_mode() -> None:
    teacher = net(1)
    before = copy.deepcopy(teacher)
    mine = trainer(recipe(distillation=0.5), teacher)
    teacher.train()  # as its owner may have done meanwhile
    mine.train_epoch(0)
    assert equal(teacher, before)
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.requires_grad for p in teacher.parameters())
    assert mine.model.training


def test_the_teacher_sees_the_students_images_in_its_precision_and_layout() -> None:
    mine = trainer(recipe(distillation=0.5, precision="bf16", channels_last=True), net(1))
    seen: dict[str, list[Tensor]] = {"student": [], "teacher": []}

    def note(who: str, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[who].extend([inputs[0], output])

    assert mine.teacher is not None
    for who, network in (("student", mine.model), ("teacher", mine.teacher)):
        network[0].register_forward_hook(functools.partial(note, who))  # type: ignore[index, operator]
    mine.train_epoch(0)
    assert len(seen["student"]) == len(seen["teacher"]) == 6
    for a, b in zip(seen["student"][::2], seen["teacher"][::2], strict=True):
        assert torch.equal(a, b)
    assert {x.dtype for x in seen["teacher"][1::2]} == {torch.bfloat16}
    assert not any(x.requires_grad for x in seen["teacher"])  # nothing is kept for a backward pass
    kernel = mine.teacher[3].weight  # type: ignore[index]
    assert not kernel.is_contiguous()
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_the_state_has_nothing_of_the_teacher_and_goes_on_identically() -> None:
    the = recipe(distillation=0.5)
    whole = trainer(the, net(1))
    whole.train_epoch(0)
    state = copy.deepcopy(whole.state_dict())
    assert state["model"].keys() == net().state_dict().keys()
    assert {id(p) for group in whole.optimizer.param_groups for p in group["params"]} == {
        id(p) for p in whole.model.parameters()
    }
    whole.train_epoch(1)
    resumed = trainer(the, net(1))
    resumed.load_state_dict(state)
    resumed.train_epoch(1)
    assert equal(resumed.model, whole.model)


def test_evaluation_is_the_plain_cross_entropy() -> None:
    mine, plain = trainer(recipe(distillation=0.5), net(1)), trainer(recipe())
    assert mine.evaluate(data().test, 0) == plain.evaluate(data().test, 0)


def test_the_teacher_draws_no_random_numbers() -> None:
    """A teacher that has nearly no weight in the loss leaves the student's dropout as it is without one."""
    plain, mine = trainer(recipe()), trainer(recipe(distillation=1e-30), net(1))
    plain.train_epoch(0)
    mine.train_epoch(0)
    assert equal(plain.model, mine.model)


def test_the_student_comes_to_answer_as_its_teacher() -> None:
    teacher = net(1).eval()
    mine = trainer(recipe(distillation=1.0), teacher)
    images = torch.cat([images for images, _ in mine.batches(0)])

    def apart() -> float:
        with torch.no_grad():
            return distillation_loss(mine.model.eval()(images), teacher(images), 1.0).item()

    before = apart()
    for _ in range(10):
        mine.train_epoch(0)
    assert apart() < before / 3


@pytest.mark.parametrize(
    ("share", "teacher", "message"),
    [
        (0.5, None, r"teacher=None with distillation=0.5; allowed is a network where distillation is above 0"),
        (0.0, net(1), r"teacher=Sequential with distillation=0; .*None where it is 0"),
    ],
)
def test_a_teacher_exactly_where_the_recipe_distils(share: float, teacher: nn.Module | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(recipe(distillation=share), teacher)


def test_the_model_cannot_be_its_own_teacher() -> None:
    model = net()
    with pytest.raises(ValueError, match="teacher is the model itself"):
        Trainer(model, data(), recipe(distillation=0.5), device=CPU, teacher=model)


def test_a_teacher_of_other_classes_is_noticed() -> None:
    with pytest.raises(ValueError, match=r"logits have shape \(16, 3\) and teacher_logits \(16, 4\)"):
        trainer(recipe(distillation=0.5), net(1, classes=4)).train_epoch(0)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_the_teacher_is_in_the_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    plain = trainer(recipe(distillation=0.5), net(1))
    plain.train_epoch(0)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True))
    compiled = trainer(recipe(distillation=0.5, compile=True), net(1))
    compiled.train_epoch(0)
    # One for the batches of 16 and one for the last of 8; in each the student's two convolutions and the teacher's.
    assert len(graphs) == 2
    for graph in graphs:
        assert sum(node.target is torch.conv2d for node in graph.graph.nodes) == 4
    assert equal(plain.model, compiled.model)
