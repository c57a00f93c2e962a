from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle.criteria import CRITERIA, Criterion, Magnitude, MagnitudeGain, Random


def weights(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in [(3, 4), (2, 3, 3, 3), (5,)]]


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_scores_have_the_weights_shapes_and_leave_them_alone(criterion: Criterion) -> None:
    before, after = weights(), weights(1)
    memory = criterion.remember(before)
    scores = criterion.score(after, memory)
    assert [score.shape for score in scores] == [w.shape for w in before]
    assert all(torch.equal(w, again) for w, again in zip([*before, *after], [*weights(), *weights(1)], strict=True))


def test_names() -> None:
    assert {"magnitude": Magnitude(), "random": Random(), "magnitude_gain": MagnitudeGain()} == CRITERIA


def test_magnitude_costs_no_memory() -> None:
    ws = weights()
    assert Magnitude().remember(ws) == []
    assert all(score is w for score, w in zip(Magnitude().score(ws, []), ws, strict=True))
    assert Magnitude.absolute


def test_magnitude_gain_by_hand() -> None:
    then = [torch.tensor([1.0, -2.0, 0.5])]
    now = [torch.tensor([-1.5, -1.0, 0.5])]
    memory = MagnitudeGain().remember(then)
    then[0].zero_()  # what is remembered is not the weight itself
    assert MagnitudeGain().score(now, memory)[0].tolist() == [0.5, -1.0, 0.0]
    assert not MagnitudeGain.absolute  # a weight that shrank is worth less than one that stayed


def test_magnitude_gain_needs_one_memory_a_weight() -> None:
    with pytest.raises(ValueError, match="zip"):
        MagnitudeGain().score(weights(), [])


@given(st.integers(0, 2**31))
def test_random_is_the_same_all_through_a_run(seed: int) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Random(seed).score(weights(0), [])
    again = Random(seed).score(weights(1), [])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # it draws nothing from the run's own generator
    assert not torch.equal(first[0], Random(seed + 1).score(weights(), [])[0])


def test_random_is_uniform() -> None:
    (score,) = Random().score([torch.zeros(200, 500)], [])
    assert 0 <= score.min() < score.max() < 1
    counts = torch.histc(score, 10, 0, 1)
    assert ((counts - 10_000).abs() < 400).all()  # four standard deviations


def test_random_draws_on_the_cpu_whatever_the_default_device() -> None:
    expected = Random(3).score(weights(), [])
    with torch.device("meta"):
        drawn = Random(3).score(weights_on_cpu(), [])
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def weights_on_cpu() -> list[Tensor]:
    return [torch.zeros(3, 4, device="cpu"), torch.zeros(2, 3, 3, 3, device="cpu"), torch.zeros(5, device="cpu")]


def test_equal_criteria_are_equal_and_say_what_they_are() -> None:
    assert Random(1) == Random(1) != Random(2)
    assert [repr(c) for c in (Magnitude(), Random(1), MagnitudeGain())] == [
        "Magnitude()",
        "Random(seed=1)",
        "MagnitudeGain()",
    ]
