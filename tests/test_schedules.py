from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecycle import schedules
from sparsecycle.schedules import (
    AGP,
    Alternating,
    Constant,
    Cosine,
    Cyclical,
    DenseSparseDense,
    Exponential,
    Iterative,
    Linear,
    OneCycle,
    OneShot,
    Schedule,
)

TENTHS = [i / 10 for i in range(11)]
MONOTONE = [AGP, Constant, Cosine, Exponential, Iterative, Linear, OneCycle, OneShot]
ALL = [*MONOTONE, Alternating, Cyclical, DenseSparseDense]

shares = st.floats(0, 1)
windows = st.tuples(shares, shares).map(sorted)
custom = st.one_of(
    st.builds(OneCycle, st.floats(0.1, 50), st.floats(-20, 20)),
    st.builds(OneShot, st.floats(0, 1, exclude_max=True)),
    st.builds(Iterative, st.integers(1, 20)),
    st.builds(Exponential, st.floats(0.01, 50)),
    st.builds(Cyclical, st.integers(1, 9), st.sampled_from([AGP(), Linear(), Cosine(initial=0.2), OneCycle()])),
    st.sampled_from([kind() for kind in ALL]),
)


def test_all_are_exported() -> None:
    assert set(schedules.__all__) == {kind.__name__ for kind in [*ALL, Schedule]}


# The papers' values.


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (OneCycle(), [0.0067, 0.0266, 0.0998, 0.3101, 0.6457, 0.8809, 0.9678, 0.9920, 0.9981, 0.9996, 1]),
        (OneCycle(14, 6), [0.0025, 0.0100, 0.0392, 0.1419, 0.4014, 0.7313, 0.9171, 0.9784, 0.9948, 0.9990, 1]),
    ],
)
def test_one_cycle_has_the_published_values(schedule: OneCycle, table: list[float]) -> None:
    assert [round(schedule(t), 4) for t in TENTHS] == table
    assert schedule(1.0) == 1.0


def test_one_cycle_gives_the_sparsities_of_the_authors_run() -> None:
    # The authors' post: Imagenette, ten epochs, 95 %, the sparsity at each epoch's end in per cent.
    ends = [2.53, 9.48, 29.46, 61.34, 83.69, 91.94, 94.24, 94.82, 94.96, 95.00]
    assert [round(95 * OneCycle()(t), 2) for t in TENTHS[1:]] == ends


@pytest.mark.parametrize(("epochs", "pruning", "target"), [(200, 200, 0.729), (350, 150, 0.97), (160, 60, 0.789)])
def test_linear_by_epochs_is_the_papers_loop(epochs: int, pruning: int, target: float) -> None:
    schedule = Linear(end=pruning / epochs)
    for e in range(epochs):
        assert target * schedule((e + 1) / epochs) == pytest.approx(min(target, target * (e + 1) / pruning), abs=1e-12)
    assert target * schedule(1 / epochs) == pytest.approx(target / pruning)  # epoch 0 prunes already
    assert [schedule((e + 1) / epochs) for e in range(pruning - 1, epochs)] == [1.0] * (epochs - pruning + 1)


def test_linear_with_a_start_and_an_initial_sparsity() -> None:
    # VGG-19 at 98 %: epochs 1 to 9 of 400 dense, 0.50 at epoch 10, then 0.5 + 0.48 (e - 10) / 290 until 300.
    schedule = Linear(start=10 / 400, end=300 / 400, initial=0.5 / 0.98)
    assert [schedule(e / 400) for e in range(1, 10)] == [0.0] * 9
    for e in range(10, 301):
        assert 0.98 * schedule(e / 400) == pytest.approx(0.5 + 0.48 * (e - 10) / 290, abs=1e-12)
    assert schedule(301 / 400) == schedule(1.0) == 1.0


@pytest.mark.parametrize(("start", "end", "initial", "final"), [(0.2, 1.0, 0.0, 0.9), (0.25, 0.75, 0.4, 0.8)])
def test_agp_is_the_papers_cubic(start: float, end: float, initial: float, final: float) -> None:
    schedule = AGP(start=start, end=end, initial=initial / final)
    for i in range(101):
        t = i / 100
        progress = min(1.0, (t - start) / (end - start))
        expected = 0.0 if t < start else final + (initial - final) * (1 - progress) ** 3
        assert final * schedule(t) == pytest.approx(expected, abs=1e-12)


