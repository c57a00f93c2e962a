"""Each method against its paper's algorithm, written out a second time: six steps of a network of 20 weights.

The network is y = W₂ tanh(W₁ x) with W₁ of 4 × 3 and W₂ of 2 × 4, the loss the mean squared error. Here its weights
are one vector of 12 + 8 numbers, its gradient is worked out by hand, and nothing comes from the library under test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from sparsecycle.methods import METHODS

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Trace = list[tuple[Vector, Mask, Vector]]  # of every step: weights and momentum after it, mask while it trained

STEPS, SPARSITY, RATE, MOMENTUM, DECAY = 6, 0.7, 0.5, 0.9, 1e-2
FIRST, LAST = range(12), range(12, 20)  # the two layers' places in the vector
EVERY = np.ones(20, dtype=bool)
# fmt: off
W0 = np.array([0.6, -0.4, 0.3, -0.2, 0.8, 0.5, 0.35, 0.1, -0.7, -0.55, 0.25, 0.45,
               1.08, -0.36, 0.18, 0.78, -0.62, 0.9, -0.06, 0.48])
X = np.array([[1.0, -0.5, 0.2], [-0.3, 0.8, -1.1], [0.4, 1.2, 0.7], [-1.3, -0.6, 0.9], [0.1, -1.4, -0.8],
              [0.9, 0.3, -0.4]])
Y = np.array([[1.0, -0.7], [-0.2, 0.9], [0.6, -1.1], [-1.2, 0.3], [0.5, 0.8], [-0.4, -0.6]])
# fmt: on
BATCHES = [(torch.tensor(X[part]), torch.tensor(Y[part])) for part in (slice(2), slice(2, 6))]  # SNIP's and GraSP's


def gradient(w: Vector, x: Vector = X, y: Vector = Y) -> Vector:
    """∂L/∂w of the mean squared error, by the chain rule."""
    w1, w2 = w[FIRST].reshape(4, 3), w[LAST].reshape(2, 4)
    a = np.tanh(x @ w1.T)
    error = 2 * (a @ w2.T - y) / y.size
    return np.concatenate([(((error @ w2) * (1 - a**2)).T @ x).ravel(), (error.T @ a).ravel()])


def best(worth: Vector, keep: int, among: Sequence[int] | range) -> list[int]:
    """The places of the ``keep`` largest; of equals, the first."""
    return sorted(among, key=lambda i: (-worth[i], i))[:keep]


def mask_of(*places: Sequence[int]) -> Mask:
    mask = np.zeros(20, dtype=bool)
    mask[[i for some in places for i in some]] = True
    return mask


def globally(worth: Vector, keep: int, among: Mask = EVERY) -> Mask:
    """Both layers compete, but each keeps its best one."""
    there = np.flatnonzero(among).tolist()
    safe = [best(worth, 1, [i for i in there if i in layer])[0] for layer in (FIRST, LAST)]
    return mask_of(safe, best(worth, keep - 2, [i for i in there if i not in safe]))


def uniformly(worth: Vector, keep: int, among: Mask = EVERY) -> Mask:
    """Of the layers of 12 and 8 weights, the same share in each: 0.6 and 0.4 of what is kept, rounded."""
    there = np.flatnonzero(among).tolist()
    counts = {FIRST: round(0.6 * keep), LAST: round(0.4 * keep)}
    return mask_of(*(best(worth, n, [i for i in there if i in layer]) for layer, n in counts.items()))


class Run:
    """Gradient descent under a mask. A weight that comes back was 0 until then, and so was its momentum."""

    def __init__(self, w0: Vector = W0) -> None:
        self.w, self.mask = w0.copy(), EVERY
        self.momentum, self.g = np.zeros(20), np.zeros(20)

    def mask_for(self, k: int) -> Mask:
        """The mask under which step k trains."""
        raise NotImplementedError

    def step(self) -> None:
        self.g = gradient(self.w)
        self.w = self.descend(self.w, self.g * self.mask)

    def descend(self, w: Vector, g: Vector) -> Vector:
        self.momentum = MOMENTUM * self.momentum + g + DECAY * w
        return w - RATE * self.momentum

    def train(self) -> Iterator[tuple[Vector, Mask, Vector]]:
        for k in range(STEPS):
            self.mask = self.mask_for(k)
            self.w, self.momentum = self.w * self.mask, self.momentum * self.mask
            self.step()
            yield self.w, self.mask, self.momentum


class Given(Run):
    """Masks that are known before the first step: one for all steps, or one each."""

    def __init__(self, *masks: Mask, w0: Vector = W0) -> None:
        super().__init__(w0)
        self.masks = masks * (STEPS // len(masks))

    def mask_for(self, k: int) -> Mask:
        return self.masks[k]


# --- magnitude, on a schedule ---------------------------------------------------------------------------------------


def kept(level: float) -> int:
    return 20 - round(SPARSITY * level * 20)


def cubic(u: float) -> float:
    return 0.0 if u < 0 else 1 - (1 - u) ** 3


class Gradual(Run):
    """While step k trains, share ``level(k)`` of s_f is pruned: the smallest |w| of those still active."""

    def __init__(self, level: Callable[[int], float], select: Callable[[Vector, int, Mask], Mask] = globally) -> None:
        super().__init__()
        self.level, self.select = level, select

    def mask_for(self, k: int) -> Mask:
        return self.select(abs(self.w), kept(self.level(k)), self.mask)


def progressive(k: int) -> float:
    """s = s_f (e + 1) / E."""
    return (k + 1) / STEPS


def by_epochs(k: int) -> float:
    """The same with epochs of two steps, pruning in the first two of three."""
    return min(1, (k // 2 + 1) / 2)


def one_cycle(k: int) -> float:
    """s = s_f (1 + exp(-α + β)) / (1 + exp(-α t + β)), α = 14, β = 5."""
    return (1 + math.exp(-14 + 5)) / (1 + math.exp(-14 * (k + 1) / STEPS + 5))


def agp(k: int) -> float:
    """s = s_f - s_f (1 - (t - t₀) / (1 - t₀))³, from a fifth of the run."""
    return cubic(((k + 1) / STEPS - 0.2) / 0.8)


def iterative(k: int) -> float:
    """s = s_f / n · ceil(n (t - t₀) / (1 - t₀)), n = 3, from a fifth of the run."""
    return max(0, math.ceil(3 * (Fraction(k + 1, STEPS) - Fraction(1, 5)) / Fraction(4, 5)) / 3)


def one_shot(k: int) -> float:
    """Two fifths of the run dense, then s_f."""
    return float((k + 1) / STEPS > 0.4)


class Cyclical(Run):
    """Two cycles of three steps, each from dense along the cubic curve: w ← the largest |w| of w - η ∂L/∂w."""

    def worth(self) -> Vector:
        return abs(self.w)

    def mask_for(self, k: int) -> Mask:
        u = 1 if k == STEPS - 1 else (k + 1) % 3 / 3
        return globally(self.worth(), kept(cubic(u)))


class DSD(Run):
    """A third of the run dense, a third sparse, a third dense from 0 on where it was pruned."""

    def mask_for(self, k: int) -> Mask:
        if k == 2:
            return uniformly(abs(self.w), 6)
        return self.mask if k == 3 else EVERY


class ACDC(Run):
    """Dense, sparse at steps 1 and 2, dense with all momentum forgotten at 3, then sparse again."""

    def mask_for(self, k: int) -> Mask:
        if k == 3:
            self.momentum = np.zeros(20)
            return EVERY
        return globally(abs(self.w), 6) if k in (1, 4) else self.mask


# --- dense values behind the mask -----------------------------------------------------------------------------------


class Stored(Run):
    """The network is mask ⊙ dense; a pruned weight's dense value waits, without momentum."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = W0.copy()

    def step(self) -> None:
        self.w = self.dense * self.mask
        self.g = gradient(self.w)
        self.w = self.descend(self.w, self.g * self.mask)
        self.dense = np.where(self.mask, self.w, self.dense)


