from __future__ import annotations

from benchmarks.step_overhead import BARS, SUBJECTS, misses

from sparsecycle.lab.bench.steps import EVERY_STEP


def test_every_network_has_its_bar() -> None:
    assert set(BARS) == set(SUBJECTS)


def test_only_what_is_missed_by_far_is_a_failure() -> None:
    def found(model: str, ratio: float) -> dict[str, object]:
        return {"model": model, "steps": [{"threads": 2, "loops": {EVERY_STEP: {"ratio": ratio}}}]}

    assert misses(found("lenet-300-100", 1.05)) == []
    assert misses(found("lenet-300-100", 1.07)) == ["lenet-300-100, threads 2: +7.0%"]
    assert misses(found("resnet-20", 1.05)) == ["resnet-20, threads 2: +5.0%"]
