"""The object in the training loop: it prunes on the way, and keeps what is pruned at zero."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from sparsecycle.criteria import CRITERIA, Criterion
from sparsecycle.masks import pack, unpack
from sparsecycle.names import named
from sparsecycle.plan import Plan
from sparsecycle.prunable import choose
from sparsecycle.pruner import Pruner
from sparsecycle.recovery import RECOVERIES, Recovery, Regrow
from sparsecycle.report import Report, report_on
from sparsecycle.schedules import OneCycle, Schedule
from sparsecycle.scopes import Share

__all__ = ["Sparsifier"]

_GRANULARITIES = {"weight": "weight"}
# Criteria that have no name, because they need something to run the network on.
_UNNAMED = {"snip": "SNIP(batches)", "grasp": "GraSP(batches)", "synflow": "SynFlow(input_shape)"}
_STATE_VERSION = 1
_STATE_KEYS = ("settings", "shapes", "steps", "finalized", "notes", "masks", "memory", "stored")

# Which sparsifier prunes a weight; weakly, so that neither keeps the other alive.
_owners: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Sparsifier:
    """Prunes a model while it is trained.

    Build it after the model and the optimizer, and call :meth:`step` after each ``optimizer.step()``, where a
    learning-rate scheduler's ``step()`` stands. While step k of ``total_steps`` trains, the sparsity in force is
    ``schedule((k + 1) / total_steps) * sparsity``: the first mask is there from the start, and what is pruned last
    still has a step to make up for. With ``update_every=U`` the sparsity stays the same for U steps, at the value
    that the schedule has at their end.

    The parameters stay the model's own: nothing is renamed, wrapped or replaced. A pruned weight is exactly zero
    after every optimizer step, and its gradient and its optimizer state are zero too; only ``recovery="feedback"``
    trains values that it stores for the pruned weights. Where criterion or recovery must see the gradients of all
    weights, those of the pruned ones are zeroed at the optimizer's step and not before, so clipping sees them.

    To resume a run, build model, optimizer and sparsifier as at first, then load the state of each.

    Args:
        model: The network.
        optimizer: The optimizer that trains it.
        sparsity: Share of the prunable weights that are zero at the end, in [0, 1]: always of all of them, never of
            the rest. None is allowed where ``scope`` is a mapping, and leaves unnamed layers dense.
        schedule: How sparse at time t.
        criterion: What a weight is worth: ``"magnitude"``, ``"random"``, ``"magnitude_gain"``, ``"movement"``,
            ``"taylor"`` or a ``Criterion``, such as ``SNIP(batches)``.
        scope: How the total is shared: ``"global"``, ``"uniform"``, ``"erk"``, or a mapping from name globs to
            these layers' own sparsities, beside which the other layers compete for the rest of the total.
        granularity: Which weights live and die together: ``"weight"``, each on its own.
        recovery: May a pruned weight come back: ``"none"``, ``"zero"`` (at 0), ``"stored"`` (at its last value),
            ``"feedback"`` (at a value that was trained meanwhile), ``"passive"`` (it stays until the end, without
            gradients), or a ``Recovery`` or ``Regrow`` of one's own.
        total_steps: Optimizer steps in the whole run.
        update_every: Steps from one mask to the next.
        include: What to prune instead of the default; see :func:`sparsecycle.prunable.choose`.
        exclude: What not to prune.
        floor: Weights that every layer keeps at least, unless a sparsity of 1 is asked for.

    Raises:
        ValueError: If an argument is not allowed, the optimizer lacks a pruned weight, a weight already has a
            sparsifier, or a weight is NaN or infinite.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        sparsity: float | None,
        schedule: Schedule = OneCycle(),  # noqa: B008 - frozen
        criterion: str | Criterion = "magnitude",
        scope: str | Mapping[str, float] = "global",
        granularity: str = "weight",
        recovery: str | Recovery | Regrow = "none",
        *,
        total_steps: int,
        update_every: int = 1,
        include: Iterable[str | type[nn.Module]] | None = None,
        exclude: Iterable[str | type[nn.Module]] | None = None,
        floor: int = 1,
    ) -> None:
        self._optimizer = getattr(optimizer, "optimizer", optimizer)  # Accelerate and Fabric wrap it
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, not a {type(model).__name__}")
        if not isinstance(self._optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer must be a torch.optim.Optimizer, not a {type(optimizer).__name__}")
        named("granularity", granularity, _GRANULARITIES)
        self._recovery: Recovery | Regrow = (
            named("recovery", recovery, RECOVERIES) if isinstance(recovery, str) else recovery
        )
        if not isinstance(self._recovery, Recovery | Regrow):
            raise ValueError(
                f"recovery={recovery!r} must be a name, a Recovery or a Regrow, such as Regrow('gradient')"
            )
        if isinstance(criterion, str) and criterion in _UNNAMED:
            raise ValueError(f"criterion={criterion!r} runs the network: give it as {_UNNAMED[criterion]}")
        self._criterion: Criterion = (
            named("criterion", criterion, CRITERIA) if isinstance(criterion, str) else criterion
        )
        if not isinstance(self._criterion, Criterion):
            raise ValueError(f"criterion={criterion!r} must be a name or a Criterion, such as Magnitude()")
        self._model = getattr(model, "_orig_mod", model)  # torch.compile wraps it and prefixes its names
        choice = choose(self._model, include, exclude)
        self._weights, self._left_out = choice.weights, choice.left_out
        trained = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        missing = [name for name, w in self._weights.items() if id(w) not in trained]
        if missing:
            raise ValueError(
                f"the optimizer does not train {', '.join(missing)}: give it model.parameters() of this very model, "
                "or exclude these weights"
            )
        self._plan = Plan(
            {name: tuple(w.shape) for name, w in self._weights.items()},
            sparsity=sparsity,
            schedule=schedule,
            scope=scope,
            floor=floor,
            returns=self._recovery.returns,
            total_steps=total_steps,
            update_every=update_every,
        )
        self._steps = 0
        self._optimizer_steps = 0  # since the last step(), to notice one that is called too seldom
        self._finalized = False
        self._notes: dict[str, str] = {}
        self._shares = self._plan.dense()
        self._stale: dict[str, int] = {}  # weights that must be loaded before the next optimizer step: their versions
        self._refuse_another()
        self._pruner = Pruner(
            self._model,
            self._weights,
            self._optimizer,
            self._criterion,
            self._recovery,
            self._plan.floor,
            self._plan.end(),
        )
        self._pruner.check_finite()
        before = self._nonzeros()
        self._update()
        self._attach()  # last: one that could not be built leaves no hooks
        # If the first mask destroyed anything, the weights of a checkpoint must not have been loaded before it.
        self._untouched = {n: w._version for n, w in self._weights.items()} if self._nonzeros() != before else {}

    # --- in the loop -------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Advance the clock by one optimizer step, and take a new mask where one is due.

        Call it once after each ``optimizer.step()``, also after one that a gradient scaler skipped.

        Raises:
            ValueError: If a weight is NaN or infinite; weights and masks are left as they are then.
            RuntimeError: After :meth:`finalize`.
        """
        if self._finalized:
            raise RuntimeError("step() after finalize(): the sparsities are final; remove() ends the pruning")
        self._steps += 1
        if self._optimizer_steps > 1:
            self._note(
                "clock",
                f"the optimizer made {self._optimizer_steps} steps before step {self._steps} of the sparsifier, which "
                "counts optimizer steps: call sparsifier.step() after each optimizer.step(), and for one mask an "
                "epoch set update_every=len(loader)",
            )
        self._optimizer_steps = 0
        if self._steps > self._plan.total_steps:
            self._note(
                "too long",
                f"the run goes on past total_steps={self._plan.total_steps}: the mask stays as it is; "
                "set total_steps to the optimizer steps of the whole run",
            )
        elif self._plan.is_due(self._steps):
            self._update()
        self._pruner.expect(self._dropped(self._steps + 1))

    def finalize(self, example_inputs: Any = None) -> Report:
        """End the schedule and report what was asked and what came out.

        What is pruned stays pruned if training goes on with this optimizer, until :meth:`remove`.

        Args:
            example_inputs: What the model is called with, a tensor or a tuple; the report then has each layer's
                share of the multiply-adds.
        """
        if not self._finalized and self._steps < self._plan.total_steps:
            self._note(
                "too short",
                f"the run ended at step {self._steps} of {self._plan.total_steps}, "
                f"at a sparsity of {self.sparsity:.4%}: set total_steps to the optimizer steps of the whole run, "
                "or let the schedule end earlier",
            )
        self._pruner.check_finite()
        theirs = dict(self._model.named_parameters(remove_duplicate=False))
        replaced = [name for name, w in self._weights.items() if theirs.get(name) is not w]
        if replaced:
            self._note(
                "replaced",
                f"{', '.join(replaced)} is no longer the parameter that was pruned: an assignment or "
                "load_state_dict(assign=True) gave the model another one; build the sparsifier after that",
            )
        self._finalized = True
        self._pruner.masks.enforce()
        return self.report(example_inputs)

    def remove(self) -> None:
        """Take all hooks away. The zeros stay, but training may change them from here on."""
        self._finalized = True
        self._detach()
        for weight in self._weights.values():
            if _owner(weight) is self:
                _owners.pop(weight)

    # --- what it knows -----------------------------------------------------------------------------------------

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that are pruned now, counted."""
        total = sum(w.numel() for w in self._weights.values())
        return 1 - sum(self._pruner.masks.kept().values()) / total

    @property
    def masks(self) -> dict[str, Tensor]:
        """A bool copy of each weight's mask, by the weight's name: True where it is kept."""
        return {name: self._pruner.masks[name] for name in self._weights}

    def report(self, example_inputs: Any = None) -> Report:
        """What was asked and what is there now, layer by layer; see :meth:`finalize`."""
        return report_on(
            self._model,
            {name: tuple(w.shape) for name, w in self._weights.items()},
            self._pruner.masks.kept(),
            requested=self._plan.requested(),
            steps=(self._steps, self._plan.total_steps),
            settings=self._settings(),
            left_out=self._left_out,
            notes=(*self._notes.values(), *self._starved()),
            example_inputs=example_inputs,
        )

    def apply_to(self, model: nn.Module) -> None:
        """Zero another copy of the network (an average, a checkpoint) where this one is pruned."""
        self._pruner.masks.apply_to(model)

    # --- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on exactly: packed masks, the clock, what criterion and recovery remember.

        Tensors and plain values only, so ``torch.load(weights_only=True)`` reads it.
        """
        if next(iter(self._weights.values())).device.type != "cpu":
            self._pruner.check_finite()  # where steps do not wait for the device, this is the moment to look
        return {
            "version": _STATE_VERSION,
            "settings": self._settings(),
            "shapes": {name: list(w.shape) for name, w in self._weights.items()},
            "steps": self._steps,
            "finalized": self._finalized,
            "notes": dict(self._notes),
            "masks": {name: pack(self._pruner.masks[name]) for name in self._weights},
            "memory": [tensor.clone() for tensor in self._pruner.memory],
            "stored": [tensor.clone() for tensor in self._pruner.stored],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a run where :meth:`state_dict` left it. The model's and the optimizer's state are theirs to load.

        Raises:
            ValueError: If the state is of other settings or of another network; nothing is changed then.
        """
        version = state.get("version") if isinstance(state, Mapping) else type(state).__name__
        if version != _STATE_VERSION:
            raise ValueError(f"this is no sparsifier state of version {_STATE_VERSION}: {version!r}")
        lacking = [key for key in _STATE_KEYS if key not in state]
        if lacking:
            raise ValueError(f"the state is not complete: it lacks {', '.join(lacking)}")
        mine = {name: list(w.shape) for name, w in self._weights.items()}
        _same("weights", state["shapes"], mine)
        _same("settings", state["settings"], self._settings())
        lacking = [name for name in self._weights if name not in state["masks"]]
        if lacking:
            raise ValueError(f"the state is not complete: it lacks the mask of {', '.join(lacking)}")
        masks = [unpack(state["masks"][name], w.shape) for name, w in self._weights.items()]
        for kind, tensors, held in (
            ("memory", state["memory"], self._pruner.memory),
            ("stored", state["stored"], self._pruner.stored),
        ):
            if [t.shape for t in tensors] != [t.shape for t in held]:
                raise ValueError(f"the state's {kind} does not fit this network")
        self._steps, self._finalized, self._notes = state["steps"], state["finalized"], dict(state["notes"])
        self._optimizer_steps = 0
        self._pruner.restore(masks, state["memory"], state["stored"])
        self._pruner.expect(self._dropped(self._steps + 1))
        counts = list(self._pruner.masks.kept().values())
        self._shares = [Share(share.layers, sum(counts[i] for i in share.layers)) for share in self._plan.dense()]
        stale = [n for n, version in self._untouched.items() if self._weights[n]._version == version]
        self._pruner.masks.enforce()
        self._untouched = {}
        self._stale = {n: self._weights[n]._version for n in stale}

    def __getstate__(self) -> dict[str, Any]:
        # Hooks belong to the parameters they hang on, and so do versions; a copy hangs its own hooks on its own.
        state = {k: v for k, v in self.__dict__.items() if k != "_detach"}
        return {**state, "_untouched": {}, "_stale": {}, "_attached": self._detach.alive}

    def __setstate__(self, state: dict[str, Any]) -> None:
        attached = state.pop("_attached")
        self.__dict__.update(state)
        self._attach()
        if not attached:
            self.remove()

    # --- inside ------------------------------------------------------------------------------------------------

    def _refuse_another(self) -> None:
        for name, weight in self._weights.items():
            if _owner(weight) is not None:
                gc.collect()  # one that nobody holds any more may still wait for the collector
                if _owner(weight) is not None:
                    raise ValueError(f"{name} already has a sparsifier: call its remove() first")

    def _attach(self) -> None:
        for weight in self._weights.values():
            _owners[weight] = weakref.ref(self)
        handles = [
            self._optimizer.register_step_pre_hook(self._refuse_stale),  # first: the others change the weights
            *self._pruner.hooks(),
            self._optimizer.register_step_post_hook(self._count_step),
        ]
        self._pruner.expect(self._dropped(self._steps + 1))
        self._detach = weakref.finalize(self, _remove_all, handles)

    def _refuse_stale(self, *_: Any) -> None:
        """Refuse to train weights that nobody has loaded since the sparsifier was built and its state was loaded."""
        stale, self._stale = self._stale, {}
        if stale and all(self._weights[n]._version == version for n, version in stale.items()):
            raise RuntimeError(
                "the model's weights were loaded before the sparsifier was built, which pruned them once more: "
                "build model, optimizer and sparsifier first, then load the state of each"
            )

    def _count_step(self, *_: Any) -> None:
        self._optimizer_steps += 1

    def _dropped(self, steps: int) -> float:
        """Share of the kept weights that a regrowth drops after so many steps; the first mask is drawn."""
        if not isinstance(self._recovery, Regrow) or not self._plan.is_due(steps):
            return 0.0
        return self._recovery.share(steps / self._plan.total_steps) if steps else 1.0

    def _update(self) -> None:
        """Choose the mask for the coming interval, and put it into force."""
        rounds, path = self._criterion.rounds, self._criterion.path
        stages = list(self._plan.after(self._steps, self._shares, rounds, path))
        dropped = self._dropped(self._steps)
        if self._pruner.must_choose(stages[-1], self._shares, dropped):
            self._pruner.choose(stages, self._shares, dropped, draw=self._steps)
            self._shares = stages[-1]

    def _settings(self) -> dict[str, Any]:
        return {**self._plan.settings(), "criterion": repr(self._criterion), "recovery": self._recovery_name()}

    def _recovery_name(self) -> str:
        return next((name for name, r in RECOVERIES.items() if r == self._recovery), repr(self._recovery))

    def _starved(self) -> Iterator[str]:
        """What is to say of layers that lost all weights, or would have lost them but for the floor."""
        floor, competing = (
            self._plan.floor,
            {i for share in self._shares if len(share.layers) > 1 for i in share.layers},
        )
        for i, (name, kept) in enumerate(self._pruner.masks.kept().items()):
            size = self._weights[name].numel()
            if kept == 0 and self._plan.sparsity != 1:
                yield f"{name} has lost all its {size} weights, and nothing passes it; floor=1 keeps a layer alive"
            elif 0 < kept == floor < size and i in competing:
                yield f"{name} keeps {kept} of {size} weights, as floor={floor} asks; with floor=0 it may lose them all"

    def _nonzeros(self) -> list[int]:
        return [int(w.count_nonzero()) for w in self._weights.values()]

    def _note(self, kind: str, text: str) -> None:
        """Warn of each kind of mistake once; the report says it too."""
        if kind not in self._notes:
            self._notes[kind] = text
            warnings.warn(text, stacklevel=3)


def _same(what: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    for key in [*mine, *(k for k in theirs if k not in mine)]:
        if key not in theirs or key not in mine or theirs[key] != mine[key]:
            raise ValueError(
                f"the state is of other {what}: {key} is {theirs.get(key, 'absent')} there "
                f"and {mine.get(key, 'absent')} here"
            )


def _owner(weight: Tensor) -> Sparsifier | None:
    reference = _owners.get(weight)
    return None if reference is None else reference()


def _remove_all(handles: list[torch.utils.hooks.RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