class CyclicalStored(Stored, Cyclical):
    """The other reading of cyclical pruning: weights come back at the value that they had."""

    def worth(self) -> Vector:
        return abs(self.dense)


class Movement(Stored):
    """S ← S - W ⊙ ∂L/∂W', W' = W ⊙ mask, mask = the largest S, as many as the cubic curve says."""

    def __init__(self, from_step: int) -> None:
        super().__init__()
        self.scores, self.from_step = np.zeros(20), from_step

    def mask_for(self, k: int) -> Mask:
        return globally(self.scores, kept(cubic((k + 1 - self.from_step) / (STEPS - self.from_step))))

    def step(self) -> None:
        before = self.dense
        super().step()
        self.scores = self.scores - before * self.g


class DPF(Run):
    """w ← w - η ∂L/∂w at mask ⊙ w, momentum and decay of all w included; the mask, now and then, its largest |w|."""

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.dense, self.every = W0.copy(), every

    def mask_for(self, k: int) -> Mask:
        return globally(abs(self.dense), kept(cubic((k + self.every) / STEPS))) if k % self.every == 0 else self.mask

    def train(self) -> Iterator[tuple[Vector, Mask, Vector]]:
        for k in range(STEPS):
            self.mask = self.mask_for(k)
            self.dense = self.descend(self.dense, gradient(self.dense * self.mask))
            yield self.dense * self.mask, self.mask, self.momentum


