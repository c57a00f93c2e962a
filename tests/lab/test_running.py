from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lab.tiny import SHORT, go, metrics, tiny

from sparsecycle.files.packed import read_state
from sparsecycle.lab import running as module
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.progress import Silent
from sparsecycle.lab.recipe import Recipe
from sparsecycle.lab.running import run
from sparsecycle.lab.store import BrokenFile, RunInUse
from sparsecycle.lab.training import Diverged


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_load", tiny)


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"}


@pytest.mark.parametrize("method", ["progressive", "one-cycle", "agp", "one-shot", "iterative", "cyclical"])
@pytest.mark.parametrize("update", ["step", "epoch"])
def test_a_run_stores_what_it_gave(tmp_path: Path, method: str, update: str) -> None:
    result = go(tmp_path, method=method, update=update, sparsity=0.8)
    path = result.path
    weights = read_state(path)
    prunable = [w for w in weights.values() if w.dim() == 2]
    zeros = sum(int((w == 0).sum()) for w in prunable) / sum(w.numel() for w in prunable)
    assert result.achieved == pytest.approx(0.8, abs=1e-4)
    assert zeros == pytest.approx(result.achieved)
    assert result.sparsity == 0.8
    assert [line["epoch"] for line in metrics(path)] == [1, 2, 3]
    assert metrics(path)[-1]["sparsity"] == pytest.approx(result.achieved)
    assert metrics(path)[-1]["test_accuracy"] == result.accuracy
    stored = json.loads((path / "result.json").read_text())
    assert stored == {k: v for k, v in vars(result).items() if k != "path"}
    assert json.loads((path / "report.json").read_text())["achieved"] == result.achieved
    assert "multiply-adds" in (path / "report.txt").read_text()
    assert json.loads((path / "config.json").read_text())["experiment"]["method"] == method
    (start,) = json.loads((path / "environment.json").read_text())
    assert start["torch"] == torch.__version__
    assert not list(path.glob("checkpoint*"))
    assert result.images_per_second == pytest.approx(3 * 60 / result.seconds)


def test_a_dense_run_prunes_nothing_and_is_one_run(tmp_path: Path) -> None:
    result = go(tmp_path, method="dense", sparsity=0.9)
    assert (result.sparsity, result.achieved) == (0.0, 0.0)
    assert not (result.path / "report.json").exists()
    assert {line["sparsity"] for line in metrics(result.path)} == {0.0}
    again = go(tmp_path, method="dense", sparsity=0.5, scope="erk", update="epoch", start=0.1)
    assert again.path == result.path


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    result = go(tmp_path)
    before = {f.name: f.stat().st_mtime_ns for f in result.path.iterdir()}
    assert go(tmp_path) == result
    assert {f.name: f.stat().st_mtime_ns for f in result.path.iterdir()} == before


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    base = Experiment()
    others = [
        dataclasses.replace(base, **{field: value})
        for field, value in {
            "data": "mnist",
            "model": "linear",
            "method": "agp",
            "sparsity": 0.91,
            "seed": 1,
            "scope": "uniform",
            "recovery": "zero",
            "floor": 0,
            "update": "epoch",
            "start": 0.1,
            "end": 0.9,
            "exclude": ("fc3*",),
            "recipe": Recipe(lr=0.2),
        }.items()
    ]
    paths = {e.folder(tmp_path).path for e in [base, *others]}
    assert len(paths) == 14
    assert Experiment().folder(tmp_path).path == base.folder(tmp_path).path
    assert base.folder(tmp_path).path.name.startswith("digits-lenet-300-100-progressive-0.9-seed0-")


def test_start_and_end_reach_the_method(tmp_path: Path) -> None:
    result = go(tmp_path, start=0.34, end=0.67, update="epoch", sparsity=0.5)
    # Epoch e trains under schedule((e + 1) / 3), and the line of an epoch has the mask of the next one.
    assert [line["sparsity"] for line in metrics(result.path)] == pytest.approx([0.494, 0.5, 0.5], abs=2e-3)
    with pytest.raises(ValueError, match="at=0.5: the method 'agp' does not take it.*start, end"):
        Experiment(method="agp", at=0.5)


def test_excluded_layers_stay_dense(tmp_path: Path) -> None:
    result = go(tmp_path, exclude=("fc1*",), sparsity=0.9)
    weights = read_state(result.path)
    assert int((weights["fc1.weight"] == 0).sum()) == 0
    assert int((weights["fc2.weight"] == 0).sum() + (weights["fc3.weight"] == 0).sum()) == round(0.9 * 30_400)


def test_the_scope_of_the_paper(tmp_path: Path) -> None:
    result = go(tmp_path, method="one-cycle", scope="paper", sparsity=0.9)
    weights = read_state(result.path)
    assert int((weights["fc2.weight"] == 0).sum()) == 27_000


def test_the_validation_images_are_held_out(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SHORT, validation=0.2, evaluate_every=2)
    result = go(tmp_path, recipe)
    assert result.images_per_second == pytest.approx(3 * 48 / result.seconds)
    lines = metrics(result.path)
    assert ["validation_accuracy" in line for line in lines] == [False, True, True]
    assert result.validation_accuracy == lines[-1]["validation_accuracy"]
    assert result.validation_accuracy is not None
    assert (result.validation_accuracy * 12) % 1 == pytest.approx(0, abs=1e-9)
    assert go(tmp_path).validation_accuracy is None


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    go(tmp_path)
    assert torch.equal(torch.rand(3), expected)


