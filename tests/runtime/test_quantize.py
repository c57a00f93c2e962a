from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.graphs import numbers
from torch import Tensor

from sparsecycle.runtime.graph import Activate, Add, Concatenate, Convolution, Flatten, Graph, Map, Pool, Step
from sparsecycle.runtime.layouts import Scale
from sparsecycle.runtime.quantize import Quantized, _outputs, quantize, rounded

WHOLE = ((0, 2),)


def linear(name: str, input: int, weight: Tensor, **more: int) -> Convolution:
    return Convolution(name, input, weight[:, :, None, None], None, (1, 1), (0, 0), (1, 1), 1, **more)


def graph_of(channels: Sequence[int], steps: Sequence[Step], side: int = 1, outputs: Sequence[int] = ()) -> Graph:
    """Of one input; all maps have so many rows and columns, but those of one pixel that pools and flattening make."""
    small = [False] + [isinstance(step, Pool | Flatten) for step in steps]
    maps = [Map(count, *[1 if one else side] * 2) for count, one in zip(channels, small, strict=True)]
    return Graph(1, [0], list(outputs) or [len(steps)], maps, list(steps))


def scale_of(values: Tensor | Sequence[float]) -> Scale:
    """That of an input which has these values."""
    x = torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1)
    return quantize(graph_of([1, 1], [Activate("a", 0, "none")]), [[x]]).scales[0]


def test_rounded_takes_the_nearest_number_and_of_two_the_even_one() -> None:
    values = torch.tensor([-100.0, -5.0, -4.9, 0.24, 0.25, 0.75, 1.25, 122.5, 123.0])
    expected = [-5.0, -5.0, -5.0, 0.0, 0.0, 1.0, 1.0, 122.5, 122.5]
    assert rounded(values, Scale(0.5, 10)).tolist() == expected
    assert values[0] == -100.0