class GSM(Run):
    """Of Q weights, those with the largest |w ∂L/∂w|, the gradient; of all, momentum and decay. Then Q remain."""

    def mask_for(self, k: int) -> Mask:
        return globally(abs(self.w), 6) if k == STEPS - 1 else EVERY

    def step(self) -> None:
        g = gradient(self.w)
        self.w = self.descend(self.w, g * mask_of(best(abs(self.w * g), 6, range(20))) * self.mask)


# --- before training ------------------------------------------------------------------------------------------------


def snip() -> Mask:
    """The largest |w ∂L/∂w|, of L summed over the batches."""
    return globally(abs(W0 * sum(gradient(W0, x.numpy(), y.numpy()) for x, y in BATCHES)), 6)


def grasp(temperature: float) -> Mask:
    """All but the largest S = -w ⊙ H g, of the loss of y / T: H is the whole matrix of second derivatives."""

    def loss(w: torch.Tensor) -> torch.Tensor:
        w1, w2 = w[:12].view(4, 3), w[12:].view(2, 4)
        losses = ((torch.tanh(x @ w1.T) @ w2.T / temperature - y).square().mean() for x, y in BATCHES)
        return sum(losses, start=torch.zeros(()))

    h = torch.autograd.functional.hessian(loss, torch.tensor(W0))
    g = torch.autograd.functional.jacobian(loss, torch.tensor(W0))
    return globally(W0 * (h @ g).numpy(), 6)


def synflow(rounds: int, path: str = "exponential") -> Mask:
    """n times: R = Σ y at |w| and x = 1, score |w ∂R/∂|w||; round k keeps ρ^(k/n), or prunes k/n of all that go."""
    mask, rho = EVERY, 1 - SPARSITY
    for k in range(1, rounds + 1):
        w1, w2 = abs(W0[FIRST] * mask[FIRST]).reshape(4, 3), abs(W0[LAST] * mask[LAST]).reshape(2, 4)
        a = np.tanh(w1.sum(1))
        flow1, flow2 = w1 * (w2.sum(0) * (1 - a**2))[:, None], w2 * a
        share = rho ** (k / rounds) if path == "exponential" else 1 - (1 - rho) * k / rounds
        mask = globally(np.concatenate([flow1.ravel(), flow2.ravel()]), 20 - round(20 * (1 - share)), mask)
    return mask