class Interrupt(Silent):
    """Ends a run at the beginning of an epoch's second step."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def step(self, epoch: int, step: int) -> None:
        if epoch == self.at:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_with_consistent_metrics(tmp_path: Path) -> None:
    whole = go(tmp_path / "whole")
    experiment = Experiment(recipe=SHORT)
    # The checkpoint is of epoch 1; the second interruption comes after epoch 2 and loses it.
    for epoch, every in ((1, 0.0), (2, 1000.0)):
        with pytest.raises(KeyboardInterrupt):
            run(experiment, tmp_path, progress=Interrupt(epoch), checkpoint_every=every, device="cpu")
    path = experiment.folder(tmp_path).path
    assert [line["epoch"] for line in metrics(path)] == [1, 2]
    assert not (path / "result.json").exists()
    before = json.loads((path / "metrics.jsonl").read_text().splitlines()[0])["seconds"]
    result = go(tmp_path)
    assert result.seconds > before
    assert metrics(path) == metrics(whole.path)
    assert content(path)["model.safetensors"] == content(whole.path)["model.safetensors"]
    starts = json.loads((path / "environment.json").read_text())
    assert [start["from_epoch"] for start in starts] == [0, 1, 1]


def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    code = """
import sys, torch
torch.set_num_threads(1)
from torch import nn
from sparsecycle.lab import running as module
from sparsecycle.lab.data import Augment, Dataset, Split
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.running import run
from sparsecycle.lab.recipe import Recipe

def data(name, root):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (400, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 4, (400,), generator=generator)
    return Dataset("tiny", Split(images, labels), Split(images, labels), tuple("abcd"), (0.5,), (0.3,))

def build(name, shape, classes):
    features = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*features, nn.Dropout(0.3), nn.Linear(288, 4))

module._load, module.build = data, build
augment = Augment(crop=1, flip=True, rotate=10.0)
recipe = Recipe(epochs=30, batch_size=32, lr=0.05, precision="fp32", augment=augment)
# Cyclical pruning lets weights come back, so that more than the weights must come back too.
experiment = Experiment(method="cyclical", recipe=recipe)
run(experiment, sys.argv[1], progress="silent", checkpoint_every=0, device="cpu")
"""

    def start(runs: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(runs)], env={**os.environ, "OMP_NUM_THREADS": "1"})

    with start(tmp_path / "whole") as uninterrupted, start(tmp_path / "killed") as process:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "killed").glob("*/checkpoint-*")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert uninterrupted.wait(300) == 0
    (killed,), (whole,) = (tmp_path / "killed").iterdir(), (tmp_path / "whole").iterdir()
    assert not (killed / "result.json").exists()
    with start(tmp_path / "killed") as process:
        assert process.wait(300) == 0
    assert json.loads((killed / "environment.json").read_text())[-1]["from_epoch"] >= 1
    assert content(killed)["model.safetensors"] == content(whole)["model.safetensors"]
    assert metrics(killed) == metrics(whole)
    assert [line["epoch"] for line in metrics(whole)] == list(range(1, 31))
    assert (killed / "report.json").read_bytes() == (whole / "report.json").read_bytes()


def test_a_diverged_run_says_so_and_is_not_finished(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SHORT, lr=1e30)
    with pytest.raises(Diverged, match=r"epoch 1 of 3: .*try a lower lr"):
        go(tmp_path, recipe)
    path = Experiment(recipe=recipe).folder(tmp_path).path
    failed = json.loads((path / "failed.json").read_text())
    assert failed["error"] == "Diverged"
    assert "epoch 1 of 3" in failed["message"]
    assert not (path / "result.json").exists()
    with pytest.raises(Diverged):
        go(tmp_path, recipe)


def test_a_failure_is_forgotten_when_the_run_goes_on(tmp_path: Path) -> None:
    class Broken(Silent):
        def epoch(self, metrics: Any) -> None:
            raise OSError("No space left on device")

    experiment = Experiment(recipe=SHORT)
    with pytest.raises(OSError, match="No space"):
        run(experiment, tmp_path, progress=Broken(), device="cpu")
    path = experiment.folder(tmp_path).path
    assert (path / "failed.json").exists()
    go(tmp_path)
    assert not (path / "failed.json").exists()


def test_a_damaged_checkpoint_and_result_are_named(tmp_path: Path) -> None:
    experiment = Experiment(recipe=SHORT)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path, progress=Interrupt(2), checkpoint_every=0, device="cpu")
    (path,) = experiment.folder(tmp_path).path.glob("checkpoint-*")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BrokenFile, match=f"{path.name} is damaged"):
        go(tmp_path)
    path.unlink()
    result = go(tmp_path)
    (result.path / "result.json").write_text("{}")
    with pytest.raises(BrokenFile, match="result.json is not a result"):
        go(tmp_path)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    experiment = Experiment(recipe=SHORT)
    with experiment.folder(tmp_path).lock(), pytest.raises(RunInUse, match=f"process {os.getpid()}"):
        go(tmp_path)
    assert go(tmp_path).epochs == 3


def test_an_unknown_model_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lenet-300-100"):
        go(tmp_path / "runs", model="lenet-300-10")
    assert not (tmp_path / "runs").exists()
