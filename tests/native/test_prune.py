"""A mask update in the core leaves what torch alone leaves: masks, weights, gradients and the optimizer's state."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
import subprocess
import sys
import threading
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.common.conftest import Run
from torch import Tensor, nn

import sparsecycle as sc
from sparsecycle import native
from sparsecycle.competition import Competition
from sparsecycle.masks import Masks
from sparsecycle.methods import METHODS
from sparsecycle.scopes import Share
from sparsecycle.selection import WITHIN

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, 0.02, eps=1e-4),
}
SCOPES: dict[str, Any] = {"global": "global", "uniform": "uniform", "erk": "erk", "mapping": {"0.*": 0.3, "2.*": 0.8}}
STARTS = ("normal", "equal", "zeros", "ties")


class Training:
    """A network whose gradients are drawn at random, exactly the same whatever computes on how many threads."""

    def __init__(
        self,
        optimizer: str = "momentum",
        recovery: str = "none",
        scope: str = "global",
        *,
        start: str = "normal",
        dtypes: tuple[torch.dtype, ...] = (torch.float32,),
        sparsity: float = 0.9,
        floor: int = 1,
        steps: int = 30,
        width: int = 20,
        seed: int = 0,
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.model = nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.Linear(width, 2 * width), nn.Conv2d(5, 4, 1), nn.Linear(2 * width, 3)
        )
        for i, layer in enumerate(self.model):
            with torch.no_grad():
                layer.weight.copy_(self.drawn(layer.weight.shape, start))
            layer.to(dtypes[i % len(dtypes)])
        self.model[0].to(memory_format=torch.channels_last)
        with torch.no_grad():
            self.model[3].weight.data = self.model[3].weight.t().contiguous().t()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        schedule = sc.Linear() if recovery == "none" else sc.Cyclical(3, sc.AGP(start=0.0))
        self.sparsifier = sc.Sparsifier(
            self.model,
            self.optimizer,
            sparsity,
            schedule,
            scope=SCOPES[scope],
            recovery=recovery,
            floor=floor,
            total_steps=steps,
        )

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        return {name: w for name, w in self.model.named_parameters() if w.dim() > 1}

    @property
    def momentum(self) -> Iterator[Tensor]:
        for weight in self.weights.values():
            yield self.optimizer.state[weight]["momentum_buffer"]

    def drawn(self, shape: torch.Size, kind: str = "normal") -> Tensor:
        x = torch.randn(shape, generator=self.generator)
        if kind == "equal":
            return torch.full(shape, 0.5)
        if kind == "zeros":
            return torch.where(x > 1, x, torch.copysign(torch.zeros(shape), x))
        return x.mul_(2).round_().div_(4) if kind == "ties" else x

    def backward(self, gradients: str = "normal") -> None:
        """Each weight's gradient is drawn."""
        self.optimizer.zero_grad()
        loss = sum((w * self.drawn(w.shape, gradients).to(w.dtype)).sum() for w in self.weights.values())
        loss.backward()  # type: ignore[union-attr]

    def move(self, gradients: str = "normal") -> None:
        self.backward(gradients)
        self.optimizer.step()

    def step(self, gradients: str = "normal") -> None:
        self.move(gradients)
        self.sparsifier.step()

    def seen(self) -> dict[str, Any]:
        """All there is to compare, copied."""
        return {
            "masks": self.sparsifier.masks,
            "weights": [exact(w) for w in self.weights.values()],
            "gradients": [None if w.grad is None else w.grad.clone() for w in self.weights.values()],
            "states": copied([self.optimizer.state.get(w, {}) for w in self.weights.values()]),
        }

    def near(self) -> Any:
        return dict(self.sparsifier._pruner._competition._nearby)


