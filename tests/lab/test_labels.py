from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from sparsecycle.lab.labels import label

PLACES = st.lists(st.tuples(st.floats(0.3, 0.7), st.floats(0.0, 1.0)), min_size=1, max_size=20)


@settings(deadline=None, max_examples=12)
@given(PLACES)
def test_no_name_covers_another(places: list[tuple[float, float]]) -> None:
    figure = Figure(figsize=(6, 5))
    ax = figure.subplots()
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.1, 1.1)
    names = [f"method {i}" for i in range(len(places))]
    written = label(ax, [(x, y, name, "black") for (x, y), name in zip(places, names, strict=True)])
    assert [text.get_text() for text in written] == names
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in written]
    frame = ax.get_window_extent()
    for i, a in enumerate(boxes):
        assert frame.x0 <= a.x0
        assert a.x1 <= frame.x1
        for b in boxes[:i]:
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            high = min(a.y1, b.y1) - max(a.y0, b.y0)
            # The lines' own leading may overlap.
            assert wide <= 0.01 or high <= 0.35 * a.height


def test_a_lone_point_has_its_name_beside_it_and_an_empty_name_keeps_its_place_free() -> None:
    figure = Figure(figsize=(6, 5))
    ax = figure.subplots()
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    (alone,) = label(ax, [(0.5, 0.5, "agp", "black")])
    x, y = alone.get_position()
    assert 0 < x < 30
    assert y == 0.0
    beside, _ = label(ax, [(0.5, 0.5, "agp", "black"), (0.53, 0.5, "", "black")])
    assert beside.get_position() != alone.get_position()
