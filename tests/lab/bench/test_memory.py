from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsecycle.lab.bench import memory
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.bench.timing import Contestant
from sparsecycle.lab.bench.update import STOCK, Network

SUBJECT = Subject("conv3", (3, 32, 32), 10, 0.9)

needs_the_mark = pytest.mark.skipif(not memory.is_known(), reason="the system does not tell the high-water mark")


def test_a_system_that_does_not_tell_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "nothing")
    assert not memory.is_known()


@needs_the_mark
def test_the_rise_is_what_was_there_at_most_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(network: Network) -> Contestant:
        # What it has all the time, and what it takes before, do not count; nor do two runs add up.
        kept = torch.ones(4 << 20)

        def run() -> None:
            torch.ones(16 << 20).add_(kept[0])

        return Contestant(run)

    monkeypatch.setitem(memory.CONTESTANTS, "hungry", hungry)
    assert memory.measure(SUBJECT, "hungry") == pytest.approx(64 << 20, abs=4 << 20)


@needs_the_mark
def test_it_is_measured_in_a_process_of_its_own() -> None:
    weights = 4 * 372_928
    taken = memory.extra_memory(SUBJECT, STOCK, threads=1)
    assert 3 * weights < taken < 60 * weights


def test_what_is_looked_at_is_there() -> None:
    assert set(memory.LOOKED_AT) <= set(memory.CONTESTANTS)
