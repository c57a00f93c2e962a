from __future__ import annotations

import pytest

from sparsecycle.runtime import Entry, Plan


def test_the_share_of_the_limit_is_the_gain_times_what_is_kept():
    assert Entry("a", "", 1.0, sparsity=0.9, gain=6.0).share == pytest.approx(0.6)


@pytest.mark.parametrize("entry", [Entry("a", "", 1.0), Entry("a", "", 1.0, 0.9), Entry("a", "", 1.0, 1.0, 50.0)])
def test_without_a_gain_or_with_no_weights_left_there_is_no_share(entry):
    assert entry.share is None


def test_prints_as_a_table():
    entries = (
        Entry("conv1", "dense 1x3x8, 4 channels", 0.0975, 0.0, 1.0),
        Entry("conv2", "sparse 2x4x8, 1 channels", 1.25, 0.9, 6.25),
        Entry("gelu", "PyTorch: aten.gelu has no native form", None),
    )
    assert str(Plan(entries, 4, 2, "avx2")).splitlines() == [
        "layer  sparsity  choice                                     ms  gain  of limit",
        "conv1      0.0%  dense 1x3x8, 4 channels                0.0975  1.0x      100%",
        "conv2     90.0%  sparse 2x4x8, 1 channels                1.250  6.2x       62%",
        "gelu             PyTorch: aten.gelu has no native form",
        "total            batch 4, threads 2, avx2                1.347",
    ]
