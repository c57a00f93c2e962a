from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsecycle.lab.bench.inference import RIVALS, Entrant, measure, ours, results
from sparsecycle.lab.bench.timing import Times

ENGINES = """
import os
from types import SimpleNamespace

def ready(function, **words):
    bind = lambda batch: lambda: function(*batch)
    return SimpleNamespace(**{"bind": bind, "version": "1", "plan": "", "compiling": None, **words})

def sum(job):
    print("a banner")
    return ready(lambda x: x.sum(1, keepdims=True))

def zero(job):
    return ready(lambda x: 0 * x.sum(1, keepdims=True))

def other_shape(job):
    return ready(lambda x: x)

def same(job):
    return ready(lambda x: x)

def opposite(job):
    return ready(lambda x: -x)

def dies(job):
    os._exit(3)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "engines.py").write_text(ENGINES)
    return tmp_path / "engines.py"


def test_entrants_are_told_apart() -> None:
    entrants = [*RIVALS, *ours(["dense", "80 %", "98 %"], ["fp32", "int8"])]
    labels = [entrant.label for entrant in entrants]
    assert len(set(labels)) == len(labels) == 14
    assert labels[-1] == "sparsecycle int8, 98 %"
    assert labels[0] == "torch fp32, dense"
    assert {entrant.values for entrant in RIVALS if entrant.baseline} == {"fp32", "int8"}


def test_ratios_are_over_the_fastest_baseline_of_each_kind() -> None:
    entrants = [
        Entrant("slow", "torch", baseline=True),
        Entrant("fast", "torch", baseline=True),
        Entrant("small", "torch", "int8", baseline=True),
        Entrant("ours", "sparsecycle", network="90 %"),
    ]
    seconds = {"slow": [9.0, 9.0, 9.0], "fast": [2.0, 4.0, 8.0], "small": [1.0, 1.0, 2.0], "ours": [0.5, 0.5, 1.0]}
    by_label = {entrant.label: seconds[entrant.name] for entrant in entrants}
    found = results(entrants, Times(by_label, {label: [True] * 3 for label in by_label}))
    assert [its["milliseconds"] for its in found] == [9000.0, 4000.0, 1000.0, 500.0]
    ours = found[-1]
    assert (ours["name"], ours["network"], ours["label"]) == ("ours", "90 %", "ours fp32, 90 %")
    assert ours["quartiles"] == [500.0, 750.0]
    assert ours["over"] == {
        "fp32": {"name": "fast", "ratio": 8.0, "quartiles": [6.0, 8.0]},
        "int8": {"name": "small", "ratio": 2.0, "quartiles": [2.0, 2.0]},
    }


class Sum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1, keepdim=True)


def test_a_race_is_among_those_that_compute_what_torch_does(file: Path) -> None:
    def entrant(function: str, **words: object) -> Entrant:
        return Entrant(function, f"{file}:{function}", python=sys.executable, **words)  # type: ignore[arg-type]

    entrants = [
        entrant("sum", baseline=True),
        entrant("zero"),
        entrant("zero", values="int8", baseline=True),
        entrant("other_shape"),
        entrant("dies"),
    ]
    said: list[str] = []
    inputs = (torch.ones(2, 3),)
    found = measure({"dense": Sum()}, entrants, inputs, [inputs], threads=1, seconds=0.0, say=said.append)
    assert said == [entrant.label for entrant in entrants]
    assert [(its["label"], its["error"]) for its in found["entrants"]] == [
        ("sum fp32, dense", 0.0),
        ("zero int8, dense", 1.0),
    ]
    assert found["entrants"][0]["over"]["fp32"]["ratio"] == 1.0
    assert found["left out"] == {
        "zero fp32, dense": "its outputs are not torch's: a relative error of 1",
        "other_shape fp32, dense": "its outputs are not torch's: a relative error of inf",
        "dies fp32, dense": "its process ended with status 3",
    }
    assert found["rounds"] == 5
    assert 0 <= found["undisturbed"] <= 1


def test_where_nobody_can_take_part_there_is_no_race(file: Path) -> None:
    entrants = [Entrant("dies", f"{file}:dies", python=sys.executable)]
    found = measure({"dense": Sum()}, entrants, (torch.ones(2, 3),), [], threads=1, seconds=0.0)
    assert found == {"entrants": [], "left out": {"dies fp32, dense": "its process ended with status 3"}}


def test_the_accuracy_is_that_of_all_test_images(file: Path) -> None:
    entrants = [
        Entrant(name, f"{file}:{name}", values, python=sys.executable)
        for name, values in (("same", "fp32"), ("opposite", "int8"))
    ]
    images = torch.tensor([[1.0, 2.0], [4.0, 3.0], [5.0, 6.0], [8.0, 7.0]])
    labels = torch.tensor([1, 0, 0, 0])
    network = nn.Identity()
    found = measure({"dense": network}, entrants, (images[:2],), [], threads=1, seconds=0.0, test=(images, labels))
    assert [(its["error"], its["accuracy"]) for its in found["entrants"]] == [(0.0, 0.75), (2.0, 0.25)]


def test_a_network_that_torch_cannot_export_runs_nowhere() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    found = measure({"dense": Branching()}, [RIVALS[0]], (torch.ones(2, 3),), [], threads=1, seconds=0.0)
    (reason,) = found["left out"].values()
    assert reason.startswith("Branching cannot be exported")


def test_a_network_with_constants_of_its_own_type_is_compared_too(file: Path) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.cat([x[:1].float(), x[1:].float()])) * 0 + x

    entrants = [Entrant("same", f"{file}:same", python=sys.executable)]
    found = measure({"dense": Constant()}, entrants, (torch.ones(2, 3),), [], threads=1, seconds=0.0)
    assert [its["error"] for its in found["entrants"]] == [0.0]
