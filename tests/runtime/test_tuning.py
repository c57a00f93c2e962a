"""Which lanes and kernels are chosen: by the model, and by the time they take."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.graphs import convolutions, graphs, numbers
from tests.runtime.programs import core, forms, run, shape

from sparsecycle import native
from sparsecycle.runtime import tuning
from sparsecycle.runtime.cost import Form, work
from sparsecycle.runtime.graph import Convolution, Graph, Map, Pool, Step, operands
from sparsecycle.runtime.layouts import Lanes, Layout
from sparsecycle.runtime.lower import Lowered, lower
from sparsecycle.runtime.tuning import Choice, Tuned, apply, homes, ranking, tune

pytestmark = pytest.mark.skipif(native.core() is None, reason="the native core was not built")


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "BUDGET", 0.0)


def network(images: int, density: float = 0.2) -> Graph:
    steps: list[Step] = []
    maps = [Map(6, 8, 8)]
    for value, (size, channels) in enumerate([(3, 20), (1, 33), (3, 8)]):
        weight = numbers((channels, maps[-1].channels, size, size), value)
        kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(value)) < density
        pair = (size // 2, size // 2)
        steps.append(Convolution(f"conv{value}", value, weight * kept, None, (1, 1), pair, (1, 1), 1, "relu"))
        maps.append(Map(channels, 8, 8))
    windows = ((0, 2), (2, 4), (4, 6), (6, 8))
    steps.append(Pool("pool", 3, "max", windows, windows, None))
    return Graph(images, [0], [4], [*maps, Map(8, 4, 4)], steps)


def lowered(graph: Graph, threads: int = 1) -> Lowered:
    return lower(graph, homes(graph, forms(), core().widest(), threads), core().Program(graph.images, threads))


# Lanes.


@settings(max_examples=40)
@given(st.data())
def test_lanes_are_such_that_there_are_kernels_and_work_for_all_threads(data: st.DataObject) -> None:
    images, threads = data.draw(st.sampled_from([1, 2, 7, 64])), data.draw(st.integers(1, 3))
    graph = data.draw(graphs(images))
    found = homes(graph, forms(), core().widest(), threads)
    assert found.keys() == {(of.height, of.width) for of in graph.maps}
    for lanes, groups in found.values():
        assert lanes.count in {form.lanes for form in forms()}
        assert lanes.images * groups <= max(1, images // threads)
    of = [found[shape.height, shape.width] for shape in graph.maps]
    for value, step in enumerate(graph.steps, len(graph.inputs)):
        for source in operands(step):
            few, many = (lanes.images * groups for lanes, groups in (of[source], of[value]))
            assert many % few == 0


def test_large_maps_alone_have_blocks_and_small_ones_together_have_images() -> None:
    for side, images, blocks in ((32, 1, True), (4, 64, False)):
        of = Map(64, side, side)
        weight = numbers((64, 64, 3, 3), 0) * (torch.rand(64, 64, 3, 3) < 0.1)
        step = Convolution("conv", 0, weight, None, (1, 1), (1, 1), (1, 1), 1)
        lanes, _ = homes(Graph(images, [0], [1], [of, of], [step]), forms(), core().widest(), 1)[side, side]
        assert (lanes.rows * lanes.columns == lanes.count) is blocks
        assert (lanes.images == lanes.count) is not blocks


@pytest.mark.parametrize("sides", [(4, 6, 4), (6, 4, 6)])
def test_images_are_alone_where_a_network_returns_to_maps_of_a_size_that_it_had(sides: tuple[int, ...]) -> None:
    def step(value: int, before: int, after: int) -> Convolution:
        weight = numbers((32, 32, 3, 3), value)
        padding = 1 + (after - before) // 2
        return Convolution(f"conv{value}", value, weight, None, (1, 1), (padding, padding), (1, 1), 1)

    maps = [Map(32, side, side) for side in sides]
    steps: list[Step] = [step(value, *pair) for value, pair in enumerate(pairwise(sides))]
    once = homes(Graph(64, [0], [1], maps[:2], steps[:1]), forms(), core().widest(), 1)
    assert all(lanes.images == lanes.count > 1 for lanes, _ in once.values())
    returned = homes(Graph(64, [0], [2], maps, steps), forms(), core().widest(), 1)
    assert all(lanes.images * groups == 1 for lanes, groups in returned.values())


# Kernels.


@settings(max_examples=60)
@given(st.data())
def test_ways_are_ranked_by_their_cost_and_some_fit(data: st.DataObject) -> None:
    source = Map(data.draw(st.integers(1, 40)), 8, data.draw(st.integers(1, 9)))
    step, made = data.draw(convolutions(source))
    graph = Graph(data.draw(st.sampled_from([1, 16])), [0], [1], [source, made], [step])
    of = lowered(graph)
    for number, layout in of.layouts.items():
        ways = ranking(work(step, source), layout, forms())
        costs = [cost for cost, _, _ in ways]
        assert costs == sorted(costs)
        assert 0 < costs[0] < math.inf
        assert len({(form, blocks) for _, form, blocks in ways}) == len(ways)
        assert {blocks for _, _, blocks in ways} <= set(range(1, source.channels + 1))
        assert {form for _, form, _ in ways}.intersection(of.program.forms(number))


@pytest.mark.parametrize("values", ["fp32", "bf16"])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_what_is_chosen_is_there_and_can_be_chosen_again(values: str, density: float) -> None:
    graph = network(9, density)
    inputs = [numbers(shape(9, graph.maps[0]), 0)]
    first, again = lowered(graph), lowered(graph)
    choices = tune(first, graph, forms(), values)
    assert len(choices) == len(first.convolutions)
    for choice in choices:
        assert choice.form.dense or choice.form.bfloat16 is (values == "bf16")
        assert choice.dense_seconds is not None
        assert 0 < choice.seconds <= choice.dense_seconds
    apply(again, forms(), choices)
    assert torch.equal(run(first.program, graph, inputs)[0], run(again.program, graph, inputs)[0])


def test_a_choice_that_does_not_fit_is_refused() -> None:
    graph = network(1)
    first, again = lowered(graph), lowered(graph)
    (choice, *others) = tune(first, graph, forms(), "fp32")
    with pytest.raises(ValueError, match="not in list"):
        apply(again, forms(), [Choice(Form(3, 1, 1, 1, 1, False, False), 1, 1.0, None), *others])
    with pytest.raises(ValueError, match="blocks=100 must be 1 to 6"):
        apply(again, forms(), [Choice(choice.form, 100, 1.0, None), *others])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        apply(again, forms(), [choice])


class Clock:
    """A program of one convolution whose candidates take the times that they are told to."""

    def __init__(self, seconds: dict[int, float], too_long: Collection[tuple[int, int]] = ()) -> None:
        self.seconds, self.too_long = seconds, too_long
        self.made: list[tuple[int, int]] = []
        self.chosen, self.kept = 0, -1

    def forms(self, step: int) -> list[int]:
        return sorted(self.seconds)

    def candidate(self, step: int, form: int, blocks: int) -> int:
        if (form, blocks) in self.too_long:
            raise ValueError("blocks are too long")
        self.made.append((form, blocks))
        return len(self.made) - 1

    def choose(self, step: int, candidate: int) -> None:
        self.chosen = candidate

    def keep_chosen(self, step: int) -> None:
        self.kept = self.chosen

    def profile(self, inputs: object, outputs: object) -> list[float]:
        form, blocks = self.made[self.chosen]
        return [self.seconds[form] * blocks]


KINDS = [Form(8, 1, 4, 1, 2, False, False), Form(8, 1, 8, 1, 1, False, False), Form(8, 1, 4, 1, 3, True, False)]


def timed(clock: Clock) -> Choice:
    weight = torch.zeros(64, 64, 3, 3)
    weight[:, ::8] = 1
    of = Map(64, 8, 8)
    step = Convolution("conv", 0, weight, None, (1, 1), (1, 1), (1, 1), 1)
    layout = Layout(of, Lanes(8, 1, 1), 1, (8, 8))
    made = Lowered(clock, ["conv"], {0: step}, {}, {0: layout}, set())  # type: ignore[arg-type]
    (choice,) = tune(made, Graph(8, [0], [1], [of, of], [step]), KINDS, "fp32")
    return choice


@pytest.mark.parametrize("fastest", [0, 1, 2])
def test_the_fastest_is_kept(fastest: int) -> None:
    clock = Clock({form: 1.0 if form == fastest else 9.0 for form in range(3)})
    choice = timed(clock)
    assert choice.form == KINDS[fastest]
    assert clock.made[clock.kept] == (fastest, choice.blocks)
    assert choice.seconds == choice.blocks
    assert choice.blocks == min(blocks for form, blocks in clock.made if form == fastest)


def test_a_dense_kernel_is_timed_for_comparison() -> None:
    clock = Clock({0: 1.0, 1: 1.0, 2: 30.0})
    choice = timed(clock)
    (dense,) = (blocks for form, blocks in clock.made if form == 2)
    assert len(clock.made) == tuning.CANDIDATES + 1
    assert choice.dense_seconds == 30.0 * dense
    assert timed(Clock({0: 1.0, 1: 2.0})).dense_seconds is None


def test_blocks_that_are_too_long_are_passed_over() -> None:
    too_long = {(form, blocks) for form in range(3) for blocks in (1, 2, 3, 4)}
    clock = Clock({0: 1.0, 1: 2.0, 2: 3.0}, too_long)
    assert timed(clock).blocks > 4
    assert not too_long.intersection(clock.made)


def test_a_convolution_without_a_kernel_is_named() -> None:
    with pytest.raises(ValueError, match=r"conv has no kernel: a channel of Map\(.*height=8, width=8\) is too large"):
        timed(Clock({0: 1.0}, {(0, blocks) for blocks in tuning.BLOCKS}))


@pytest.mark.parametrize(("sides", "groups"), [((28, 28), 1), ((28, 28), 2), ((9, 57), 64)])
def test_wide_maps_of_many_channels_have_ways(sides: tuple[int, int], groups: int) -> None:
    of = Map(512, *sides)
    step = Convolution("conv", 0, torch.ones(2 * groups, 512 // groups, 3, 3), None, (1, 1), (1, 1), (1, 1), groups)
    graph = Graph(8, [0], [1], [of, Map(2 * groups, *sides)], [step])
    (choice,) = tune(lowered(graph), graph, forms(), "fp32")
    assert choice.seconds > 0


# What is kept of it.


def test_choices_are_kept_as_plain_values() -> None:
    homes_ = {(8, 8): (Lanes(1, 2, 4), 1), (1, 1): (Lanes(1, 1, 1, 8), 1)}
    tuned = Tuned(homes_, {}, [Choice(KINDS[0], 3, 1e-5, None), Choice(KINDS[2], 1, 2e-5, 2e-5)])
    assert Tuned.from_plain(json.loads(json.dumps(tuned.plain()))) == tuned


@pytest.mark.parametrize("plain", [{}, {"homes": []}, {"homes": [[1, 2]], "choices": []}, {"homes": 3, "choices": []}])
def test_what_are_no_choices(plain: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Tuned.from_plain(plain)
