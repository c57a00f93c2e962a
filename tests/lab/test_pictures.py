from __future__ import annotations

import io
import math
import struct
from dataclasses import replace

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from sparsecycle.lab import pictures
from sparsecycle.lab.comparison import Row
from sparsecycle.lab.pictures import Curve

DENSE = Row("dense", 0.0, 0.0, 0.97, 0.01, 3, 1.0, 1.0)


def row(method: str, sparsity: float, accuracy: float) -> Row:
    return Row(method, sparsity, sparsity, accuracy, 0.005, 3, 1.0, 1.0)


ROWS = [DENSE, *(row(m, s, 0.99 - s / 10) for s in (0.8, 0.9, 0.95, 0.98) for m in ("agp", "one-cycle"))]


def test_accuracy_over_the_logarithm_of_what_is_kept() -> None:
    (ax,) = pictures.accuracy(ROWS, "a title").axes
    assert ax.get_xscale() == "log"
    left, right = ax.get_xlim()
    assert left > 0.2 > 0.02 > right, "80 % stands left of 98 %, and both are inside"
    assert list(ax.get_xticks()) == pytest.approx([0.2, 0.1, 0.05, 0.02])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["80 %", "90 %", "95 %", "98 %"]
    assert ax.get_title(loc="left") == "a title"


def test_every_method_has_a_line_at_its_accuracies_and_dense_a_level() -> None:
    (ax,) = pictures.accuracy(ROWS).axes
    for container, shift_sign in zip(ax.containers, (1, -1), strict=True):
        line = container.lines[0]
        assert list(line.get_ydata()) == pytest.approx([91.0, 90.0, 89.5, 89.2])
        for x, kept in zip(line.get_xdata(), (0.2, 0.1, 0.05, 0.02), strict=True):
            # Beside its place, by less than a tenth of the way to the next one.
            assert 0 < shift_sign * math.log(x / kept) < 0.1 * math.log(2)
    level = next(line for line in ax.lines if line.get_label() == "dense")
    assert list(level.get_ydata()) == pytest.approx([97.0, 97.0])
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["dense", "agp", "one-cycle"]
    assert "3 seeds" in legend.get_title().get_text()


def test_eight_methods_look_different() -> None:
    (ax,) = pictures.accuracy([row(f"m{i}", 0.9, 0.9) for i in range(8)]).axes
    looks = {(c.lines[0].get_color(), c.lines[0].get_marker()) for c in ax.containers}
    assert len(looks) == 8


def test_one_sparsity_and_dense_alone_can_be_drawn() -> None:
    (ax,) = pictures.accuracy([DENSE, row("agp", 0.95, 0.9)]).axes
    left, right = ax.get_xlim()
    assert left > 0.05 > right > 0
    assert len(pictures.accuracy([DENSE]).axes[0].lines) == 1


def test_sparsity_over_time() -> None:
    curves = {
        "agp": Curve([0, 0.5, 1], [0.1, 0.9, 0.9], [0.5, 1], [0.45, 0.9]),
        "one-shot": Curve([0, 0.4, 1], [0, 0.9, 0.9]),
    }
    (ax,) = pictures.schedules(curves).axes
    assert ax.get_xlim() == (0, 101)
    assert ax.get_ylim() == (-1, 104)
    line, dots, _, other, *_ = ax.lines
    assert list(line.get_ydata()) == pytest.approx([10, 90, 90])
    assert line.get_drawstyle() == "steps-post", "a mask holds until the next one"
    assert list(dots.get_xdata()) == pytest.approx([50, 100])
    assert list(dots.get_ydata()) == pytest.approx([45, 90])
    assert list(other.get_xdata()) == pytest.approx([0, 40, 100])


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        pictures.accuracy([])
    with pytest.raises(ValueError, match="curves is empty"):
        pictures.schedules({})


def test_a_picture_is_as_wide_as_a_page() -> None:
    buffer = io.BytesIO()
    pictures.accuracy(ROWS).savefig(buffer, format="png", dpi=pictures.DPI)
    data = buffer.getvalue()
    assert struct.unpack(">II", data[16:24]) == (1100, 550)
    assert len(data) > 10_000


