"""Graphs as programs: what is computed, and what is not moved or copied on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime import reference
from tests.runtime.graphs import close, graphs, homes, numbers
from tests.runtime.programs import choose, choose_by_model, core, forms, run, shape

from sparsecycle import native
from sparsecycle.runtime import tuning
from sparsecycle.runtime.graph import Activate, Activation, Concatenate, Convolution, Flatten, Graph, Map, Pool, Step
from sparsecycle.runtime.layouts import Lanes
from sparsecycle.runtime.lower import Lowered, lower

pytestmark = pytest.mark.skipif(native.core() is None, reason="the native core was not built")

TWO = ((0, 2), (2, 4), (4, 6), (6, 8))
THREE = ((0, 2), (1, 4), (3, 6), (5, 8))
IMAGES = 5


def right(graph: Graph, made: Lowered) -> bool:
    inputs = [numbers(shape(graph.images, graph.maps[value]), value) for value in graph.inputs]
    found = run(made.program, graph, inputs)
    return all(close(one, other) for one, other in zip(found, reference.run(graph, *inputs), strict=True))


@settings(max_examples=100)
@given(st.data())
def test_networks_in_the_layouts_that_the_model_chooses(data: st.DataObject) -> None:
    graph, threads = data.draw(graphs(data.draw(st.sampled_from([1, 2, 4, 16, 70])))), data.draw(st.integers(1, 2))
    made = lower(graph, tuning.homes(graph, forms(), core().widest(), threads), core().Program(graph.images, threads))
    choose_by_model(made, graph)
    assert right(graph, made)
    convolutions = [step for step in graph.steps if isinstance(step, Convolution)]
    assert len(made.convolutions) + len(made.gathers) == len(convolutions)
    assert made.convolutions.keys() == made.layouts.keys()


@settings(max_examples=100)
@given(st.data())
def test_networks_in_any_layouts(data: st.DataObject) -> None:
    graph = data.draw(graphs(data.draw(st.sampled_from([1, 3, 8, 33]))))
    made = lower(graph, data.draw(homes(graph, core().widest())), core().Program(graph.images, 1))
    choose(made, data.draw)
    assert right(graph, made)


# Which steps there are. Values have 4 channels, and the first one is the input.


def conv(name: str, input: int, size: int = 3, stride: int = 1, residual: int | None = None, relu: bool = True) -> Step:
    weight = numbers((4, 4, size, size), len(name)) / (2 * size)
    activation: Activation = "relu" if relu else "none"
    pair = (size // 2, size // 2)
    return Convolution(name, input, weight, None, (stride, stride), pair, (1, 1), 1, activation, residual)


def steps_of(steps: Sequence[Step], side: int, home: tuple[Lanes, int], outputs: Sequence[int] = ()) -> list[str]:
    """The names of a program's steps, after a look at what it computes; its input has so many rows, and columns."""
    values = [numbers((IMAGES, 4, side, side), 0).double()]
    for step in steps:
        values.append(reference.result(step, values, torch.float64))
    maps = [Map(*value.shape[1:]) for value in values]
    graph = Graph(IMAGES, [0], list(outputs) or [len(steps)], maps, list(steps))
    made = lower(graph, {(of.height, of.width): home for of in maps}, core().Program(IMAGES, 1))
    choose_by_model(made, graph)
    assert right(graph, made)
    return made.names


BLOCKS = (Lanes(1, 2, 2), 1)
TOGETHER = (Lanes(4, 1, 1), 2)


@pytest.mark.parametrize("home", [BLOCKS, TOGETHER])
def test_a_chain_is_read_where_it_is_made(home: tuple[Lanes, int]) -> None:
    pool = Pool("pool", 2, "max", TWO, TWO, None)
    chain = [conv("a", 0), conv("b", 1), pool, conv("c", 3, size=1), conv("d", 4, residual=3), Flatten("e", 5)]
    assert steps_of(chain, 8, home) == ["a (input)", "a", "b", "pool", "c", "d", "e", "output"]


@pytest.mark.parametrize("home", [BLOCKS, TOGETHER])
def test_a_block_of_a_residual_network(home: tuple[Lanes, int]) -> None:
    steps = [conv("a", 0), conv("b", 1, stride=2), conv("down", 1, size=1, stride=2), conv("c", 2, residual=3)]
    assert steps_of(steps, 8, home) == ["a (input)", "a", "b", "down", "c", "output"]


@pytest.mark.parametrize("home", [BLOCKS, TOGETHER])
def test_what_is_concatenated_is_made_there(home: tuple[Lanes, int]) -> None:
    steps = [
        conv("a", 0),
        conv("b", 1),
        Concatenate("one", (1, 2)),
        Activate("c", 3, "silu"),
        Concatenate("two", (3, 4)),
    ]
    assert steps_of(steps, 8, home) == ["a (input)", "a", "b", "c", "output"]


