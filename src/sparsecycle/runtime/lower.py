"""A graph as a native program: every value in its layout, every step on the values it needs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sparsecycle.runtime.graph import (
    Activate,
    Add,
    Concatenate,
    Convolution,
    Flatten,
    Graph,
    Map,
    Pool,
    Step,
    operands,
)
from sparsecycle.runtime.layouts import Lanes, Layout, needed, regular, union
from sparsecycle.runtime.quantize import Quantized

if TYPE_CHECKING:
    from sparsecycle.native._core import Program

__all__ = ["Lowered", "lower"]


@dataclass
class Lowered:
    """A program, and what its steps do.

    Attributes:
        program: Laid out and finished, without candidates.
        names: Of its steps, in order.
        convolutions: Which steps are convolutions that kernels are chosen for, and of which of the graph's.
        gathers: Those with output channels in their lanes, which are computed in one way only.
        layouts: Of each of the other convolutions' results.
        in_8_bits: Which convolutions are computed so.
    """

    program: Program
    names: list[str]
    convolutions: dict[int, Convolution]
    gathers: dict[int, Convolution]
    layouts: dict[int, Layout]
    in_8_bits: set[int]


Homes: TypeAlias = Mapping[tuple[int, int], tuple[Lanes, int]]
"""For maps of each height and width, their lanes and groups."""


def lower(
    graph: Graph, homes: Homes, program: Program, quantized: Quantized | None = None, homes8: Homes | None = None
) -> Lowered:
    """Lay out a graph and put a program together.

    Args:
        graph: Its steps are fused already.
        homes: Of values of float32.
        program: An empty one, for the graph's images.
        quantized: Which steps are computed in 8 bits; none if None.
        homes8: Of values of 8 bits.
    """
    return _Lowering(graph, homes, program, quantized or Quantized({}, {}, frozenset()), homes8 or {}).run()


class _Lowering:
    def __init__(self, graph: Graph, homes: Homes, program: Program, quantized: Quantized, homes8: Homes) -> None:
        self.graph = graph
        self.program = program
        self.quantized = quantized
        self.made = Lowered(program, [], {}, {}, {}, set())
        self.first = len(graph.inputs)
        self.steps8 = {graph.steps[value - self.first] for value in quantized.steps}
        self.kept8 = quantized.kept(graph)
        self.homes = [
            self._home(value, shape, *(homes8 if value in quantized.steps else homes)[shape.height, shape.width])
            for value, shape in enumerate(graph.maps)
        ]
        self.never_negative = self._never_negative()
        self._suit_readers()
        self.parents = self._parents()
        self._widen_halos()
        self.tensors: dict[tuple[int, Layout], int] = {}

    def _home(self, value: int, shape: Map, lanes: Lanes, groups: int) -> Layout:
        block = (math.ceil(shape.height / lanes.rows), math.ceil(shape.width / lanes.columns))
        home = Layout(shape, lanes, groups, block)
        return self._in_8_bits(value, home) if value in self.kept8 else home

    def _in_8_bits(self, value: int, layout: Layout) -> Layout:
        scale = self.quantized.scales[value]
        return replace(layout, scale=scale, fill=float(scale.zero))

    def _never_negative(self) -> list[bool]:
        known = [False] * len(self.graph.maps)
        for value, step in enumerate(self.graph.steps, self.first):
            if isinstance(step, Convolution | Add | Activate):
                known[value] = step.activation in ("relu", "relu6")
            else:
                known[value] = all(known[i] for i in operands(step))
        return known

    def _suit_readers(self) -> None:
        """Make a value as its readers need it, if what has to be moved for that is smaller than the value."""
        readers: dict[int, list[int]] = defaultdict(list)
        for value, step in enumerate(self.graph.steps, self.first):
            for source in operands(step):
                readers[source].append(value)
        for value, step in reversed([*enumerate(self.graph.steps, self.first)]):
            if not isinstance(step, Convolution) or step.residual is not None:
                continue
            if _elements(self.graph.maps[step.input]) >= _elements(self.graph.maps[value]):
                continue
            home = self.homes[value]
            needs = {self._plain_need(reader, value) for reader in readers[value]}
            suited = needs.pop() if len(needs) == 1 else None
            if suited is None or (suited.lanes.count, suited.lanes.channels) != (home.lanes.count, 1):
                continue
            # Only lanes and blocks may differ.
            if replace(suited, lanes=home.lanes, block=home.block) == home and self._need(step, step.input, suited):
                self.homes[value] = suited

    def _plain_need(self, reader: int, source: int) -> Layout | None:
        step = self.graph.steps[reader - self.first]
        need = None if isinstance(step, Flatten) else self._need(step, source, self.homes[reader])
        return need and _plain(need)

    def _may_have_halo(self, value: int) -> bool:
        """Whether it is no float32 that kernels of 8 bits make."""
        return value in self.kept8 or value not in self.quantized.weights

    def _parents(self) -> dict[int, tuple[int, int]]:
        """Values that are made where a concatenation has them: their concatenation, and first channel there."""
        parents: dict[int, tuple[int, int]] = {}
        for value, step in enumerate(self.graph.steps, self.first):
            if not isinstance(step, Concatenate):
                continue
            channel = 0
            for source in step.inputs:
                alike = replace(self.homes[source], map=self.homes[value].map) == self.homes[value]
                if source >= self.first and source not in parents and alike and self._may_have_halo(source):
                    parents[source] = (value, channel)
                channel += self.graph.maps[source].channels
        return parents

    def _need(self, step: Step, source: int, out: Layout) -> Layout | None:
        """In which layout a step has to read a value, if its result is to be `out`."""
        need = self._float_need(step, source, replace(out, fill=0.0, scale=None))
        if need is None or step not in self.steps8:
            return need
        outside = isinstance(step, Pool) and step.kind == "max" and (any(need.halo) or _is_ragged(need))
        return replace(self._in_8_bits(source, need), fill=0.0) if outside else self._in_8_bits(source, need)

    def _float_need(self, step: Step, source: int, out: Layout) -> Layout | None:
        shape = self.graph.maps[source]
        if isinstance(step, Convolution) and source == step.input:
            return needed(step, shape, out)
        if isinstance(step, Pool):
            need = needed(step, shape, out)
            if need and (any(need.halo) or _is_ragged(need)) and step.kind == "max" and not self.never_negative[source]:
                return replace(need, fill=-math.inf)
            return need
        return replace(out, map=shape, halo=(0, 0, 0, 0))

    def _widen_halos(self) -> None:
        """Give each value's home the halo that its readers need, if they can read it there."""
        for value, step in enumerate(self.graph.steps, self.first):
            if isinstance(step, Flatten):
                continue
            for source in operands(step):
                need = self._need(step, source, self.homes[value])
                home = self.homes[source]
                if need and replace(home, halo=need.halo) == need and self._may_have_halo(source):
                    self.homes[source] = replace(home, halo=union(home.halo, need.halo))
        # What is made inside a concatenation has its halo; parents come later than their parts.
        for value in sorted(self.parents):
            for part, (parent, _) in self.parents.items():
                if part == value:
                    halo = union(self.homes[part].halo, self.homes[parent].halo)
                    self.homes[parent] = replace(self.homes[parent], halo=halo)
        for value in sorted(self.parents, reverse=True):
            self.homes[value] = replace(self.homes[value], halo=self.homes[self.parents[value][0]].halo)

    def _tensor(self, value: int, layout: Layout) -> int:
        if (value, layout) not in self.tensors:
            if layout == self.homes[value] and value in self.parents:
                parent, channel = self.parents[value]
                whole = self._tensor(parent, self.homes[parent])
                self.tensors[value, layout] = self.program.view(whole, channel, layout.map.channels)
            else:
                self.tensors[value, layout] = self._new(layout)
        return self.tensors[value, layout]

    def _new(self, layout: Layout) -> int:
        lanes = layout.lanes
        return self.program.tensor(
            layout.map.channels,
            (layout.map.height, layout.map.width),
            (lanes.images, lanes.rows, lanes.columns),
            layout.groups,
            layout.block,
            layout.halo,
            layout.fill,
            lanes.channels,
            None if layout.scale is None else (layout.scale.step, layout.scale.zero),
        )

    def _read(self, value: int, need: Layout, name: str) -> int:
        """The tensor of a value in a layout that serves, moved there if it is not in such yet."""
        for (other, layout), tensor in self.tensors.items():
            if other == value and layout.serves(need):
                return tensor
        layout = self.homes[value] if self.homes[value].serves(need) else need
        tensor = self._tensor(value, layout)
        shape = self.graph.maps[value]
        if value < self.first:
            self._note(self.program.load(value, (shape.channels, shape.height, shape.width), tensor), f"{name} (input)")
        else:
            source = self.tensors[value, self.homes[value]]
            self._note(self.program.move(source, tensor), f"{name} (layout)")
        return tensor

    def _read_alike(self, step: Step, value: int, out: Layout) -> int:
        """The tensor of a value laid out as the result is, but for its halo and its scale."""
        need = replace(_plain(out), map=self.graph.maps[value], fill=0.0, scale=None)
        return self._read(value, self._in_8_bits(value, need) if step in self.steps8 else need, step.name)

    def _note(self, step: int, name: str) -> int:
        assert step == len(self.made.names)
        self.made.names.append(name)
        return step

    def run(self) -> Lowered:
        for value, step in enumerate(self.graph.steps, self.first):
            self._add(value, step, self.homes[value])
        for number, value in enumerate(self.graph.outputs):
            shape = self.graph.maps[value]
            tensor = self._read(value, replace(self.homes[value], halo=(0, 0, 0, 0)), "output")
            self._note(self.program.store(tensor, number, (shape.channels, shape.height, shape.width)), "output")
        self.program.finish()
        return self.made

    def _add(self, value: int, step: Step, out: Layout) -> None:
        if isinstance(step, Convolution):
            self._convolution(value, step, out)
        elif isinstance(step, Pool):
            self._pool(value, step, out)
        elif isinstance(step, Add | Activate):
            sources = [self._read_alike(step, source, out) for source in operands(step)]
            right = sources[1] if isinstance(step, Add) else None
            self._note(self.program.combine(sources[0], right, self._tensor(value, out), step.activation), step.name)
        elif isinstance(step, Flatten) and step.input < self.first:
            shape = out.map  # an array's elements are in this order already
            tensor = self._tensor(value, out)
            number = self.program.load(step.input, (shape.channels, shape.height, shape.width), tensor)
            self._note(number, f"{step.name} (input)")
        elif isinstance(step, Flatten):
            home = self.homes[step.input]
            source = self._read(step.input, replace(home, halo=(0, 0, 0, 0)), step.name)
            self._note(self.program.move(source, self._tensor(value, out), flatten=True), step.name)
        else:
            self._concatenation(value, step, out)

    def _convolution(self, value: int, step: Convolution, out: Layout) -> None:
        need = self._need(step, step.input, out)
        result = out
        if need is None:
            # Blocks that follow those of the larger map that is read; from there to where the result belongs.
            result = _following(step, self.graph.maps[step.input], out)
            need = self._need(step, step.input, result)
            assert need is not None
        source = self._read(step.input, need, step.name)
        residual = None if step.residual is None else self._read_alike(step, step.residual, result)
        tensor = self._tensor(value, result)
        outputs, inputs, rows, columns = step.weight.shape
        shape = (outputs, inputs, rows, columns), step.stride, step.padding, step.dilation, step.groups
        bias = 0 if step.bias is None else step.bias.data_ptr()
        weights8 = self.quantized.weights.get(value)
        if weights8 is None:
            arguments = step.weight.data_ptr(), bias, step.activation
            number = self.program.convolution(source, tensor, residual, *shape, *arguments)
        else:
            arguments8 = weights8.numbers.data_ptr(), weights8.steps.data_ptr(), bias, step.activation
            number = self.program.int8_convolution(source, tensor, residual, *shape, *arguments8)
            self.made.in_8_bits.add(number)
        self._note(number, step.name)
        if out.lanes.channels > 1:
            self.made.gathers[number] = step
        else:
            self.made.convolutions[number] = step
            self.made.layouts[number] = result
        if result != out:
            self._note(self.program.move(tensor, self._tensor(value, out)), f"{step.name} (layout)")

    def _pool(self, value: int, step: Pool, out: Layout) -> None:
        need = self._need(step, step.input, out)
        if need is None and self._is_global(step):
            self._global_pool(value, step, out)
            return
        result = out
        if need is None:
            # Windows that differ from block to block: on whole maps in each lane, and then to where it belongs.
            lanes, block = Lanes(out.lanes.images, 1, 1), (out.map.height, out.map.width)
            result = replace(_plain(out), lanes=lanes, block=block)
            need = self._need(step, step.input, result)
            assert need is not None
        source = self._read(step.input, need, step.name)
        shape = self.graph.maps[step.input]
        rows = _block_ranges(step.rows, shape.height, result.lanes.rows, result.block[0])
        columns = _block_ranges(step.columns, shape.width, result.lanes.columns, result.block[1])
        tensor = self._tensor(value, result)
        average = step.kind == "average"
        scale = _scale(step, result) if average else []
        self._note(self.program.pool(source, tensor, average, rows, columns, scale), step.name)
        if result != out:
            self._note(self.program.move(tensor, self._tensor(value, out)), f"{step.name} (layout)")

    def _is_global(self, step: Pool) -> bool:
        """Whether it is one window, the whole map, and what lies in a block outside the map does not count."""
        home = self.homes[step.input]
        shape = home.map
        whole = (step.rows, step.columns) == (((0, shape.height),), ((0, shape.width),))
        return whole and (step.kind == "average" or self.never_negative[step.input] or not _is_ragged(home))

    def _global_pool(self, value: int, step: Pool, out: Layout) -> None:
        """First each block in its lane, then all blocks."""
        home = self.homes[step.input]
        source = self._read(step.input, _plain(home), step.name)
        lanes = home.lanes
        blocks = Map(home.map.channels, lanes.rows, lanes.columns)
        average = step.kind == "average"
        # Averages of 8 bits are float32 until the last one.
        kind = replace(_plain(home), fill=0.0, scale=None) if average else _plain(home)
        inside = self._new(replace(kind, map=blocks, block=(1, 1)))
        ones = [1.0] * lanes.count if average else []
        rows, columns = home.block
        self._note(self.program.pool(source, inside, average, [(0, rows)], [(0, columns)], ones), step.name)
        apart = Lanes(lanes.images, 1, 1)
        together = self._new(replace(kind, map=blocks, lanes=apart, block=(lanes.rows, lanes.columns)))
        self._note(self.program.move(inside, together), f"{step.name} (layout)")
        result = replace(kind, map=out.map, lanes=apart, block=(1, 1))
        tensor = self._tensor(value, result)
        scale = _scale(step, result) if average else []
        all_blocks = [(0, lanes.rows)], [(0, lanes.columns)]
        self._note(self.program.pool(together, tensor, average, *all_blocks, scale), step.name)
        if result != out:
            self._note(self.program.move(tensor, self._tensor(value, out)), f"{step.name} (layout)")

    def _concatenation(self, value: int, step: Concatenate, out: Layout) -> None:
        whole = self._tensor(value, out)
        channel = 0
        for source in step.inputs:
            channels = self.graph.maps[source].channels
            if self.parents.get(source) != (value, channel):
                part = self.program.view(whole, channel, channels)
                tensor = self._read(source, replace(_plain(out), map=self.graph.maps[source]), step.name)
                self._note(self.program.combine(tensor, None, part, "none"), step.name)
            channel += channels


