from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sparsecycle.criteria import CRITERIA, Criterion, Magnitude, MagnitudeGain, Movement, Random, Taylor
from sparsecycle.saliency import SNIP, GraSP, SynFlow

NO_MODEL = nn.Identity()  # for criteria that do not look at it


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (3, 4), "b.weight": (2, 3, 3, 3), "c": (5,)}
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def matrices(model: nn.Module) -> dict[str, Tensor]:
    return {name: w for name, w in model.named_parameters() if w.dim() > 1}


def score(criterion: Criterion, model: nn.Module, of: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    with torch.no_grad():
        return criterion.score(matrices(model) if of is None else of, [], model)


def equal(these: Sequence[Tensor], those: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(these, those, strict=True))


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum() / 2


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_scores_have_the_weights_shapes_and_leave_them_alone(criterion: Criterion) -> None:
    before, after = weights(), weights(1)
    memory = criterion.remember(before)
    if criterion.watches:
        criterion.watch(after, list(weights(2).values()), memory)
    scores = criterion.score(after, memory, NO_MODEL)
    assert [score.shape for score in scores] == [w.shape for w in before.values()]
    assert equal([*before.values(), *after.values()], [*weights().values(), *weights(1).values()])


def test_names() -> None:
    assert {
        "magnitude": Magnitude(),
        "random": Random(),
        "magnitude_gain": MagnitudeGain(),
        "movement": Movement(),
        "taylor": Taylor(momentum=0.9),
    } == CRITERIA


def test_what_the_sparsifier_is_told() -> None:
    batches = [(torch.zeros(1), torch.zeros(1))]
    told = {
        type(c).__name__: (c.absolute, c.watches, c.rounds, c.path)
        for c in [*CRITERIA.values(), SNIP(batches), GraSP(batches), SynFlow((1,))]
    }
    assert told == {
        "Magnitude": (True, False, 1, "exponential"),
        "Random": (False, False, 1, "exponential"),
        "MagnitudeGain": (False, False, 1, "exponential"),
        "Movement": (False, True, 1, "exponential"),
        "Taylor": (False, True, 1, "exponential"),
        "SNIP": (True, False, 1, "exponential"),
        "GraSP": (False, False, 1, "exponential"),
        "SynFlow": (True, False, 100, "exponential"),
    }


def test_a_criterion_of_ones_own_has_to_score() -> None:
    class Mine(Criterion):
        pass

    assert Mine().remember(weights()) == []
    with pytest.raises(NotImplementedError, match=r"Mine must define score\(\)"):
        Mine().score(weights(), [], NO_MODEL)


def test_equal_criteria_are_equal_and_say_what_they_are() -> None:
    assert Random(1) == Random(1) != Random(2)
    x, y = torch.zeros(2, 3), torch.zeros(2)
    assert SNIP([(x, y)], rounds=2) == SNIP([(y, x)], F.mse_loss, rounds=2) != SNIP([(x, y)])
    assert len({GraSP([(x, y)]), GraSP([(y, x)]), GraSP([(x, y)], temperature=1.0)}) == 2
    criteria = [*CRITERIA.values(), SNIP([(x, y)]), GraSP([(x, y)]), SynFlow([3, 8, 8], path="linear")]
    assert [repr(criterion) for criterion in criteria] == [
        "Magnitude()",
        "Random(seed=0)",
        "MagnitudeGain()",
        "Movement()",
        "Taylor(momentum=0.9)",
        "SNIP(rounds=1)",
        "GraSP(temperature=200.0, rounds=1)",
        "SynFlow(input_shape=(3, 8, 8), rounds=100, path='linear')",
    ]
    for criterion in criteria:
        assert pickle.loads(pickle.dumps(criterion)) == copy.deepcopy(criterion) == criterion


# --- of the weights alone ---------------------------------------------------------------------------------------------


def test_magnitude_costs_no_memory() -> None:
    ws = weights()
    assert Magnitude().remember(ws) == []
    assert all(score is w for score, w in zip(Magnitude().score(ws, [], NO_MODEL), ws.values(), strict=True))


def test_magnitude_gain_by_hand() -> None:
    then = {"w": torch.tensor([1.0, -2.0, 0.5])}
    now = {"w": torch.tensor([-1.5, -1.0, 0.5])}
    memory = MagnitudeGain().remember(then)
    then["w"].zero_()  # what is remembered is not the weight itself
    # a weight that shrank is worth less than one that stayed
    assert MagnitudeGain().score(now, memory, NO_MODEL)[0].tolist() == [0.5, -1.0, 0.0]


def test_magnitude_gain_needs_one_memory_a_weight() -> None:
    with pytest.raises(ValueError, match="zip"):
        MagnitudeGain().score(weights(), [], NO_MODEL)


@given(st.integers(0, 2**31))
def test_random_is_the_same_all_through_a_run(seed: int) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Random(seed).score(weights(0), [], NO_MODEL)
    again = Random(seed).score(weights(1), [], NO_MODEL)
    assert equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)  # it draws nothing from the run's own generator
    assert not torch.equal(first[0], Random(seed + 1).score(weights(), [], NO_MODEL)[0])