# --- drop and grow --------------------------------------------------------------------------------------------------


def survivors(w: Vector, mask: Mask, t: float, fraction: float) -> list[list[int]]:
    """Of each layer's kept weights, those left when its smallest |w| are dropped: f(t) = α/2 (1 + cos(π t / t_end))."""
    f = fraction / 2 * (1 + math.cos(math.pi * t / 0.75)) if t < 0.75 else 0.0
    layers = [[i for i in layer if mask[i]] for layer in (FIRST, LAST)]
    return [best(abs(w), len(there) - round(f * len(there)), there) for there in layers]


class RigL(Run):
    """In every layer, drop the smallest |w| and grow as many elsewhere, where |∂L/∂w| was largest in the last step."""

    def __init__(self, first: Mask, every: int, fraction: float) -> None:
        super().__init__()
        self.first, self.every, self.fraction = first, every, fraction
        self.regrown = 0

    def mask_for(self, k: int) -> Mask:
        if k == 0 or k % self.every:
            return self.mask if k else self.first
        stay = survivors(self.w, self.mask, k / STEPS, self.fraction)
        others = [[i for i in layer if i not in left] for layer, left in zip((FIRST, LAST), stay, strict=True)]
        grown = [best(abs(self.g), 5 - len(left), there) for left, there in zip(stay, others, strict=True)]
        self.regrown += sum(bool(self.mask[i]) for there in grown for i in there)
        return mask_of(*stay, *grown)


# --- ours -----------------------------------------------------------------------------------------------------------


def ours(method: str, sparsity: float = SPARSITY, w0: Vector = W0, **words: Any) -> Trace:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False)).double()
    weights = list(model.parameters())
    nn.utils.vector_to_parameters(torch.tensor(w0), weights)
    optimizer = torch.optim.SGD(weights, RATE, momentum=MOMENTUM, weight_decay=DECAY)
    sparsifier = METHODS[method](model, optimizer, sparsity, STEPS, **words)
    trace = []
    for _ in range(STEPS):
        mask = np.concatenate([m.numpy().ravel() for m in sparsifier.masks.values()])
        F.mse_loss(model(torch.tensor(X)), torch.tensor(Y)).backward()
        optimizer.step()
        optimizer.zero_grad()
        w = np.concatenate([v.detach().numpy().ravel() for v in weights])
        momentum = np.concatenate([optimizer.state[v]["momentum_buffer"].numpy().ravel() for v in weights])
        trace.append((w, mask, momentum))
        sparsifier.step()
    return trace


def assert_same(trace: Trace, reference: Run) -> None:
    for k, (mine, theirs) in enumerate(zip(trace, reference.train(), strict=True)):
        np.testing.assert_array_equal(mine[1], theirs[1], err_msg=f"mask of step {k}")
        for i, what in ((0, "weights"), (2, "momentum")):
            np.testing.assert_allclose(mine[i], theirs[i], rtol=1e-9, atol=1e-12, err_msg=f"{what} after step {k}")
        assert (mine[0][~mine[1]] == 0).all()


def pruned(trace: Trace) -> list[int]:
    return [int((~mask).sum()) for _, mask, _ in trace]


def came_back(trace: Trace) -> list[int]:
    """How many weights came back at each step."""
    return [int((now[1] & ~before[1]).sum()) for before, now in pairwise(trace)]


TWO_CYCLES = [10, 13, 0, 10, 13, 14]  # 14 (1 - (1 - u)³) at u = 1/3, 2/3, 0 (open again), 1/3, 2/3, 1
CUBIC = [6, 10, 12, 13, 14, 14]  # at u = 1/6, ..., 1
AT_START = [14] * 6
ON_BATCHES = {"batches": BATCHES, "loss": F.mse_loss}
ONES: dict[str, Any] = {"input_shape": (3,)}

