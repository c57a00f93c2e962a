"""What a new mask costs: global magnitude pruning of a fresh network, exact, against what torch offers.

An update is complete: it finds the threshold, takes the mask, and zeroes the weights; no gradient and no momentum is
there to be cleared. All contestants start from the same state: every weight has just been written, first to last, as
an optimizer leaves it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsecycle import Sparsifier, native
from sparsecycle.criteria import Magnitude
from sparsecycle.lab.bench import timing
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.bench.timing import Contestant, Times
from sparsecycle.masks import Masks
from sparsecycle.prunable import choose
from sparsecycle.pruner import Pruner
from sparsecycle.recovery import RECOVERIES
from sparsecycle.schedules import Linear
from sparsecycle.scopes import share_out
from sparsecycle.selection import keep_largest

__all__ = ["CONTESTANTS", "QUICK", "READ", "STOCK", "UPDATE", "Network", "contestants", "race", "without_core"]

READ = "one read of the weights"
RUN = "update in a run"
UPDATE = "update from dense"
SELECT = "selection near the last threshold"
COLD = "first update"
TORCH = "update without the native core"
TOPK, KTHVALUE = "cat, topk, multiply", "cat, kthvalue, multiply"
STOCK = "prune.global_unstructured"

DRIFT = 1e-3
"""What the weights change by from one update to the next, relative to them: a standard deviation."""

STEPS = 3910
"""Of the run whose second half :data:`RUN` is in; each prunes as much as at ten epochs of 391 steps."""

_PIECE = 1 << 14


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """One that has nothing to do, there being no gradients: its step only calls the hooks."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


class Network:
    """A network, and its weights as they were at first.

    Raises:
        ValueError: If it has no weight to prune, or the sparsity is not possible.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model = subject.build()
        self.parameters = choose(self.model).weights
        self.weights: list[Tensor] = [weight.detach() for weight in self.parameters.values()]
        self.size = sum(weight.numel() for weight in self.weights)
        self.bytes = sum(weight.numel() * weight.element_size() for weight in self.weights)
        shapes = [tuple(weight.shape) for weight in self.weights]
        self.dense = share_out("global", shapes, 0.0)
        self.shares = share_out("global", shapes, subject.sparsity)
        self.keep = self.shares[0].keep
        self._first = [weight.clone() for weight in self.weights]
        self._directions = [torch.randn_like(weight) for weight in self.weights]
        self._lots = random.Random(0)

    def restore(self, weights: Sequence[Tensor] | None = None) -> None:
        """Write all weights (or other tensors like them) as they were at first, but for a small change."""
        weights = self.weights if weights is None else weights
        torch._foreach_copy_(list(weights), self._first)
        self.drift(weights)

    def drift(self, weights: Sequence[Tensor]) -> None:
        """Write all weights, changed a little; zeros stay."""
        amount = self._lots.gauss(0.0, DRIFT)
        torch._foreach_addcmul_(list(weights), list(weights), self._directions, value=amount)

    def pruner(self) -> Pruner:
        """What updates the masks in a run; knows no threshold yet."""
        optimizer, recovery = _optimizer(self.model), RECOVERIES["none"]
        return Pruner(self.model, self.parameters, optimizer, Magnitude(), recovery, floor=1, ends=self.shares)

    def bytes_of_masks(self) -> int:
        """What a sparsifier's masks take, all through a run."""
        return sum(gate.numel() * gate.element_size() for gate in self.pruner().masks._gates.values())

    def reset(self, masks: Masks) -> None:
        """Weights as at first, and nothing pruned."""
        masks.replace([torch.ones(1, dtype=torch.bool).expand(weight.shape) for weight in self.weights])
        self.restore()


@contextmanager
def without_core() -> Iterator[None]:
    """Within, the package is as it is where the native core was not built."""
    module = cast(Any, native)
    core, module.core = module.core, lambda: None
    try:
        yield
    finally:
        module.core = core


def _read(network: Network) -> Contestant:
    """The fastest read there is; backwards, as the update reads, since what was written last is still in a cache."""
    if not (native.fits(network.weights) and all(map(native.is_dense, network.weights))):
        return Contestant(lambda: [torch.aminmax(weight) for weight in network.weights], network.restore)
    flat = [weight.permute(native.memory_order(weight)).reshape(-1) for weight in network.weights]
    pieces = [piece for weight in flat for piece in weight.split(_PIECE)][::-1]
    layers = native.layers(pieces)  # addresses in the network's weights

    def read() -> None:
        layers.top(torch.get_num_threads())

    return Contestant(read, network.restore)