METHODS = {
    "before training": ["random", "magnitude", "snip", "grasp", "synflow"],
    "gradually, for good": ["progressive", "one-cycle", "agp", "iterative", "one-shot"],
    "weights come back": ["cyclical", "acdc", "dsd", "set", "rigl", "movement", "gsm", "dpf"],
    "several trainings": ["lottery-ticket", "colt"],
}
NAMES = [name for family in METHODS.values() for name in family]
MANY = [
    DENSE,
    *(
        replace(row(m, s, 0.96 - s / 10 - i / 1000), achieved=0.0 if m == "dsd" else s, cost=1.0 + i / 4)
        for s in (0.8, 0.9, 0.98)
        for i, m in enumerate(NAMES)
    ),
]


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def note(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


def test_many_methods_have_a_panel_a_family_with_dense_and_random_in_each() -> None:
    figure = pictures.accuracy(MANY, "a title")
    axes = figure.axes
    assert [ax.get_title(loc="left") for ax in axes] == list(METHODS)
    assert figure.get_suptitle() == "a title"
    assert len({ax.get_ylim() for ax in axes}) == len({ax.get_xlim() for ax in axes}) == 1, "they share both axes"
    for ax, members in zip(axes, METHODS.values(), strict=True):
        kept = [name for name in members if name != "dsd"]
        drawn = {c.get_label() for c in ax.containers}
        assert drawn == set(kept)
        others = [] if "random" in members else ["random"]
        assert legend(ax) == ["dense", *kept, *others], "ordered as they end, from above"
        looks = {(c.lines[0].get_color(), c.lines[0].get_marker()) for c in ax.containers}
        assert len(looks) == len(kept)


def test_a_method_that_does_not_end_sparse_is_named_instead_of_drawn() -> None:
    assert "less than half as sparse as asked: dsd" in note(pictures.accuracy(MANY))
    few = [row for row in MANY if row.method in ("dense", "agp", "dsd")]
    (ax,) = pictures.accuracy(few).axes
    assert [c.get_label() for c in ax.containers] == ["agp"]
    assert "dsd" in note(ax.figure)
    assert "dsd" not in note(pictures.accuracy([row for row in few if row.method != "dsd"]))
    assert pictures.drawn(few) == [row for row in few if row.method == "agp"]


def test_only_families_that_are_there_have_a_panel() -> None:
    kept = [
        row for row in MANY if row.method in ("dense", *METHODS["before training"], *METHODS["gradually, for good"])
    ]
    assert [ax.get_title(loc="left") for ax in pictures.accuracy(kept).axes] == list(METHODS)[:2]
    unknown = [*kept, row("mine", 0.9, 0.9)]
    shown = [ax for ax in pictures.accuracy(unknown).axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown] == [*list(METHODS)[:2], "several trainings"]


def test_one_collapsed_method_does_not_take_the_axis_from_the_others() -> None:
    rows = [replace(r, accuracy=0.113) if (r.method, r.requested) == ("synflow", 0.98) else r for r in MANY]
    axes = pictures.accuracy(rows).axes
    low, high = axes[0].get_ylim()
    lowest = min(100 * r.accuracy for r in rows if r.accuracy > 0.2)
    assert lowest - 5 < low < lowest
    assert 97 < high < 99
    assert [text.get_text() for text in axes[0].texts] == ["↓ 11.3"]
    assert [text.get_text() for ax in axes[1:] for text in ax.texts] == []


def test_points_that_are_only_somewhat_low_stay_on_the_axis() -> None:
    rows = [DENSE, *(row(m, s, 0.97 - 0.1 * s**8) for s in (0.8, 0.9, 0.98) for m in ("agp", "random"))]
    (ax,) = pictures.accuracy(rows).axes
    assert ax.get_ylim()[0] < min(100 * r.accuracy for r in rows)
    assert list(ax.texts) == []


def test_accuracy_over_cost_has_a_panel_a_sparsity() -> None:
    figure = pictures.costs(MANY, "a title")
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()] == ["80 %", "90 %", "98 %"]
    for ax, sparsity in zip(figure.axes[:3], (0.8, 0.9, 0.98), strict=True):
        assert ax.get_xscale() == "log", "1 to 6 times the dense run"
        points = {
            (line.get_xdata()[0], round(line.get_ydata()[0], 6)) for line in ax.lines if len(line.get_xdata()) == 1
        }
        here = [r for r in MANY if r.method != "dsd" and r.requested in (0.0, sparsity)]
        assert points == {(r.cost, round(100 * r.accuracy, 6)) for r in here}
        assert {text.get_text() for text in ax.texts} - {""} == {r.method for r in here}


def test_more_than_four_sparsities_are_the_highest_four() -> None:
    rows = [DENSE, *(row("agp", s, 0.9) for s in (0.5, 0.7, 0.8, 0.9, 0.95))]
    axes = pictures.costs(rows).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["70 %", "80 %", "90 %", "95 %"]
    assert {ax.get_xscale() for ax in axes} == {"linear"}


def test_a_collapsed_method_is_named_at_the_edge_with_its_accuracy() -> None:
    rows = [replace(r, accuracy=0.113) if r.method == "synflow" else r for r in MANY if r.requested in (0.0, 0.98)]
    (ax,) = pictures.costs(rows, "a title").axes
    assert ax.get_title(loc="left") == "a title, 98 % sparse"
    assert "synflow ↓ 11.3" in [text.get_text() for text in ax.texts]
    assert 80 < ax.get_ylim()[0] < min(100 * r.accuracy for r in rows if r.accuracy > 0.2)


def test_costs_need_a_dense_run() -> None:
    for rows in ([DENSE], [replace(row("agp", 0.9, 0.9), cost=None)], []):
        with pytest.raises(ValueError, match="no method with a cost"):
            pictures.costs(rows)


def test_many_schedules_have_panels_and_equal_ones_share_a_line() -> None:
    rising = {name: Curve([0, 0.5, 1], [i / 20, 0.9, 0.9], [0.5, 1], [0.9, 0.9]) for i, name in enumerate(NAMES[5:18])}
    constant = {name: Curve([0, 1], [0.9, 0.9]) for name in METHODS["before training"]}
    figure = pictures.schedules({**constant, **rising}, "a title")
    axes = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in axes] == list(METHODS)[:3]
    assert legend(axes[0]) == ["\n".join(METHODS["before training"])]
    assert sum(len(line.get_xdata()) == 2 for line in axes[0].lines) == 1
    assert legend(axes[1]) == METHODS["gradually, for good"]
    assert "counted at an epoch's end" in note(figure)