# Method, its own words, the paper's run, and how many weights are pruned while each step trains.
CASES: dict[str, tuple[str, dict[str, Any], Callable[[], Run], list[int]]] = {
    "progressive": ("progressive", {}, lambda: Gradual(progressive), [2, 5, 7, 9, 12, 14]),
    "by epochs": ("progressive", {"end": 2 / 3, "update_every": 2}, lambda: Gradual(by_epochs), [7, 7, 14, 14, 14, 14]),
    "one-cycle": ("one-cycle", {}, lambda: Gradual(one_cycle, uniformly), [1, 6, 12, 14, 14, 14]),
    "agp": ("agp", {}, lambda: Gradual(agp, uniformly), [0, 6, 11, 13, 14, 14]),
    "iterative": ("iterative", {}, lambda: Gradual(iterative), [0, 5, 9, 9, 14, 14]),
    "one-shot": ("one-shot", {}, lambda: Gradual(one_shot), [0, 0, 14, 14, 14, 14]),
    "cyclical": ("cyclical", {"cycles": 2}, Cyclical, TWO_CYCLES),
    "cyclical, stored": ("cyclical", {"cycles": 2, "recovery": "stored"}, CyclicalStored, TWO_CYCLES),
    "dsd": ("dsd", {}, DSD, [0, 0, 14, 14, 0, 0]),
    "acdc": ("acdc", {"switches": (1 / 6, 3 / 6, 4 / 6)}, ACDC, [0, 14, 14, 0, 14, 14]),
    "movement": ("movement", {"start": 1 / 6, "scope": "global"}, lambda: Movement(1), [0, 7, 11, 13, 14, 14]),
    "movement, all S = 0": ("movement", {"start": 0.0, "scope": "global"}, lambda: Movement(0), CUBIC),
    "dpf": ("dpf", {"update_every": 1}, DPF, CUBIC),
    "dpf, every second step": ("dpf", {"update_every": 2}, lambda: DPF(2), [10, 10, 13, 13, 14, 14]),
    "gsm": ("gsm", {}, GSM, [0, 0, 0, 0, 0, 14]),
    "magnitude": ("magnitude", {}, lambda: Given(globally(abs(W0), 6)), AT_START),
    "snip": ("snip", ON_BATCHES, lambda: Given(snip()), AT_START),
    "grasp": ("grasp", ON_BATCHES, lambda: Given(grasp(200)), AT_START),
    "grasp, T = 1": ("grasp", {**ON_BATCHES, "temperature": 1}, lambda: Given(grasp(1)), AT_START),
    "synflow": ("synflow", ONES, lambda: Given(synflow(100)), AT_START),
    "synflow in 3": ("synflow", {**ONES, "rounds": 3}, lambda: Given(synflow(3)), AT_START),
    "linear": ("synflow", {**ONES, "rounds": 3, "path": "linear"}, lambda: Given(synflow(3, "linear")), AT_START),
}
RETURNING = ("cyclical", "movement", "acdc", "dsd", "dpf")


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_the_papers(case: str) -> None:
    method, words, paper, counts = CASES[case]
    trace = ours(method, **words)
    assert_same(trace, paper())
    assert pruned(trace) == counts
    assert any(came_back(trace)) == (method in RETURNING)


def test_every_method_is_here() -> None:
    assert {method for method, *_ in CASES.values()} | {"random", "set", "rigl"} == set(METHODS)


def test_what_the_cases_tell_apart() -> None:
    # Scores that rank like others would prove little, and so would a run whose masks never matter.
    last = {case: tuple(np.flatnonzero(list(paper().train())[-1][1])) for case, (*_, paper, _) in CASES.items()}
    scored = [case for case, (method, *_) in CASES.items() if method in ("magnitude", "snip", "grasp", "synflow")]
    assert len({last[case] for case in scored}) == len(scored) == 7
    assert last["cyclical"] != last["cyclical, stored"]
    assert last["movement"] != last["movement, all S = 0"]
    assert last["dpf"] != last["dpf, every second step"]
    assert last["gsm"] != last["one-shot"]