@settings(max_examples=50)
@given(st.floats(1e-3, 1e3), st.integers(0, 255), st.integers(0, 99))
def test_rounded_is_within_half_a_step_of_what_is_in_its_range(step: float, zero: int, seed: int) -> None:
    low, high = -zero * step, (255 - zero) * step
    values = low + (high - low) * torch.rand(100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = rounded(values, Scale(step, zero))
    assert (found - values).abs().max() <= 0.5001 * step
    assert torch.equal(rounded(found, Scale(step, zero)), found)
    assert rounded(torch.zeros(1), Scale(step, zero)).item() == 0


@pytest.mark.parametrize(
    ("low", "high", "zero"),
    [(0.0, 1.0, 0), (0.5, 2.0, 0), (-1.0, 1.0, 128), (-1.0, 3.0, 64), (-2.0, 0.0, 255), (-3.0, -1.0, 255)],
)
def test_a_range_has_zero_and_all_of_what_is_spread_evenly(low: float, high: float, zero: int) -> None:
    found = scale_of(torch.linspace(low, high, 5000))
    assert found.step == pytest.approx((max(high, 0) - min(low, 0)) / 255)
    assert found.zero == zero


def test_a_value_that_is_far_from_the_others_is_cut_off() -> None:
    # Of n values spread evenly from 0 to 1, numbers up to c lose n * (c / 255) ** 2 / 12, and of the one of 4 they lose
    # (4 - c) ** 2: least where c = 4 / (1 + n / (12 * 255 ** 2)).
    values = torch.cat([torch.linspace(0, 1, 4 * 255**2), torch.tensor([4.0])])
    assert scale_of(values).step == pytest.approx(3 / 255, rel=0.03)
    assert scale_of(-values) == Scale(scale_of(values).step, 255)


def test_what_is_always_zero_has_a_scale_of_one() -> None:
    assert scale_of([0.0, 0.0]) == Scale(1.0, 0)


def test_ranges_are_those_of_all_batches() -> None:
    graph = graph_of([1, 1], [Activate("a", 0, "none")])
    batches = [[torch.linspace(low, high, 3000).reshape(-1, 1, 1, 1)] for low, high in ((0, 1), (-2, 0), (-1, 3))]
    found = quantize(graph, batches).scales[0]
    assert found.step == pytest.approx(5 / 255)
    assert found.zero == 102


def test_what_is_moved_or_compared_has_one_scale() -> None:
    steps = [
        linear("a", 0, numbers((2, 1), 1)),
        Pool("max", 1, "max", WHOLE, WHOLE, None),
        Pool("average", 1, "average", WHOLE, WHOLE, torch.full((1, 1), 4.0)),
        Concatenate("cat", (3, 2)),
        Flatten("flat", 4),
        Add("add", 5, 5),
        Activate("relu", 1, "relu"),
    ]
    graph = graph_of([1, 2, 2, 2, 4, 4, 4, 2], steps, side=2)
    graph.maps[4] = Map(4, 1, 1)
    graph.maps[6] = Map(4, 1, 1)
    scales = quantize(graph, [[numbers((50, 1, 2, 2), 2)]]).scales
    # The concatenation's, with the range of what is widest among its parts: what the pool reads.
    assert scales[1] == scales[2] == scales[3] == scales[4] == scales[5]
    assert len({scales[i] for i in (0, 1, 6, 7)}) == 4
    assert scales[6].step == pytest.approx(2 * scales[5].step, rel=0.2)
    assert scales[7].zero == 0


def weights_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    graph = graph_of([rows.shape[1], len(rows)], [linear("a", 0, rows)])
    found = quantize(graph, [[torch.ones(1, rows.shape[1], 1, 1)]]).weights[1]
    assert found.numbers.dtype == torch.int8
    assert found.numbers.shape == (*rows.shape, 1, 1)
    assert found.numbers.is_contiguous()
    assert found.steps.dtype == torch.float32
    return found.numbers.flatten(1), found.steps


def test_weights_that_are_numbers_times_a_step_are_kept() -> None:
    numbers = torch.tensor([[127, -3, 0, 64], [-127, 1, 2, 126], [0, 0, 0, 0]])
    steps = torch.tensor([0.5, 0.125, 1.0])
    found, found_steps = weights_of(numbers * steps[:, None])
    assert torch.equal(found, numbers.to(torch.int8))
    assert torch.equal(found_steps, steps)


def test_weights_stand_for_their_numbers_times_their_channels_step() -> None:
    graph = graph_of([3, 2], [linear("a", 0, numbers((2, 3), 1))])
    weights = quantize(graph, [[torch.ones(1, 3, 1, 1)]]).weights[1]
    for channel in range(2):
        expected = weights.numbers[channel].float() * weights.steps[channel]
        assert torch.equal(weights.values()[channel], expected)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 99), st.sampled_from([0.0, 0.1, 1.0]))
def test_weights_lose_no_more_than_with_their_whole_range(rows: int, columns: int, seed: int, density: float) -> None:
    kept = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < density
    weight = numbers((rows, columns), seed) ** 3 * kept
    found, steps = weights_of(weight)
    assert found.int().abs().max() <= 127
    assert not found[~kept].any()
    largest = weight.double().abs().amax(1)
    whole = torch.where(largest > 0, largest / 127, 1)[:, None]
    plain = (weight / whole).round() * whole
    error, plain_error = ((x - weight).norm(dim=1) for x in (found.double() * steps[:, None], plain))
    assert (error <= plain_error + 1e-7 * weight.norm(dim=1)).all()
    # Each with the nearest number to it.
    nearest = (weight.double() / steps[:, None].double()).round().clamp(-127, 127)
    assert torch.equal(found.double(), nearest)


def chain() -> Graph:
    """Three layers with very different weights, of which the second one loses most."""
    uneven = numbers((8, 8), 2)
    uneven[:, 0] *= 300
    steps = [linear("a", 0, numbers((8, 4), 1)), linear("b", 1, uneven), linear("c", 2, numbers((3, 8), 3))]
    return graph_of([4, 8, 8, 3], steps)


