"""Jobs over worker processes: a job that fails does not end the others, and no worker outlives its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

__all__ = ["Done", "Event", "Failed", "Note", "Started", "run_all"]

#: A job's function: it gets the job and a callable that sends a note (anything picklable) to the parent.
Function = Callable[[Any, Callable[[Any], None]], Any]


@dataclass(frozen=True)
class Started:
    """Job ``index`` was given to a worker."""

    index: int


@dataclass(frozen=True)
class Note:
    """Job ``index`` is under way and says something."""

    index: int
    payload: Any


@dataclass(frozen=True)
class Done:
    """Job ``index`` ended and returned ``value``."""

    index: int
    value: Any


@dataclass(frozen=True)
class Failed:
    """Job ``index`` raised, or its process died.

    Attributes:
        message: One line: the kind of the error and its text.
        expected: Whether it is a ValueError or OSError, whose text is enough for the user.
        details: The worker's traceback; empty where the process died.
    """

    index: int
    message: str
    expected: bool
    details: str

    @classmethod
    def of(cls, index: int, error: Exception) -> Failed:
        """From the exception that is being handled."""
        expected = isinstance(error, ValueError | OSError)
        return cls(index, f"{type(error).__name__}: {error}", expected, traceback.format_exc())


Event = Started | Note | Done | Failed


def run_all(
    function: Function,
    jobs: Sequence[Any],
    hear: Callable[[Event], None],
    *,
    processes: int,
    threads: int,
) -> None:
    """Run ``function(job, note)`` for every job in spawned workers, and call ``hear`` with what happens.

    An exception here, KeyboardInterrupt or one that ``hear`` raises, ends every worker at once.

    Args:
        function: Importable by name, as it is sent to other processes.
        jobs: Picklable; started in this order.
        hear: Called in this process. Of each job it hears Started, its Notes, then Done or Failed.
        processes: Workers at a time, at least 1.
        threads: torch's threads in each worker, at least 1.

    Raises:
        ValueError: ``processes`` or ``threads`` is less than 1.
    """
    if processes < 1 or threads < 1:
        raise ValueError(f"processes={processes} and threads={threads} must be at least 1")
    waiting = deque(range(len(jobs)))
    idle: list[_Worker] = []
    busy: dict[Connection, tuple[_Worker, int]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < processes:
                worker = idle.pop() if idle else _Worker(function, threads)
                index = waiting.popleft()
                busy[worker.pipe] = (worker, index)
                worker.give(index, jobs[index])
                hear(Started(index))
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                worker, index = busy[pipe]
                event = worker.hear(index)
                if not isinstance(event, Note):
                    del busy[pipe]
                    if worker.alive:
                        idle.append(worker)
                hear(event)
    finally:
        for worker, _ in busy.values():
            worker.end()
        for worker in idle:  # with nothing to do they end by themselves, and clean up what torch.compile started
            worker.end(grace=5)


class _Worker:
    """The parent's hold on one process."""

    def __init__(self, function: Function, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, function, threads), daemon=False)
        with _deaf_to_interrupts():
            self.process.start()
        # With our copy of its end closed, the death of the worker reads as the end of the pipe.
        theirs.close()
        self.alive = True

    def give(self, index: int, job: Any) -> None:
        with contextlib.suppress(OSError):  # It died at start: hear() says so.
            self.pipe.send((index, job))

    def hear(self, index: int) -> Event:
        try:
            event: Event = self.pipe.recv()
        except (EOFError, OSError):
            self.end(grace=5)
            return Failed(index, f"its process died ({_cause(self.process.exitcode)})", True, "")
        return event

    def end(self, grace: float = 0.0) -> None:
        """End it now, or after ``grace`` seconds where it is ending by itself."""
        self.alive = False
        self.pipe.close()
        self.process.join(timeout=grace)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process started within ignores Ctrl-C, which reaches the whole group; the parent decides what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cause(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"{name}; out of memory?" if name == "SIGKILL" else name


def _serve(pipe: Connection, function: Function, threads: int) -> None:
    """The worker: take jobs until the parent closes the pipe."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _warm_up()
    while True:
        try:
            index, job = pipe.recv()
        except EOFError:
            return
        send = _sender(pipe, index)
        try:
            value = function(job, send)
        except Exception as error:
            pipe.send(Failed.of(index, error))
        else:
            pipe.send(Done(index, value))


def _sender(pipe: Connection, index: int) -> Callable[[Any], None]:
    return lambda payload: pipe.send(Note(index, payload))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _warm_up() -> None:
    """What torch sets up at its first step is not charged to the first run, whose time is compared."""
    layer = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        torch.nn.functional.cross_entropy(layer(torch.zeros(4, 8)), torch.zeros(4, dtype=torch.long)).backward()
        optimizer.step()
        optimizer.zero_grad()