def test_equal_weights_fall_from_the_end_and_a_layer_keeps_one() -> None:
    equal = np.where(W0 > 0, 0.5, -0.5)
    assert_same(ours("magnitude", w0=equal), Given(globally(abs(equal), 6), w0=equal))
    assert np.flatnonzero(ours("magnitude", w0=equal)[0][1]).tolist() == [0, 1, 2, 3, 4, 12]
    small = np.where(np.arange(20) < 12, W0, W0 / 100)  # the last layer's largest is its first
    assert_same(ours("magnitude", w0=small), Given(globally(abs(small), 6), w0=small))
    assert np.flatnonzero(ours("magnitude", w0=small)[0][1]).tolist() == [0, 4, 5, 8, 9, 12]


@pytest.mark.parametrize(("sparsity", "count"), [(0.7, 14), (0.33, 7), (0.9, 18)])
def test_random(sparsity: float, count: int) -> None:
    first, again, other = (ours("random", sparsity, seed=seed) for seed in (3, 3, 4))
    assert pruned(first) == pruned(other) == [count] * 6
    masks = [mask for _, mask, _ in first]
    assert all((mask == masks[0]).all() for mask in masks)
    assert (masks[0] == again[0][1]).all()
    assert (masks[0] != other[0][1]).any()
    assert_same(first, Given(*masks))


# Every layer keeps 5 of half the weights: ε (3 + 4) and ε (4 + 2) of 10 are 5.4 and 4.6. At steps 1, 2, 3 and 4 of 6
# f(t) = α/2 (1 + cos(π t / .75)) is .883 α, .587 α, .25 α and .030 α.
DROPS = [(1, 0.5, [2, 1, 1, 0, 0]), (1, 0.9, [4, 3, 1, 0, 0]), (2, 0.6, [0, 2, 0, 0, 0])]


@pytest.mark.parametrize(("every", "fraction", "drops"), DROPS)
def test_rigl(every: int, fraction: float, drops: list[int]) -> None:
    trace = ours("rigl", 0.5, update_every=every, fraction=fraction)
    paper = RigL(trace[0][1], every, fraction)
    assert_same(trace, paper)
    assert [mask[layer].sum() for _, mask, _ in trace for layer in (FIRST, LAST)] == [5] * 12
    # What grew was out before, or had just been dropped: both happen here.
    assert min(sum(came_back(trace)), paper.regrown) > 0
    assert sum(came_back(trace)) + paper.regrown == 2 * sum(drops)


@pytest.mark.parametrize(("every", "fraction", "drops"), DROPS)
def test_set(every: int, fraction: float, drops: list[int]) -> None:
    words: dict[str, Any] = {"update_every": every, "fraction": fraction}
    trace, again, other = (ours("set", 0.5, seed=seed, **words) for seed in (0, 0, 1))
    masks = [mask for _, mask, _ in trace]
    # The draws are its own, but with them a grown weight starts at 0 without momentum, one dropped and grown goes on.
    assert_same(trace, Given(*masks))
    assert [mask[layer].sum() for mask in masks for layer in (FIRST, LAST)] == [5] * 12
    for k, drop in enumerate(drops, 1):
        w, before, _ = trace[k - 1]
        stay = survivors(w, before, k / STEPS, fraction) if k % every == 0 else [np.flatnonzero(before).tolist()]
        assert masks[k][[i for left in stay for i in left]].all()
        assert sum(map(len, stay)) == 10 - 2 * drop
        assert (masks[k] == before).all() or drop
    assert 0 < sum(came_back(trace)) < 2 * sum(drops)  # both kinds again
    assert all((a[1] == b[1]).all() for a, b in zip(trace, again, strict=True))
    assert any((a[1] != b[1]).any() for a, b in zip(trace, other, strict=True))
