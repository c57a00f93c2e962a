"""Programs of many steps on each of the core's paths, on several threads and from several; and what is refused."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime import reference
from tests.runtime.graphs import close, graphs, homes, numbers
from tests.runtime.programs import choose, core, run, shape
from torch import Tensor

from sparsecycle.runtime.graph import Graph
from sparsecycle.runtime.lower import lower


@st.composite
def networks(draw: st.DrawFn, most_threads: int = 3) -> tuple[Graph, Any]:
    """A graph, and a program that computes it in any layouts and in any way."""
    graph = draw(graphs(draw(st.sampled_from([1, 2, 5, 8, 17, 70]))))
    program = core().Program(graph.images, draw(st.integers(1, most_threads)))
    choose(lower(graph, draw(homes(graph, core().widest())), program), draw)
    return graph, program


def drawn(graph: Graph, seed: int) -> list[Tensor]:
    return [numbers(shape(graph.images, graph.maps[value]), seed + value) for value in graph.inputs]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@settings(max_examples=60)
@given(st.data())
def test_networks_of_any_steps_in_any_layouts(isa: str, data: st.DataObject) -> None:
    graph, program = data.draw(networks())
    inputs = drawn(graph, data.draw(st.integers(0, 99)))
    found = run(program, graph, inputs)
    for one, expected in zip(found, reference.run(graph, *inputs), strict=True):
        assert close(one, expected)
    # The next run finds nothing of this one: not in halos, outside of maps, or where a batch ends.
    run(program, graph, [torch.full_like(x, math.nan) for x in inputs])
    assert same(run(program, graph, inputs), found)


@settings(max_examples=10)
@given(st.data())
def test_from_several_threads_at_once(isa: str, data: st.DataObject) -> None:
    graph, program = data.draw(networks(most_threads=2))
    batches = [drawn(graph, seed) for seed in range(3)]
    expected = [run(program, graph, inputs) for inputs in batches]
    right = [False] * 3

    def work(i: int) -> None:
        right[i] = all(same(run(program, graph, batches[i]), expected[i]) for _ in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(right)


def test_times_are_those_of_the_steps(isa: str) -> None:
    program, _ = small()
    program.finish()
    program.candidate(1, program.forms(1)[0], 1)
    x, y = torch.zeros(3, 2, 4, 4), torch.zeros(3, 3, 4, 4)
    seconds = program.profile([x.data_ptr()], [y.data_ptr()])
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert program.memory >= 4 * (2 * 36 + 3 * 16) * 4


def test_what_a_way_costs(isa: str) -> None:
    program, _ = small()
    program.finish()
    every = core().forms()
    form = next(i for i in program.forms(1) if every[i][5])
    bundle = every[form][4]
    program.candidate(1, form, 1)
    cost = program.cost(1, 0)
    taps = (3 * 4 - 2) ** 2  # over all places, those that see the map
    assert cost.multiply_adds == bundle * 2 * taps
    assert cost.loads == (bundle + 1) * 2 * taps
    assert cost.visits == bundle * 16
    assert 4 * bundle * 2 * 9 <= cost.stored <= cost.bytes


# What is refused.


def small(images: int = 3, threads: int = 1) -> tuple[Any, Tensor]:
    """A program of one convolution of 3x3, steps 0 to 2, that is not finished yet; tensors 0 and 1; and its weights."""
    program = core().Program(images, threads)
    of = {"map": (4, 4), "lanes": (4, 1, 1), "groups": 1, "block": (4, 4)}
    source = program.tensor(2, **of, halo=(1, 1, 1, 1))
    made = program.tensor(3, **of, halo=(0, 0, 0, 0))
    weight = torch.ones(3, 2, 3, 3)
    program.load(0, (2, 4, 4), source)
    convolve(program, source, made, weight)
    program.store(made, 0, (3, 4, 4))
    return program, weight


def convolve(program: Any, source: int, to: int, kernel: Tensor, **words: Any) -> int:
    described = {
        "residual": None,
        "weight": tuple(kernel.shape),
        "stride": (1, 1),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
        "weights": kernel.data_ptr(),
        "bias": 0,
        "activation": "none",
    }
    number: int = program.convolution(source, to, **described | words)
    return number


def layout(**words: Any) -> dict[str, Any]:
    usual = {"channels": 2, "map": (4, 4), "lanes": (4, 1, 1), "groups": 1, "block": (4, 4), "halo": (0, 0, 0, 0)}
    return usual | words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"channels": 0}, "channels=0 must be positive"),
        ({"map": (0, 4)}, "height=0 must be positive"),
        ({"map": (4, -1)}, "width=-1 must be positive"),
        ({"lanes": (0, 4, 1)}, "lanes=0 must be positive"),
        ({"lanes": (3, 1, 1)}, "lanes=3 must be a power of two, up to 64"),
        ({"lanes": (2, 1, 1), "lane_channels": 2}, "channels a vector=2 must be 1, or all its lanes"),
        ({"lanes": (32, 1, 1), "halo": (1, 1, 1, 1)}, "128 bytes are more than a vector has here"),
        ({"groups": 0}, "groups=0 must be positive"),
        ({"block": (3, 4)}, "rows=3 must be enough for its height"),
        ({"lanes": (1, 1, 4), "block": (4, 0)}, "columns=0 must be enough for its width"),
        ({"halo": (0, -1, 0, 0)}, "halo=-1 must be not negative"),
        ({"map": (20000, 20000), "block": (20000, 20000)}, "bytes a channel=6400000000 must be under 2 GiB"),
    ],
)
def test_layouts_that_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core().Program(1, 1).tensor(**layout(**words))


def ready() -> Any:
    program, _ = small()
    program.finish()
    return program


def with_candidate() -> Any:
    program = ready()
    program.candidate(1, program.forms(1)[0], 1)
    return program


def views(program: Any, tensor: int, channel: int, channels: int) -> None:
    program.view(tensor, channel, channels)


PROGRAMS: dict[str, Callable[[], Any]] = {
    "images=0 must be positive": lambda: core().Program(0, 1),
    "threads=-1 must be positive": lambda: core().Program(1, -1),
    "the program has no steps": lambda: core().Program(1, 1).finish(),
    "there is no tensor 2": lambda: small()[0].view(2, 0, 1),
    "there is no tensor -1": lambda: small()[0].store(-1, 0, (3, 4, 4)),
    "channels 1 to 3 are not in a tensor of 2": lambda: small()[0].view(0, 1, 2),
    "channels 0 to 0 are not in a tensor of 2": lambda: small()[0].view(0, 0, 0),
    "input=-1 must not be negative": lambda: small()[0].load(-1, (2, 4, 4), 0),
    "output=-1 must not be negative": lambda: small()[0].store(1, -1, (3, 4, 4)),
    "a move's layouts must have the same channels, height and width": lambda: small()[0].load(0, (2, 4, 5), 0),
    "a flattened map has one pixel, and a channel for each": lambda: small()[0].move(0, 1, flatten=True),
    "the program is finished": lambda: ready().finish(),
    "the program is finished ": lambda: ready().tensor(**layout()),
    "the program is finished  ": lambda: ready().load(0, (2, 4, 4), 0),
    "the program is not finished": lambda: small()[0].run([8], [8]),
    "a convolution has no candidates": lambda: ready().run([8], [8]),
    "1 inputs are needed, not 0": lambda: with_candidate().run([], [8]),
    "1 outputs are needed, not 0": lambda: with_candidate().run([8], []),
    "an array has no address": lambda: with_candidate().profile([8], [0]),
    "step 0 is no convolution": lambda: ready().forms(0),
    "step 3 is no convolution": lambda: ready().forms(3),
    "step -1 is no convolution": lambda: ready().forms(-1),
    "a convolution's form 10000 does not fit its layout": lambda: ready().candidate(1, 10000, 1),
    "a convolution's blocks=0 must be 1 to 2": lambda: ready().candidate(1, ready().forms(1)[0], 0),
    "a convolution's blocks=3 must be 1 to 2": lambda: ready().candidate(1, ready().forms(1)[0], 3),
    "a convolution's candidate=1 must be below 1": lambda: with_candidate().choose(1, 1),
    "a convolution's candidate=-1 must be below 1": lambda: with_candidate().choose(1, -1),
    "a convolution's candidates: there are none": lambda: ready().keep_chosen(1),
}


@pytest.mark.parametrize("message", PROGRAMS)
def test_programs_that_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message.strip()):
        PROGRAMS[message]()


def test_candidates_come_before_one_is_kept() -> None:
    program = with_candidate()
    program.keep_chosen(1)
    with pytest.raises(ValueError, match="candidates must be made before the others are dropped"):
        program.candidate(1, program.forms(1)[0], 1)


def test_blocks_that_are_too_long() -> None:
    program = core().Program(1, 1)
    of = {"map": (200, 200), "lanes": (4, 1, 1), "groups": 1, "block": (200, 200), "halo": (0, 0, 0, 0)}
    source, made = (program.tensor(2, **of) for _ in range(2))
    weight = torch.ones(2, 2, 1, 1)
    step = convolve(program, source, made, weight, padding=(0, 0))
    program.finish()
    with pytest.raises(ValueError, match="blocks of 2 channels of 640000 bytes are too long for 16-bit offsets"):
        program.candidate(step, program.forms(step)[0], 1)
    assert program.candidate(step, program.forms(step)[0], 2) == 0


@pytest.mark.parametrize("images", [(2, 3), (4, 6)])
def test_groups_of_images_that_are_not_made_of_each_other(images: tuple[int, int]) -> None:
    program = core().Program(12, 1)
    for number in images:
        program.load(0, (2, 4, 4), program.tensor(**layout(lanes=(1, 1, 1), groups=number)))
    with pytest.raises(ValueError, match=f"groups of {images[1]} images cannot be made of groups of {images[0]}"):
        program.finish()
    program = core().Program(12, 1)
    few, many = (program.tensor(**layout(lanes=(1, 1, 1), groups=number)) for number in images)
    with pytest.raises(ValueError, match=f"a move's {images[0]} images must divide the {images[1]} of what it writes"):
        program.move(few, many)


# Of a convolution of 3x3, padding 1: how the input's layout, the output's, and the step differ from what would do.
CONVOLUTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "output channels=0 must be 1 to 65536": ({}, {}, {"weight": (0, 2, 3, 3)}),
    "output channels=65537 must be 1 to 65536": ({}, {}, {"weight": (65537, 2, 3, 3)}),
    "input channels=0 must be positive": ({}, {}, {"weight": (3, 0, 3, 3)}),
    "groups=2 must divide its channels": ({}, {}, {"weight": (3, 1, 3, 3), "groups": 2}),
    "kernel height=0 must be positive": ({}, {}, {"weight": (3, 2, 0, 3)}),
    "kernel width=0 must be positive": ({}, {}, {"weight": (3, 2, 3, 0)}),
    "stride=0 must be positive": ({}, {}, {"stride": (1, 0)}),
    "dilation=0 must be positive": ({}, {}, {"dilation": (0, 1)}),
    "padding=-1 must not be negative": ({}, {}, {"padding": (1, -1)}),
    "input has 1 channels, not 2": ({"channels": 1}, {}, {}),
    "output has 2 channels, not 3": ({}, {"channels": 2}, {}),
    "tensors have different lanes": ({}, {"lanes": (2, 2, 1)}, {}),
    "tensors have different lanes ": ({}, {"groups": 2}, {}),
    "output has the wrong height": ({}, {"map": (3, 4)}, {}),
    "output has the wrong width": ({}, {"map": (4, 3)}, {}),
    "blocks do not follow each other along the height": (
        {"lanes": (1, 4, 1), "block": (2, 4)},
        {"lanes": (1, 4, 1), "block": (1, 4)},
        {},
    ),
    "input's halo is too small before the height": ({"halo": (0, 1, 1, 1)}, {}, {}),
    "input's halo is too small after the height": ({"halo": (1, 0, 1, 1)}, {}, {}),
    "input's halo is too small before the width": ({"halo": (1, 1, 0, 1)}, {}, {}),
    "input's halo is too small after the width": ({"halo": (1, 1, 1, 0)}, {}, {}),
    "input must be filled with 0 outside its map": ({"fill": 1.0}, {}, {}),
    "output must be filled with 0 outside its map": ({"halo": (1, 1, 1, 2)}, {"block": (4, 5), "fill": 1.0}, {}),
    "residual is laid out differently from its output": ({}, {}, {"residual": 0}),
    "there is no tensor 7": ({}, {}, {"residual": 7}),
    "weights have no address": ({}, {}, {"weights": 0}),
    "activation='tanh' must be none, relu, relu6 or silu": ({}, {}, {"activation": "tanh"}),
}


@pytest.mark.parametrize("message", CONVOLUTIONS)
def test_convolutions_that_are_refused(message: str) -> None:
    source, made, words = CONVOLUTIONS[message]
    program = core().Program(1, 1)
    numbers_ = [
        program.tensor(**layout(halo=(1, 1, 1, 1)) | source),
        program.tensor(**layout(channels=3) | made),
    ]
    with pytest.raises(ValueError, match=message.strip()):
        convolve(program, *numbers_, torch.ones(3, 2, 3, 3), **words)


@pytest.mark.parametrize(
    ("side", "lanes", "words", "message"),
    [
        (3, None, {}, "maps must be of 1 x 1, or of 2 x 2 with a kernel of 3 x 3 and a padding of 1, without groups"),
        (2, None, {"dilation": (2, 2), "padding": (2, 2)}, "maps must be of 1 x 1, or of 2 x 2"),
        (2, None, {"weight": (2, 1, 3, 3), "groups": 2}, "maps must be of 1 x 1, or of 2 x 2"),
        (1, None, {"padding": (3, 1)}, "maps must be of 1 x 1, or of 2 x 2"),
        (1, None, {"weight": (2, 3, 3, 3)}, "tensors must have its channels"),
        (1, 2, {}, "of float32 there, and nothing else"),
    ],
)
def test_convolutions_with_channels_in_the_lanes_that_are_refused(
    side: int, lanes: int | None, words: dict[str, Any], message: str
) -> None:
    program = core().Program(1, 1)
    of = layout(map=(side, side), block=(side, side), lanes=(1, 1, 1), lane_channels=lanes or core().widest())
    source, made = program.tensor(**of), program.tensor(**of)
    with pytest.raises(ValueError, match=f"with channels in its lanes, a convolution's .*{message}"):
        convolve(program, source, made, torch.ones(2, 3, 3, 3), **{"weight": (2, 2, 3, 3)} | words)


def test_a_tensor_with_channels_in_its_lanes_has_no_views() -> None:
    program = core().Program(1, 1)
    number = program.tensor(**layout(lanes=(1, 1, 1), lane_channels=4))
    with pytest.raises(ValueError, match="a tensor with channels in its lanes has no views"):
        program.view(number, 0, 1)


EACH = [(i, i + 1) for i in range(4)]


@pytest.mark.parametrize(
    ("words", "pool", "message"),
    [
        ({"channels": 3}, {}, "a pool's tensors must have the same channels and lanes"),
        ({"lanes": (2, 1, 2)}, {}, "a pool's tensors must have the same channels and lanes"),
        ({}, {"rows": EACH[:3]}, "a pool needs a range for each row and column of its output's block"),
        ({}, {"columns": [*EACH, (0, 1)]}, "a pool needs a range for each row and column of its output's block"),
        ({}, {"rows": [*EACH[:3], (2, 2)]}, "range 2 to 2 must not be empty and be inside the input's block and halo"),
        ({}, {"rows": [*EACH[:3], (-2, 1)]}, "range -2 to 1 must .* inside the input's block and halo, -1 to 4"),
        ({}, {"columns": [*EACH[:3], (3, 7)]}, "range 3 to 7 must .* inside the input's block and halo, 0 to 6"),
        ({}, {"average": True, "scale": [1.0]}, "an average needs 64 factors, not 1"),
    ],
)
def test_pools_that_are_refused(words: dict[str, Any], pool: dict[str, Any], message: str) -> None:
    program = core().Program(1, 1)
    source, made = program.tensor(**layout(halo=(1, 0, 0, 2))), program.tensor(**layout(**words))
    with pytest.raises(ValueError, match=message):
        program.pool(source, made, **{"average": False, "rows": EACH, "columns": EACH, "scale": []} | pool)


@pytest.mark.parametrize(
    "words", [{"channels": 3}, {"lanes": (2, 1, 2)}, {"groups": 2}, {"block": (4, 5)}, {"map": (4, 3), "block": (4, 4)}]
)
def test_sums_that_are_refused(words: dict[str, Any]) -> None:
    program = core().Program(1, 1)
    first, second, third = (program.tensor(**layout(**w)) for w in ({}, words, {}))
    for left, right in ((first, second), (second, first), (second, None)):
        with pytest.raises(ValueError, match="what is added must be laid out alike"):
            program.combine(left, right, third, "none")
    with pytest.raises(ValueError, match="activation='gelu' must be none, relu, relu6 or silu"):
        program.combine(first, third, third, "gelu")
