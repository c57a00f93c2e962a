from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.accuracy_over_time import entrants, experiments, picture, points, published, report

from sparsecycle.lab import data as datasets
from sparsecycle.lab.bench.stored import normalised
from sparsecycle.lab.models import build

WEIGHTS = Path(os.environ.get("SPARSECYCLE_DATA", "")) / "weights" / "resnet20-12fca82f.th"


@pytest.mark.parametrize(
    ("data", "shape", "weights"),
    [
        ("mnist", (1, 28, 28), [266_200, 125_600, 60_925, 30_416, 15_099]),
        ("cifar10", (3, 32, 32), [151_140, 67_352, 37_986, 16_972]),
    ],
)
def test_thin_networks_have_so_many_weights(data: str, shape: tuple[int, int, int], weights: list[int]) -> None:
    dense = [its for its in experiments(data, 5, 30).values() if its.method == "dense"]
    with torch.device("meta"):
        models = [build(its.model, shape, 10).eval() for its in dense]
        assert all(model(torch.empty(2, *shape)).shape == (2, 10) for model in models)
    assert [sum(its.numel() for its in model.parameters() if its.dim() > 1) for model in models] == weights


def test_sparse_networks_are_pruned_from_the_full_one() -> None:
    mnist, cifar = experiments("mnist", 5, 30), experiments("cifar10", 5, 30)
    assert list(mnist)[:4] == list(cifar)[:4] == ["80 %", "90 %", "95 %", "98 %"]
    assert (mnist["95 %"].sparsity, mnist["95 %"].model) == (0.95, "lenet-300-100")
    assert mnist["95 %"].recipe == mnist["300-100"].recipe
    assert cifar["95 %"].model == "benchmarks.accuracy_over_time:published"
    assert (cifar["95 %"].recipe.epochs, cifar["width 8"].recipe.epochs) == (5, 30)


def test_other_engines_run_the_dense_networks() -> None:
    everyone = entrants(["300-100", "90 %"], ["fp32", "int8"])
    assert {its.network for its in everyone if its.engine != "sparsecycle"} == {"300-100"}
    assert len(everyone) == 4 + 4
    assert {its.values for its in entrants(["300-100"], ["fp32"])} == {"fp32"}


@pytest.mark.skipif(not WEIGHTS.exists(), reason="no trained weights under $SPARSECYCLE_DATA/weights")
def test_the_published_network_takes_our_images() -> None:
    images = datasets.load("cifar10")
    model = published(images.shape, 10).eval()
    with torch.no_grad():
        logits = model(normalised(images, images.test.images[:512]))
    assert (logits.argmax(1) == images.test.labels[:512]).float().mean() > 0.9


def entrant(name: str, values: str, network: str, milliseconds: float, accuracy: float) -> dict[str, Any]:
    words = {"name": name, "values": values, "network": network}
    return {**words, "milliseconds": milliseconds, "accuracy": accuracy}


@pytest.fixture
def found() -> dict[str, Any]:
    everyone = [
        entrant("onnxruntime", "fp32", "300-100", 4.0, 0.985),
        entrant("openvino", "fp32", "300-100", 2.0, 0.985),
        entrant("sparsecycle", "fp32", "300-100", 3.0, 0.985),
        entrant("sparsecycle", "fp32", "90 %", 1.0, 0.984),
        entrant("sparsecycle", "int8", "90 %", 0.5, 0.983),
    ]
    kept = {"300-100": 266_200, "90 %": 26_620}
    return {"entrants": everyone, "kept": kept, "batch": 2, "left out": {"openvino int8, 300-100": "no"}}


def test_a_network_is_as_fast_as_its_fastest_engine(found: dict[str, Any]) -> None:
    assert [(its["name"], its["network"], its["values"]) for its in points(found)] == [
        ("openvino", "300-100", "fp32"),
        ("sparsecycle", "90 %", "fp32"),
        ("sparsecycle", "90 %", "int8"),
    ]


def test_the_report_has_every_point(found: dict[str, Any]) -> None:
    assert report({"mnist": found}).splitlines()[2:] == [
        "## mnist, batch 2, 1 thread",
        "",
        "| network | weights | values |      engine | ms an image | accuracy, % |",
        "| ------- | ------: | -----: | ----------: | ----------: | ----------: |",
        "| 300-100 | 266,200 |   fp32 |    openvino |        1.00 |       98.50 |",
        "| 90 %    |  26,620 |   fp32 | sparsecycle |       0.500 |       98.40 |",
        "| 90 %    |  26,620 |   int8 | sparsecycle |       0.250 |       98.30 |",
        "",
        "Left out: openvino int8, 300-100: no.",
    ]


def test_the_picture_has_a_line_of_each_kind(found: dict[str, Any]) -> None:
    figure = picture({"mnist": found, "cifar10": found})
    for ax in figure.axes:
        lines = {line.get_label(): line for line in ax.get_lines()}
        assert list(lines) == ["dense, fp32", "sparse, fp32", "sparse, int8"]
        assert lines["sparse, fp32"].get_xydata().tolist() == [[0.5, 98.4]]
        assert [text.get_text() for text in ax.texts] == ["300-100", "90 %", "90 %"]
