"""What is done to the weights: a new mask, and what goes on around every optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsecycle.competition import Competition
from sparsecycle.criteria import Criterion, Magnitude, Random
from sparsecycle.masks import Masks, clear, forget_momentum
from sparsecycle.recovery import Recovery, Regrow
from sparsecycle.scopes import Share, places

__all__ = ["Pruner"]


class Pruner:
    """Holds the masks and all that criterion and recovery have to remember.

    Args:
        model: The network, for criteria that run it.
        weights: Its pruned weights, by name.
        optimizer: What trains them.
        criterion: What a weight is worth.
        recovery: What happens to a pruned weight.
        floor: Weights that every layer keeps at least.
        ends: The shares at the end of the run, all layers in one of them.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        criterion: Criterion,
        recovery: Recovery | Regrow,
        floor: int,
        ends: list[Share],
    ) -> None:
        self.masks = Masks(weights)
        self._model, self._weights, self._optimizer = model, dict(weights), optimizer
        self._criterion, self._recovery, self._ends = criterion, recovery, ends
        self._competition, self._salience = Competition(floor), Competition(0)
        self._growth: list[Tensor] | None = None  # |gradient| of every weight, in the step before a regrowth
        with torch.no_grad():
            self.memory = criterion.remember(dict(weights))
            self.stored = [torch.zeros_like(w) for w in weights.values()] if recovery.remembers else []

    # --- around the optimizer's step ---------------------------------------------------------------------------

    def hooks(self) -> list[torch.utils.hooks.RemovableHandle]:
        """Hang everything on the weights and their optimizer that has to happen at every step."""
        handles = self.masks.hook_gradients()
        if self._needs_gradients or self._grows_by_gradient:
            handles.append(self._optimizer.register_step_pre_hook(self._before_step))
        handles.append(self._optimizer.register_step_post_hook(self._after_step))
        return handles

    def expect(self, dropped: float) -> None:
        """Get ready for the coming step.

        Args:
            dropped: The share of the kept weights that a regrowth will drop right after it.
        """
        self.masks.dense_gradients = self._needs_gradients or (self._grows_by_gradient and dropped > 0)

    @property
    def _needs_gradients(self) -> bool:
        return self._criterion.watches or self._recovery.trains != "kept"

    @property
    def _grows_by_gradient(self) -> bool:
        return isinstance(self._recovery, Regrow) and self._recovery.by == "gradient"

    @torch.no_grad()
    def _before_step(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(argument) for argument in (*args, *kwargs.values())):
            raise RuntimeError(
                "the optimizer was given a closure, but this method must see the gradients before it: "
                "call backward() first, and optimizer.step() without a closure"
            )
        if self.masks.dense_gradients:
            self.masks.enforce()  # dense gradients may have moved the weights there and, but for rounding, back
        if self.masks.dense_gradients and (gradients := self._gradients()) is not None:
            if self._criterion.watches:
                self._criterion.watch(dict(zip(self._weights, self._dense(), strict=True)), gradients, self.memory)
            if self._grows_by_gradient:
                self._growth = [gradient.abs() for gradient in gradients]
            if self._recovery.trains == "salient":
                self._leave_salient(gradients)
        if self._recovery.trains == "all":
            self.masks.join(self.stored)
        elif self.masks.dense_gradients:
            self.masks.mask_gradients()

    def _after_step(self, *_: Any) -> None:
        if self._recovery.trains == "all":
            self.masks.part(self.stored)
        else:
            self.masks.enforce(negative=self.masks.dense_gradients)

    def _gradients(self) -> list[Tensor] | None:
        """Every weight's gradient without a gradient scaler's factor; None if the scaler saw them overflow.

        A fused optimizer is given scaled gradients, the factor, and whether they overflowed.
        """
        scale, overflow = (getattr(self._optimizer, name, None) for name in ("grad_scale", "found_inf"))
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in self._weights.values()]
        if scale is not None:
            gradients = [gradient / scale for gradient in gradients]
        if overflow is not None:
            if overflow.device.type == "cpu" and overflow.item():
                return None
            gradients = [torch.where(overflow > 0, 0.0, gradient) for gradient in gradients]
        return gradients

    def _leave_salient(self, gradients: list[Tensor]) -> None:
        saliences = [w * gradient for w, gradient in zip(self._weights.values(), gradients, strict=True)]
        if saliences[0].device.type == "cpu":
            self.check_finite(saliences, "the gradient of ")
        active = self._salience.winners(saliences, self._ends, absolute=True)
        for weight, mask in zip(self._weights.values(), active, strict=True):
            if weight.grad is not None:
                clear(mask, weight.grad)

    # --- a new mask --------------------------------------------------------------------------------------------

    def must_choose(self, shares: list[Share], before: list[Share], dropped: float) -> bool:
        """Whether the mask for these shares may be another than the one before."""
        recovers = self._recovery.returns and not isinstance(self._recovery, Regrow)
        return shares != before or recovers or dropped > 0

    def choose(self, stages: list[list[Share]], before: list[Share], dropped: float, draw: int) -> None:
        """Choose a new mask and put it into force.

        Args:
            stages: How many weights are kept where from now on, last; before it the stages on the way there, each of
                which is scored anew.
            before: And until now.
            dropped: The share of the kept weights that a regrowth drops; 1 draws the mask at random.
            draw: Number of this choice in the run, which a regrowth's random numbers follow from.

        Raises:
            ValueError: If a weight is NaN or infinite (looked for on the CPU only); nothing is changed then.
        """
        kept = stages[-1]
        if not (len(stages) == 1 and self._prune_in_place(kept, before)):
            self._replace(stages, before, dropped, draw)
        self._growth = None
        if self._recovery.forgets and places(kept) > places(before):
            forget_momentum(self._optimizer)

    def _prune_in_place(self, shares: list[Share], before: list[Share]) -> bool:
        """Whether the native core did all of it at once.

        It can where weights compete by their magnitudes alone, and none has a value to come back with. A criterion
        derived from magnitude may score otherwise.
        """
        if type(self._criterion) is not Magnitude or isinstance(self._recovery, Regrow) or self._recovery.remembers:
            return False
        try:
            return self._competition.prune(self.masks, self._optimizer, shares, before, self._recovery.returns)
        except ValueError:
            self.check_finite()  # names the weight
            raise

    @torch.no_grad()
    def _replace(self, stages: list[list[Share]], before: list[Share], dropped: float, draw: int) -> None:
        """Choose the masks by scores, then put them into force."""
        self.masks.enforce()  # whatever was done to the weights since the optimizer's step
        weights = self._dense()
        if weights[0].device.type == "cpu":
            self.check_finite(weights)
        old = [self.masks[name] for name in self._weights]
        masks, kept = old, before
        for shares in stages:
            left = weights if len(stages) == 1 else [w * mask for w, mask in zip(weights, masks, strict=True)]
            masks = self._winners(dict(zip(self._weights, left, strict=True)), masks, shares, kept, dropped, draw)
            kept = shares
        if self._recovery.remembers:
            self.masks.join(self.stored)
        self.masks.replace(masks)
        if self._recovery.remembers:
            self.masks.part(self.stored)
        else:
            self.masks.enforce(negative=True)
        if self._recovery.trains == "all":
            return  # the optimizer goes on with what it knows of every weight
        back = {n: m & ~o for n, m, o in zip(self._weights, masks, old, strict=True)} if self._recovery.returns else {}
        self.masks.settle(self._optimizer, back)

    def _winners(
        self,
        weights: dict[str, Tensor],
        old: list[Tensor],
        shares: list[Share],
        before: list[Share],
        dropped: float,
        draw: int,
    ) -> list[Tensor]:
        scores, absolute = self._criterion.score(weights, self.memory, self._model), self._criterion.absolute
        if not isinstance(self._recovery, Regrow):
            among = None if self._recovery.returns else old
            return self._competition.winners(scores, shares, absolute=absolute, among=among)
        growth = self._growth
        if growth is None:  # the first mask, growth at random, or a step that a gradient scaler skipped
            growth = Random(self._recovery.seed + draw).score(weights, [], self._model)
            dropped = dropped if self._recovery.by == "random" or dropped == 1 else 0.0
        return self._competition.turn_over(scores, growth, shares, before, dropped, absolute=absolute, among=old)

    def _dense(self) -> list[Tensor]:
        """The weights, with what the recovery remembers of the pruned ones."""
        if not self._recovery.remembers:
            return list(self._weights.values())
        return [weight + stored for weight, stored in zip(self._weights.values(), self.stored, strict=True)]

    def check_finite(self, tensors: Iterable[Tensor] | None = None, what: str = "") -> None:
        """Raise a ValueError that names the first weight (or what is given of it) that is NaN or infinite."""
        for name, tensor in zip(self._weights, tensors or self._weights.values(), strict=True):
            # A finite sum has finite terms; the sum of large finite ones may overflow.
            if not math.isfinite(tensor.detach().sum().item()) and not tensor.isfinite().all():
                raise ValueError(
                    f"{what}{name} holds NaN or infinity: the run has diverged; "
                    "a lower learning rate, warm-up or gradient clipping may help"
                )

    # --- checkpoints -------------------------------------------------------------------------------------------

    def restore(self, masks: list[Tensor], memory: list[Tensor], stored: list[Tensor]) -> None:
        """Take these masks and memories, all of this network's shapes."""
        self.masks.replace(masks)
        for mine, theirs in zip([*self.memory, *self.stored], [*memory, *stored], strict=True):
            mine.copy_(theirs)
        self._growth = None
        self._competition.forget()
        self._salience.forget()
