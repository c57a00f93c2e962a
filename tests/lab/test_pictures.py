from __future__ import annotations

import io
import math
import struct

import pytest

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
