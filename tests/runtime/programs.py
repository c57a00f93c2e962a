"""Native programs as tests put them together and run them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle.runtime.cost import Form, work
from sparsecycle.runtime.cost8 import Form8
from sparsecycle.runtime.graph import Convolution, Graph, Map
from sparsecycle.runtime.layouts import Layout, needed
from sparsecycle.runtime.lower import Lowered
from sparsecycle.runtime.tuning import ranking

if TYPE_CHECKING:
    from sparsecycle.native import _core

HALOS = st.tuples(*[st.integers(0, 2)] * 4)


def core() -> _core:
    from sparsecycle.native import _core

    return _core


def forms() -> list[Form]:
    return [Form(*form) for form in core().forms()]


def forms8() -> list[Form8]:
    return [Form8(*form) for form in core().int8_forms()]


def shape(images: int, of: Map) -> tuple[int, int, int, int]:
    return (images, of.channels, of.height, of.width)


def tensor(program: _core.Program, layout: Layout) -> int:
    of, lanes = layout.map, layout.lanes
    return program.tensor(
        of.channels,
        (of.height, of.width),
        (lanes.images, lanes.rows, lanes.columns),
        layout.groups,
        layout.block,
        layout.halo,
        layout.fill,
        lanes.channels,
        None if layout.scale is None else (layout.scale.step, layout.scale.zero),
    )


def run(program: _core.Program, graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a program that computes the graph."""
    outputs = [torch.full(shape(graph.images, graph.maps[value]), math.nan) for value in graph.outputs]
    program.run([x.data_ptr() for x in inputs], [y.data_ptr() for y in outputs])
    return outputs


def choose(lowered: Lowered, draw: st.DrawFn) -> None:
    """Give each convolution one of the forms that fit it, and some blocks."""
    exact = [i for i, form in enumerate(forms()) if not form.bfloat16]
    for number, convolution in lowered.convolutions.items():
        channels = convolution.weight.shape[1] * convolution.groups
        fitting = lowered.program.forms(number)
        form = draw(st.sampled_from([i for i in fitting if number in lowered.in_8_bits or i in exact]))
        candidate(lowered.program, number, form, draw(st.integers(1, channels)), channels)


def choose_by_model(lowered: Lowered, graph: Graph) -> None:
    """Give each convolution the way that the model holds for the best one."""
    for number, convolution in lowered.convolutions.items():
        of = graph.maps[convolution.input]
        fitting = [i for i in lowered.program.forms(number) if not forms()[i].bfloat16]
        ways = ranking(work(convolution, of), lowered.layouts[number], forms())
        form, blocks = next((form, blocks) for _, form, blocks in ways if form in fitting)
        candidate(lowered.program, number, form, blocks, of.channels)


def candidate(program: _core.Program, number: int, form: int, blocks: int, channels: int) -> int:
    """With a block for each channel where fewer would be too large."""
    try:
        return program.candidate(number, form, blocks)
    except ValueError:
        return program.candidate(number, form, channels)


class Single:
    """A convolution alone, in any layout; what it reads and makes may have wider halos than it needs."""

    def __init__(self, draw: st.DrawFn, graph: Graph, out: Layout, threads: int = 1) -> None:
        (step,) = graph.steps
        assert isinstance(step, Convolution)
        source = graph.maps[step.input]
        need = needed(step, source, out)
        assert need is not None
        wider = [mine + more for mine, more in zip(need.halo, draw(HALOS), strict=True)]
        self.graph = graph
        self.program = core().Program(graph.images, threads)
        read = tensor(self.program, replace(need, halo=tuple(wider)))
        self.program.load(0, shape(0, source)[1:], read)
        residual = None
        if step.residual is not None:
            residual = tensor(self.program, replace(out, halo=draw(HALOS)))
            self.program.load(step.residual, shape(0, out.map)[1:], residual)
        made = tensor(self.program, replace(out, halo=draw(HALOS)))
        self.number = self.program.convolution(
            read,
            made,
            residual,
            tuple(step.weight.shape),
            step.stride,
            step.padding,
            step.dilation,
            step.groups,
            step.weight.data_ptr(),
            0 if step.bias is None else step.bias.data_ptr(),
            step.activation,
        )
        self.program.store(made, 0, shape(0, out.map)[1:])
        self.program.finish()

    def forms(self) -> list[int]:
        return self.program.forms(self.number)

    def __call__(self, form: int, blocks: int, inputs: Sequence[Tensor]) -> Tensor:
        channels = self.graph.maps[0].channels
        self.program.choose(self.number, candidate(self.program, self.number, form, blocks, channels))
        return run(self.program, self.graph, inputs)[0]
