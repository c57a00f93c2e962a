"""Convolutions in 8 bits, in every form that the core has, on each of its paths: equal, bit for bit, to integers'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.graphs import convolutions, lanes, numbers
from tests.runtime.integers import ZEROS, agrees, decoded, settled, some_codes, some_weights, sums
from tests.runtime.programs import HALOS, candidate, core, forms8, run, shape, tensor
from torch import Tensor

from sparsecycle.runtime.graph import Convolution, Graph, Map
from sparsecycle.runtime.layouts import Lanes, Layout, Scale, needed
from sparsecycle.runtime.quantize import Weights

MAPS = st.builds(Map, st.integers(1, 6), *[st.sampled_from([1, 2, 3, 5, 8, 14])] * 2)
NO_HALO = (0, 0, 0, 0)


@dataclass
class Case:
    """A convolution in 8 bits.

    Attributes:
        graph: Of the convolution alone; its inputs are what is convolved, and perhaps a residual.
        weights: Its weights.
        scales: Of the input, of the residual, and of what is made; that is float32 if it has None.
        codes: The inputs.
    """

    graph: Graph
    weights: Weights
    scales: tuple[Scale, Scale, Scale | None]
    codes: list[Tensor]

    @property
    def step(self) -> Convolution:
        (step,) = self.graph.steps
        assert isinstance(step, Convolution)
        return step

    @property
    def inputs(self) -> list[Tensor]:
        return [decoded(q, scale) for q, scale in zip(self.codes, self.scales[:2], strict=True)]

    def is_right(self, found: Tensor) -> bool:
        read, added, out = self.scales
        residual = None if self.step.residual is None else (self.codes[1], added)
        total = sums(self.step, self.weights, self.codes[0], read)
        return agrees(found, settled(total, self.step, self.weights, read, out, residual), self.step.activation, out)


def case(graph: Graph, seed: int, zeros: Sequence[int], spread: float, floats: bool = False) -> Case:
    """With full-range weights and inputs; 255 / ``spread`` is about the range of results in units of their scale."""
    (step,) = graph.steps
    assert isinstance(step, Convolution)
    kept = step.weight != 0
    steps = torch.rand(len(kept), generator=torch.Generator().manual_seed(seed)) / 100 + 1e-4
    weights = Weights(some_weights(tuple(kept.shape), seed) * kept, steps)
    read = Scale(0.0173, zeros[0])
    codes = [some_codes(shape(graph.images, of), seed + i) for i, of in enumerate(graph.maps[:2])]
    typical = float((sums(step, weights, codes[0], read) * steps[:, None, None]).square().mean().sqrt()) * read.step
    typical = typical or 1.0
    out = None if floats else Scale(typical * 4 / 255 * spread, zeros[2])
    if step.bias is not None:
        step = replace(step, bias=step.bias * typical)
    added = Scale(typical * 0.013, zeros[1])
    return Case(replace(graph, steps=[step]), weights, (read, added, out), codes)


@st.composite
def cases(draw: st.DrawFn, channels: bool = False) -> tuple[Case, Layout]:
    """A convolution and the layout of what it makes; ``channels`` are in the lanes if so."""
    source = draw(st.builds(Map, st.integers(1, 90), st.integers(1, 4), st.integers(1, 4)) if channels else MAPS)
    step, made = draw(convolutions(source))
    step = replace(step, residual=draw(st.sampled_from([None, 1])))
    images = draw(st.sampled_from([1, 2, 5, 17, 65] if math.prod(shape(1, source)) < 200 else [1, 3]))
    graph = Graph(images, [0, 1], [2], [source, made, made], [step])
    zeros = [draw(ZEROS) for _ in range(3)]
    drawn = case(graph, draw(st.integers(0, 999)), zeros, draw(st.sampled_from([0.1, 1.0, 8.0])), draw(st.booleans()))
    if channels:
        return drawn, Layout(made, Lanes(1, 1, 1, 4 * core().widest()), 1, (made.height, made.width))
    counts = sorted({form.lanes for form in forms8()})
    side, groups = draw(lanes(counts[-1], counts=counts))
    blocks = []
    for count, size, before, stride in zip(
        (side.rows, side.columns), shape(1, made)[2:], shape(1, source)[2:], step.stride, strict=True
    ):
        least = max(math.ceil(size / count), math.ceil(before / count / stride))
        blocks.append(least + draw(st.integers(0, 1)))
    return drawn, Layout(made, side, groups, (blocks[0], blocks[1]))


class Single:
    """A program of a convolution; what it reads and makes has wider halos than it needs, by so much."""

    def __init__(self, case: Case, out: Layout, wider: Sequence[Any] = (NO_HALO,) * 3, threads: int = 1) -> None:
        self.case = case
        step, (read, added, written) = case.step, case.scales
        source, _, made = case.graph.maps
        need = needed(step, source, out)
        assert need is not None
        halo = tuple(mine + more for mine, more in zip(need.halo, wider[0], strict=True))
        self.program = core().Program(case.graph.images, threads)
        first = self._tensor(replace(need, halo=halo), read)
        self.program.load(0, shape(0, source)[1:], first)
        residual = None
        if step.residual is not None:
            residual = self._tensor(replace(out, halo=wider[1]), added)
            self.program.load(1, shape(0, made)[1:], residual)
        result = self._tensor(out if written is None else replace(out, halo=wider[2]), written)
        self.number = self.program.int8_convolution(
            first,
            result,
            residual,
            tuple(step.weight.shape),
            step.stride,
            step.padding,
            step.dilation,
            step.groups,
            case.weights.numbers.data_ptr(),
            case.weights.steps.data_ptr(),
            0 if step.bias is None else step.bias.data_ptr(),
            step.activation,
        )
        self.program.store(result, 0, shape(0, made)[1:])
        self.program.finish()

    def _tensor(self, layout: Layout, scale: Scale | None) -> int:
        return tensor(self.program, replace(layout, scale=scale, fill=float(scale.zero)) if scale else layout)

    def choose(self, form: int, blocks: int) -> None:
        channels = self.case.graph.maps[0].channels
        self.program.choose(self.number, candidate(self.program, self.number, form, blocks, channels))

    def __call__(self) -> Tensor:
        (found,) = run(self.program, self.case.graph, self.case.inputs)
        return found


@settings(max_examples=80)
@given(cases(), st.tuples(HALOS, HALOS, HALOS), st.integers(1, 3), st.data())
def test_every_form_gives_what_integers_give(
    isa: str, drawn: tuple[Case, Layout], wider: Sequence[Any], threads: int, data: st.DataObject
) -> None:
    case, out = drawn
    single = Single(case, out, wider, threads)
    fitting = st.sampled_from(single.program.forms(single.number))
    for form in data.draw(st.lists(fitting, min_size=1, max_size=3, unique=True)):
        single.choose(form, data.draw(st.integers(1, case.graph.maps[0].channels)))
        assert case.is_right(single()), forms8()[form]


@settings(max_examples=80)
@given(cases(channels=True), st.tuples(HALOS, HALOS, HALOS), st.integers(1, 3))
def test_channels_in_the_lanes(isa: str, drawn: tuple[Case, Layout], wider: Sequence[Any], threads: int) -> None:
    case, out = drawn
    if not core().int8_windows():
        with pytest.raises(ValueError, match="kernels are not there for this instruction set"):
            Single(case, out)
        return
    assert case.is_right(Single(case, out, wider, threads)())


def plain(channels: int, made: int, images: int, length: int, size: int, stride: int = 1) -> Graph:
    """A convolution of maps so wide, without zeros among its weights, and with a residual."""
    maps = [Map(channels, 5, length * stride), Map(made, 5, length), Map(made, 5, length)]
    pair = (size // 2, size // 2)
    weight = torch.ones(made, channels, size, size)
    step = Convolution("conv", 0, weight, numbers((made,), 1), (1, stride), pair, (1, 1), 1, "relu", 1)
    return Graph(images, [0, 1], [2], maps, [step])


def test_every_form_alone(isa: str) -> None:
    """On a map that takes some tiles of the form and, at its ends, smaller ones."""
    for number, form in enumerate(forms8()):
        for stride in (1, 2):
            of = case(plain(3, 7, form.lanes + 1, 11, 3, stride), number, (200, 3, 30), 1.0)
            single = Single(of, Layout(of.graph.maps[2], Lanes(form.lanes, 1, 1), 1, (5, 11)))
            for blocks in (1, 2, 3):
                single.choose(number, blocks)
                assert of.is_right(single()), form


def test_groups_of_many_channels_are_cut_into_blocks(isa: str) -> None:
    maps = [Map(256, 16, 17), Map(8, 16, 17), Map(8, 16, 17)]
    step = Convolution("conv", 0, torch.ones(8, 128, 1, 1), None, (1, 1), (0, 0), (1, 1), 2)
    of = case(Graph(16, [0, 1], [2], maps, [step]), 0, (7, 0, 30), 1.0)
    single = Single(of, Layout(maps[2], Lanes(16, 1, 1), 1, (16, 17)))
    (form, *_) = single.program.forms(single.number)
    with pytest.raises(ValueError, match="too long for 16-bit offsets"):
        single.program.candidate(single.number, form, 2)
    for blocks in (3, 8):
        single.choose(form, blocks)
        assert of.is_right(single())


@pytest.mark.parametrize("zero", [0, 128, 255])
@pytest.mark.parametrize("weight", [-127, 127])
def test_the_largest_sums_do_not_overflow(isa: str, weight: int, zero: int) -> None:
    """Products of one sign, as large as they can be, of as many channels as a wide network has."""
    graph = plain(600, 6, 1, 1, 1)
    of = case(graph, 0, (zero, 0, 0), 1.0, floats=True)
    of.weights.numbers.fill_(weight)
    of.codes[0].fill_(0 if zero == 255 else 255)
    ways = [Layout(graph.maps[2], Lanes(1, 8, lanes // 8), 1, (1, 1)) for lanes in {form.lanes for form in forms8()}]
    for out in ways:
        single = Single(of, out)
        for form in single.program.forms(single.number):
            single.choose(form, 3)
            assert of.is_right(single()), forms8()[form]
    if core().int8_windows():
        assert of.is_right(Single(of, Layout(graph.maps[2], Lanes(1, 1, 1, 4 * core().widest()), 1, (5, 1)))())


@settings(max_examples=30)
@given(cases(), st.data())
def test_runs_and_threads_give_the_same_bits(isa: str, drawn: tuple[Case, Layout], data: st.DataObject) -> None:
    case, out = drawn
    one, more = (Single(case, out, threads=threads) for threads in (1, 3))
    form = data.draw(st.sampled_from(one.program.forms(one.number)))
    for single in (one, more):
        single.choose(form, 1)
    first = one()
    # The next run finds nothing of one with other inputs.
    run(one.program, case.graph, [torch.full_like(x, math.inf) for x in case.inputs])
    assert torch.equal(one(), first)
    assert torch.equal(more(), first)


def refused(of: Case, **layout: Any) -> str:
    wide = max(form.lanes for form in forms8())
    whole = Layout(of.graph.maps[2], Lanes(wide, 1, 1), 1, (5, of.graph.maps[2].width))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the message
        Single(of, replace(whole, **layout))
    return str(caught.value)


def test_what_cannot_be_exact_is_refused(isa: str) -> None:
    graph = plain(2, 3, 1, 4, 1)
    of = case(graph, 0, (0, 0, 0), 1.0)
    of.weights.numbers[1, 0] = -128
    assert refused(of) == "a convolution's weights must be -127 to 127, not -128"

    of = case(graph, 0, (0, 0, 0), 1.0)
    of.weights.steps[2] = 1e30
    assert "a convolution's sums of channel 2 are up to" in refused(of)
    of.weights.steps[2] = math.nan
    assert "both must fit into 32 bits" in refused(of)

    of = case(graph, 0, (0, 0, 0), 1.0, floats=True)
    narrow = Lanes(4, 1, 1)  # as wide as vectors of floats are, so that a halo could be filled
    assert refused(of, lanes=narrow, halo=(1, 0, 0, 0)) == "a convolution's output of floats must have no halo"


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (Scale(0.0, 0), "a scale=0.000000 must be positive and finite"),
        (Scale(-1.0, 0), "a scale=-1.000000 must be positive and finite"),
        (Scale(math.nan, 0), "a scale=nan must be positive and finite"),
        (Scale(1e-40, 0), "a scale=0.000000 must be positive and finite"),
        (Scale(1.0, -1), "a zero=-1 must be 0 to 255"),
        (Scale(1.0, 256), "a zero=256 must be 0 to 255"),
    ],
    ids=["none", "negative", "nan", "inverse", "low", "high"],
)
def test_other_scales_are_refused(scale: Scale, message: str) -> None:
    layout = Layout(Map(1, 1, 1), Lanes(1, 1, 16), 1, (1, 1), scale=scale)
    with pytest.raises(ValueError, match=message):
        tensor(core().Program(1, 1), layout)