def test_steps_by_name_stay_in_float32() -> None:
    batches = [[numbers((20, 4, 1, 1), 0)]]
    found = quantize(chain(), batches, keep=["b"])
    assert found.steps == {1, 3}
    assert found.weights.keys() == {1, 3}
    assert found.scales.keys() == {0, 1, 2, 3}
    assert quantize(chain(), batches, keep=["a", "b", "c"]).steps == set()
    assert quantize(chain(), batches).steps == {1, 2, 3}


@pytest.mark.parametrize(
    ("keep", "read", "kept"),
    [
        ([], {0, 1, 2, 3}, {1, 2, 3}),
        (["b"], {0, 1, 2, 3}, {1, 3}),
        (["sum"], {0, 1, 3}, {1}),
        (["c"], {0, 1, 2}, {1, 2, 3}),
        (["b", "sum"], {0, 3}, set()),
    ],
    ids=["none", "b", "sum", "c", "b and sum"],
)
def test_what_only_steps_on_float32_read_is_made_in_float32(keep: list[str], read: set[int], kept: set[int]) -> None:
    square = numbers((4, 4), 1)
    steps = [linear("a", 0, square), linear("b", 1, square), Add("sum", 1, 2), linear("c", 3, square)]
    graph = graph_of([4] * 5, steps)
    found = quantize(graph, [[numbers((20, 4, 1, 1), 0)]], keep)
    assert (found.read(graph), found.kept(graph)) == (read, kept)


def error(graph: Graph, batches: Sequence[Sequence[Tensor]], quantized: Quantized) -> float:
    none = Quantized(quantized.scales, {}, frozenset())
    exact, found = (torch.cat([_outputs(graph, batch, q) for batch in batches]) for q in (none, quantized))
    return float((found - exact).norm() / exact.norm())


def test_a_bound_holds_with_as_few_steps_in_float32_as_are_needed() -> None:
    graph, batches = chain(), [[numbers((20, 4, 1, 1), 0)], [numbers((7, 4, 1, 1), 9)]]
    free = quantize(graph, batches)
    alone = {
        value: error(graph, batches, Quantized(free.scales, {value: free.weights[value]}, frozenset([value])))
        for value in free.weights
    }
    order = sorted(alone, key=lambda value: alone[value])
    whole = error(graph, batches, free)
    assert quantize(graph, batches, bound=1.001 * whole).steps == {1, 2, 3}
    held = quantize(graph, batches, bound=0.999 * whole)
    assert held.steps < {1, 2, 3}
    assert held.steps == set(order[: len(held.steps)])
    assert held.weights.keys() == held.steps
    assert error(graph, batches, held) <= 0.999 * whole
    assert quantize(graph, batches, bound=0.0).steps == set()


def test_a_bound_leaves_what_was_kept() -> None:
    graph, batches = chain(), [[numbers((20, 4, 1, 1), 0)]]
    assert quantize(graph, batches, keep=["a"], bound=1.0).steps == {2, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": []}, "calibration has no batches; int8 needs some, to choose the ranges of values from"),
        ({"keep": ["d"]}, "keep has 'd'; it must have names of 'a', 'b', 'c'"),
        ({"batches": [[torch.full((1, 4, 1, 1), math.nan)]]}, "calibration makes value 0 of the network nan to nan"),
        ({"batches": [[torch.full((1, 4, 1, 1), math.inf)]]}, "calibration makes value 0 of the network inf to inf"),
        ({"batches": [[torch.full((1, 4, 1, 1), -3e38)]]}, "calibration makes value 1 of the network -inf to"),
    ],
    ids=["none", "name", "nan", "inf", "overflow"],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    given = {"batches": [[torch.ones(1, 4, 1, 1)]], **arguments}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at below
        quantize(chain(), **given)
    assert message in str(caught.value)