def test_random_is_uniform() -> None:
    (drawn,) = Random().score({"w": torch.zeros(200, 500)}, [], NO_MODEL)
    assert 0 <= drawn.min() < drawn.max() < 1
    counts = torch.histc(drawn, 10, 0, 1)
    assert ((counts - 10_000).abs() < 400).all()  # four standard deviations


def test_random_draws_on_the_cpu_whatever_the_default_device() -> None:
    expected = Random(3).score(weights(), [], NO_MODEL)
    zeros = {name: torch.zeros_like(w) for name, w in weights().items()}
    with torch.device("meta"):
        drawn = Random(3).score(zeros, [], NO_MODEL)
    assert equal(drawn, expected)


# --- of the gradients of the run --------------------------------------------------------------------------------------

# Three steps of two weights: (w, dL/dw).
STEPS = [((1.0, -2.0), (0.5, 0.5)), ((0.5, -2.5), (-1.0, 2.0)), ((1.5, -4.5), (2.0, -1.0))]


def watched(criterion: Criterion, dtype: torch.dtype = torch.float64) -> list[float]:
    memory = criterion.remember({"w": torch.tensor(STEPS[0][0], dtype=dtype)})
    assert memory[0].tolist() == [0.0, 0.0]
    for w, g in STEPS:
        criterion.watch({"w": torch.tensor(w, dtype=dtype)}, [torch.tensor(g, dtype=dtype)], memory)
    (scored,) = criterion.score({"w": torch.zeros(2, dtype=dtype)}, memory, NO_MODEL)
    return scored.tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_movement_by_hand(dtype: torch.dtype) -> None:
    # The products w g are .5, -.5, 3 and -1, -5, 4.5.
    assert watched(Movement(), dtype) == [-3.0, 1.5]


def test_movement_is_high_where_descent_leads_away_from_zero() -> None:
    w = torch.tensor([1.0, -1.0, 1.0, -1.0])
    memory = Movement().remember({"w": w})
    for _ in range(5):
        g = torch.tensor([-1.0, 1.0, 0.5, -0.5])  # the first two grow, the others shrink
        Movement().watch({"w": w}, [g], memory)
        w = w - 0.1 * g
    scores = Movement().score({"w": w}, memory, NO_MODEL)[0]
    assert scores[0] == scores[1] > 5 > 0 > scores[2] == scores[3]


def test_taylor_by_hand() -> None:
    # The squares (w g)² are .25, .25, 9 and 1, 25, 20.25; a share of 3/4 of the average stays at each step.
    first = (0.25 * 9 / 16 + 0.25 * 3 / 4 + 9) / 4
    second = (1 * 9 / 16 + 25 * 3 / 4 + 20.25) / 4
    assert watched(Taylor(0.75)) == pytest.approx([first, second], rel=1e-15)
    assert watched(Taylor(0.0)) == [9.0, 20.25]  # the last step alone


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.floats(0, 0.99))
def test_taylor_is_an_average_of_squares(products: list[float], momentum: float) -> None:
    one = {"w": torch.ones(1, dtype=torch.float64)}
    memory = Taylor(momentum).remember(one)
    for product in products:
        Taylor(momentum).watch(one, [torch.tensor([product], dtype=torch.float64)], memory)
    scored = Taylor(momentum).score(one, memory, NO_MODEL)[0].item()
    n = len(products)
    expected = sum((1 - momentum) * momentum ** (n - 1 - i) * p * p for i, p in enumerate(products))
    assert scored == pytest.approx(expected, rel=1e-9)
    assert 0 <= scored <= max(p * p for p in products) * (1 + 1e-9)


@pytest.mark.parametrize("criterion", [Movement(), Taylor()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_up_in_float32(criterion: Criterion, dtype: torch.dtype) -> None:
    w = {"w": torch.full((2,), 1e-3, dtype=dtype)}
    memory = criterion.remember(w)
    for _ in range(1000):
        criterion.watch(w, [torch.full((2,), 1e-3, dtype=dtype)], memory)
    (scored,) = criterion.score(w, memory, NO_MODEL)
    product = w["w"][0].item() ** 2
    expected = -1000 * product if criterion == Movement() else product**2  # in float16 the square would be 0
    assert scored.dtype == torch.float32
    assert scored.tolist() == pytest.approx([expected] * 2, rel=1e-3)


@pytest.mark.parametrize("momentum", [-0.1, 1, 1.5, math.nan])
def test_taylor_says_which_momentum_is_allowed(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"momentum={momentum!r} must be from 0 to less than 1"):
        Taylor(momentum)
