"""Convolutions in every form that the core has, on each of its paths, against PyTorch in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime import reference
from tests.runtime.graphs import ACTIVATIONS, close, convolutions, lanes, numbers
from tests.runtime.programs import Single, choose_by_model, core, forms, run, shape
from torch import Tensor
from torch.nn import functional as F

from sparsecycle.runtime.graph import Convolution, Graph, Map
from sparsecycle.runtime.layouts import Lanes, Layout
from sparsecycle.runtime.lower import lower
from sparsecycle.runtime.tuning import homes

MAPS = st.builds(Map, st.integers(1, 5), *[st.sampled_from([1, 2, 3, 5, 7, 8, 14])] * 2)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Graph, Layout, list[Tensor]]:
    """A convolution and perhaps a residual, the layout of what it makes, and what it reads."""
    source = draw(MAPS)
    images = draw(st.sampled_from([1, 2, 5, 17, 129] if math.prod(shape(1, source)) < 200 else [1, 3]))
    step, made = draw(convolutions(source))
    step = replace(step, residual=draw(st.sampled_from([None, 1])))
    side, groups = draw(lanes(core().widest()))
    blocks = []
    for count, size, read, stride in zip(
        (side.rows, side.columns), shape(1, made)[2:], shape(1, source)[2:], step.stride, strict=True
    ):
        # Enough for the map and, since the input's blocks follow these, for the input's; or more.
        least = max(math.ceil(size / count), math.ceil(read / count / stride))
        blocks.append(least + draw(st.integers(0, 1)))
    graph = Graph(images, [0, 1], [2], [source, made, made], [step])
    inputs = [numbers(shape(images, of), draw(st.integers(0, 99))) for of in (source, made)]
    return graph, Layout(made, side, groups, (blocks[0], blocks[1])), inputs


def some_forms(single: Single) -> st.SearchStrategy[list[int]]:
    return st.lists(st.sampled_from(single.forms()), min_size=1, max_size=4, unique=True)


@settings(max_examples=80)
@given(cases(), st.data())
def test_every_form_gives_what_torch_gives(
    isa: str, case: tuple[Graph, Layout, list[Tensor]], data: st.DataObject
) -> None:
    graph, out, inputs = case
    single = Single(data.draw, graph, out, threads=data.draw(st.integers(1, 3)))
    (step,) = graph.steps
    halved = replace(graph, steps=[replace(step, weight=step.weight.bfloat16().float())])
    exact, rounded = (reference.run(g, *inputs)[0] for g in (graph, halved))
    for number in data.draw(some_forms(single)):
        form = forms()[number]
        found = single(number, data.draw(st.integers(1, graph.maps[0].channels)), inputs)
        assert close(found, rounded if form.bfloat16 else exact), form


def test_every_form_alone(isa: str) -> None:
    """On a map that takes some tiles of the form and, at its ends, smaller ones."""
    for number, form in enumerate(forms()):
        source, made = Map(3, 9, 19 * form.step), Map(19, 9, 19)
        weight = numbers((19, 3, 3, 3), 0).bfloat16().float() / 4
        weight[weight.abs() < 0.1] = 0
        step = Convolution("conv", 0, weight, numbers((19,), 1), (1, form.step), (1, 1), (1, 1), 1, "relu")
        graph = Graph(form.lanes + 1, [0], [1], [source, made], [step])
        inputs = [numbers(shape(graph.images, source), 2)]
        (expected,) = reference.run(graph, *inputs)
        home = (Lanes(form.lanes, 1, 1), 1)
        lowered = lower(graph, {(9, 19 * form.step): home, (9, 19): home}, core().Program(graph.images, 1))
        for blocks in (1, 2, 3):
            lowered.program.choose(1, lowered.program.candidate(1, number, blocks))
            assert close(run(lowered.program, graph, inputs)[0], expected), form


def touched(step: Convolution, x: Tensor, at: tuple[int, ...], weights: Tensor) -> Tensor:
    """Which results see that element, by these weights."""
    there = torch.zeros_like(x)
    there[at] = 1
    return F.conv2d(there, weights, None, step.stride, step.padding, step.dilation, step.groups) > 0


@settings(max_examples=40)
@given(cases(), st.data())
def test_what_is_not_a_number_goes_where_weights_take_it(
    isa: str, case: tuple[Graph, Layout, list[Tensor]], data: st.DataObject
) -> None:
    graph, out, inputs = case
    (step,) = graph.steps
    graph = replace(graph, steps=[replace(step, residual=None)])
    single = Single(data.draw, graph, out)
    at = tuple(data.draw(st.integers(0, size - 1)) for size in inputs[0].shape)
    beside, before = inputs[0].clone(), inputs[0].clone()
    before[at], beside[at] = 0.0, data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    for number in data.draw(some_forms(single)):
        form, blocks = forms()[number], data.draw(st.integers(1, graph.maps[0].channels))
        # A dense kernel multiplies with all weights, as PyTorch does, and 0 times infinity is no number either.
        taken = torch.ones_like(step.weight) if form.dense else (step.weight != 0).float()
        met = touched(step, before, at, taken)
        without, found = (single(number, blocks, [x]) for x in (before, beside))
        assert torch.equal(found[~met], without[~met]), form
        assert not beside[at].isnan() or found[met].isnan().all(), form
        # Nothing of it stays behind, in halos or outside of maps.
        assert torch.equal(single(number, blocks, [before]), without), form


@settings(max_examples=40)
@given(cases(), st.data())
def test_every_number_of_threads_gives_the_same_bits(
    isa: str, case: tuple[Graph, Layout, list[Tensor]], data: st.DataObject
) -> None:
    graph, out, inputs = case
    one, more = (Single(data.draw, graph, out, threads) for threads in (1, data.draw(st.integers(2, 4))))
    for number in data.draw(some_forms(one)):
        if number not in more.program.forms(more.number):
            continue  # whether it fits depends on the halo too
        blocks = data.draw(st.integers(1, graph.maps[0].channels))
        first = one(number, blocks, inputs)
        assert torch.equal(more(number, blocks, inputs), first)
        assert torch.equal(one(number, blocks, inputs), first)


@st.composite
def tiny_cases(draw: st.DrawFn) -> tuple[Graph, list[Tensor]]:
    """What can be computed with channels in the lanes: of one pixel with any kernel, of 2x2 pixels with one of 3x3."""
    length = draw(st.sampled_from([1, 2]))
    pair = st.tuples(st.integers(1, 2), st.integers(1, 2))
    size, dilation, stride = (3, 3), (1, 1), (1, 1)
    if length == 1:
        size, dilation, stride = draw(st.sampled_from([(1, 1), (1, 3), (3, 3)])), draw(pair), draw(pair)
    padding = (size[0] // 2 * dilation[0], size[1] // 2 * dilation[1])
    source, made = (Map(draw(st.integers(1, 50)), length, length) for _ in range(2))
    seed, density = draw(st.integers(0, 99)), draw(st.sampled_from([0.0, 0.1, 1.0]))
    weight = numbers((made.channels, source.channels, *size), seed) / (source.channels * math.prod(size)) ** 0.5
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < density
    bias = draw(st.sampled_from([None, numbers((made.channels,), seed)]))
    residual, activation = draw(st.sampled_from([None, 1])), draw(ACTIVATIONS)
    step = Convolution("conv", 0, weight * kept, bias, stride, padding, dilation, 1, activation, residual)
    graph = Graph(draw(st.sampled_from([1, 3, 8])), [0, 1], [2], [source, made, made], [step])
    return graph, [numbers(shape(graph.images, of), seed + i) for i, of in enumerate((source, made))]


@settings(max_examples=60)
@given(tiny_cases(), st.data())
def test_channels_in_the_lanes(isa: str, case: tuple[Graph, list[Tensor]], data: st.DataObject) -> None:
    graph, inputs = case
    found = []
    for threads in (1, data.draw(st.integers(2, 4))):
        program = core().Program(graph.images, threads)
        size = (graph.maps[0].height, graph.maps[0].width)
        lowered = lower(graph, {size: (Lanes(1, 1, 1, core().widest()), 1)}, program)
        assert not lowered.convolutions
        found.append(run(program, graph, inputs)[0])
    (expected,) = reference.run(graph, *inputs)
    assert close(found[0], expected)
    assert torch.equal(found[0], found[1])
    # What is not a number goes where PyTorch lets it go, and does not stay.
    at = tuple(data.draw(st.integers(0, size - 1)) for size in inputs[0].shape)
    inputs[0][at] = 0
    strange = inputs[0].clone()
    strange[at] = data.draw(st.sampled_from([math.nan, math.inf]))
    without, beside = (run(program, graph, [x, inputs[1]])[0] for x in (inputs[0], strange))
    (step,) = graph.steps
    met = touched(step, strange, at, torch.ones_like(step.weight))
    assert torch.equal(beside[~met], without[~met])
    assert torch.equal(run(program, graph, inputs)[0], without)


@pytest.mark.parametrize("images", [1, 129])
@pytest.mark.parametrize("size", [1, 7, 14, 28, 56])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_accuracy_on_the_maps_of_usual_networks(isa: str, size: int, images: int, density: float) -> None:
    channels = 48 if images * size < 60 else 3
    kept = torch.rand(channels, channels, 3, 3, generator=torch.Generator().manual_seed(0)) < density
    step = Convolution("conv", 0, numbers(tuple(kept.shape), 1) * kept, None, (1, 1), (1, 1), (1, 1), 1)
    of = Map(channels, size, size)
    graph = Graph(images, [0], [1], [of, of], [step])
    inputs = [numbers(shape(images, of), 2)]
    lowered = lower(graph, homes(graph, forms(), core().widest(), 1), core().Program(images, 1))
    choose_by_model(lowered, graph)
    (found,), (expected,) = run(lowered.program, graph, inputs), reference.run(graph, *inputs)
    assert (found - expected).norm() <= 1e-6 * expected.norm()
