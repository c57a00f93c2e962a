from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsecycle import Linear, Sparsifier, methods
from sparsecycle.lab.regression import Problem, SparseRegression, train

SMALL = SparseRegression(samples=40, features=30, nonzeros=4, noise=0.1, correlation=0.3)
BY_HAND = Problem(torch.eye(4), torch.zeros(4), torch.tensor([0.0, 1.0, -1.0, 0.0]))

kinds = st.builds(
    lambda n, d, share, rho, noise, seed: SparseRegression(n, d, max(1, round(share * (d - 1))), rho, noise, seed),
    st.integers(1, 40),
    st.integers(2, 40),
    st.floats(0, 1),
    st.floats(-0.99, 0.99),
    st.floats(0, 10),
    st.integers(0, 2**63 - 1),
)


@given(data=kinds)
def test_what_is_drawn_has_the_shape_that_was_asked_for(data: SparseRegression) -> None:
    problem = data.draw()
    assert problem.inputs.shape == (data.samples, data.features)
    assert problem.targets.shape == (data.samples,)
    assert int(problem.support.sum()) == data.nonzeros
    assert set(problem.weights[problem.support].tolist()) <= {-1.0, 1.0}
    assert {t.dtype for t in (problem.inputs, problem.targets, problem.weights)} == {torch.float32}
    assert round(problem.sparsity * data.features) == data.features - data.nonzeros
    again = data.draw()
    assert torch.equal(problem.inputs, again.inputs)
    assert torch.equal(problem.targets, again.targets)
    assert torch.equal(problem.weights, again.weights)


def test_another_seed_is_another_problem() -> None:
    one, other = SparseRegression(seed=0).draw(), SparseRegression(seed=1).draw()
    assert not torch.equal(one.inputs, other.inputs)
    assert not torch.equal(one.support, other.support)


def test_drawing_leaves_torchs_own_generator_alone() -> None:
    before = torch.random.get_rng_state()
    train(SMALL.draw(), methods.agp, 2, batch=10)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.8])
def test_neighbours_correlate_by_powers_of_rho(rho: float) -> None:
    inputs = SparseRegression(samples=40_000, features=6, nonzeros=1, correlation=rho).draw().inputs
    wanted = torch.tensor([[rho ** abs(i - j) for j in range(6)] for i in range(6)])
    # Five standard errors of a correlation of independent Gaussians are 0.025.
    torch.testing.assert_close(inputs.T @ inputs / 40_000, wanted, rtol=0, atol=0.03)
    assert inputs.mean(0).abs().max() < 0.06


def test_without_noise_the_targets_are_the_model() -> None:
    problem = SparseRegression(samples=50, features=20, nonzeros=5, noise=0).draw()
    torch.testing.assert_close(problem.inputs @ problem.weights, problem.targets)


def test_the_noise_has_the_standard_deviation_that_was_asked_for() -> None:
    problem = SparseRegression(samples=20_000, features=10, nonzeros=2, noise=3.0).draw()
    residual = problem.targets - problem.inputs @ problem.weights
    assert residual.std().item() == pytest.approx(3, rel=0.03)  # six standard errors
    assert residual.mean().item() == pytest.approx(0, abs=0.11)


def test_every_place_is_in_the_support_about_as_often_as_any() -> None:
    counts = sum(
        SparseRegression(samples=1, features=10, nonzeros=3, seed=seed).draw().support.int() for seed in range(500)
    )
    assert isinstance(counts, Tensor)
    assert counts.sum() == 1500
    assert 100 <= counts.min() <= counts.max() <= 200  # 150 on average, with a deviation of 10


def test_recovered_by_hand() -> None:
    assert BY_HAND.sparsity == 0.5
    assert BY_HAND.recovered(torch.tensor([0.0, 0.1, 5.0, 0.0])) == 1
    assert BY_HAND.recovered(torch.tensor([[0.0, 0.0, -3.0, 2.0]])) == 0.5  # a layer's weight, (1, d)
    assert BY_HAND.recovered(torch.tensor([1.0, 0.0, 0.0, 1.0])) == 0
    assert BY_HAND.recovered(torch.zeros(4)) == 0


def test_smoothness_is_the_largest_eigenvalue() -> None:
    assert BY_HAND.smoothness == pytest.approx(1 / 4)
    problem = SMALL.draw()
    eigenvalues = torch.linalg.eigvalsh(problem.inputs.double().T @ problem.inputs.double() / 40)
    assert problem.smoothness == pytest.approx(eigenvalues.max().item(), rel=1e-6)


METHODS: list[tuple[Callable[..., Sparsifier], dict[str, Any]]] = [
    (methods.one_shot, {}),
    (methods.progressive, {}),
    (methods.agp, {}),
    (methods.cyclical, {"cycles": 3}),
    (methods.cyclical, {"cycles": 2, "recovery": "stored"}),
]


@pytest.mark.parametrize(("method", "words"), METHODS)
def test_every_method_keeps_exactly_k_and_finds_an_easy_support(
    method: Callable[..., Sparsifier], words: dict[str, Any]
) -> None:
    problem = SparseRegression(samples=400, features=40, nonzeros=5, noise=0.1).draw()
    model = train(problem, method, 60, **words)
    assert isinstance(model, nn.Linear)
    assert model.bias is None
    assert model.weight.shape == (1, 40)
    assert int(model.weight.count_nonzero()) == 5
    assert problem.recovered(model.weight) == 1
    assert (model.weight[0] - problem.weights).abs().max() < 0.2


