from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sparsecycle.lab.workers import Done, Event, Failed, Note, Started, run_all


def job(what: str, note: Callable[[Any], None]) -> Any:
    if what == "threads":
        note("on my way")
        return torch.get_num_threads()
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "refuse":
        raise ValueError("not with me")
    if what == "break":
        raise KeyError("gone")
    return what.upper()


def test_jobs_that_fail_or_die_do_not_end_the_others() -> None:
    heard: list[Event] = []
    run_all(job, ["threads", "refuse", "die", "break", "last"], heard.append, processes=1, threads=1)
    assert [e.index for e in heard if isinstance(e, Started)] == [0, 1, 2, 3, 4]
    assert [e for e in heard if isinstance(e, Note)] == [Note(0, "on my way")]
    assert [e for e in heard if isinstance(e, Done)] == [Done(0, 1), Done(4, "LAST")]
    refused, died, broken = [e for e in heard if isinstance(e, Failed)]
    assert (refused.index, refused.message, refused.expected) == (1, "ValueError: not with me", True)
    assert died.index == 2
    assert "SIGKILL" in died.message
    assert (broken.index, broken.message, broken.expected) == (3, "KeyError: 'gone'", False)
    assert "raise KeyError" in broken.details


def test_an_interrupt_leaves_no_process() -> None:
    pids: list[int] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note):
            pids.append(event.payload)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(wait_for_ever, [0], hear, processes=1, threads=1)
    (pid,) = pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def wait_for_ever(_: Any, note: Callable[[Any], None]) -> None:
    note(os.getpid())
    signal.pause()


def test_no_jobs_start_no_process() -> None:
    heard: list[Event] = []
    run_all(job, [], heard.append, processes=2, threads=1)
    assert heard == []


@pytest.mark.parametrize(("processes", "threads"), [(0, 1), (1, 0)])
def test_counts_below_one_are_errors(processes: int, threads: int) -> None:
    with pytest.raises(ValueError, match=f"processes={processes} and threads={threads} must be at least 1"):
        run_all(job, ["last"], print, processes=processes, threads=threads)