def exact(weight: Tensor) -> Tensor:
    """The bits, but for the sign of 0, which torch alone takes from kept weights too."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return (weight.detach().clone(memory_format=torch.contiguous_format) + 0.0).view(kind)


def copied(states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v.clone() if torch.is_tensor(v) else v for k, v in state.items()} for state in states]


def alike(one: Any, other: Any) -> bool:
    """Whether two nested values are the same; 0 and -0 are."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def compare(work: Callable[[], Iterator[Any]]) -> None:
    """Do it with the core and without; whatever is seen on the way must be the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "core", lambda: None)
        without = list(work())
    for i, (mine, theirs) in enumerate(zip(work(), without, strict=True)):
        for key in mine:
            assert alike(mine[key], theirs[key]), (i, key)


def nothing_lives_where_pruned(training: Training) -> None:
    for name, weight in training.weights.items():
        dead = ~training.sparsifier.masks[name]
        held = [state for state in training.optimizer.state[weight].values() if torch.is_tensor(state)]
        for tensor in (weight, weight.grad, *(state for state in held if state.shape == weight.shape)):
            assert tensor is None or not tensor[dead].any()
        assert not torch.signbit(weight[dead]).any()


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every mask that was to be chosen in place, whether the core did it."""
    found: list[bool] = []
    prune = Masks.prune

    def spied(self: Masks, *args: Any) -> list[float] | None:
        thresholds = prune(self, *args)
        found.append(thresholds is not None)
        return thresholds

    monkeypatch.setattr(Masks, "prune", spied)
    return found


# Many updates


@settings(max_examples=15)
@given(
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    recovery=st.sampled_from(["none", "zero"]),
    scope=st.sampled_from(sorted(SCOPES)),
    start=st.sampled_from(STARTS),
    gradients=st.sampled_from(["normal", "zeros", "ties"]),
    dtypes=st.lists(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), min_size=1, max_size=2),
    sparsity=st.sampled_from([0.5, 0.9, 0.97, 1.0]),
    floor=st.sampled_from([0, 1, 8]),
    forgetting=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_thirty_updates(
    isa: str, dtypes: list[torch.dtype], gradients: str, forgetting: bool, floor: int, scope: str, **words: Any
) -> None:
    if scope == "mapping":  # whose layers' own sparsities leave no room for more
        floor, words["sparsity"] = 0, min(words["sparsity"], 0.9)

    def work() -> Iterator[Any]:
        training = Training(**words, dtypes=tuple(dtypes), floor=floor, scope=scope)
        for i in range(30):
            if forgetting and i % 3 == 2:
                training.sparsifier._pruner._competition.forget()
            training.step(gradients)
            yield training.seen()

    compare(work)


@pytest.mark.parametrize("recovery", ["none", "zero"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_the_core_does_every_update(isa: str, done: list[bool], recovery: str, scope: str) -> None:
    training = Training("adam", recovery, scope)
    for _ in range(30):
        training.step()
        nothing_lives_where_pruned(training)
    assert done == [True] * 30  # the first mask and those after all steps but the last


def test_a_layer_that_would_starve_keeps_its_own_largest(isa: str, done: list[bool]) -> None:
    def work() -> Iterator[Any]:
        training = Training(floor=12)
        with torch.no_grad():
            training.weights["2.weight"].mul_(1e-3)
        for _ in range(30):
            training.step("ties")
            yield training.seen()
        assert training.sparsifier.masks["2.weight"].sum() == 12

    compare(work)
    assert done == [False] * 30 + [True] * 30  # without the core, and with it


@pytest.mark.parametrize(("recovery", "start"), [("none", "normal"), ("zero", "ties")])
def test_large_layers_with_teams_of_threads(isa: str, threads: int, recovery: str, start: str) -> None:
    """More than fits into the lists, and more than one thread's worth."""

    def work() -> Iterator[Any]:
        training = Training(recovery=recovery, start=start, width=190, steps=7, sparsity=0.8)
        for i in range(7):
            if i == 3:
                training.sparsifier._pruner._competition.forget()
            if i == 5:
                with torch.no_grad():
                    training.weights["1.weight"].mul_(1.5)  # and the threshold is not where it was
            training.step("zeros")
            yield training.seen()

    compare(work)


def test_one_thread_or_two(isa: str) -> None:
    runs = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        training = Training("adam", "zero", width=190, steps=6, sparsity=0.8)
        for _ in range(6):
            training.step()
        runs.append(training.seen())
    torch.set_num_threads(before)
    assert alike(runs[0], runs[1])


def test_zeros_that_lose_their_places_leave_nothing_behind(isa: str) -> None:
    """A pruned zero that comes back takes the place of a kept zero with a higher index, and of all it has."""
    weight = nn.Parameter(torch.tensor([0.0, 1.0, -0.0, 5.0, 0.0]))
    optimizer = torch.optim.SGD([weight], 0.0, momentum=0.9)
    masks = Masks({"w": weight})
    weight.grad = torch.ones(5)
    optimizer.step()
    mask = torch.tensor([False, True, True, True, True])
    masks.replace([mask])
    masks.settle(optimizer, {})
    assert Competition(0).prune(masks, optimizer, [Share((0,), 3)], [Share((0,), 4)], True)
    kept = torch.tensor([True, True, False, True, False])
    assert torch.equal(masks["w"], kept)
    assert torch.equal(weight, torch.tensor([0.0, 1, 0, 5, 0]))
    assert weight.grad.tolist() == [0, 1, 0, 1, 0]
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [0, 1, 0, 1, 0]
    assert not torch.signbit(weight).any()


def test_ties_fall_by_index_not_by_place_in_memory(isa: str) -> None:
    weights = {"a": nn.Parameter(torch.ones(3, 2).t()), "b": nn.Parameter(torch.ones(2).bfloat16())}
    optimizer, masks = torch.optim.SGD(weights.values(), 0.1), Masks(weights)
    competition = Competition(0)
    for keep, a in ((7, [[1, 1, 1], [1, 1, 1]]), (5, [[1, 1, 1], [1, 1, 0]]), (3, [[1, 1, 1], [0, 0, 0]])):
        assert competition.prune(masks, optimizer, [Share((0, 1), keep)], [Share((0, 1), keep + 1)], False)
        assert masks["a"].int().tolist() == a
        assert weights["a"].tolist() == a
        assert int(masks["b"].sum()) == max(0, keep - 6)


def test_a_weight_without_elements(isa: str) -> None:
    """torch gives it no address."""
    weights = {"a": nn.Parameter(torch.empty(0, 3)), "b": nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))}
    optimizer, masks = torch.optim.SGD(weights.values(), 0.0, momentum=0.9), Masks(weights)
    masks.hook_gradients()
    competition, shares = Competition(1), [Share((0, 1), kept) for kept in (3, 2, 1)]
    assert competition.prune(masks, optimizer, shares[1:2], shares[:1], False)
    masks.enforce()
    assert weights["b"].tolist() == [0, -2, 3]
    (weights["a"].sum() + weights["b"].sum()).backward()
    optimizer.step()
    assert competition.prune(masks, optimizer, shares[2:], shares[1:2], False)
    assert masks["b"].tolist() == [False, False, True]
    assert masks["a"].shape == (0, 3)
    for tensor in (weights["b"].grad, optimizer.state[weights["b"]]["momentum_buffer"]):
        assert tensor is not None
        assert tensor.tolist() == [0, 0, 1]


