"""The steps on numbers of 8 bits that are no convolutions, on each of the core's paths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.graphs import ACTIVATIONS, LENGTHS, homes, homes8, lanes, numbers, pools
from tests.runtime.integers import ZEROS, agrees, codes, decoded, some_codes, summed
from tests.runtime.programs import HALOS, core, forms8, run, shape, tensor
from torch import Tensor

from sparsecycle.runtime.graph import Activate, Activation, Add, Concatenate, Graph, Map, Pool, Step
from sparsecycle.runtime.interpret import evaluate
from sparsecycle.runtime.layouts import Lanes, Layout, Scale
from sparsecycle.runtime.lower import lower
from sparsecycle.runtime.quantize import Quantized

IMAGES = st.sampled_from([1, 2, 5, 8, 33])
SCALES = st.builds(Scale, st.sampled_from([0.0078125, 0.015625, 0.0173, 0.11]), ZEROS)


def computed(draw: st.DrawFn, graph: Graph, scales: Sequence[Scale], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a graph whose steps are all in 8 bits, in any layouts."""
    counts = sorted({form.lanes for form in forms8()})
    gathering = 4 * core().widest() if core().int8_windows() else None
    beside = draw(homes(graph, core().widest()))
    program = core().Program(graph.images, draw(st.integers(1, 3)))
    steps = frozenset(range(len(graph.inputs), len(graph.maps)))
    quantized = Quantized(dict(enumerate(scales)), {}, steps)
    lower(graph, beside, program, quantized, draw(homes8(graph, beside, counts, gathering)))
    found = run(program, graph, inputs)
    run(program, graph, [torch.full_like(x, math.inf) for x in inputs])
    again = run(program, graph, inputs)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    return found


@settings(max_examples=80)
@given(st.data())
def test_pools_of_every_kind(isa: str, data: st.DataObject) -> None:
    source = Map(data.draw(st.integers(1, 5)), data.draw(LENGTHS), data.draw(LENGTHS))
    step, made = data.draw(pools(source))
    graph = Graph(data.draw(IMAGES), [0], [1], [source, made], [step])
    before, after = data.draw(SCALES), data.draw(SCALES)
    after = before if step.kind == "max" else after
    q = some_codes(shape(graph.images, source), data.draw(st.integers(0, 99)))
    x = decoded(q.clamp(max=data.draw(st.sampled_from([100, 255]))), before)  # what is all negative, for one
    (found,) = computed(data.draw, graph, [before, after], [x])
    if step.kind == "max":
        assert torch.equal(found, evaluate(step, [x]))
        return
    expected = evaluate(step, [x.double()]).clamp(-after.zero * after.step, (255 - after.zero) * after.step)
    assert ((found - expected).abs() <= 0.501 * after.step).all()


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("home", [(Lanes(1, 4, 4), 1), (Lanes(16, 1, 1), 1)], ids=["blocks", "images"])
def test_pools_of_whole_maps(isa: str, home: tuple[Lanes, int], kind: Literal["max", "average"]) -> None:
    """Of blocks that are larger than the map together, and of values that are all less than what is around them."""
    of, scale = Map(3, 7, 7), Scale(0.0173, 200)
    divisors = torch.full((1, 1), 49.0) if kind == "average" else None
    steps: list[Step] = [Activate("a", 0, "none"), Pool("pool", 1, kind, ((0, 7),), ((0, 7),), divisors)]
    graph = Graph(5, [0], [2], [of, of, Map(3, 1, 1)], steps)
    q = some_codes(shape(5, of), 0).clamp(max=150)
    layouts = {(7, 7): home, (1, 1): home}
    program = core().Program(5, 1)
    beside = {size: (Lanes(home[0].images, 1, 1), 1) for size in layouts}
    lower(graph, beside, program, Quantized(dict.fromkeys(range(3), scale), {}, frozenset([1, 2])), layouts)
    (found,) = run(program, graph, [decoded(q, scale)])
    expected = q.mean((2, 3), keepdim=True).round() if kind == "average" else q.amax((2, 3), keepdim=True)
    assert torch.equal(found, decoded(expected, scale))


