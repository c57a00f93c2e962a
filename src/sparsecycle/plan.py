"""How many weights are kept where, at each step of a run: the schedule and the scope over one network's layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

from sparsecycle.names import named
from sparsecycle.prunable import own_sparsities
from sparsecycle.schedules import Schedule
from sparsecycle.scopes import SCOPES, Share, part_way, places, share_out

__all__ = ["Plan"]


class Plan:
    """What the sparsifier is to reach, and when.

    Args:
        shapes: The pruned weights' shapes, by name.
        sparsity, schedule, scope, floor, total_steps, update_every: See :class:`sparsecycle.Sparsifier`.
        returns: Whether a pruned weight may come back.

    Raises:
        ValueError: If an argument is not allowed, or they cannot be had together.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        sparsity: float | None,
        schedule: Schedule,
        scope: str | Mapping[str, float],
        floor: int,
        returns: bool,
        total_steps: int,
        update_every: int,
    ) -> None:
        if not isinstance(scope, str | Mapping):
            raise ValueError(f"scope={scope!r} must be a name or a mapping from name globs to sparsities")
        if sparsity is None and isinstance(scope, str):
            raise ValueError("sparsity=None is allowed only where scope is a mapping from names to sparsities")
        if sparsity is not None and not (_is(Real, sparsity) and 0 <= sparsity <= 1):
            raise ValueError(f"sparsity={sparsity!r} must be from 0 to 1: the share of the weights that are zero")
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedule={schedule!r} must be a Schedule, such as OneCycle() or Linear()")
        counts = {"total_steps": (total_steps, 1), "update_every": (update_every, 1), "floor": (floor, 0)}
        for name, (value, least) in counts.items():
            if not _is(Integral, value) or value < least:
                raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
        levels = [schedule(i / 1000) for i in range(1001)]
        if not returns and any(b < a - 1e-9 for a, b in pairwise(levels)):
            raise ValueError(
                f"{schedule} lowers the sparsity again, but with recovery='none' no weight comes back: "
                "choose recovery='zero' or 'stored'"
            )
        # Python's own numbers: a checkpoint that is read without unpickling has no numpy scalars.
        self.sparsity = None if sparsity is None else float(sparsity)
        self.scope = scope if isinstance(scope, str) else {glob: float(own) for glob, own in scope.items()}
        self.schedule = schedule
        self.floor = 0 if sparsity == 1 else int(floor)
        self.total_steps, self.update_every = int(total_steps), int(update_every)
        self._returns = returns
        self._shapes = list(shapes.values())
        self._ends: list[Share] = []
        if isinstance(self.scope, str):
            named("scope", self.scope, {name: name for name in SCOPES})
            self._at(max(levels))  # says early what cannot be had
        else:
            own = own_sparsities(self.scope, list(shapes))
            self._ends = share_out(own, self._shapes, self.sparsity, floor=self.floor)

    def is_due(self, steps: int) -> bool:
        """Whether a new mask is due after so many steps."""
        return steps < self.total_steps and steps % self.update_every == 0

    def after(
        self, steps: int, before: list[Share], rounds: int = 1, path: str = "exponential"
    ) -> Iterator[list[Share]]:
        """The shares in force after so many steps, until the next mask: those of the interval's end.

        Where no weight comes back, a layer or group keeps no more than it had ``before``.

        Args:
            steps: Steps made so far.
            before: The shares until now.
            rounds: Where weights are to be pruned, the last of so many stages on the way is the one in force.
            path: ``"exponential"``: each stage keeps the same share of what the one before kept; ``"linear"``: each
                prunes equally many.
        """
        level = self.schedule(min(steps + self.update_every, self.total_steps) / self.total_steps)
        if rounds > 1:
            whole, start, goal = map(places, (self.dense(), before, self._at(level)))
            for i in range(1, rounds if goal < start else 1):
                geometric = path == "exponential" and goal > 0
                kept = start * (goal / start) ** (i / rounds) if geometric else start + (goal - start) * i / rounds
                before = self._at(level * (whole - kept) / (whole - goal), self._at_most(before))
                yield before
        yield self._at(level, self._at_most(before))

    def end(self) -> list[Share]:
        """The shares at the end of the run."""
        return self._at(self.schedule(1.0))

    def dense(self) -> list[Share]:
        """The shares with nothing pruned."""
        return self._at(0.0)

    def requested(self) -> float:
        """Share of the weights to be zero at the end of the run."""
        if self.sparsity is not None:
            return self.sparsity * self.schedule(1.0)
        return 1 - places(self.end()) / places(self.dense())

    def settings(self) -> dict[str, Any]:
        """Plain values that two plans share if they are the same."""
        return {
            "sparsity": self.sparsity,
            "schedule": repr(self.schedule),
            "scope": self.scope,
            "floor": self.floor,
            "total_steps": self.total_steps,
            "update_every": self.update_every,
        }

    def _at_most(self, before: list[Share]) -> list[int] | None:
        return None if self._returns else [share.keep for share in before]

    def _at(self, level: float, at_most: list[int] | None = None) -> list[Share]:
        sparsity = None if self.sparsity is None else self.sparsity * level
        if isinstance(self.scope, str):
            return share_out(self.scope, self._shapes, sparsity, floor=self.floor, at_most=at_most)
        return part_way(self._ends, self._shapes, level, sparsity, at_most=at_most)


def _is(kind: type, value: object) -> bool:
    """Whether it is a number of this kind, numpy's included, which the type checker does not expect."""
    return isinstance(value, kind)