def test_a_share_that_keeps_nothing_has_no_threshold(isa: str) -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer, masks, competition = torch.optim.SGD([weight], 0.1), Masks({"w": weight}), Competition(0)
    assert competition.prune(masks, optimizer, [Share((0,), 0)], [Share((0,), 3)], True)
    assert weight.tolist() == [0, 0, 0]
    assert competition._nearby[0,].threshold is None
    with torch.no_grad():
        weight.copy_(torch.tensor([1.0, -2.0, 3.0]))
    masks.replace([torch.ones(3, dtype=torch.bool)])
    assert competition.prune(masks, optimizer, [Share((0,), 2)], [Share((0,), 3)], True)
    assert (competition._nearby[0,].threshold, competition._nearby[0,].within) == (2, WITHIN)


def test_a_threshold_too_small_to_be_normal_where_torch_flushes_it(isa: str) -> None:
    weight = nn.Parameter(torch.arange(1, 101, dtype=torch.int32).view(torch.float32).clone())
    optimizer, masks, competition = torch.optim.SGD([weight], 0.1), Masks({"w": weight}), Competition(0)
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush numbers too small to be normal")
    try:
        for keep in (30, 20):
            assert competition.prune(masks, optimizer, [Share((0,), keep)], [Share((0,), keep + 10)], False)
            assert competition._nearby[0,].threshold == (101 - keep) * 2.0**-149
    finally:
        torch.set_flush_denormal(False)
    assert masks["w"].nonzero().flatten().tolist() == list(range(80, 100))