def test_iterative_takes_equal_steps() -> None:
    assert [Iterative(2)((e + 1) / 4) for e in range(4)] == [0.5, 0.5, 1, 1]
    assert [Iterative(3)((e + 1) / 9) for e in range(9)] == [*[1 / 3] * 3, *[2 / 3] * 3, 1, 1, 1]
    # By whole per cent, where a quotient that should be whole may be a little more.
    assert [Iterative(50)((e + 1) / 100) for e in range(100)] == [math.ceil((e + 1) / 2) / 50 for e in range(100)]
    late = Iterative(4, start=0.2)
    assert [late(t) for t in TENTHS] == [0, 0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1]


def test_one_shot_is_dense_until_it_and_sparse_after() -> None:
    assert [OneShot(0.4)((e + 1) / 10) for e in range(10)] == [0] * 4 + [1] * 6
    assert [OneShot(1 / 3)((e + 1) / 3) for e in range(3)] == [0, 1, 1]
    assert [OneShot(0.5, start=0.2)(t) for t in TENTHS] == [0] * 7 + [1] * 4  # at 0.6 of the run
    assert [OneShot(0)((e + 1) / 5) for e in range(5)] == [1] * 5


def test_cosine_exponential_constant() -> None:
    assert [Cosine()(i / 4) for i in range(5)] == pytest.approx([0, (1 - 0.5**0.5) / 2, 0.5, (1 + 0.5**0.5) / 2, 1])
    assert Exponential(2)(0.5) == pytest.approx((1 - math.exp(-1)) / (1 - math.exp(-2)))
    assert Exponential()(1.0) == 1.0
    assert [Constant(start=0.5)(t) for t in TENTHS] == [0] * 5 + [1] * 6


@pytest.mark.parametrize("within", [AGP(), Linear(), OneCycle(), Cosine(initial=0.25)])
@pytest.mark.parametrize("cycles", [1, 2, 3, 7])
def test_cyclical_returns_to_its_start(within: Schedule, cycles: int) -> None:
    schedule = Cyclical(cycles, within)
    assert [schedule(i / cycles) for i in range(cycles)] == [within(0.0)] * cycles
    for i in range(cycles):
        for u in (0.25, 0.5, 0.9):
            assert schedule((i + u) / cycles) == pytest.approx(within(u), abs=1e-7)
        if i:
            assert schedule(i / cycles - 1e-6) == pytest.approx(1, abs=1e-4)
    assert schedule(1.0) == 1.0


def test_alternating_switches_at_the_papers_epochs() -> None:
    sparse = [e for e in range(100) if Alternating()((e + 1) / 100) == 1]
    assert sparse == [e for b in range(10, 80, 10) for e in range(b, b + 5)] + list(range(85, 100))
    cifar = Alternating((0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85))
    sparse = [e for e in range(200) if cifar((e + 1) / 200) == 1]
    assert sparse == [e for b in range(10, 170, 40) for e in range(b, b + 20)] + list(range(170, 200))
    assert {cifar(i / 1000) for i in range(1001)} == {0.0, 1.0}


def test_dense_sparse_dense_has_three_phases() -> None:
    assert [DenseSparseDense()((e + 1) / 6) for e in range(6)] == [0, 0, 1, 1, 0, 0]
    assert [DenseSparseDense(0.2, 1)((e + 1) / 5) for e in range(5)] == [0, 1, 1, 1, 1]


# What holds for each of them.


@pytest.mark.parametrize("kind", ALL)
@given(window=windows, initial=shares, t=shares)
def test_stays_in_the_unit_interval_and_is_pure(
    kind: type[Schedule], window: list[float], initial: float, t: float
) -> None:
    start, end = window
    schedule = kind(start=start, end=end, initial=initial)
    value = schedule(t)
    assert 0 <= value <= 1
    assert schedule(t) == value == kind(start=start, end=end, initial=initial)(t)
    if t < start:
        assert value == 0
    if t >= end:
        assert value == schedule(1.0)
    if kind is not DenseSparseDense:
        assert schedule(1.0) == 1.0


@given(custom, shares)
def test_stays_in_the_unit_interval_whatever_its_constants(schedule: Schedule, t: float) -> None:
    assert 0 <= schedule(t) <= 1


@pytest.mark.parametrize("kind", MONOTONE)
@given(window=windows, initial=shares, times=st.lists(shares, min_size=2, max_size=10).map(sorted))
def test_never_falls(kind: type[Schedule], window: list[float], initial: float, times: list[float]) -> None:
    schedule = kind(start=window[0], end=window[1], initial=initial)
    assert all(a <= b + 1e-12 for a, b in pairwise(map(schedule, times)))


@pytest.mark.parametrize("kind", [Cyclical, Alternating, DenseSparseDense])
def test_the_others_fall(kind: type[Schedule]) -> None:
    assert any(a > b for a, b in pairwise(kind()(i / 100) for i in range(101)))


