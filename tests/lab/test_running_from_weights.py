"""Runs that begin with weights from a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lab.tiny import SHORT, SIZES, WEIGHTS, InterruptTraining, go, metrics, only, tiny
from torch import Tensor

from sparsecycle.files.packed import read_state
from sparsecycle.lab import running as module
from sparsecycle.lab.catalogue import KEEP_ZEROS, NAMES, SEARCHES
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import build
from sparsecycle.lab.running import run
from sparsecycle.lab.training import Trainer
from sparsecycle.methods import METHODS
from sparsecycle.tickets import Ticket

#: Moves no weight that has no gradient, and others hardly.
STILL = replace(SHORT, lr=1e-9)
ZEROS = 29_760  # in the file


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_load", tiny)


@pytest.fixture
def begun() -> dict[str, Tensor]:
    """The smallest 60 % of the weights, those of all layers together, are zero."""
    torch.manual_seed(3)
    state = build("lenet-300-100", (1, 8, 8), 4).state_dict()
    least = torch.cat([state[name].abs().flatten() for name in SIZES]).kthvalue(ZEROS).values
    for name in SIZES:
        state[name][state[name].abs() <= least] = 0
    return state


@pytest.fixture
def file(begun: dict[str, Tensor], tmp_path: Path) -> str:
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in begun.items()}}, tmp_path / "net.th")
    return str(tmp_path / "net.th")


def zeros(weights: dict[str, Tensor]) -> int:
    return sum(int((weights[name] == 0).sum()) for name in SIZES)


def test_a_run_begins_with_the_weights_in_the_file(file: str, begun: dict[str, Tensor], tmp_path: Path) -> None:
    result = go(tmp_path / "runs", STILL, method="dense", init=file)
    weights = read_state(result.path)
    for name, tensor in begun.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-6, rtol=0)
    assert zeros(weights) < 0.1 * ZEROS, "zeros are weights like any others"
    noted = json.loads((result.path / "init.json").read_text())
    assert (noted["file"], noted["kept"]) == (file, [])
    assert noted["renamed"]["fc1.weight"] == "module.fc1.weight"


def test_a_file_that_does_not_fit_begins_nothing(file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"net\.th: these are not the weights of this model"):
        go(tmp_path / "runs", init=file, model="linear")
    assert not list((tmp_path / "runs").glob("*/metrics.jsonl"))


def test_images_are_normalised_as_the_network_wants_them(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Seeing(Trainer):
        def __init__(self, *args: Any, **words: Any) -> None:
            super().__init__(*args, **words)
            seen.append((self._mean.item(), self._std.item(), self.teacher is not None))

    monkeypatch.setattr(module, "Trainer", Seeing)
    taught = replace(STILL, distillation=0.5)
    go(tmp_path / "runs", taught, init=file, mean=(0.25,), std=(0.125,))
    assert seen == [(0.25, 0.125, False), (0.25, 0.125, True)]
    with pytest.raises(ValueError, match=r"mean=\(0.1, 0.2\) and std=\(0.3,\); allowed is one value for each of 1"):
        go(tmp_path / "runs", init=file, mean=(0.1, 0.2))


@pytest.mark.parametrize(
    ("method", "scope"), [*((method, "global") for method in KEEP_ZEROS), ("one-cycle", "paper"), ("agp", "erk")]
)
def test_zeros_that_are_kept_count_as_pruned(
    method: str, scope: Any, file: str, begun: dict[str, Tensor], tmp_path: Path
) -> None:
    words = {} if method == "dense" else {"sparsity": 0.8, "scope": scope}
    result = go(tmp_path / "runs", method=method, init=file, keep_zeros=True, **words)
    weights = read_state(result.path)
    for name in SIZES:
        assert not weights[name][begun[name] == 0].any()
    expected = ZEROS if method == "dense" else round(0.8 * WEIGHTS)
    assert zeros(weights) == expected
    assert result.achieved == pytest.approx(expected / WEIGHTS)
    assert result.sparsity == words.get("sparsity", 0.0)
    assert metrics(result.path)[0]["sparsity"] >= ZEROS / WEIGHTS - 1e-9


@pytest.mark.parametrize("method", ["dense", "magnitude", "one-cycle"])
def test_an_interrupted_run_with_zeros_goes_on(method: str, file: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {"method": method, "init": file, "keep_zeros": True, "sparsity": 0.8}
    whole = go(tmp_path / "whole", **words)
    with pytest.raises(KeyboardInterrupt):
        run(
            Experiment(recipe=SHORT, **words),
            tmp_path / "runs",
            progress=InterruptTraining(),
            checkpoint_every=0,
            device="cpu",
        )
    result = go(tmp_path / "runs", **words)
    assert (result.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert metrics(result.path) == metrics(whole.path)


def test_a_layer_without_weights_stays_so(file: str, begun: dict[str, Tensor], tmp_path: Path) -> None:
    begun["fc3.weight"].zero_()
    torch.save(begun, file)
    result = go(tmp_path / "runs", method="progressive", sparsity=0.8, init=file, keep_zeros=True)
    weights = read_state(result.path)
    assert not weights["fc3.weight"].any()
    assert zeros(weights) == round(0.8 * WEIGHTS)


def test_a_file_with_more_zeros_than_are_asked_for_is_refused(file: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {"method": "progressive", "init": file}
    with pytest.raises(ValueError, match=r"sparsity=0.5: 29760 of 49600 weights are zero in .*net\.th or pruned by"):
        go(tmp_path / "runs", **words, sparsity=0.5, keep_zeros=True)
    assert go(tmp_path / "runs", **words, sparsity=0.5).achieved == pytest.approx(0.5)
    assert go(tmp_path / "runs", **words, sparsity=0.6, keep_zeros=True).achieved == pytest.approx(0.6)


def test_zeros_can_be_kept_where_no_weight_comes_back_and_zeros_are_worth_least() -> None:
    """Random masks and GraSP's, where a score may be negative, may spare a zero."""
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    needed = {
        "snip": {"batches": [(torch.randn(4, 4), torch.arange(4))]},
        "grasp": {"batches": [(torch.randn(4, 4), torch.arange(4))]},
        "synflow": {"input_shape": (4,)},
    }
    final = []
    for name, method in METHODS.items():
        sparsifier = method(model, optimizer, 0.5, 10, **needed.get(name, {}))
        if sparsifier.report().settings["recovery"] == "none":
            final.append(name)
        sparsifier.remove()
    assert {"dense", *final} - {"random", "grasp"} == set(KEEP_ZEROS)
    assert set(KEEP_ZEROS) < set(NAMES) - set(SEARCHES)


