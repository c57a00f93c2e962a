"""Layouts: what windows have in common, and what a step needs around a block."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.graphs import LENGTHS, convolutions, lanes, pools, ranges

from sparsecycle.runtime.graph import Convolution, Map, Pool
from sparsecycle.runtime.layouts import Lanes, Layout, Window, needed, regular, union

OF = Map(3, 10, 13)
LAYOUT = Layout(OF, Lanes(2, 2, 4), 3, (5, 4), (1, 1, 1, 1))


def test_what_a_layout_has() -> None:
    assert LAYOUT.lanes.count == 16
    assert Lanes(1, 1, 1, 8).count == 8
    assert LAYOUT.images == 6
    assert LAYOUT.vectors == 60


@pytest.mark.parametrize(
    ("need", "serves"),
    [
        (LAYOUT, True),
        (Layout(OF, Lanes(2, 2, 4), 3, (5, 4)), True),
        (Layout(OF, Lanes(2, 2, 4), 3, (5, 4), (1, 0, 1, 1)), True),
        (Layout(OF, Lanes(2, 2, 4), 3, (5, 4), (1, 2, 1, 1)), False),
        (Layout(OF, Lanes(2, 2, 4), 3, (5, 4), fill=1.0), False),
        (Layout(OF, Lanes(2, 2, 4), 3, (6, 4)), False),
        (Layout(OF, Lanes(2, 2, 4), 2, (5, 4)), False),
        (Layout(OF, Lanes(4, 2, 2), 3, (5, 4)), False),
        (Layout(Map(4, 10, 13), Lanes(2, 2, 4), 3, (5, 4)), False),
    ],
)
def test_a_layout_serves_where_less_of_a_halo_is_needed(need: Layout, serves: bool) -> None:
    assert LAYOUT.serves(need) is serves


def test_a_halo_for_two() -> None:
    assert union((1, 0, 2, 3), (0, 1, 2, 1)) == (1, 1, 2, 3)


@pytest.mark.parametrize(
    ("size", "windows", "found"),
    [
        (6, [(0, 2), (2, 4), (4, 6)], Window(2, 2, 0)),
        (7, [(0, 2), (2, 4), (4, 6), (6, 7)], Window(2, 2, 0)),  # ceil_mode
        (7, [(0, 2), (1, 4), (3, 6), (5, 7)], Window(3, 2, 1)),
        (5, [(0, 3), (0, 4), (1, 5), (2, 5), (3, 5)], Window(4, 1, 1)),
        (5, [(0, 1), (2, 3), (4, 5)], Window(1, 2, 0)),
        (6, [(0, 3), (3, 6)], Window(3, 3, 0)),  # adaptive
        (7, [(0, 3), (2, 5), (4, 7)], Window(3, 2, 0)),  # adaptive
        (5, [(0, 3), (2, 5)], Window(3, 2, 0)),
        (8, [(0, 3), (2, 6), (5, 8)], Window(4, 3, 1)),  # adaptive
        (7, [(0, 2), (1, 3), (2, 5), (4, 6), (5, 7)], None),  # adaptive
        (9, [(0, 1), (1, 4), (4, 9)], None),
        (4, [(1, 3), (2, 4)], None),
        (3, [(2, 3), (1, 2), (0, 1)], None),
    ],
)
def test_windows_that_are_alike(size: int, windows: list[tuple[int, int]], found: Window | None) -> None:
    assert regular(tuple(windows), size) == found


@given(LENGTHS.flatmap(lambda size: st.tuples(st.just(size), ranges(size))))
def test_what_is_found_are_the_windows(case: tuple[int, tuple[tuple[int, int], ...]]) -> None:
    size, windows = case
    found = regular(windows, size)
    if found is not None:
        starts = [found.stride * i - found.padding for i in range(len(windows))]
        assert windows == tuple((max(0, start), min(size, start + found.reach)) for start in starts)


def laid_out(of: Map, side: Lanes, groups: int) -> Layout:
    return Layout(of, side, groups, (-(-of.height // side.rows), -(-of.width // side.columns)))


def extremes(places: int, stride: int, padding: int, reach: int) -> tuple[int, int]:
    """The first and the last place of the input that so many of the output see."""
    return -padding, (places - 1) * stride - padding + reach - 1


@given(st.data())
def test_a_convolution_needs_no_more_and_no_less(data: st.DataObject) -> None:
    source = Map(data.draw(st.integers(1, 3)), data.draw(LENGTHS), data.draw(LENGTHS))
    step, made = data.draw(convolutions(source))
    side, groups = data.draw(lanes(16))
    out = laid_out(made, side, groups)
    need = needed(step, source, out)
    sizes = ((source.height, side.rows), (source.width, side.columns))
    fits = all(count == 1 or count * out.block[i] * step.stride[i] >= size for i, (size, count) in enumerate(sizes))
    assert (need is not None) is fits
    if need is None:
        return
    assert (need.map, need.lanes, need.groups, need.fill) == (source, side, groups, 0.0)
    for axis, (size, count) in enumerate(sizes):
        reach = step.dilation[axis] * (step.weight.shape[2 + axis] - 1) + 1
        first, last = extremes(out.block[axis], step.stride[axis], step.padding[axis], reach)
        assert need.block[axis] == (size if count == 1 else out.block[axis] * step.stride[axis])
        assert need.halo[2 * axis : 2 * axis + 2] == (-first, max(0, last - need.block[axis] + 1))


def test_a_pool_on_whole_maps_needs_no_halo() -> None:
    source, windows = Map(2, 9, 9), ((0, 1), (1, 4), (4, 9))
    step = Pool("pool", 0, "average", windows, windows, torch.ones(3, 3))
    out = Layout(Map(2, 3, 3), Lanes(8, 1, 1), 2, (3, 3))
    assert needed(step, source, out) == Layout(source, Lanes(8, 1, 1), 2, (9, 9))


def test_a_pool_on_blocks_needs_what_its_windows_see() -> None:
    source, windows = Map(2, 8, 8), ((0, 2), (1, 4), (3, 6), (5, 8))
    step = Pool("pool", 0, "max", windows, windows, None)
    out = Layout(Map(2, 4, 4), Lanes(1, 2, 4), 1, (2, 1))
    assert needed(step, source, out) == Layout(source, Lanes(1, 2, 4), 1, (4, 2), (1, 0, 1, 0))


@given(st.data())
def test_windows_that_differ_need_whole_maps(data: st.DataObject) -> None:
    source = Map(2, data.draw(LENGTHS), data.draw(LENGTHS))
    step, made = data.draw(pools(source))
    side, groups = data.draw(lanes(16))
    need = needed(step, source, laid_out(made, side, groups))
    axes = ((step.rows, source.height, side.rows), (step.columns, source.width, side.columns))
    if any(count > 1 and regular(windows, size) is None for windows, size, count in axes):
        assert need is None


def test_blocks_that_are_too_small_for_what_is_read() -> None:
    """Without padding a result's blocks, one after the other, do not reach over the whole map that is read."""
    step = Convolution("conv", 0, torch.ones(1, 1, 5, 5), None, (1, 1), (0, 0), (1, 1), 1)
    source, made = Map(1, 28, 28), Map(1, 24, 24)
    assert needed(step, source, Layout(made, Lanes(1, 2, 2), 1, (12, 12))) is None
    need = needed(step, source, Layout(made, Lanes(1, 2, 2), 1, (14, 14)))
    assert need == Layout(source, Lanes(1, 2, 2), 1, (14, 14), (0, 4, 0, 4))