@given(custom)
def test_repr_evaluates_to_an_equal_schedule(schedule: Schedule) -> None:
    again = eval(repr(schedule), vars(schedules))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again(0.37) == schedule(0.37)


def test_repr_names_every_argument() -> None:
    assert repr(AGP(start=0.2)) == "AGP(start=0.2, end=1.0, initial=0.0)"
    assert AGP(start=0.2) != AGP() != Linear()


@pytest.mark.parametrize("kind", ALL)
def test_is_frozen(kind: type[Schedule]) -> None:
    schedule = kind()
    with pytest.raises(FrozenInstanceError):
        schedule.start = 0.5  # type: ignore[misc]


def test_a_new_schedule_needs_only_a_shape() -> None:
    class Square(Schedule):
        def shape(self, u: float) -> float:
            return u * u

    assert Square(start=0.5)(0.75) == 0.25
    with pytest.raises(NotImplementedError, match="Schedule must define shape"):
        Schedule()(0.5)


# What is refused.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(start=-0.1), "start=-0.1 and end=1.0 are shares of the run: 0 <= start <= end <= 1"),
        (lambda: Linear(start=0.6, end=0.5), "start=0.6 and end=0.5 are shares"),
        (lambda: Linear(end=1.5), "start=0.0 and end=1.5 are shares"),
        (lambda: Linear(start=math.nan), "start=nan"),
        (lambda: AGP(initial=1.1), "initial=1.1 must be from 0 to 1"),
        (lambda: AGP(initial=math.nan), "initial=nan must be from 0 to 1"),
        (lambda: OneCycle(alpha=0), "alpha=0 must be greater than 0, and finite"),
        (lambda: OneCycle(alpha=math.inf), "alpha=inf must be greater than 0, and finite"),
        (lambda: OneCycle(beta=701), "beta=701 must be from -700 to 700"),
        (lambda: OneCycle(beta=math.nan), "beta=nan must be from -700 to 700"),
        (lambda: OneShot(-0.1), "at=-0.1 must be from 0 to less than 1"),
        (lambda: OneShot(1.0), "at=1.0 must be from 0 to less than 1"),
        (lambda: Iterative(0), "steps=0 must be a whole number of at least 1"),
        (lambda: Iterative(2.5), "steps=2.5 must be a whole number of at least 1"),  # type: ignore[arg-type]
        (lambda: Exponential(0), "rate=0 must be greater than 0, and finite"),
        (lambda: Exponential(math.inf), "rate=inf must be greater than 0, and finite"),
        (lambda: Cyclical(0), "cycles=0 must be a whole number of at least 1"),
        (lambda: Cyclical(1.5), "cycles=1.5 must be a whole number of at least 1"),  # type: ignore[arg-type]
        (lambda: Cyclical(within="agp"), "within='agp' must be a Schedule"),  # type: ignore[arg-type]
        (lambda: Cyclical(within=AGP), "must be a Schedule"),  # type: ignore[arg-type]
        (lambda: Alternating((0.1, 0.2)), "must be an odd number of rising shares"),
        (lambda: Alternating(()), "must be an odd number of rising shares"),
        (lambda: Alternating((0.3, 0.2, 0.5)), "must be an odd number of rising shares"),
        (lambda: Alternating((0.2, 0.2, 0.5)), "must be an odd number of rising shares"),
        (lambda: Alternating((0.5, 0.7, 1.0)), "rising shares, less than 1"),
        (lambda: DenseSparseDense(0.6, 0.5), "sparse_from=0.6 and sparse_until=0.5: 0 <= sparse_from < sparse_until"),
        (lambda: DenseSparseDense(0.5, 0.5), "sparse_from=0.5"),
        (lambda: DenseSparseDense(0.5, 1.1), "sparse_until=1.1"),
    ],
)
def test_what_is_wrong_is_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("t", [-0.001, 1.001, math.nan])
def test_time_is_a_share(t: float) -> None:
    with pytest.raises(ValueError, match=f"t={t} is a share of the run: it must be from 0 to 1"):
        Linear()(t)


# The picture.


def test_plot_draws_the_values_over_the_run() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    ax = AGP(start=0.2).plot(points=101, color="red")
    (line,) = ax.get_lines()
    assert list(line.get_xdata()) == [i / 100 for i in range(101)]
    assert list(line.get_ydata()) == [AGP(start=0.2)(i / 100) for i in range(101)]
    assert (line.get_label(), line.get_color()) == ("AGP", "red")
    assert OneCycle().plot(ax, label="one cycle") is ax
    assert [each.get_label() for each in ax.get_lines()] == ["AGP", "one cycle"]
    assert len(ax.get_lines()[1].get_xdata()) == 1001
    assert ax.get_xlabel() == "share of the run"
    pyplot.close("all")
