from __future__ import annotations

import pytest

from sparsecycle.lab import progress
from sparsecycle.lab.progress import Bar, Lines, Silent, reporter

LINE = {"epoch": 1, "train_loss": 0.5, "test_accuracy": 0.987, "sparsity": 0.25}


def tell(it: progress.Reporter) -> None:
    it.begin("a run", 2, 10, 0)
    for epoch in range(2):
        for step in range(1, 11):
            it.step(epoch, step)
        it.say("evaluating")
        it.epoch({**LINE, "epoch": epoch + 1})
    it.end()


def test_lines_say_the_last_epoch_and_not_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Lines(every=1000))
    assert capsys.readouterr().err.splitlines() == [
        "a run: 2 epochs of 10 steps",
        "a run: epoch 2/2, loss 0.500, test 98.70 %, sparsity 25.0 %",
    ]


def test_lines_say_how_long_is_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = Lines(every=10)
    lines.begin("a run", 5, 100, 1)
    now = 10.0
    lines.step(1, 50)
    # 50 steps took 10 s; 350 are left.
    assert capsys.readouterr().err.splitlines() == [
        "a run: 5 epochs of 100 steps from epoch 1",
        "a run: epoch 2/5 step 50/100, 0:01:10 left",
    ]


def test_the_bar_shows_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Bar())
    shown = capsys.readouterr().err
    assert "a run" in shown
    assert "98.70 %" in shown


def test_silent_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Silent())
    assert capsys.readouterr() == ("", "")


def test_which_reporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(reporter("auto"), Bar)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert isinstance(reporter("auto"), Lines)
    silent = Silent()
    assert reporter(silent) is silent
    with pytest.raises(ValueError, match="progress='loud'; allowed are auto, bar, lines, silent"):
        reporter("loud")  # type: ignore[arg-type]
