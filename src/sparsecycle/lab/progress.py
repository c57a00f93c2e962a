"""What a long training says while it goes on."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.progress import Progress as RichProgress

__all__ = ["Bar", "Kind", "Lines", "Reporter", "Silent", "reporter"]

Kind = Literal["auto", "bar", "lines", "silent"]


class Reporter(Protocol):
    """Is told how a run goes on."""

    def begin(self, title: str, epochs: int, steps: int, epoch: int) -> None:
        """``epochs`` of ``steps`` steps each; ``epoch`` of them are done already."""

    def say(self, doing: str) -> None:
        """What is being done now, other than steps."""

    def step(self, epoch: int, step: int) -> None:
        """``step`` steps of ``epoch`` (0-based) are done. Called at every step: it must be cheap."""

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch is over; its line of ``metrics.jsonl``."""

    def end(self) -> None:
        """The run is over, whether it finished or not."""


class Silent:
    """Says nothing."""

    def begin(self, title: str, epochs: int, steps: int, epoch: int) -> None:
        """Nothing."""

    def say(self, doing: str) -> None:
        """Nothing."""

    def step(self, epoch: int, step: int) -> None:
        """Nothing."""

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Lines:
    """A plain line every ``every`` seconds on standard error, for logs and pipes."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    def begin(self, title: str, epochs: int, steps: int, epoch: int) -> None:
        """Say what begins."""
        self._title, self._epochs, self._steps, self._done = title, epochs, steps, epoch * steps
        self._at_begin, self._last = epoch * steps, time.monotonic()
        self._begun = self._last
        self._metrics = ""
        where = f" from epoch {epoch}" if epoch else ""
        self._print(f"{title}: {epochs} epochs of {steps} steps{where}")

    def say(self, doing: str) -> None:
        """Say so if the last line is old enough."""
        if time.monotonic() - self._last >= self.every:
            self._line(doing)

    def step(self, epoch: int, step: int) -> None:
        """Say so if the last line is old enough."""
        self._done = epoch * self._steps + step
        if time.monotonic() - self._last >= self.every:
            self._line(f"epoch {epoch + 1}/{self._epochs} step {step}/{self._steps}")

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Say the last epoch's numbers, and those of earlier ones if the last line is old enough."""
        self._metrics = _numbers(metrics)
        if metrics["epoch"] == self._epochs or time.monotonic() - self._last >= self.every:
            self._line(f"epoch {metrics['epoch']}/{self._epochs}")

    def end(self) -> None:
        """Nothing."""

    def _line(self, doing: str) -> None:
        self._last = time.monotonic()
        trained = self._done - self._at_begin
        parts = [f"{self._title}: {doing}"]
        if self._metrics:
            parts.append(self._metrics)
        if trained > 0 and self._done < self._epochs * self._steps:
            left = (self._last - self._begun) / trained * (self._epochs * self._steps - self._done)
            parts.append(f"{_duration(left)} left")
        self._print(", ".join(parts))

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Bar:
    """A bar on a terminal: what is being done, the last epoch's numbers, time gone and time left."""

    #: Seconds between two redraws; more would cost the training time.
    every = 0.2

    def begin(self, title: str, epochs: int, steps: int, epoch: int) -> None:
        """Draw the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._epochs, self._steps = epochs, steps
        self._bar: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[doing]}"),
            TextColumn("[dim]{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._bar.add_task(
            title, total=epochs * steps, completed=epoch * steps, doing="preparing", numbers=""
        )
        self._last = 0.0
        self._bar.start()

    def say(self, doing: str) -> None:
        """Draw at once."""
        self._bar.update(self._task, doing=doing, refresh=True)

    def step(self, epoch: int, step: int) -> None:
        """Draw if the last drawing is old enough."""
        now = time.monotonic()
        if now - self._last >= self.every:
            self._last = now
            self._bar.update(
                self._task,
                completed=epoch * self._steps + step,
                doing=f"epoch {epoch + 1}/{self._epochs}",
                refresh=True,
            )

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Draw at once at the end, else with the next step."""
        done = metrics["epoch"] == self._epochs
        self._bar.update(self._task, completed=metrics["epoch"] * self._steps, numbers=_numbers(metrics), refresh=done)

    def end(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


def reporter(kind: Kind | Reporter) -> Reporter:
    """``auto``: a bar where standard error is a terminal, else lines.

    Raises:
        ValueError: ``kind`` is a word that is not known.
    """
    if not isinstance(kind, str):
        return kind
    if kind == "auto":
        return Bar() if sys.stderr.isatty() else Lines()
    makers = {"bar": Bar, "lines": Lines, "silent": Silent}
    if kind not in makers:
        raise ValueError(f"progress={kind!r}; allowed are auto, {', '.join(makers)}, or a Reporter")
    made: Reporter = makers[kind]()
    return made


def _numbers(metrics: Mapping[str, Any]) -> str:
    parts = [f"loss {metrics['train_loss']:.3f}"]
    if metrics.get("test_accuracy") is not None:
        parts.append(f"test {100 * metrics['test_accuracy']:.2f} %")
    parts.append(f"sparsity {100 * metrics['sparsity']:.1f} %")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
