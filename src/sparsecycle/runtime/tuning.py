"""Which lanes each map has, and which kernel computes each convolution: ranked by the model, the best few timed."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsecycle.runtime.cost import Form, Work, can_gather, cycles, gather_cycles, work
from sparsecycle.runtime.cost8 import Form8, gather8_cycles
from sparsecycle.runtime.graph import Concatenate, Convolution, Graph, Map, operands
from sparsecycle.runtime.layouts import Lanes, Layout
from sparsecycle.runtime.lower import Homes, Lowered

if TYPE_CHECKING:
    from sparsecycle.native._core import Program

__all__ = ["Choice", "Tuned", "apply", "homes", "ranking", "tune"]

CANDIDATES = 4
"""Of each convolution that are timed."""
ALIKE = 2
"""Of these, that differ in their blocks only."""
MOVE = 2.0
"""Cycles that an element takes to be moved to another layout."""
BUDGET = 1.0
"""Seconds for timing candidates, about."""
TURNS = 30
"""In which each candidate is timed, at most."""


BLOCKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Into how many a convolution's input channels may be cut."""


@dataclass(frozen=True)
class Choice:
    """How a convolution is computed.

    Attributes:
        form: The kernel's.
        blocks: Ranges of input channels.
        seconds: What it took when it was chosen, for the whole batch.
        dense_seconds: What a dense kernel took, if there is one for this layout.
    """

    form: Form | Form8
    blocks: int
    seconds: float
    dense_seconds: float | None


