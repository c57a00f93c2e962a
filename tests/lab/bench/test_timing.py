from __future__ import annotations

import pytest
import torch

from sparsecycle.lab.bench import timing
from sparsecycle.lab.bench.timing import Contestant, Times, race

SECONDS = {"a": [1.0, 2.0, 4.0, 8.0, 16.0], "b": [3.0, 4.0, 20.0, 8.0, 80.0]}
CLEAN = {"a": [True] * 5, "b": [True, True, False, True, True]}


def test_ratios_are_taken_within_a_round() -> None:
    times = Times(SECONDS, {"a": [True] * 5, "b": [True] * 5})
    assert times.rounds == 5
    assert times.median("a") == 4.0
    assert times.ratios("b", "a") == [3.0, 2.0, 5.0, 1.0, 5.0]
    assert times.ratio("b", "a") == 3.0
    assert times.ratio("a", "b") == pytest.approx(1 / 3)
    assert times.middle("b", "a") == (2.0, 5.0)


def test_disturbed_samples_do_not_count() -> None:
    times = Times(SECONDS, CLEAN)
    assert times.undisturbed == 0.9
    assert times.ratios("b", "a") == [3.0, 2.0, 1.0, 5.0]
    assert times.ratio("b", "a") == 2.5
    assert times.median("a") == 4.0
    assert times.median("b") == 6.0


def test_quartiles_are_those_of_the_clean_samples() -> None:
    times = Times(SECONDS, CLEAN)
    assert times.quartiles("a") == (2.0, 8.0)
    assert times.quartiles("b") == (3.75, 26.0)
    assert Times({"a": [2.0]}, {"a": [True]}).quartiles("a") == (2.0, 2.0)


def test_where_nearly_all_are_disturbed_all_count() -> None:
    times = Times(SECONDS, {"a": [True] * 5, "b": [False] * 5})
    assert times.ratios("b", "a") == [3.0, 2.0, 5.0, 1.0, 5.0]


def test_the_middle_of_one_round_is_that_round() -> None:
    times = Times({"a": [2.0], "b": [3.0]}, {"a": [True], "b": [True]})
    assert times.middle("b", "a") == (1.5, 1.5)


class Clock:
    """Stands still unless a contestant takes time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.turns: list[str] = []
        for name in ("process_time", "perf_counter"):
            monkeypatch.setattr(timing.time, name, lambda: self.now)
        monkeypatch.setattr(timing, "waited", lambda: 0.0)

    def takes(self, name: str, seconds: float, before: float = 0.0) -> Contestant:
        def run() -> None:
            self.turns.append(name)
            self.now += seconds

        def prepare() -> None:
            self.now += before

        return Contestant(run, prepare)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_every_contestant_runs_once_a_round_in_changing_order_and_is_prepared_untimed(clock: Clock) -> None:
    contestants = {name: clock.takes(name, s, before=100.0) for name, s in (("a", 1.0), ("b", 2.0), ("c", 4.0))}
    times = race(contestants, 0.0, least=20, most=30, warm_up=2)
    assert times.rounds == 20
    assert times.seconds == {"a": [1.0] * 20, "b": [2.0] * 20, "c": [4.0] * 20}
    rounds = [tuple(clock.turns[i : i + 3]) for i in range(0, len(clock.turns), 3)]
    assert len(rounds) == 22, "two to warm up"
    assert {tuple(sorted(order)) for order in rounds} == {("a", "b", "c")}
    assert len(set(rounds)) == 6, "all orders"


def test_a_race_ends_with_the_first_round_after_its_time(clock: Clock) -> None:
    contestant = {"a": clock.takes("a", 1.0)}
    assert race(contestant, 4.5, least=2, most=100, warm_up=3).rounds == 5
    assert race(contestant, 4.5, least=7, most=100).rounds == 7
    assert race(contestant, 4.5, least=2, most=3).rounds == 3


def test_a_sample_is_disturbed_if_the_process_waited(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 0.0

    def waits() -> None:
        nonlocal waited
        clock.now += 1.0
        waited += 0.03

    monkeypatch.setattr(timing, "waited", lambda: waited)
    times = race({"a": clock.takes("a", 1.0), "b": Contestant(waits)}, 0.0, least=3, most=3)
    assert times.clean == {"a": [True] * 3, "b": [False] * 3}


def test_a_real_race_measures_something(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones(1 << 16)
    times = race({"sum": Contestant(lambda: ones.sum())}, 0.0, least=2, most=2)
    assert all(seconds > 0 for seconds in times.seconds["sum"])
    assert 0.0 <= times.undisturbed <= 1.0