# Not a number


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["kept", "pruned"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("recovery", ["none", "zero"])
def test_a_weight_that_is_no_number_is_named_and_nothing_is_changed(
    isa: str, scope: str, where: str, bad: float, recovery: str
) -> None:
    for warm in (2, 7):
        training = Training(recovery=recovery, scope=scope)
        for _ in range(warm):
            training.step()
        training.move()
        mask = training.sparsifier.masks["2.weight"]
        at = tuple((mask == (where == "kept")).nonzero()[-1].tolist())
        with torch.no_grad():
            training.weights["2.weight"][at] = bad
        before, near = training.seen(), training.near()
        with pytest.raises(ValueError, match=r"2\.weight holds NaN or infinity: the run has diverged"):
            training.sparsifier.step()
        assert alike(before, training.seen())
        assert training.near() == near
        with torch.no_grad():
            training.weights["2.weight"][at] = 0.0
        training.step()
        nothing_lives_where_pruned(training)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_diverges_is_noticed_by_the_mask_that_is_due(isa: str, bad: float) -> None:
    training = Training("sgd")
    for _ in range(3):
        training.step()
    weight = training.weights["1.weight"]
    training.backward()
    at = tuple(training.sparsifier.masks["1.weight"].nonzero()[0].tolist())
    assert weight.grad is not None
    weight.grad[at] = bad
    training.optimizer.step()
    weight.grad = None
    before = training.seen()
    with pytest.raises(ValueError, match=r"1\.weight holds NaN or infinity"):
        training.sparsifier.step()
    assert alike(before, training.seen())


# What happens to weights behind its back


CHANGES: dict[str, Callable[[nn.Parameter], Any]] = {
    "in place": lambda w: w.mul_(0.5).clamp_(-0.1, 0.1),
    "data": lambda w: w.data.mul_(0.5).clamp_(-0.1, 0.1),
    "numpy": lambda w: w.detach().numpy().__imul__(0.5).clip(-0.1, 0.1, out=w.detach().numpy()),
}


@pytest.mark.parametrize("recovery", ["none", "zero"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_were_changed_between_the_step_and_the_mask(isa: str, change: str, recovery: str) -> None:
    def work() -> Iterator[Any]:
        training = Training(recovery=recovery)
        for i in range(12):
            training.move()
            if i % 3 == 2:
                with torch.no_grad():
                    for weight in list(training.weights.values())[1:]:
                        CHANGES[change](weight)
            training.sparsifier.step()
            yield training.seen()

    compare(work)


def test_masks_that_were_loaded_between_the_step_and_the_mask(isa: str) -> None:
    def work() -> Iterator[Any]:
        training, others = Training(), [Training(seed=seed) for seed in (1, 2)]
        for other in others:
            other.step()
        training.step()
        for other in others:
            training.sparsifier.load_state_dict(other.sparsifier.state_dict())
            training.move()
        training.sparsifier.load_state_dict(others[0].sparsifier.state_dict())
        training.sparsifier.step()
        yield training.seen()

    compare(work)


def test_steps_that_were_skipped(isa: str) -> None:
    """As a gradient scaler skips them: the mask that is due is chosen without a step before it."""

    def work() -> Iterator[Any]:
        training = Training("adam", "zero")
        for i in range(24):
            if i % 3 != 1:
                training.move()
            training.sparsifier.step()
            yield training.seen()

    compare(work)


@pytest.mark.parametrize("recovery", ["none", "zero"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_pruned_weights_that_were_changed(isa: str, recovery: str, optimizer: str, scope: str) -> None:
    def work() -> Iterator[Any]:
        training = Training(optimizer, recovery, scope)
        for i in range(24):
            training.move()
            if i % 4 == 3:
                for name, weight in training.weights.items():
                    dead = ~training.sparsifier.masks[name]
                    states = [s for s in training.optimizer.state[weight].values() if torch.is_tensor(s)]
                    with torch.no_grad():
                        for tensor in (weight, weight.grad, *(s for s in states if s.shape == weight.shape)):
                            assert tensor is not None
                            tensor[dead] = -2.0 if i % 8 == 3 else -0.0
            training.sparsifier.step()
            nothing_lives_where_pruned(training)
            yield training.seen()

    compare(work)


def moved(data: Tensor, change: str) -> Tensor:
    if change == "channels_last":
        return data.contiguous(memory_format=torch.channels_last) if data.dim() == 4 else data
    if change == "shared":
        return data.clone().share_memory_()
    return data.clone() if change == "clone" else getattr(data, change)()


@pytest.mark.parametrize("recovery", ["none", "zero"])
@pytest.mark.parametrize("change", ["clone", "half", "double", "channels_last", "shared"])
def test_parameters_that_are_moved(isa: str, done: list[bool], change: str, recovery: str) -> None:
    def work() -> Iterator[Any]:
        training = Training(recovery=recovery)
        for i in range(24):
            if i in (8, 16):
                training.optimizer.zero_grad()
                for weight in training.weights.values():
                    weight.data = moved(weight.data, change if i == 8 else "float")
            training.step()
            nothing_lives_where_pruned(training)
            yield training.seen()

    compare(work)
    by_torch, done = done[:24], done[25:]  # the first mask, then one after each step
    assert not any(by_torch)
    if change in ("clone", "half", "shared"):
        assert all(done)
    elif change == "double":
        assert done[-1]  # float32 again


# What would write into memory that is no longer theirs is done in a process of its own.

SENT_AWAY = """
# Sending a sparsifier to another process moves its masks into shared memory, where its weights already are.
import torch
from multiprocessing.reduction import ForkingPickler
from torch import multiprocessing, nn
import sparsecycle as sc
model = nn.Linear(300, 300, bias=False).share_memory()
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
sparsifier = sc.Sparsifier(model, optimizer, 0.9, sc.Linear(), total_steps=10)
for step in range(10):
    if step % 3 == 2:
        sent = ForkingPickler.dumps(sparsifier)
    model(torch.randn(3, 300)).sum().backward()
    optimizer.step()
    dead = ~sparsifier.masks["weight"]
    assert not model.weight[dead].any()
    assert not model.weight.grad[dead].any()
    optimizer.zero_grad()
    sparsifier.step()
assert sparsifier.finalize().kept == 9000
"""
SHRUNK = """
# A weight that has lost rows lies as it did, but for its end.
import torch
from torch import nn
from sparsecycle.masks import Masks
weight = nn.Parameter(torch.randn(600, 600))
masks = Masks({"w": weight})
masks.replace([torch.rand(600, 600) < 0.5])
masks.hook_gradients()
weight.data = weight.data[:2].clone()
try:
    weight.sum().backward()
except RuntimeError as error:
    assert "must match the size" in str(error), error
else:
    raise AssertionError("a mask of another size was taken")
"""


@pytest.mark.parametrize("code", [SENT_AWAY, SHRUNK], ids=["sent away", "shrunk"])
def test_no_memory_is_touched_that_is_no_longer_theirs(code: str) -> None:
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("recovery", ["none", "zero"])
def test_a_network_in_float64_is_left_to_torch(isa: str, done: list[bool], recovery: str) -> None:
    def work() -> Iterator[Any]:
        training = Training(recovery=recovery, dtypes=(torch.float64, torch.float32), steps=6)
        for _ in range(6):
            training.step()
            nothing_lives_where_pruned(training)
            yield training.seen()

    compare(work)
    assert not any(done)


# What belongs to the weights


@pytest.mark.parametrize("recovery", ["none", "zero"])
@pytest.mark.parametrize("kind", ["float32", "float64", "transposed", "strided"])
def test_state_of_another_type_or_layout_is_cleared_too(isa: str, done: list[bool], kind: str, recovery: str) -> None:
    def held(weight: Tensor, generator: torch.Generator) -> Tensor:
        state = torch.randint(1, 9, weight.shape, generator=generator).float()
        if kind == "transposed":
            return state.transpose(0, 1).contiguous().transpose(0, 1)
        if kind == "strided":
            return torch.stack([state, state], -1)[..., 0]
        return state.to(getattr(torch, kind))

    def work() -> Iterator[Any]:
        training = Training("sgd", recovery, dtypes=(torch.bfloat16,))
        for _ in range(12):
            training.move()
            for weight in training.weights.values():
                training.optimizer.state[weight].setdefault("kept apart", held(weight, training.generator))
            training.sparsifier.step()
            nothing_lives_where_pruned(training)
            yield training.seen()

    compare(work)
    assert all(done[len(done) // 2 :])


def test_adam_in_float32_for_half_precision_weights(isa: str) -> None:
    def work() -> Iterator[Any]:
        training = Training("adam", "zero", dtypes=(torch.bfloat16, torch.float16))
        training.move()
        for weight in training.weights.values():
            state = training.optimizer.state[weight]
            state.update({key: state[key].float() for key in ("exp_avg", "exp_avg_sq")})
        training.sparsifier.step()
        yield training.seen()
        for state in training.optimizer.state.values():  # as a step of such an optimizer would leave it
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = state[key] + 1
        with torch.no_grad():
            for name, weight in training.weights.items():
                weight.sub_(0.1).mul_(training.sparsifier.masks[name])
        for _ in range(3):
            training.sparsifier._pruner.masks._strayed = True  # as if the step had moved pruned weights
            training.sparsifier.step()
            nothing_lives_where_pruned(training)
            yield training.seen()

    compare(work)


def test_an_optimizer_state_without_tensors(isa: str, done: list[bool]) -> None:
    training = Training("sgd")
    training.move()
    for weight in training.weights.values():
        training.optimizer.state[weight].update(
            {"note": "none", "step": 3, "groups": [1, 2], "clock": torch.tensor(4.0)}
        )
        weight.grad = None
    for _ in range(4):
        training.sparsifier.step()
    assert all(done)
    assert training.optimizer.state[training.weights["1.weight"]]["clock"] == 4
    nothing_lives_where_pruned(training)


def test_an_optimizer_state_that_is_another_mapping(isa: str, done: list[bool]) -> None:
    training = Training()
    training.step()
    for weight in training.weights.values():
        training.optimizer.state[weight] = UserDict(training.optimizer.state[weight])
    for _ in range(4):
        training.step()
        nothing_lives_where_pruned(training)
    assert all(done)


def test_autograd_notices_what_was_changed(isa: str, done: list[bool]) -> None:
    training = Training()
    training.move()
    weights = list(training.weights.values())
    tensors = [*weights, *(w.grad for w in weights if w.grad is not None), *training.momentum]
    before, loss = [t._version for t in tensors], sum(w.square().sum() for w in weights)
    training.sparsifier.step()
    after = [t._version for t in tensors]
    assert [b > a for a, b in zip(before, after, strict=True)] == [True] * 12
    assert all(done)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[union-attr]
    training.sparsifier._pruner.masks.enforce()  # which finds nothing to change
    assert [t._version for t in tensors] == after


# Copies, and two at once


@pytest.mark.parametrize("recovery", ["none", "zero"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_goes_on_by_itself(isa: str, done: list[bool], how: str, recovery: str) -> None:
    training = Training(recovery=recovery)
    for _ in range(6):
        training.step()
    generator, training.generator = training.generator, None  # type: ignore[assignment]  # which cannot be copied
    if how == "deepcopy":
        twin = copy.deepcopy(training)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(training))
    else:
        file = io.BytesIO()
        torch.save(training, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    training.generator, twin.generator = generator, torch.Generator()
    twin.generator.set_state(generator.get_state())
    before = training.seen()
    for _ in range(6):
        twin.step()
    assert alike(before, training.seen())
    for _ in range(6):
        training.step()
    assert alike(twin.seen(), training.seen())
    assert not alike(before, training.seen())
    assert all(done)


def test_two_networks_at_once(isa: str, threads: int) -> None:
    def train(seed: int) -> dict[str, Any]:
        training = Training("adam", "zero" if seed % 2 else "none", width=190, steps=4, seed=seed)
        for _ in range(4):
            training.step()
        return training.seen()

    expected, found = [train(seed) for seed in (1, 2)], {}
    both = [threading.Thread(target=lambda seed=seed: found.update({seed: train(seed)})) for seed in (1, 2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert alike(expected, [found[1], found[2]])


# Whole trainings


class Longer(Run):
    total = 60


@pytest.mark.parametrize(("method", "optimizer"), list(zip(METHODS, itertools.cycle(["nesterov", "adamw-fused"]))))
def test_a_whole_training(method: str, optimizer: str) -> None:
    """A convolution and linear layers, at the best of the core's paths."""

    def work() -> Iterator[Any]:
        run = Longer(method, optimizer, sparsity=0.8)
        for _ in range(3):
            run.train(20)
            yield {"weights": [exact(w) for w in run.model.parameters()], "masks": run.sparsifier.masks}

    compare(work)


@pytest.mark.parametrize("method", ["progressive", "one-cycle", "cyclical", "acdc", "gsm", "rigl"])
def test_a_whole_training_of_a_perceptron(method: str) -> None:
    def work() -> Iterator[Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(120, 600), nn.ReLU(), nn.Linear(600, 10))
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        words = {"update_every": 5} if method == "rigl" else {}
        sparsifier = METHODS[method](model, optimizer, 0.95, 60, **words)
        for _ in range(60):
            x = torch.randn(16, 120)
            nn.functional.cross_entropy(model(x), x[:, :10].argmax(1)).backward()
            optimizer.step()
            optimizer.zero_grad()
            sparsifier.step()
        yield {"weights": [exact(w) for w in model.parameters()], "masks": sparsifier.masks}

    compare(work)