@pytest.mark.parametrize("zero", [0, 3, 255])
@pytest.mark.parametrize("largest", [False, True])
def test_averages_of_many_places_are_exact(isa: str, largest: bool, zero: int) -> None:
    """As many as are allowed, in one lane: sums that float32 just has."""
    scale = Scale(0.5, zero)
    of, made = Map(1, 256, 256), Map(1, 1, 1)
    whole = ((0, 256),)
    step = Pool("pool", 0, "average", whole, whole, torch.full((1, 1), 65536.0))
    q = torch.full((1, 1, 256, 256), 255.0 if largest else 254.0)
    q[0, 0, 0, :128] = 0.0
    graph = Graph(1, [0], [1], [of, made], [step])
    program = core().Program(1, 1)
    home = {(256, 256): (Lanes(1, 1, 1), 1), (1, 1): (Lanes(1, 1, 1), 1)}
    lower(graph, home, program, Quantized({0: scale, 1: Scale(0.001, 128)}, {}, frozenset([1])), home)
    (found,) = run(program, graph, [decoded(q, scale)])
    mean = (float(q.double().mean()) - zero) * 0.5
    assert found.item() == pytest.approx(min(max(mean, -0.128), 0.127), abs=0.0005)

    one = Layout(of, Lanes(1, 1, 1), 1, (256, 256))
    program = core().Program(1, 1)
    source = tensor(program, replace(one, scale=scale))
    result = tensor(program, replace(one, map=made, block=(1, 1)))
    program.load(0, (1, 256, 256), source)
    program.pool(source, result, True, [(0, 256)], [(0, 256)], [1 / 65536])
    program.store(result, 0, (1, 1, 1))
    program.finish()
    (found,) = run(program, graph, [decoded(q, scale)])
    assert found.item() == mean


@settings(max_examples=80)
@given(st.data())
def test_sums_and_activations(isa: str, data: st.DataObject) -> None:
    of = Map(data.draw(st.integers(1, 5)), data.draw(LENGTHS), data.draw(LENGTHS))
    scales = [data.draw(SCALES) for _ in range(3)]
    activation = data.draw(ACTIVATIONS)
    together = data.draw(st.booleans())
    step = Add("add", 0, 1, activation) if together else Activate("activation", 0, activation)
    graph = Graph(data.draw(IMAGES), [0, 1], [2], [of] * 3, [step])
    q = [some_codes(shape(graph.images, of), seed) for seed in (1, 2)]
    inputs = [decoded(x, scale) for x, scale in zip(q, scales, strict=False)]
    (found,) = computed(data.draw, graph, scales, inputs)
    nothing = torch.zeros_like(q[1]), Scale(0.0, 0)
    made = summed(activation, (q[0], scales[0]), (q[1], scales[1]) if together else nothing, scales[2])
    assert agrees(found, made, activation, scales[2])


@settings(max_examples=60)
@given(st.data())
def test_concatenations_and_flattening(isa: str, data: st.DataObject) -> None:
    size = data.draw(LENGTHS), data.draw(LENGTHS)
    maps = [Map(data.draw(st.integers(1, 5)), *size) for _ in range(2)]
    scale = data.draw(SCALES)
    other: Activation = data.draw(ACTIVATIONS)
    steps = [Activate("a", 0, other), Concatenate("one", (2, 1)), Concatenate("two", (1, 3, 2))]
    sizes = [*(of.channels for of in maps), maps[0].channels]
    sizes += [sizes[2] + sizes[1], 2 * (sizes[1] + sizes[2])]
    graph = Graph(data.draw(IMAGES), [0, 1], [2, 3, 4], [Map(channels, *size) for channels in sizes], steps)
    q = [some_codes(shape(graph.images, of), seed) for seed, of in enumerate(maps)]
    x = [decoded(one, scale) for one in q]
    first, one, two = computed(data.draw, graph, [scale] * 5, x)
    assert agrees(first, summed(other, (q[0], scale), (torch.zeros_like(q[0]), Scale(0.0, 0)), scale), other, scale)
    assert torch.equal(one, torch.cat([first, x[1]], 1))
    assert torch.equal(two, torch.cat([x[1], one, first], 1))


@st.composite
def layouts(draw: st.DrawFn, of: Map, images: int, scale: Scale) -> Layout:
    """Any layout of so many images, of numbers of 8 bits or of float32."""
    if draw(st.booleans()):
        side, groups = draw(lanes(core().widest(), images))
        rows, columns = math.ceil(of.height / side.rows), math.ceil(of.width / side.columns)
        return Layout(of, side, groups, (rows, columns), draw(HALOS))
    side, groups = draw(lanes(4 * core().widest(), images, (1, 2, 4, 8, 16, 32, 64)))
    if images == 1 and draw(st.booleans()):
        side = Lanes(1, 1, 1, 4 * core().widest())
    rows = math.ceil(of.height / side.rows) + draw(st.integers(0, 1))
    columns = math.ceil(of.width / side.columns) + draw(st.integers(0, 1))
    fill = draw(st.sampled_from([0.0, 255.0, float(scale.zero)]))
    return Layout(of, side, groups, (rows, columns), draw(HALOS), fill, scale)


