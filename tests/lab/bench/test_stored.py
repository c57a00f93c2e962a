from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsecycle import runtime
from sparsecycle.files.packed import NAME, save
from sparsecycle.lab import data
from sparsecycle.lab.bench import stored
from sparsecycle.lab.bench.engines import sample
from sparsecycle.lab.bench.exports import save_arrays
from sparsecycle.lab.bench.inference import Entrant, ours
from sparsecycle.lab.bench.stored import Stored, bench_file, read
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import build


@pytest.fixture(autouse=True)
def threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SPARSECYCLE_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 2)).eval()
    with torch.no_grad():
        model[0].weight[:6] = 0
    return model


@pytest.fixture
def exported(model: nn.Module, tmp_path: Path) -> Path:
    torch.export.save(torch.export.export(model, (torch.randn(3, 8),)), tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = Experiment(data="digits", model="linear").folder(tmp_path)
    with folder.lock():
        save(build("linear", (1, 8, 8), 10), folder.path / NAME)
    return folder.path


def test_an_exported_network_has_its_batch_and_its_zeros(exported: Path, model: nn.Module) -> None:
    found = read(exported)
    (inputs,) = found.inputs
    assert inputs.shape == (3, 8)
    assert inputs.std() > 0.5
    assert found.calibration == [found.inputs]
    assert found.sparsity == 48 / 100
    with torch.no_grad():
        torch.testing.assert_close(found.model(inputs), (model(inputs),))
    assert read(exported, 3).inputs[0].shape == (3, 8)
    with pytest.raises(ValueError, match=r"batch_size=4: .*net\.pt2 was exported for a batch of 3"):
        read(exported, 4)


def test_a_network_without_matrices_has_no_sparsity() -> None:
    assert Stored(nn.ReLU(), [], []).sparsity == 0.0


def test_a_run_has_the_images_of_its_data(run: Path) -> None:
    digits = data.load("digits")
    found = read(run, 5)
    (inputs,) = found.inputs
    expected = (digits.test.images[:5] / 255 - digits.mean[0]) / digits.std[0]
    torch.testing.assert_close(inputs, expected)
    assert [batch[0].shape for batch in found.calibration] == [(5, 1, 8, 8)] * 102
    assert read(run).inputs[0].shape == (1, 1, 8, 8)
    assert not found.model.training


def test_a_run_may_have_a_normalisation_of_its_own(tmp_path: Path) -> None:
    folder = Experiment(data="digits", model="linear", mean=(0.25,), std=(0.5,)).folder(tmp_path)
    with folder.lock():
        save(build("linear", (1, 8, 8), 10), folder.path / NAME)
    (inputs,) = read(folder.path, 5).inputs
    torch.testing.assert_close(inputs, (data.load("digits").test.images[:5] / 255 - 0.25) / 0.5)


def test_an_unfinished_run_is_refused(run: Path) -> None:
    (run / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors: its run is not finished"):
        read(run)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is neither a file of torch.export.save, NAME.pt2, nor a run of sparsecycle"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        bench_file(tmp_path / "nothing", batch=None, values=["fp32"], threads=[1], seconds=0.0)


RIVAL = """
from types import SimpleNamespace
import numpy as np

def network(job):
    with np.load("{weights}") as its:
        a, b, c, d = (its[name] for name in its.files)
    bind = lambda batch: lambda: [np.maximum(batch[0] @ a.T + b, 0) @ c.T + d]
    return SimpleNamespace(bind=bind, version="numpy", plan="", compiling=None)
"""


def test_an_exported_network_is_raced(
    exported: Path, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_arrays([its.detach() for its in model.parameters()], tmp_path / "weights.npz")
    (tmp_path / "rival.py").write_text(RIVAL.format(weights=tmp_path / "weights.npz"))
    rival = Entrant("numpy", f"{tmp_path / 'rival.py'}:network", baseline=True, python=sys.executable)
    monkeypatch.setattr(stored, "RIVALS", (rival, replace(rival, values="bf16"), replace(rival, values="int8")))
    monkeypatch.setattr(stored, "ours", lambda sparsities, values: ours(sparsities, values[:1]))
    said: list[str] = []
    found = bench_file(exported, batch=None, values=["fp32", "int8"], threads=[1], seconds=0.0, say=said.append)
    assert (found["sparsity"], found["batch"], found["file"]) == (0.48, 3, str(exported))
    (race,) = found["races"]
    its = {entrant["label"]: entrant for entrant in race["entrants"]}
    assert list(its) == ["numpy fp32, 48 %", "numpy int8, 48 %", "sparsecycle fp32, 48 %"]
    assert its["sparsecycle fp32, 48 %"]["error"] < 1e-6
    assert its["sparsecycle fp32, 48 %"]["over"]["fp32"]["name"] == "numpy"
    assert said[0].startswith("batch 3, 1 thread:\n\n|")
    assert said[1].startswith("sparsecycle fp32, 48 %, compiled in ")
    assert said[-1] == stored.READING


def test_a_compiled_network_is_timed_alone(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "sample", lambda run, threads: (sample(run, threads, 0.0, 0.0)[0], True))
    runtime.save(runtime.compile(model, torch.randn(3, 8), threads=1), tmp_path / "net.sparse")
    said: list[str] = []
    file = tmp_path / "net.sparse"
    found = bench_file(file, batch=None, values=["fp32"], threads=[1], seconds=0.0, say=said.append)
    (its,) = found["races"]
    assert its["milliseconds"] > 0
    assert its["plan"] in said[0]
    assert said[0].startswith("batch 3, 1 thread, fp32: ")
