"""Criteria for the start of a run: SNIP, GraSP and SynFlow run the network to see what its weights are worth.

They work on copies: neither the network's weights, gradients and statistics nor the global random state are touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from sparsecycle.criteria import Criterion

__all__ = ["SNIP", "Batches", "GraSP", "Loss", "SynFlow"]

#: Pairs of inputs and targets. Inputs are a tensor, or a tuple of positional or a mapping of keyword arguments.
Batches: TypeAlias = Sequence[tuple[Any, Any]]
#: From a network's output and the targets to a scalar.
Loss: TypeAlias = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class SNIP(Criterion):
    """|w · ∂L/∂w| (Lee et al., arXiv 1810.02340, section 4.1).

    Args:
        batches: Pairs of inputs and targets; gradients are summed over them before the absolute value is taken.
        loss: From the network's output and the targets to a scalar.
        rounds: See :class:`Criterion`; 1 in the paper.

    Raises:
        ValueError: If an argument is not allowed; from :meth:`score`, if a score is NaN or infinite.
    """

    absolute: ClassVar[bool] = True
    batches: Batches = field(repr=False, compare=False)
    loss: Loss = field(default=cross_entropy, repr=False, compare=False)
    rounds: int = 1

    def __post_init__(self) -> None:
        _check_batches(self.batches)
        _check_rounds(self.rounds, self.path)

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        with _copy(model, weights) as (run, copies):
            g = _summed(_gradients(self.loss(run(x), y), copies) for x, y in _on(weights, self.batches))
        return _times("SNIP", weights, g)


@dataclass(frozen=True)
class GraSP(Criterion):
    """θ ⊙ Hg: how much of the gradient's flow goes with a weight (Wang et al., arXiv 2002.07376, section 4).

    The paper removes the largest -θ ⊙ Hg, where g = ∂L/∂θ and H is the Hessian; Hg = ∂/∂θ (stopgrad(g) · g).

    Args:
        batches: Pairs of inputs and targets; g and Hg are summed over them.
        loss: From the network's output, divided by the temperature, and the targets to a scalar.
        temperature: Above 0; 200 in the paper's code.
        rounds: See :class:`Criterion`; 1 in the paper.

    Raises:
        ValueError: If an argument is not allowed; from :meth:`score`, if the network's output is no tensor, or a score
            is NaN or infinite.
    """

    batches: Batches = field(repr=False, compare=False)
    loss: Loss = field(default=cross_entropy, repr=False, compare=False)
    temperature: float = 200.0
    rounds: int = 1

    def __post_init__(self) -> None:
        _check_batches(self.batches)
        _check_rounds(self.rounds, self.path)
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature!r} must be greater than 0, and finite")

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        g: list[Tensor] | None = None
        if len(self.batches) > 1:  # of a single batch, one graph serves both
            with _copy(model, weights) as (run, copies):
                g = _summed(_gradients(self._loss(run(x), y), copies) for x, y in _on(weights, self.batches))
        # The same random numbers are drawn again. Fused attention has no second derivative.
        with _copy(model, weights) as (run, copies), sdpa_kernel(SDPBackend.MATH):

            def product(x: Any, y: Any) -> list[Tensor]:
                of_batch = _gradients(self._loss(run(x), y), copies, create_graph=True)
                stopped = [each.detach() for each in of_batch] if g is None else g
                along = torch.stack([(a * b).sum() for a, b in zip(stopped, of_batch, strict=True)]).sum()
                return _gradients(along, copies)

            hg = _summed(product(x, y) for x, y in _on(weights, self.batches))
        return _times("GraSP", weights, hg)

    def _loss(self, output: Any, targets: Any) -> Tensor:
        return self.loss(_only_tensor("GraSP", output) / self.temperature, targets)


@dataclass(frozen=True)
class SynFlow(Criterion):
    """|θ| · ∂R/∂|θ|, the synaptic flow through a weight (Tanaka et al., arXiv 2006.05467, section 6).

    R is the sum of the outputs for an input of ones, all parameters and statistics replaced by their absolute
    values, in evaluation mode. No data is used. In float64, since R grows with every layer.

    Args:
        input_shape: Of one input, without the batch.
        rounds: See :class:`Criterion`; 100 in the paper.
        path: See :class:`Criterion`; exponential in the paper.

    Raises:
        ValueError: If an argument is not allowed; from :meth:`score`, if the network's output is no tensor, or a score
            is NaN or infinite.
    """

    absolute: ClassVar[bool] = True  # as in the paper's code: R may fall where an activation is not monotone
    input_shape: Sequence[int]
    rounds: int = 100
    path: str = "exponential"

    def __post_init__(self) -> None:
        _check_rounds(self.rounds, self.path)
        shape = self.input_shape
        if not isinstance(shape, Sequence) or not shape or not all(_is_whole(n) for n in shape):
            raise ValueError(f"input_shape={shape!r} must be whole numbers of at least 1, such as (3, 32, 32)")
        object.__setattr__(self, "input_shape", tuple(shape))

    def score(self, weights: Mapping[str, Tensor], memory: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
        modes = {module: module.training for module in model.modules()}
        try:
            for module in modes:
                module.training = False  # not by eval(), which a network may have made to change more than that
            with _copy(model, weights, lambda t: t.double().abs() if t.is_floating_point() else t) as (run, copies):
                ones = torch.ones(1, *self.input_shape, dtype=torch.float64, device=copies[0].device)
                g = _gradients(_only_tensor("SynFlow", run(ones)).sum(), copies)
        finally:
            for module, training in modes.items():
                module.training = training
        return _times("SynFlow", dict(zip(weights, copies, strict=True)), g)


@contextmanager
def _copy(
    model: nn.Module, weights: Mapping[str, Tensor], change: Callable[[Tensor], Tensor] = lambda t: t
) -> Iterator[tuple[Callable[[Any], Any], list[Tensor]]]:
    """The network as a function of its inputs, on copies, and the copies of the weights that gradients are taken at."""
    own = {**dict(model.named_parameters()), **weights}
    tensors = {name: change(t.detach()).clone() for name, t in {**own, **dict(model.named_buffers())}.items()}
    copies = [tensors[name].requires_grad_() for name in weights]
    devices = sorted({t.device.index or 0 for t in own.values() if t.device.type == "cuda"})
    cudnn = torch.backends.cudnn.enabled

    def run(inputs: Any) -> Any:
        args = () if isinstance(inputs, Mapping) else tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
        return functional_call(model, tensors, args, dict(inputs) if isinstance(inputs, Mapping) else None)

    with torch.enable_grad(), torch.random.fork_rng(devices=devices):
        try:
            # cuDNN's recurrent layers have no second derivative, and in evaluation mode not even a first one.
            torch.backends.cudnn.enabled = cudnn and not any(isinstance(m, nn.RNNBase) for m in model.modules())
            yield run, copies
        finally:
            torch.backends.cudnn.enabled = cudnn


def _on(weights: Mapping[str, Tensor], batches: Batches) -> Iterator[tuple[Any, Any]]:
    device = next(iter(weights.values())).device
    for x, y in batches:
        yield _moved(x, device), _moved(y, device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(part, device) for part in value]
    return value.to(device) if torch.is_tensor(value) else value


def _gradients(scalar: Tensor, at: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """One gradient a tensor; zeros for one that takes no part."""
    if not scalar.requires_grad:  # none of them does
        return [torch.zeros_like(w, requires_grad=False) for w in at]
    found = torch.autograd.grad(scalar, list(at), create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(at, found, strict=True)]


def _summed(lists: Iterator[list[Tensor]]) -> list[Tensor]:
    total = next(lists)
    for tensors in lists:
        total = [a + b for a, b in zip(total, tensors, strict=True)]
    return total


def _times(criterion: str, weights: Mapping[str, Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """The weights times what was found for them, in at least float32."""
    scores = []
    for (name, w), g in zip(weights.items(), gradients, strict=True):
        scores.append(w.detach().to(torch.promote_types(w.dtype, torch.float32)) * g)
        if not scores[-1].isfinite().all():
            raise ValueError(
                f"the {criterion} score of {name} is NaN or infinite: the network's output or gradient overflows, "
                "or one of its parameters or inputs is not finite"
            )
    return scores


def _only_tensor(criterion: str, output: Any) -> Tensor:
    if not torch.is_tensor(output):
        raise ValueError(f"{criterion} needs a network that returns one tensor, not a {type(output).__name__}")
    return output


def _check_batches(batches: Batches) -> None:
    allowed = "must be a list of pairs (inputs, targets), such as [next(iter(loader))]"
    if not isinstance(batches, list | tuple):
        raise ValueError(f"batches {allowed}, not a {type(batches).__name__}")
    if not batches:
        raise ValueError(f"batches={batches!r} is empty: it {allowed}")
    for i, pair in enumerate(batches):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"batches {allowed}, but batches[{i}] is a {type(pair).__name__}")


def _check_rounds(rounds: int, path: str) -> None:
    if not _is_whole(rounds):
        raise ValueError(f"rounds={rounds!r} must be a whole number of at least 1")
    if path not in ("exponential", "linear"):
        raise ValueError(f"path={path!r} must be 'exponential' or 'linear'")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