def test_what_is_an_input_or_concatenated_twice_is_copied() -> None:
    steps = [conv("a", 0), Concatenate("one", (0, 1, 1)), Concatenate("two", (2, 1))]
    names = ["a (input)", "a", "one", "one", "two", "output"]
    assert steps_of(steps, 8, BLOCKS) == names


@pytest.mark.parametrize(("relu", "moved"), [(True, []), (False, ["pool (layout)"])])
def test_a_pool_with_padding_is_read_in_place_if_zeros_do_no_harm(relu: bool, moved: list[str]) -> None:
    steps = [conv("a", 0, relu=relu), Pool("pool", 1, "max", THREE, THREE, None)]
    assert steps_of(steps, 8, BLOCKS) == ["a (input)", "a", *moved, "pool", "output"]


def test_windows_that_differ_are_taken_of_whole_maps() -> None:
    windows = ((0, 1), (1, 4), (2, 8))
    steps = [conv("a", 0), Pool("pool", 1, "average", windows, windows, torch.full((3, 3), 2.0))]
    assert steps_of(steps, 8, BLOCKS) == ["a (input)", "a", "pool (layout)", "pool", "pool (layout)", "output"]
    assert steps_of(steps, 8, TOGETHER) == ["a (input)", "a", "pool", "output"]


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("side", [8, 7])
def test_a_pool_of_the_whole_map_goes_block_by_block(side: int, kind: Literal["max", "average"]) -> None:
    whole = ((0, side),)
    pool = Pool("pool", 1, kind, whole, whole, None if kind == "max" else torch.full((1, 1), float(side**2)))
    names = ["a (input)", "a", "pool", "pool (layout)", "pool", "pool (layout)", "output"]
    assert steps_of([conv("a", 0), pool], side, BLOCKS) == names


def test_a_convolution_that_shrinks_its_map_has_larger_blocks_for_a_moment() -> None:
    step = Convolution("a", 0, numbers((4, 4, 5, 5), 0) / 10, None, (1, 1), (0, 0), (1, 1), 1)
    assert steps_of([step], 12, BLOCKS) == ["a (input)", "a", "a (layout)", "output"]
    assert steps_of([step], 12, TOGETHER) == ["a (input)", "a", "output"]


def test_what_is_read_in_other_blocks_is_made_there_if_less_has_to_be_moved_for_that() -> None:
    wide = Convolution("wide", 1, numbers((12, 4, 1, 1), 0), None, (1, 1), (0, 0), (1, 1), 1, "relu")
    half = Convolution("half", 2, numbers((4, 12, 3, 3), 1) / 10, None, (2, 2), (1, 1), (1, 1), 1)
    # Blocks of 3 x 3 of the larger map do not have what blocks of 2 x 2 of the smaller one need.
    steps = [conv("a", 0), wide, half]
    assert steps_of(steps, 5, BLOCKS) == ["a (input)", "a", "wide (layout)", "wide", "half", "output"]
    assert steps_of(steps, 5, BLOCKS, [2, 3])[2:5] == ["wide (layout)", "wide", "half"]
    assert steps_of(steps, 5, TOGETHER) == ["a (input)", "a", "wide", "half", "output"]


def test_an_input_that_is_flattened_is_read_as_it_lies() -> None:
    assert steps_of([Flatten("a", 0)], 3, BLOCKS) == ["a (input)", "output"]


def test_outputs_may_be_inputs_and_the_same() -> None:
    assert steps_of([conv("a", 0)], 4, BLOCKS, outputs=[1, 0, 1]) == ["a (input)", "a", "output", "output", "output"]


def test_small_maps_with_channels_in_their_lanes() -> None:
    linear = [conv("a", 0, size=1), conv("b", 1, size=1, residual=1)]
    of = Map(4, 1, 1)
    graph = Graph(IMAGES, [0], [2], [of] * 3, linear)
    made = lower(graph, {(1, 1): (Lanes(1, 1, 1, core().widest()), 1)}, core().Program(IMAGES, 1))
    assert right(graph, made)
    assert made.gathers == {1: linear[0], 2: linear[1]}
    assert made.convolutions == made.layouts == {}
    assert made.names == ["a (input)", "a", "b", "output"]


def test_groups_grow_only_where_maps_change() -> None:
    """What is made early can be put out late, and be read once more by what has larger groups."""
    steps = [conv("a", 0), conv("b", 1, stride=2), conv("c", 2, stride=2), Pool("pool", 1, "max", TWO, TWO, None)]
    maps = [Map(4, 8, 8), Map(4, 8, 8), Map(4, 4, 4), Map(4, 2, 2), Map(4, 4, 4)]
    graph = Graph(11, [0], [1, 4, 3], maps, steps)
    home = {(8, 8): (Lanes(1, 2, 2), 1), (4, 4): (Lanes(2, 2, 1), 1), (2, 2): (Lanes(4, 1, 1), 2)}
    for threads in (1, 2, 3):
        made = lower(graph, home, core().Program(11, threads))
        choose_by_model(made, graph)
        assert right(graph, made)