def _elements(shape: Map) -> int:
    return shape.channels * shape.height * shape.width


def _plain(layout: Layout) -> Layout:
    return replace(layout, halo=(0, 0, 0, 0))


def _following(step: Convolution, source: Map, out: Layout) -> Layout:
    """A result's layout whose blocks are so large that those of the map that is read have all of it."""
    axes = zip(out.block, (out.lanes.rows, out.lanes.columns), (source.height, source.width), step.stride, strict=True)
    rows, columns = (
        block if lanes == 1 else max(block, math.ceil(size / (lanes * stride))) for block, lanes, size, stride in axes
    )
    return replace(out, block=(rows, columns), halo=(0, 0, 0, 0))


def _is_ragged(layout: Layout) -> bool:
    rows, columns = layout.block
    return rows * layout.lanes.rows > layout.map.height or columns * layout.lanes.columns > layout.map.width


def _block_ranges(ranges: tuple[tuple[int, int], ...], size: int, lanes: int, block: int) -> list[tuple[int, int]]:
    """A pool's windows along one axis, for the places of a block of its result."""
    if lanes == 1:
        return list(ranges)
    window = regular(ranges, size)
    assert window is not None
    starts = (window.stride * i - window.padding for i in range(block))
    return [(start, start + window.reach) for start in starts]


def _scale(step: Pool, out: Layout) -> list[float]:
    """What the sums of an average are multiplied with: of each place of a block, each lane."""
    assert step.divisors is not None
    (rows, columns), lanes = out.block, out.lanes
    factors = np.zeros((lanes.rows * rows, lanes.columns * columns), np.float32)
    factors[: out.map.height, : out.map.width] = 1 / step.divisors.numpy()
    blocks = factors.reshape(lanes.rows, rows, lanes.columns, columns).transpose(1, 3, 0, 2)
    one = blocks.reshape(rows, columns, 1, lanes.rows * lanes.columns, 1)
    scales: list[float] = np.tile(one, (1, 1, lanes.images, 1, lanes.channels)).ravel().tolist()
    return scales
