"""The steps that are no convolutions, on each of the core's paths, against PyTorch in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime import reference
from tests.runtime.graphs import LENGTHS, close, homes, lanes, numbers, pools
from tests.runtime.programs import HALOS, core, run, shape, tensor
from torch import Tensor
from torch.nn import functional as F

from sparsecycle.runtime.graph import Activate, Activation, Add, Graph, Map
from sparsecycle.runtime.layouts import Lanes, Layout
from sparsecycle.runtime.lower import lower

IMAGES = st.sampled_from([1, 2, 5, 8, 33])
KINDS = st.sampled_from(["plain", "negative", "strange"])


def filled(kind: str, size: tuple[int, ...], seed: int) -> Tensor:
    x = numbers(size, seed)
    if kind == "negative":
        return -x.abs()
    if kind == "strange":
        generator = torch.Generator().manual_seed(seed)
        values = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-42])
        drawn = values[torch.randint(len(values), size, generator=generator)]
        return torch.where(torch.rand(size, generator=generator) < 0.1, drawn, x)
    return x


@settings(max_examples=80)
@given(st.data())
def test_pools_of_every_kind(isa: str, data: st.DataObject) -> None:
    source = Map(data.draw(st.integers(1, 5)), data.draw(LENGTHS), data.draw(LENGTHS))
    step, made = data.draw(pools(source))
    graph = Graph(data.draw(IMAGES), [0], [1], [source, made], [step])
    inputs = [filled(data.draw(KINDS), shape(graph.images, source), data.draw(st.integers(0, 99)))]
    program = core().Program(graph.images, data.draw(st.integers(1, 3)))
    lower(graph, data.draw(homes(graph, core().widest())), program)
    (found,), (expected,) = run(program, graph, inputs), reference.run(graph, *inputs)
    if step.kind == "max":
        assert torch.equal(found.nan_to_num(7e7), expected.float().nan_to_num(7e7))
    else:
        assert close(found, expected)


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "silu"])
@pytest.mark.parametrize("together", [False, True])
def test_activations_of_every_kind_of_number(isa: str, activation: Activation, together: bool) -> None:
    strange = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-42, 1e38, -1e38])
    x = torch.cat([strange, torch.linspace(-120, 120, 961)])[None, :, None, None]
    of = Map(x.numel(), 1, 1)
    step = Add("add", 0, 1, activation) if together else Activate("activation", 0, activation)
    inputs = [x.contiguous(), torch.zeros_like(x)]
    graph = Graph(1, [0, 1], [2], [of, of, of], [step])
    program = core().Program(1, 1)
    lower(graph, {(1, 1): (Lanes(1, 2, 2), 1)}, program)
    (found,) = run(program, graph, inputs)
    function = {"none": torch.clone, "relu": F.relu, "relu6": F.relu6, "silu": F.silu}[activation]
    torch.testing.assert_close(found, function(x), rtol=2e-6, atol=1e-36, equal_nan=True)


@st.composite
def layouts(draw: st.DrawFn, of: Map, images: int) -> Layout:
    """Any layout of so many images: of blocks that may be larger than the map, with any halo."""
    side, groups = draw(lanes(core().widest(), images))
    if images == 1 and draw(st.booleans()):
        side = Lanes(1, 1, 1, core().widest())
    rows = math.ceil(of.height / side.rows) + draw(st.integers(0, 1))
    columns = math.ceil(of.width / side.columns) + draw(st.integers(0, 1))
    return Layout(of, side, groups, (rows, columns), draw(HALOS), draw(st.sampled_from([0.0, -math.inf])))


@settings(max_examples=60)
@given(st.data())
def test_moves_change_nothing(isa: str, data: st.DataObject) -> None:
    of = Map(data.draw(st.integers(1, 20)), data.draw(LENGTHS), data.draw(LENGTHS))
    images = data.draw(IMAGES)
    program = core().Program(images, data.draw(st.integers(1, 3)))
    flat, together, number = False, 1, -1
    for turn in range(data.draw(st.integers(1, 4))):
        together *= data.draw(st.sampled_from([1, 2, 4]))
        before, number = number, tensor(program, data.draw(layouts(of, together)))
        if not turn:
            program.load(0, shape(1, of)[1:], number)
            continue
        program.move(before, number)
        if not flat and data.draw(st.booleans()):
            flat, of = True, Map(of.channels * of.height * of.width, 1, 1)
            before, number = number, tensor(program, data.draw(layouts(of, together)))
            program.move(before, number, flatten=True)
    program.store(number, 0, shape(1, of)[1:])
    program.finish()
    x = filled("strange", shape(images, of), data.draw(st.integers(0, 99)))
    (found,) = run(program, Graph(images, [0], [0], [of], []), [x])
    assert torch.equal(found.view(torch.int32), x.view(torch.int32))


@settings(max_examples=60)
@given(st.data())
def test_halos_have_what_is_around_a_block(isa: str, data: st.DataObject) -> None:
    """A pool of one pixel, from any place of a block and its halo."""
    of = Map(data.draw(st.integers(1, 5)), data.draw(LENGTHS), data.draw(LENGTHS))
    images = data.draw(IMAGES)
    program = core().Program(images, data.draw(st.integers(1, 3)))
    together = data.draw(st.sampled_from([1, 2, 8]))
    first = data.draw(layouts(of, together))
    second = data.draw(layouts(of, together * data.draw(st.sampled_from([1, 2, 4]))))
    source, moved = (tensor(program, layout) for layout in (first, second))
    program.load(0, shape(1, of)[1:], source)
    program.move(source, moved)
    top, bottom, left, right = second.halo
    down, across = data.draw(st.integers(-top, bottom)), data.draw(st.integers(-left, right))
    result = tensor(program, replace(second, halo=(0, 0, 0, 0), fill=0.0))
    rows = [(i + down, i + down + 1) for i in range(second.block[0])]
    columns = [(i + across, i + across + 1) for i in range(second.block[1])]
    program.pool(moved, result, False, rows, columns, [])
    program.store(result, 0, shape(1, of)[1:])
    program.finish()
    padded = F.pad(x := numbers(shape(images, of), 0), (left, right, top, bottom), value=second.fill)
    expected = padded[:, :, top + down :, left + across :][:, :, : of.height, : of.width]
    for _ in range(2):
        (found,) = run(program, Graph(images, [0], [0], [of], []), [x])
        assert torch.equal(found, expected)
