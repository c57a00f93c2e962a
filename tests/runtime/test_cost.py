"""The model of costs: what it counts is what the core does, and what it prefers is what has less to do."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.graphs import numbers
from tests.runtime.programs import candidate, core, forms

from sparsecycle import native
from sparsecycle.runtime.cost import Form, Work, can_gather, cycles, gather_cycles, met, work
from sparsecycle.runtime.graph import Convolution, Graph, Map
from sparsecycle.runtime.layouts import Lanes, Layout
from sparsecycle.runtime.lower import lower

SPARSE = Form(8, 2, 3, 1, 2, False, False)
DENSE = Form(8, 1, 4, 1, 3, True, False)
WORK = Work(64, 96, 9, 5000, Map(64, 14, 14), (3, 3), (1, 1), 1)
OUT = Layout(Map(96, 14, 14), Lanes(8, 1, 1), 2, (14, 14))


def test_forms_in_words() -> None:
    assert SPARSE.vectors == 6
    assert str(SPARSE) == "sparse 2x3x8, 2 channels"
    assert str(DENSE) == "dense 1x4x8, 3 channels"
    assert str(replace(SPARSE, bfloat16=True)) == "sparse 2x3x8, 2 channels, bf16"


def test_what_there_is_to_do() -> None:
    weight = torch.ones(6, 2, 3, 5)
    weight[1:, :, 0] = 0
    step = Convolution("conv", 0, weight, None, (2, 1), (1, 2), (1, 1), 4)
    assert work(step, Map(8, 9, 9)) == Work(2, 6, 15, 130, Map(8, 9, 9), (3, 5), (2, 1), 4)


@pytest.mark.skipif(native.core() is None, reason="the native core was not built")
@settings(max_examples=40)
@given(st.data())
def test_taps_are_counted_as_the_core_takes_them(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 3, 5]))
    of = Map(4, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)))
    groups, lanes = data.draw(st.integers(1, 4)), data.draw(st.sampled_from(sorted({form.lanes for form in forms()})))
    step = Convolution("conv", 0, numbers((7, 4, size, size), 0), None, (1, 1), (size // 2, size // 2), (1, 1), 1)
    graph = Graph(1, [0], [1], [of, replace(of, channels=7)], [step])
    lowered = lower(graph, {(of.height, of.width): (Lanes(lanes, 1, 1), groups)}, core().Program(1, 1))
    out, program = lowered.layouts[1], lowered.program
    for number in program.forms(1):
        form = forms()[number]
        wide, over = divmod(form.columns, groups)
        whole = groups % form.columns == 0 or (over == 0 and of.width % wide == 0)
        # The model does not know of the smaller tiles at the ends of rows.
        if form.dense and whole:
            cost = program.cost(1, candidate(program, 1, number, 1, 4))
            entries = 4 * size**2 * met(work(step, of), out, form.rows, form.columns)
            assert cost.multiply_adds == pytest.approx(entries * math.ceil(7 / form.bundle) * form.bundle * out.vectors)


def test_more_to_do_costs_more() -> None:
    kept = [cycles(replace(WORK, kept=count), OUT, SPARSE, 4) for count in (0, 1000, 10000, 55296)]
    blocks = [cycles(replace(WORK, kept=0), OUT, SPARSE, count) for count in (1, 2, 8, 64)]
    for few, more in (*pairwise(kept), *pairwise(blocks)):
        assert few < more
    assert cycles(WORK, OUT, replace(SPARSE, bfloat16=True), 4) < cycles(WORK, OUT, SPARSE, 4)
    assert cycles(replace(WORK, kept=9), OUT, DENSE, 4) == cycles(replace(WORK, kept=50000), OUT, DENSE, 4)


def test_sparse_kernels_pay_where_few_weights_are_left() -> None:
    full = 64 * 96 * 9
    assert cycles(replace(WORK, kept=full), OUT, SPARSE, 4) > cycles(replace(WORK, kept=full), OUT, DENSE, 4)
    assert cycles(replace(WORK, kept=full // 10), OUT, SPARSE, 4) < cycles(WORK, OUT, DENSE, 4) / 2


def test_blocks_pay_where_a_tile_reads_more_than_the_first_cache_holds() -> None:
    large = replace(WORK, inputs=512, kept=50000, source=Map(512, 14, 14))
    assert cycles(large, OUT, SPARSE, 16) < cycles(large, OUT, SPARSE, 1)
    small = replace(WORK, inputs=8, kept=50000, source=Map(8, 14, 14))
    assert cycles(small, OUT, SPARSE, 8) > cycles(small, OUT, SPARSE, 1)


@pytest.mark.parametrize(
    ("words", "size", "can"),
    [
        ({"source": Map(8, 1, 1), "size": (1, 1)}, (1, 1), True),
        ({"source": Map(8, 1, 1), "size": (1, 1), "groups": 2}, (1, 1), False),
        ({"source": Map(8, 1, 1), "size": (3, 3)}, (1, 1), False),
        ({"source": Map(8, 2, 2), "size": (3, 3)}, (2, 2), True),
        ({"source": Map(8, 2, 2), "size": (3, 3), "stride": (2, 2)}, (1, 1), False),
        ({"source": Map(8, 2, 2), "size": (1, 1)}, (2, 2), False),
        ({"source": Map(8, 2, 2), "size": (3, 3), "dilation": (2, 2)}, (2, 2), False),
        ({"source": Map(8, 4, 4), "size": (3, 3)}, (4, 4), False),
    ],
)
def test_what_can_have_channels_in_its_lanes(words: dict[str, Any], size: tuple[int, int], can: bool) -> None:
    assert can_gather(replace(WORK, **words), size) is can


@pytest.mark.parametrize("taps", [1, 9])
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_channels_in_the_lanes_cost_by_their_weights(lanes: int, taps: int) -> None:
    step = replace(WORK, taps=taps)
    costs = [gather_cycles(replace(step, kept=64 * 96 * taps * tenths // 10), lanes) for tenths in range(11)]
    for few, more in pairwise(costs):
        assert 0 < few <= more
    # Each step of a plane has a weight for every lane.
    assert costs[10] >= 64 * 96 * taps / lanes
