from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.reference import result, run
from torch import Tensor

from sparsecycle.runtime.fuse import fuse
from sparsecycle.runtime.graph import Activate, Add, Concatenate, Convolution, Flatten, Graph, Map, Pool, Step, operands

IMAGES = 2
Shape = tuple[int, int, int]


class Net:
    """A graph in the making: each of its methods adds a step and gives the number of what it makes."""

    def __init__(self, *inputs: Shape) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.inputs = [self.numbers(IMAGES, *shape) for shape in inputs]
        self.values = list(self.inputs)
        self.steps: list[Step] = []

    def numbers(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def add(self, step: Step) -> int:
        self.steps.append(step)
        self.values.append(result(step, self.values, torch.float64))
        return len(self.values) - 1

    def channels(self, value: int) -> int:
        return self.values[value].shape[1]

    def convolution(
        self, value: int, outputs: int, kernel: tuple[int, int] = (1, 1), *, biased: bool = True, **words: Any
    ) -> int:
        weight = self.numbers(outputs, self.channels(value) // words.get("groups", 1), *kernel)
        usual = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        bias = self.numbers(outputs) if biased else None
        return self.add(Convolution(f"conv{len(self.values)}", value, weight, bias, **(usual | words)))

    def scaling(self, value: int, *, biased: bool = True) -> int:
        channels = self.channels(value)
        return self.convolution(value, channels, groups=channels, biased=biased)

    def every(self, value: int, rows: int, columns: int, first: int = 0) -> int:
        lengths = self.values[value].shape[2:]
        windows = [
            tuple((i, i + 1) for i in range(first, length, distance))
            for length, distance in zip(lengths, (rows, columns), strict=True)
        ]
        return self.add(Pool(f"pool{len(self.values)}", value, "max", windows[0], windows[1], None))

    def activate(self, value: int, activation: Any = "relu") -> int:
        return self.add(Activate(f"act{len(self.values)}", value, activation))

    def sum(self, left: int, right: int) -> int:
        return self.add(Add(f"add{len(self.values)}", left, right))

    def graph(self, *outputs: int) -> Graph:
        maps = [Map(*value.shape[1:]) for value in self.values]
        return Graph(IMAGES, list(range(len(self.inputs))), list(outputs), maps, self.steps)

    def fused(self, *outputs: int) -> list[Step]:
        """The steps of the fused graph, which gives what the graph gives."""
        graph = self.graph(*outputs)
        before = copy.deepcopy(graph)
        fused = fuse(graph)
        same(graph, before)
        for got, number in zip(run(fused, *self.inputs), outputs, strict=True):
            want = self.values[number]
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12 * max(1.0, want.abs().max().item()))
        return fused.steps


def same(one: Graph, other: Graph) -> None:
    assert (one.images, one.inputs, one.outputs, one.maps) == (other.images, other.inputs, other.outputs, other.maps)
    for step, twin in zip(one.steps, other.steps, strict=True):
        assert repr(step) == repr(twin)


@pytest.mark.parametrize("biased", [(True, True), (True, False), (False, True), (False, False)])
def test_scaling_goes_into_the_convolution_before_it(biased: tuple[bool, bool]) -> None:
    net = Net((4, 5, 6))
    x = net.convolution(0, 6, (3, 2), biased=biased[0], padding=(1, 0), groups=2)
    (step,) = net.fused(net.scaling(x, biased=biased[1]))
    assert isinstance(step, Convolution)
    assert (step.name, step.groups, step.padding) == ("conv1", 2, (1, 0))
    assert (step.weight == 0).sum() == 0


def test_zeros_stay_zero_and_types_stay() -> None:
    net = Net((4, 5, 6))
    x = net.convolution(0, 3)
    weight = net.steps[0].weight  # type: ignore[union-attr]
    weight[1, 2] = 0
    graph = net.graph(net.scaling(x))
    (step,) = fuse(graph).steps
    assert isinstance(step, Convolution)
    assert step.bias is not None
    assert torch.equal(step.weight == 0, weight == 0)
    assert step.weight.dtype == step.bias.dtype == torch.float64
    half = [Convolution(s.name, s.input, s.weight.half(), None, (1, 1), (0, 0), (1, 1), s.groups) for s in graph.steps]  # type: ignore[union-attr]
    (step,) = fuse(Graph(IMAGES, [0], [2], graph.maps, list(half))).steps
    assert isinstance(step, Convolution)
    assert step.bias is not None
    assert step.weight.dtype == step.bias.dtype == torch.float16


@pytest.mark.parametrize("activation", ["relu", "relu6", "silu"])
def test_activation_goes_into_a_convolution_or_a_sum(activation: str) -> None:
    net = Net((3, 5, 6))
    (step,) = net.fused(net.activate(net.scaling(net.convolution(0, 4)), activation))
    assert isinstance(step, Convolution)
    assert step.activation == activation
    net = Net((3, 5, 6))
    (step,) = net.fused(net.activate(net.sum(0, 0), activation))
    assert isinstance(step, Add)
    assert step.activation == activation


def test_sum_becomes_the_residual_of_the_later_convolution() -> None:
    net = Net((3, 5, 6))
    a = net.convolution(0, 4)
    b = net.convolution(0, 4, (3, 3), padding=(1, 1))
    first, second = net.fused(net.activate(net.sum(b, a)))
    assert (first.name, second.name) == ("conv1", "conv2")
    assert isinstance(second, Convolution)
    assert (second.residual, second.activation) == (1, "relu")


def test_convolution_moves_behind_what_is_added_to_it() -> None:
    net = Net((3, 5, 6))
    shortcut = net.convolution(0, 3)
    pool, convolution = net.fused(net.sum(shortcut, net.every(0, 1, 1)))
    assert isinstance(pool, Pool)
    assert isinstance(convolution, Convolution)
    assert (convolution.input, convolution.residual) == (0, 1)


def test_every_nth_pixel_becomes_a_stride() -> None:
    net = Net((3, 7, 6))
    (step,) = net.fused(net.convolution(net.every(net.every(0, 2, 1), 1, 3), 4, stride=(2, 1)))
    assert isinstance(step, Convolution)
    assert (step.input, step.stride) == (0, (4, 3))


def test_a_single_row_becomes_a_stride() -> None:
    net = Net((3, 5, 6))
    pool = net.add(Pool("pool", 0, "max", ((0, 1),), ((0, 1), (3, 4)), None))
    (step,) = net.fused(net.convolution(pool, 4))
    assert isinstance(step, Convolution)
    assert step.stride == (5, 3)


def windows(*rows: tuple[int, int], divisor: float | None = None) -> Callable[[Net], int]:
    def pooled(net: Net) -> int:
        divisors = None if divisor is None else torch.full((len(rows), 1), divisor)
        pool = Pool("pool", 0, "max" if divisors is None else "average", rows, ((0, 1),), divisors)
        return net.convolution(net.add(pool), 4)

    return pooled


# What is left of the steps that are read once, but cannot all be one.
KEPT: dict[str, tuple[Callable[[Net], int], str]] = {
    "scaling of an activated convolution": (lambda n: n.scaling(n.activate(n.convolution(0, 3))), "CC"),
    "scaling of a sum": (lambda n: n.scaling(n.sum(n.convolution(0, 3), 0)), "CC"),
    "scaling of a pooled value": (lambda n: n.scaling(windows((0, 2), (2, 4))(n)), "PC"),
    "activation of an activation": (lambda n: n.activate(n.activate(n.convolution(0, 3), "silu")), "CA"),
    "activation of a pooled value": (lambda n: n.activate(n.every(0, 2, 2)), "PA"),
    "sum of activations": (lambda n: n.sum(n.activate(n.convolution(0, 3)), n.activate(n.every(0, 1, 1))), "CPAA"),
    "sum of a sum": (lambda n: n.sum(n.sum(n.convolution(0, 3), 0), 0), "CA"),
    "sum of a value with itself": (lambda n: n.sum(x := n.convolution(0, 3), x), "CA"),
    "rows from the second on": (lambda n: n.convolution(n.every(0, 2, 2, first=1), 4), "PC"),
    "rows under a wider kernel": (lambda n: n.convolution(n.every(0, 2, 2), 4, (1, 2)), "PC"),
    "rows with padding": (lambda n: n.convolution(n.every(0, 2, 2), 4, padding=(0, 1)), "PC"),
    "rows added to a convolution": (lambda n: n.sum(n.convolution(0, 3), n.every(0, 1, 1)), "PC"),
    "rows at unequal distances": (windows((0, 1), (2, 3), (3, 4)), "PC"),
    "some of the rows": (windows((0, 1), (1, 2)), "PC"),
    "the same row twice": (windows((0, 1), (0, 1)), "PC"),
    "windows of more than one row": (windows((0, 2), (2, 4), (4, 5)), "PC"),
    "averages of one row": (windows((0, 1), divisor=3.0), "PC"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_cannot_be_joined(case: str) -> None:
    build, kinds = KEPT[case]
    net = Net((3, 5, 6))
    assert "".join(type(step).__name__[0] for step in net.fused(build(net))) == kinds


def test_values_read_twice_are_made() -> None:
    net = Net((3, 5, 6))
    x = net.convolution(0, 3)
    y = net.scaling(x)
    assert len(net.fused(x, y)) == 2
    net = Net((3, 5, 6))
    x = net.convolution(0, 3)
    assert len(net.fused(net.activate(x), net.activate(x, "silu"))) == 3


def test_what_no_output_needs_is_dropped_and_hinders_nothing() -> None:
    net = Net((3, 5, 6), (1, 1, 1))
    x = net.convolution(0, 3)
    net.activate(net.scaling(x), "silu")
    (step,) = net.fused(net.activate(x))
    assert isinstance(step, Convolution)
    assert step.activation == "relu"


def test_inputs_can_be_outputs() -> None:
    net = Net((3, 5, 6), (1, 2, 2))
    net.convolution(0, 3)
    assert net.fused(1, 0, 1) == []


@st.composite
def nets(draw: st.DrawFn) -> tuple[Net, list[int]]:
    """Any steps in any order, more often those that can be joined, on any values, more often the last."""
    net = Net(
        *draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=2))
    )
    activations = st.sampled_from(["relu", "relu6", "silu"])
    for _ in range(draw(st.integers(1, 12))):
        last = len(net.values) - 1
        value = draw(st.one_of(st.just(last), st.integers(0, last)))
        shape = net.values[value].shape
        alike = [i for i, other in enumerate(net.values) if other.shape == shape]
        joinable = [i for i, other in enumerate(net.values) if other.shape[2:] == shape[2:]]
        kind = draw(st.sampled_from(["conv", "1x1", "scale", "act", "add", "every", "pool", "cat", "flatten"]))
        if kind == "conv":
            kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
            strides = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
            net.convolution(value, draw(st.integers(1, 4)), kernel, padding=(1, 1), stride=strides)
        elif kind == "1x1":
            net.convolution(value, shape[1], biased=draw(st.booleans()))
        elif kind == "scale":
            net.scaling(value, biased=draw(st.booleans()))
        elif kind == "act":
            net.activate(value, draw(activations))
        elif kind == "add":
            net.sum(value, draw(st.sampled_from(alike)))
        elif kind == "every":
            net.every(value, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        elif kind == "pool":
            rows, columns = (((0, length), (length - 1, length)) for length in shape[2:])
            net.add(Pool("pool", value, "average", rows, columns, torch.full((2, 2), 3.0)))
        elif kind == "cat":
            net.add(Concatenate("cat", (value, draw(st.sampled_from(joinable)))))
        else:
            net.add(Flatten("flatten", value))
    outputs = draw(st.lists(st.integers(0, len(net.values) - 1), min_size=1, max_size=3))
    return net, outputs


@given(nets())
def test_fused_graphs_compute_the_same(made: tuple[Net, list[int]]) -> None:
    net, outputs = made
    steps = net.fused(*outputs)
    assert len(steps) <= len(net.steps)
    fused = fuse(net.graph(*outputs))
    assert len(fuse(fused).steps) == len(steps)
    needed = {*fused.outputs, *(value for step in steps for value in operands(step))}
    assert needed >= set(range(len(net.inputs), len(fused.maps)))
