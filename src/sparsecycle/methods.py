"""Each paper's method: the five words it picks.

Every method takes ``model, optimizer, sparsity, total_steps`` and passes what else it is given on to
:class:`~sparsecycle.sparsifier.Sparsifier` (``update_every``, ``scope``, ``include``, ``exclude``, ``floor``, ...).
Times are shares of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from sparsecycle.criteria import Movement, Random
from sparsecycle.prunable import choose
from sparsecycle.recovery import Recovery, Regrow
from sparsecycle.saliency import SNIP, Batches, GraSP, Loss, SynFlow
from sparsecycle.schedules import (
    AGP,
    Alternating,
    Constant,
    Cyclical,
    DenseSparseDense,
    Iterative,
    Linear,
    OneCycle,
    OneShot,
    Schedule,
)
from sparsecycle.sparsifier import Sparsifier

__all__ = [
    "METHODS",
    "acdc",
    "agp",
    "cyclical",
    "dpf",
    "dsd",
    "grasp",
    "gsm",
    "iterative",
    "magnitude",
    "movement",
    "one_cycle",
    "one_shot",
    "progressive",
    "random",
    "rigl",
    "set",
    "snip",
    "synflow",
]


def progressive(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    **words: Any,
) -> Sparsifier:
    """Progressive magnitude pruning (Qureshi et al., arXiv 2606.12278): linear, global, pruned weights stay out.

    The paper updates the mask once an epoch, ``update_every=len(loader)``: epoch e of E then trains at
    (e + 1) / E of the final sparsity. It prunes to the last epoch on CIFAR-10's ResNet-18 (``end=1``) and leaves
    the rest of the run to the final mask elsewhere.

    Ours: a mask at every step, unless ``update_every`` is given.
    """
    return Sparsifier(model, optimizer, sparsity, Linear(start=start, end=end), total_steps=total_steps, **words)


def one_cycle(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    alpha: float = 14.0,
    beta: float = 5.0,
    **words: Any,
) -> Sparsifier:
    """One-Cycle pruning (Hubens et al., arXiv 2107.02086): the logistic curve over the whole run, layer by layer.

    β is 5 in the paper's text and 6 in its code. The code prunes convolutions only: ``include=[nn.Conv2d]``.
    """
    words = {"scope": "uniform", **words}
    schedule = OneCycle(alpha, beta, start=start, end=end)
    return Sparsifier(model, optimizer, sparsity, schedule, total_steps=total_steps, **words)


def agp(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.2,
    end: float = 1.0,
    **words: Any,
) -> Sparsifier:
    """Automated gradual pruning (Zhu & Gupta, arXiv 1710.01878): the cubic curve, layer by layer.

    The paper leaves the start to the user; a fifth of the run is what One-Cycle pruning compares itself with.
    """
    words = {"scope": "uniform", **words}
    return Sparsifier(model, optimizer, sparsity, AGP(start=start, end=end), total_steps=total_steps, **words)


def one_shot(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    at: float = 0.4,
    **words: Any,
) -> Sparsifier:
    """Train, prune by magnitude once, train on (Han et al., arXiv 1506.02626, in its one-shot form).

    Of a fixed budget, 40 % before pruning did best where One-Cycle pruning's authors tried.
    """
    return Sparsifier(model, optimizer, sparsity, OneShot(at), total_steps=total_steps, **words)


def iterative(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.2,
    end: float = 1.0,
    steps: int = 3,
    **words: Any,
) -> Sparsifier:
    """Iterative magnitude pruning within one run: equal steps, each with its share of the time to recover.

    Ours: no paper's own; One-Cycle pruning compares itself with three such steps after a fifth of the run.
    """
    schedule = Iterative(steps, start=start, end=end)
    return Sparsifier(model, optimizer, sparsity, schedule, total_steps=total_steps, **words)


def cyclical(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    cycles: int = 3,
    within: Schedule = AGP(),  # noqa: B008 - frozen
    recovery: str = "zero",
    **words: Any,
) -> Sparsifier:
    """Cyclical pruning (Srinivas et al., arXiv 2202.01290): the schedule repeats, so that pruned weights recover.

    Seen as projected gradient descent, weights come back at 0; ``recovery="stored"`` brings back their values.

    Ours: three cycles of the cubic curve; neither their number nor the curve is in the text at hand.
    """
    schedule = Cyclical(cycles, within, start=start, end=end)
    return Sparsifier(model, optimizer, sparsity, schedule, recovery=recovery, total_steps=total_steps, **words)


def random(
    model: nn.Module, optimizer: Optimizer, sparsity: float, total_steps: int, *, seed: int = 0, **words: Any
) -> Sparsifier:
    """A random mask before training: what every other method must beat (baseline of Lee et al., arXiv 1810.02340).

    Ours: weights compete over all layers, so that every layer loses about the same share.
    """
    return Sparsifier(model, optimizer, sparsity, Constant(), Random(seed), total_steps=total_steps, **words)


def magnitude(model: nn.Module, optimizer: Optimizer, sparsity: float, total_steps: int, **words: Any) -> Sparsifier:
    """The largest initial weights of all layers, before training (baseline of Frankle et al., arXiv 2009.08576)."""
    return Sparsifier(model, optimizer, sparsity, Constant(), total_steps=total_steps, **words)


def snip(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    batches: Batches,
    loss: Loss = cross_entropy,
    biases: bool = False,
    **words: Any,
) -> Sparsifier:
    """SNIP (Lee et al., arXiv 1810.02340): before training, the largest |w · ∂L/∂w| of all layers.

    Args:
        model: The network, in the mode in which it is trained.
        optimizer: Its optimizer.
        sparsity: Share of the weights that are zero from the start.
        total_steps: Optimizer steps in the whole run.
        batches: Pairs of inputs and targets, one or several; the paper takes one of 100 to 128 images.
        loss: Of the network's output and the targets.
        biases: Prune the biases of the pruned layers too, as the paper's code does and its text does not.
        words: What else the sparsifier is given.

    Ours: the scored weights are the ones that are trained; the paper's code trains another draw of them.
    """
    if biases:
        known = dict(model.named_parameters())
        names = choose(model, words.get("include"), words.get("exclude")).weights
        own = [f"{name.removesuffix('weight')}bias" for name in names]
        words["include"] = [*names, *(name for name in own if name in known)]
    criterion = SNIP(batches, loss)
    return Sparsifier(model, optimizer, sparsity, Constant(), criterion, total_steps=total_steps, **words)


def grasp(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    batches: Batches,
    loss: Loss = cross_entropy,
    temperature: float = 200.0,
    **words: Any,
) -> Sparsifier:
    """GraSP (Wang et al., arXiv 2002.07376): before training, without the largest -θ ⊙ Hg of all layers.

    Args:
        model: The network, in the mode in which it is trained.
        optimizer: Its optimizer.
        sparsity: Share of the weights that are zero from the start.
        total_steps: Optimizer steps in the whole run.
        batches: Pairs of inputs and targets, one or several; the paper takes 10 samples a class.
        loss: Of the network's output, divided by the temperature, and the targets.
        temperature: 200 in the paper's code.
        words: What else the sparsifier is given.

    Ours: linear layers are scored as they are; the paper's code initialises them anew (Xavier) first.
    """
    criterion = GraSP(batches, loss, temperature)
    return Sparsifier(model, optimizer, sparsity, Constant(), criterion, total_steps=total_steps, **words)


def synflow(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    input_shape: Sequence[int],
    rounds: int = 100,
    path: str = "exponential",
    **words: Any,
) -> Sparsifier:
    """SynFlow (Tanaka et al., arXiv 2006.05467): before training and without data, synaptic flow in 100 rounds.

    Round k of n keeps ρ^(k/n) of the weights, where ρ = 1 - sparsity; ``path="linear"`` prunes equally many in each.
    ``input_shape`` is that of one input, such as (3, 32, 32).

    Ours: scores are in float64, since the flow of a deep network overflows float32.
    """
    criterion = SynFlow(tuple(input_shape), rounds, path)
    return Sparsifier(model, optimizer, sparsity, Constant(), criterion, total_steps=total_steps, **words)


def movement(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.2,
    end: float = 1.0,
    **words: Any,
) -> Sparsifier:
    """Movement pruning (Sanh et al., arXiv 2005.07683): weights that training moves away from 0, on the cubic curve.

    The scores are trained through the mask by the straight-through estimator, so pruned weights can return, at the
    value they had. Layer by layer; with ``scope="global"``, the paper's other choice, a convolution's scores, which sum
    up over an image's places, do not compare with a linear layer's.

    Ours: scores have one constant learning rate, which cancels in their order; the paper's code trains them by Adam.
    Momentum and weight decay do not act on a weight while it is pruned. The paper fine-tunes a trained network.
    """
    words = {"scope": "uniform", "recovery": "stored", **words}
    schedule = AGP(start=start, end=end)
    return Sparsifier(model, optimizer, sparsity, schedule, Movement(), total_steps=total_steps, **words)


def gsm(model: nn.Module, optimizer: Optimizer, sparsity: float, total_steps: int, **words: Any) -> Sparsifier:
    """Global sparse momentum (Ding et al., arXiv 1909.12778): a dense run in which few weights get a gradient.

    At every step only the Q weights with the largest |w · ∂L/∂w| get theirs, Q being as many as will be kept;
    momentum and weight decay act on all, so the others fade. At the end the Q largest |w| are kept. The paper takes
    a high momentum for it (.98, .99), and starts from a trained network.

    Ours: the mask is taken before the last step (or the last ``update_every``), which trains the pruned network.
    """
    words = {"recovery": "passive", **words}
    schedule = OneShot(1 - 1 / max(total_steps, 1))  # a wrong number is the sparsifier's to refuse
    return Sparsifier(model, optimizer, sparsity, schedule, total_steps=total_steps, **words)


def set(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    fraction: float = 0.3,
    until: float = 0.75,
    seed: int = 0,
    update_every: int = 100,
    **words: Any,
) -> Sparsifier:
    """SET (Mocanu et al., arXiv 1707.04780): sparse from the start, the smallest weights give way to random ones.

    Ours: the settings of RigL's comparison (arXiv 1911.11134): Erdős-Rényi-Kernel layers, a cosine to 0 at ``until``
    and an update every 100 steps; SET's own text drops the same 30 % after every epoch.
    """
    words = {"scope": "erk", "recovery": Regrow("random", fraction, until, seed), **words}
    return Sparsifier(
        model, optimizer, sparsity, Constant(), total_steps=total_steps, update_every=update_every, **words
    )


def rigl(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    fraction: float = 0.3,
    until: float = 0.75,
    seed: int = 0,
    update_every: int = 100,
    **words: Any,
) -> Sparsifier:
    """RigL (Evci et al., arXiv 1911.11134): sparse from the start, the smallest weights give way to the steepest.

    Every ΔT steps each layer drops its smallest |w| and grows where |∂L/∂w|, averaged over micro-batches and
    processes, is largest. Layers are Erdős-Rényi-Kernel; ``scope="uniform"`` with the first layer excluded is the
    paper's other choice.

    Ours: the step before an update is trained as any other; the paper's makes no optimizer step there.
    """
    words = {"scope": "erk", "recovery": Regrow("gradient", fraction, until, seed), **words}
    return Sparsifier(
        model, optimizer, sparsity, Constant(), total_steps=total_steps, update_every=update_every, **words
    )


def acdc(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    switches: Sequence[float] = Alternating().switches,
    **words: Any,
) -> Sparsifier:
    """AC/DC (Peste et al., arXiv 2106.12379): dense and sparse phases by turns, all layers together, ending sparse.

    Pruned weights come back at 0, and all momentum is cleared when the network opens. ``switches`` are the shares of
    the time from ``start`` to ``end`` at which the phases change; the default is the paper's ImageNet run.

    Ours: momentum is cleared by torch's names (``momentum_buffer``, ``exp_avg``); other state is kept.
    """
    words = {"recovery": Recovery(returns=True, forgets=True), **words}
    schedule = Alternating(tuple(switches), start=start, end=end)
    return Sparsifier(model, optimizer, sparsity, schedule, total_steps=total_steps, **words)


def dsd(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    sparse_from: float = 1 / 3,
    sparse_until: float = 2 / 3,
    **words: Any,
) -> Sparsifier:
    """Dense-sparse-dense (Han et al., arXiv 1607.04381): the sparse phase regularises a network that ends dense.

    Layer by layer; pruned weights come back at 0. The paper prunes 25 to 50 % and trains the last phase at a tenth of
    the learning rate, which is the recipe's to do.

    Ours: all three phases lie in one run, a third each.
    """
    words = {"scope": "uniform", "recovery": "zero", **words}
    schedule = DenseSparseDense(sparse_from, sparse_until)
    return Sparsifier(model, optimizer, sparsity, schedule, total_steps=total_steps, **words)


def dpf(
    model: nn.Module,
    optimizer: Optimizer,
    sparsity: float,
    total_steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    update_every: int = 16,
    **words: Any,
) -> Sparsifier:
    """Dynamic pruning with feedback (Lin et al., arXiv 2006.07253): the cubic curve, and nothing stops learning.

    The gradient is taken at the pruned network and applied to the stored dense one, pruned weights included; the mask
    is that of the stored weights' largest, of all layers, every 16 steps.
    """
    words = {"recovery": "feedback", **words}
    schedule = AGP(start=start, end=end)
    return Sparsifier(model, optimizer, sparsity, schedule, total_steps=total_steps, update_every=update_every, **words)


METHODS: dict[str, Callable[..., Sparsifier]] = {
    "random": random,
    "magnitude": magnitude,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
    "progressive": progressive,
    "one-cycle": one_cycle,
    "agp": agp,
    "iterative": iterative,
    "one-shot": one_shot,
    "movement": movement,
    "gsm": gsm,
    "cyclical": cyclical,
    "acdc": acdc,
    "dsd": dsd,
    "dpf": dpf,
    "set": set,
    "rigl": rigl,
}