def test_the_teacher_begins_there_too(file: str, begun: dict[str, Tensor], tmp_path: Path) -> None:
    taught = replace(STILL, distillation=0.5)
    go(tmp_path / "runs", taught, method="progressive", sparsity=0.8, init=file, keep_zeros=True)
    teacher = read_state(only(tmp_path / "runs", "*-dense-*"))
    torch.testing.assert_close(teacher["fc1.weight"], begun["fc1.weight"], atol=1e-6, rtol=0)
    assert zeros(teacher) < 0.1 * ZEROS, "it is dense"


def test_a_search_begins_there_too(file: str, begun: dict[str, Tensor], tmp_path: Path) -> None:
    words: dict[str, Any] = {"method": "lottery-ticket", "sparsity": 0.5, "arguments": ("rate=0.5",)}
    result = go(tmp_path / "runs", **words, init=file)
    ticket = Ticket.load(result.path / "ticket.safetensors")
    assert all(torch.equal(ticket.weights[name], tensor) for name, tensor in begun.items())
    go(tmp_path / "runs", **words)
    assert len(list((tmp_path / "runs").glob("*-search-*"))) == 2, "another beginning is another search"
    with pytest.raises(ValueError, match=r"net\.th: the output layer is one for 4 classes, not for 2"):
        go(tmp_path / "runs", method="colt", init=file)