@settings(max_examples=80)
@given(st.data())
def test_moves_change_nothing(isa: str, data: st.DataObject) -> None:
    of = Map(data.draw(st.integers(1, 20)), data.draw(LENGTHS), data.draw(LENGTHS))
    scale, images = data.draw(SCALES), data.draw(IMAGES)
    program = core().Program(images, data.draw(st.integers(1, 3)))
    flat, together, number = False, 1, -1
    for turn in range(data.draw(st.integers(1, 4))):
        together *= data.draw(st.sampled_from([1, 2, 4]))
        before, number = number, tensor(program, data.draw(layouts(of, together, scale)))
        if not turn:
            program.load(0, shape(1, of)[1:], number)
            continue
        program.move(before, number)
        if not flat and data.draw(st.booleans()):
            flat, of = True, Map(of.channels * of.height * of.width, 1, 1)
            before, number = number, tensor(program, data.draw(layouts(of, together, scale)))
            program.move(before, number, flatten=True)
    program.store(number, 0, shape(1, of)[1:])
    program.finish()
    x = decoded(some_codes(shape(images, of), data.draw(st.integers(0, 99))), scale)
    (found,) = run(program, Graph(images, [0], [0], [of], []), [x])
    assert torch.equal(found, x)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("zero", [0, 77, 255])
def test_every_float_becomes_the_nearest_number(isa: str, zero: int, moved: bool) -> None:
    scale = Scale(0.0173, zero)
    strange = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, -0.0, 1e-42, 3e38, -3e38, 2.0**31, -(2.0**31)])
    spread = torch.cat([numbers((500,), 1) * 3, (torch.arange(-300, 300) + 0.5) * 0.0173])
    x = torch.cat([strange, spread])[None, :, None, None].contiguous()
    of = Map(x.numel(), 1, 1)
    coded = Layout(of, Lanes(1, 1, 16), 1, (1, 1), scale=scale)
    program = core().Program(1, 1)
    number = tensor(program, replace(coded, lanes=Lanes(1, 1, 4), scale=None) if moved else coded)
    program.load(0, (of.channels, 1, 1), number)
    if moved:
        before, number = number, tensor(program, coded)
        program.move(before, number)
    program.store(number, 0, (of.channels, 1, 1))
    program.finish()
    (found,) = run(program, Graph(1, [0], [0], [of], []), [x])
    assert torch.equal(found, decoded(codes(x, scale), scale))


def one_step(scales: Sequence[Scale | None], kind: str) -> None:
    of = Map(2, 4, 4)
    program = core().Program(1, 1)
    first, second = (tensor(program, Layout(of, Lanes(1, 2, 2), 1, (2, 2), scale=scale)) for scale in scales)
    program.load(0, (2, 4, 4), first)
    rows = [(0, 1), (1, 2)]
    if kind == "move":
        program.move(first, second)
    elif kind == "combine":
        program.combine(first, None, second, "none")
    else:
        program.pool(first, second, kind == "average", rows, rows, [1.0] * (16 if kind == "average" else 0))


@pytest.mark.parametrize(
    ("kind", "scales", "message"),
    [
        ("move", (Scale(1.0, 0), Scale(2.0, 0)), "a move's layouts must have the same scale"),
        ("move", (Scale(1.0, 0), Scale(1.0, 1)), "a move's layouts must have the same scale"),
        ("max", (Scale(1.0, 0), Scale(2.0, 0)), "what is largest must keep its scale"),
        ("max", (Scale(1.0, 0), None), "what is largest must be of 8 bits as its input"),
        ("combine", (Scale(1.0, 0), None), "what is made must be of 8 bits"),
    ],
    ids=["step", "zero", "largest", "largest of floats", "sum of floats"],
)
def test_what_does_not_fit_is_refused(kind: str, scales: Sequence[Scale | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_step(scales, kind)
    one_step((Scale(1.0, 0), Scale(1.0, 0)), kind)


def test_a_window_that_float32_cannot_sum_is_refused() -> None:
    of = Map(1, 256, 257)
    program = core().Program(1, 1)
    source = tensor(program, Layout(of, Lanes(1, 1, 1), 1, (256, 257), scale=Scale(1.0, 0)))
    made = tensor(program, Layout(Map(1, 1, 1), Lanes(1, 1, 1), 1, (1, 1), scale=Scale(1.0, 0)))
    with pytest.raises(ValueError, match="a window of 65792 places is too large to be averaged"):
        program.pool(source, made, True, [(0, 256)], [(0, 257)], [1.0])