@given(data=kinds, steps=st.integers(1, 6), cycles=st.integers(1, 4), recovery=st.sampled_from(["zero", "stored"]))
@settings(max_examples=40)
def test_no_more_than_k_are_kept_whatever_the_problem(
    data: SparseRegression, steps: int, cycles: int, recovery: str
) -> None:
    problem = data.draw()
    model = train(problem, methods.cyclical, steps, cycles=cycles, recovery=recovery)
    assert int(model.weight.count_nonzero()) <= data.nonzeros
    assert 0 <= problem.recovered(model.weight) <= 1
    assert model.weight.isfinite().all()


def test_a_run_is_projected_gradient_descent() -> None:
    problem, steps = SMALL.draw(), 12
    model = train(problem, methods.cyclical, steps, cycles=2, within=Linear(), learning_rate=0.05, seed=3)
    weights = torch.empty(1, 30).uniform_(
        -1 / math.sqrt(30), 1 / math.sqrt(30), generator=torch.Generator().manual_seed(3)
    )[0]
    for step in range(steps):
        u = (step + 1) / steps * 2
        pruned = 26 if step == steps - 1 else round(round(u % 1, 9) * 26)
        mask = torch.ones(30)
        # Of equal weights those of smaller index are kept.
        mask[torch.argsort(weights.abs(), descending=True, stable=True)[30 - pruned :]] = 0
        weights = weights * mask
        gradient = problem.inputs.T @ (problem.inputs @ weights - problem.targets) / 40
        weights = (weights - 0.05 * gradient) * mask
    torch.testing.assert_close(model.weight.detach()[0], weights, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.weight.detach()[0] != 0, weights != 0)


def test_the_default_learning_rate_is_one_over_l() -> None:
    problem = SMALL.draw()
    default = train(problem, methods.agp, 9)
    given_ = train(problem, methods.agp, 9, learning_rate=1 / problem.smoothness)
    other = train(problem, methods.agp, 9, learning_rate=0.5 / problem.smoothness)
    assert torch.equal(default.weight, given_.weight)
    assert not torch.equal(default.weight, other.weight)


def test_batches_depend_on_the_seed_and_a_full_one_on_nothing() -> None:
    problem = SMALL.draw()

    def weights(batch: int | None, seed: int) -> Tensor:
        return train(problem, methods.agp, 20, batch=batch, seed=seed, learning_rate=0.02).weight.detach()

    assert torch.equal(weights(8, 0), weights(8, 0))
    assert not torch.equal(weights(8, 0), weights(8, 1))
    # A batch of all samples is all of them in another order.
    torch.testing.assert_close(weights(40, 0), weights(None, 0), rtol=1e-4, atol=1e-5)


def test_small_batches_find_an_easy_support_too() -> None:
    problem = SparseRegression(samples=400, features=40, nonzeros=5, noise=0.1).draw()
    model = train(problem, methods.cyclical, 200, batch=50, learning_rate=0.1)
    assert problem.recovered(model.weight) == 1


def test_the_layer_is_free_afterwards() -> None:
    model = train(SMALL.draw(), methods.agp, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    assert int(model.weight.count_nonzero()) == 30


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"samples": 0}, "samples=0 must be a whole number of at least 1"),
        ({"samples": 2.5}, "samples=2.5 must be a whole number of at least 1"),
        ({"samples": True}, "samples=True must be a whole number"),
        ({"features": 1}, "features=1 must be a whole number of at least 2"),
        ({"nonzeros": 0}, "nonzeros=0 must be a whole number from 1 to 199"),
        ({"nonzeros": 200}, "nonzeros=200 must be a whole number from 1 to 199"),
        ({"correlation": 1.0}, "correlation=1.0 must be greater than -1 and less than 1"),
        ({"correlation": math.nan}, "correlation=nan must be greater than -1 and less than 1"),
        ({"noise": -0.1}, "noise=-0.1 must be 0 or more, and finite"),
        ({"noise": math.inf}, "noise=inf must be 0 or more, and finite"),
        ({"seed": -1}, "seed=-1 must be a whole number from 0"),
    ],
)
def test_bad_data_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseRegression(**words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"method": "agp"}, "method='agp' must be a function such as sparsecycle.methods.cyclical"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be greater than 0, and finite"),
        ({"learning_rate": math.nan}, "learning_rate=nan must be greater than 0, and finite"),
        ({"batch": 0}, "batch=0 must be a whole number from 1 to 40"),
        ({"batch": 41}, "batch=41 must be a whole number from 1 to 40"),
        ({"seed": -1}, "seed=-1 must be a whole number from 0"),
    ],
)
def test_bad_training_is_refused(words: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"method": methods.agp, "steps": 5, **words}
    with pytest.raises(ValueError, match=message):
        train(SMALL.draw(), **arguments)


def test_training_that_diverges_is_an_error() -> None:
    with pytest.raises(ValueError, match="the run has diverged"):
        train(SMALL.draw(), methods.agp, 300, learning_rate=100.0)


def test_weights_of_another_size_or_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="weights has 3 entries, and the problem has 4 features"):
        BY_HAND.recovered(torch.ones(3))
    with pytest.raises(ValueError, match="weights has 4 entries that are not zero: at most k=2 may be"):
        BY_HAND.recovered(torch.ones(4))