def _choose(pruner: Pruner, network: Network) -> None:
    pruner.choose([network.shares], network.dense, dropped=0.0, draw=0)


def _update(network: Network) -> Contestant:
    """Most that an update can have to do, though never in a run: 90 % fall at once. Knows the last threshold."""
    pruner = network.pruner()
    return Contestant(lambda: _choose(pruner, network), lambda: network.reset(pruner.masks))


def _select(network: Network) -> Contestant:
    """The threshold and new masks alone: nothing is zeroed. What criteria other than magnitude need at least."""
    near = keep_largest(network.weights, network.keep, absolute=True, floor=1).threshold

    def select() -> None:
        keep_largest(network.weights, network.keep, absolute=True, floor=1, near=near)

    return Contestant(select, network.restore)


def _cold(network: Network) -> Contestant:
    pruner = network.pruner()

    def prepare() -> None:
        nonlocal pruner
        pruner = network.pruner()
        network.reset(pruner.masks)

    return Contestant(lambda: _choose(pruner, network), prepare)


def _run(network: Network) -> Contestant:
    """All that a sparsifier does at a training step: in the optimizer's hooks, then in its own step."""
    model = copy.deepcopy(network.model)
    optimizer = _optimizer(model)
    schedule = Linear(initial=0.5)
    sparsifier = Sparsifier(model, optimizer, network.subject.sparsity, schedule, total_steps=STEPS // 2)
    weights = [weight.detach() for weight in choose(model).weights.values()]

    def step() -> None:
        optimizer.step()
        sparsifier.step()

    return Contestant(step, lambda: network.drift(weights))


def _torch(network: Network) -> Contestant:
    with without_core():
        pruner = network.pruner()

    def update() -> None:
        with without_core():
            _choose(pruner, network)

    return Contestant(update, lambda: network.reset(pruner.masks))


def _by_hand(select: Callable[[Tensor, int], Tensor]) -> Callable[[Network], Contestant]:
    """All magnitudes in one tensor, torch's selection of the threshold, and the weights multiplied by the masks."""

    def contestant(network: Network) -> Contestant:
        def update() -> None:
            magnitudes = torch.cat([weight.reshape(-1) for weight in network.weights]).abs_()
            threshold = select(magnitudes, network.keep)
            torch._foreach_mul_(network.weights, [weight.abs() >= threshold for weight in network.weights])

        return Contestant(update, network.restore)

    return contestant


def _stock(network: Network) -> Contestant:
    # It fails on weights that lie channels last.
    model = copy.deepcopy(network.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    places = [name.rpartition(".") for name in network.parameters]
    owners = [(model.get_submodule(path), leaf) for path, _, leaf in places]
    amount = network.size - network.keep

    def undo() -> None:
        for owner, leaf in owners:
            if hasattr(owner, f"{leaf}_orig"):
                prune.remove(owner, leaf)
        network.restore([getattr(owner, leaf).detach() for owner, leaf in owners])

    return Contestant(lambda: prune.global_unstructured(owners, prune.L1Unstructured, amount=amount), undo)


CONTESTANTS: dict[str, Callable[[Network], Contestant]] = {
    READ: _read,
    RUN: _run,
    UPDATE: _update,
    COLD: _cold,
    SELECT: _select,
    TORCH: _torch,
    TOPK: _by_hand(lambda magnitudes, keep: torch.topk(magnitudes, keep, sorted=False).values.min()),
    KTHVALUE: _by_hand(lambda magnitudes, keep: torch.kthvalue(magnitudes, len(magnitudes) - keep + 1).values),
    STOCK: _stock,
}
"""Everything that updates a mask, and the read they are measured by."""

QUICK = (READ, RUN, UPDATE, COLD, SELECT)
"""Those that need many rounds, and can have them."""


def contestants(network: Network) -> dict[str, Contestant]:
    """Those that there are here."""
    network.restore()  # some enter with a copy
    lacking = () if native.fits(network.weights) else (TORCH,)
    return {name: enter(network) for name, enter in CONTESTANTS.items() if name not in lacking}


def race(network: Network, seconds: float) -> tuple[Times, Times]:
    """The quick ones among themselves in many rounds, then everyone in few."""
    everyone = contestants(network)
    quick = {name: contestant for name, contestant in everyone.items() if name in QUICK}
    # Together they leave the run some of its steps.
    most = STEPS // 5
    return (
        timing.race(quick, seconds / 2, least=10, most=most, warm_up=3),
        timing.race(everyone, seconds / 2, least=3, most=most),
    )
