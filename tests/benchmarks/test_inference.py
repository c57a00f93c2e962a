from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.inference import SUBJECTS, entrants, report

from sparsecycle.lab.bench.networks import prunable


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("vgg-16", 14_708_736),
        ("resnet-18", 11_157_504),
        ("resnet-20", 269_824),
        ("resnet-50", 23_445_504),
        ("mobilenet-v2", 2_125_696),
        ("lenet-300-100", 265_200),
        ("mlp", 2_359_296),
    ],
)
def test_every_network_has_so_many_weights_to_prune(name: str, weights: int) -> None:
    subject = SUBJECTS[name]
    with torch.device("meta"):
        model = subject.build().eval()
        assert model(torch.empty(2, *subject.shape)).shape == (2, subject.classes)
    assert sum(weight.numel() for weight in prunable(model)) == weights


def test_everyone_takes_part_once() -> None:
    everyone = entrants(["dense", "90 %", "95 %"], ["fp32", "int8"], "python3.11", [("own.py:prototype", "int8")])
    labels = [entrant.label for entrant in everyone]
    assert len(set(labels)) == len(labels) == 8 + 6 + 3 + 3
    assert "prototype int8, 95 %" in labels
    deepsparse = [entrant for entrant in everyone if entrant.engine == "deepsparse"]
    assert {entrant.python for entrant in deepsparse} == {"python3.11"}
    assert not any(entrant.engine == "deepsparse" for entrant in entrants(["dense"], ["fp32"], "", []))
    baselines = {(entrant.name, entrant.network) for entrant in everyone if entrant.baseline}
    assert ("openvino", "dense") in baselines
    assert not any(name in ("sparsecycle", "deepsparse", "prototype") for name, _ in baselines)


def test_the_report_names_a_machine_once() -> None:
    its: dict[str, Any] = {
        "name": "torch",
        "values": "fp32",
        "network": "dense",
        "milliseconds": 2.0,
        "over": {"fp32": {"name": "torch", "ratio": 1.0, "quartiles": [1.0, 1.0]}},
        "error": 0.0,
        "version": "torch 2.13.0",
    }
    found = {"entrants": [its], "left out": {}, "rounds": 7, "undisturbed": 0.5, "batch": 2}
    machines = [{"cores": 2}, {"cores": 2}, {"cores": 4}]
    text = report({f"net {i}": {"machine": machine, **found} for i, machine in enumerate(machines)})
    assert text.count("cores: 2") == text.count("cores: 4") == 1
    assert text.count("torch 2.13.0; 7 rounds, 50% of the samples undisturbed") == 3
    assert "| torch fp32 |   dense |        1.00 | 1.0 (1.0 to 1.0) |" in text