@dataclass(frozen=True)
class Tuned:
    """What was chosen for a graph.

    Attributes:
        homes: The lanes and groups of maps of each height and width.
        homes8: Those of maps in 8 bits.
        choices: Of each convolution, in order.
    """

    homes: Homes
    homes8: Homes
    choices: Sequence[Choice]

    def plain(self) -> dict[str, Any]:
        """The same in values that JSON has."""
        return {
            "homes": _plain_homes(self.homes),
            "homes8": _plain_homes(self.homes8),
            "choices": [
                [isinstance(choice.form, Form8), list(astuple(choice.form)), *astuple(choice)[1:]]
                for choice in self.choices
            ],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Tuned:
        """What :meth:`plain` gave.

        Raises:
            KeyError, TypeError, ValueError: If it is something else.
        """
        return cls(
            _homes_of(plain["homes"]),
            _homes_of(plain["homes8"]),
            [Choice((Form8 if in_8_bits else Form)(*form), *rest) for in_8_bits, form, *rest in plain["choices"]],
        )


def _plain_homes(homes: Homes) -> list[list[int]]:
    return [[*size, *astuple(lanes), groups] for size, (lanes, groups) in homes.items()]


def _homes_of(plain: Sequence[Sequence[int]]) -> Homes:
    return {(height, width): (Lanes(*lanes), groups) for height, width, *lanes, groups in plain}


def homes(
    graph: Graph,
    forms: Sequence[Form | Form8],
    widest: int,
    threads: int,
    windows: Sequence[int] | None = None,
    images: Mapping[tuple[int, int], int] | None = None,
) -> dict[tuple[int, int], tuple[Lanes, int]]:
    """The lanes and groups of maps of each height and width, with which the whole network costs least by the model.

    Groups of images never get smaller from one step to the next, and are so few that every thread has some. (Where a
    network returns to maps of a size that it had before, they are of one image.)

    Args:
        graph: Whose maps are laid out.
        forms: The kernels' forms, of float32 or of 8 bits.
        widest: Lanes of the widest vectors.
        threads: How many threads there are.
        windows: Of 8 bits: out of how many channels the kernels with channels in their lanes can pick.
        images: How many each group must have, for maps of each height and width.
    """
    shapes: dict[tuple[int, int], list[Map]] = defaultdict(list)
    convolutions: dict[tuple[int, int], list[Work]] = defaultdict(list)
    for value, shape in enumerate(graph.maps):
        size = (shape.height, shape.width)
        shapes[size].append(shape)
        step = graph.steps[value - len(graph.inputs)] if value >= len(graph.inputs) else None
        if isinstance(step, Convolution):
            convolutions[size].append(work(step, graph.maps[step.input]))
    order = list(shapes)
    numbers = {size: number for number, size in enumerate(order)}
    place = [numbers[shape.height, shape.width] for shape in graph.maps]
    returns = any(
        place[value] < place[source]
        for value, step in enumerate(graph.steps, len(graph.inputs))
        for source in operands(step)
    )
    least = min(form.lanes for form in forms)
    options = _options(least, widest, 1 if returns else max(1, graph.images // threads))
    options.append((Lanes(1, 1, 1, widest), 1))
    parts = [i for step in graph.steps if isinstance(step, Concatenate) for i in step.inputs]
    together = {(graph.maps[i].height, graph.maps[i].width) for i in parts}

    # The cheapest way through the sizes, each with one of the options: the best way to each option, size by size.
    best: dict[tuple[Lanes, int], tuple[float, list[tuple[Lanes, int]]]] = {}
    for number, size in enumerate(order):
        reached = {}
        for option in options:
            if option[0].channels > 1 and size in together:
                continue
            if images and option[0].images * option[1] != images[size]:
                continue
            own = _cost(size, option, convolutions[size], forms, windows)
            if not number:
                reached[option] = (own, [option])
                continue
            before = order[number - 1]
            elements = shapes[before][-1].channels * before[0] * before[1]
            ways = [
                (cost + (0 if _follows(before, previous, size, option) else MOVE * elements), way)
                for previous, (cost, way) in best.items()
                if (option[0].images * option[1]) % (previous[0].images * previous[1]) == 0
            ]
            if ways:
                cost, way = min(ways, key=lambda found: found[0])
                reached[option] = (cost + own, [*way, option])
        best = reached
    _, way = min(best.values(), key=lambda found: found[0])
    return dict(zip(order, way, strict=True))


def _follows(
    before: tuple[int, int], previous: tuple[Lanes, int], size: tuple[int, int], option: tuple[Lanes, int]
) -> bool:
    """Whether a step that makes a smaller map can read the larger one where it is."""
    if previous != option:
        return False
    for axis, lanes in enumerate((option[0].rows, option[0].columns)):
        stride = round(before[axis] / size[axis])
        if lanes > 1 and math.ceil(before[axis] / lanes) != stride * math.ceil(size[axis] / lanes):
            return False
    return True


def _options(least: int, widest: int, most: int) -> list[tuple[Lanes, int]]:
    """All lanes and groups, of no more images than `most`."""
    powers = [2**i for i in range(7)]
    return [
        (Lanes(images, rows, count // (images * rows)), groups)
        for count in powers
        if least <= count <= widest
        for images, rows, groups in product(powers, powers, powers[:5])
        if count % (images * rows) == 0 and images * groups <= most and (groups == 1 or count == images)
    ]


def _cost(
    size: tuple[int, int],
    option: tuple[Lanes, int],
    steps: list[Work],
    forms: Sequence[Form | Form8],
    windows: Sequence[int] | None,
) -> float:
    lanes, groups = option
    if lanes.channels > 1 and windows is not None:
        costs = [[gather8_cycles(step, size, lanes.channels, window) for window in windows] for step in steps]
        return sum(map(min, costs)) if windows and steps else math.inf
    if lanes.channels > 1:
        gatherable = bool(steps) and all(can_gather(step, size) for step in steps)
        return sum(gather_cycles(step, lanes.channels) for step in steps) if gatherable else math.inf
    block = (math.ceil(size[0] / lanes.rows), math.ceil(size[1] / lanes.columns))
    # Layers of one shape count together, each with as many weights as they have on average.
    alike: dict[Work, list[int]] = defaultdict(list)
    for step in steps or [Work(64, 64, 1, 64, Map(64, *size), (1, 1), (1, 1), 1)]:
        alike[replace(step, kept=0)].append(step.kept)
    total = 0.0
    for shape, kept in alike.items():
        out = Layout(Map(shape.outputs, *size), lanes, groups, block)
        cost, _, _ = ranking(replace(shape, kept=sum(kept) // len(kept)), out, forms)[0]
        # A halo is made of vectors that are not aligned, and filled anew by every step.
        has_halo = max(shape.size) > 1 and lanes.rows * lanes.columns > 1
        halo = 2 * (block[0] + block[1] + 2) if has_halo else 0
        total += len(kept) * (cost + 2.0 * shape.outputs * halo) / out.images
    return total


def ranking(step: Work, out: Layout, forms: Sequence[Form | Form8]) -> list[tuple[float, int, int]]:
    """Cost in cycles, form and blocks of all ways of computing a convolution, the best first."""
    found = []
    channels = step.inputs * step.groups
    for number, form in enumerate(forms):
        if isinstance(form, Form8):
            if form.fits(step, out):
                found += [(form.cycles(step, out, blocks), number, blocks) for blocks in BLOCKS if blocks <= channels]
            continue
        across = step.stride[1] == 1 or out.groups > 1
        if form.lanes != out.lanes.count or form.step != (1 if across else 2):
            continue
        row = out.block[1] * out.groups if step.stride[1] == 1 else out.groups if out.groups > 1 else out.block[1]
        merged = step.taps == 1 and step.stride == (1, 1)
        if not merged and (form.columns > row or form.rows > out.block[0]):
            continue
        if merged and (form.rows > 1 or form.columns > out.vectors):
            continue
        if step.stride[1] > 2 and out.groups == 1 and form.columns > 1:
            continue
        for blocks in BLOCKS:
            if blocks <= channels:
                found.append((cycles(step, out, form, blocks), number, blocks))
    return sorted(found)


def tune(
    lowered: Lowered, graph: Graph, forms: Sequence[Form], values: str, forms8: Sequence[Form8] = ()
) -> list[Choice]:
    """Time the best candidates of each convolution inside the whole network, and keep the fastest.

    Args:
        lowered: Its convolutions have no candidates yet.
        graph: What was lowered.
        forms: The native core's kernels.
        values: ``"bf16"`` for sparse weights in half the space.
        forms8: The kernels of 8 bits.

    Returns:
        What was chosen for each convolution, in order.

    Raises:
        ValueError: If no kernel fits a convolution.
    """
    program = lowered.program
    kernels: dict[int, Sequence[Form | Form8]] = {}
    candidates: dict[int, list[tuple[int, int]]] = {}
    references: dict[int, int] = {}
    for step, convolution in lowered.convolutions.items():
        task = work(convolution, graph.maps[convolution.input])
        own: Sequence[Form | Form8] = forms8 if step in lowered.in_8_bits else forms
        kernels[step] = own
        fitting = {i for i in program.forms(step) if _allows(own[i], values)}
        ranked = [(f, b) for _, f, b in ranking(task, lowered.layouts[step], own) if f in fitting]
        candidates[step] = _build(program, step, ranked, CANDIDATES)
        if not candidates[step]:
            raise ValueError(f"{convolution.name} has no kernel: a channel of {task.source} is too large")
        dense = [way for way in ranked if own[way[0]].dense]
        if dense and not any(own[form].dense for form, _ in candidates[step]):
            candidates[step] += _build(program, step, dense, 1)
            references[step] = len(candidates[step]) - 1
    inputs = [torch.randn(graph.images, *_shape(graph.maps[i])) for i in graph.inputs]
    outputs = [torch.empty(graph.images, *_shape(graph.maps[i])) for i in graph.outputs]
    times = _times(program, candidates, references, inputs, outputs)
    chosen = []
    for step, ways in candidates.items():
        best = min(range(len(ways)), key=times[step].__getitem__)
        program.choose(step, best)
        program.keep_chosen(step)
        own = kernels[step]
        dense_times = [t for t, (form, _) in zip(times[step], ways, strict=True) if own[form].dense]
        form, blocks = ways[best]
        chosen.append(Choice(own[form], blocks, times[step][best], min(dense_times, default=None)))
    return chosen


def _allows(form: Form | Form8, values: str) -> bool:
    return form.dense or isinstance(form, Form8) or form.bfloat16 == (values == "bf16")


def apply(lowered: Lowered, forms: Sequence[Form], choices: Sequence[Choice], forms8: Sequence[Form8] = ()) -> None:
    """Choose what was chosen before.

    Raises:
        ValueError: If a choice does not fit.
    """
    for step, choice in zip(lowered.convolutions, choices, strict=True):
        own: Sequence[Form | Form8] = forms8 if step in lowered.in_8_bits else forms
        lowered.program.candidate(step, own.index(choice.form), choice.blocks)
        lowered.program.keep_chosen(step)


def _shape(shape: Map) -> tuple[int, int, int]:
    return (shape.channels, shape.height, shape.width)


def _build(program: Program, step: int, ranked: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    made: list[tuple[int, int]] = []
    for form, blocks in ranked:
        if sum(form == other for other, _ in made) == ALIKE:
            continue
        try:
            program.candidate(step, form, blocks)
        except ValueError:  # a block is too long for 16-bit offsets
            continue
        made.append((form, blocks))
        if len(made) == most:
            break
    return made


def _times(
    program: Program,
    candidates: Mapping[int, Sequence[tuple[int, int]]],
    references: Mapping[int, int],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> dict[int, list[float]]:
    """The least seconds of each candidate, each where it will run: between the steps before and after it.

    References are there for comparison.
    """
    least = {step: [math.inf] * len(ways) for step, ways in candidates.items()}
    sources, results = [x.data_ptr() for x in inputs], [y.data_ptr() for y in outputs]

    def run(way: Mapping[int, int]) -> None:
        for step, candidate in way.items():
            program.choose(step, candidate)
        seconds = program.profile(sources, results)
        for step, candidate in way.items():
            least[step][candidate] = min(least[step][candidate], seconds[step])

    begin = time.perf_counter()
    for turn in range(TURNS * CANDIDATES):
        spent = time.perf_counter() - begin
        if turn >= 2 * (CANDIDATES + 1) and spent > BUDGET:
            break
        # References have every fifth turn, and are slow: one will do where time is short.
        if turn == 0 or (turn % (CANDIDATES + 1) == 0 and spent < BUDGET / 2):
            run({step: references.get(step, 0) for step in candidates})
        else:
            run({step: turn % (len(ways) - (step in references)) for step, ways in candidates.items()})
    return least
