from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.pretrained import accuracy_on, experiments, files, pruned, report, sparsity_of, state_dict_bytes
from torch import nn

from sparsecycle.lab import data as datasets
from sparsecycle.lab.data import Dataset
from sparsecycle.lab.models import build


@pytest.fixture
def digits() -> Dataset:
    return datasets.load("digits")


@pytest.fixture
def model(digits: Dataset) -> nn.Module:
    torch.manual_seed(0)
    return build("lenet-300-100", digits.shape, len(digits.classes))


def test_both_methods_end_at_the_sparsity_after_so_many_epochs() -> None:
    one_shot, one_cycle = experiments(Path("net.th"), 0.9, 3, 0.02)
    assert (one_shot.method, one_shot.at, one_cycle.method, one_cycle.end) == ("one-shot", 0.0, "one-cycle", 0.75)
    for its in (one_shot, one_cycle):
        assert (its.sparsity, its.scope, its.init, its.mean) == (0.9, "global", "net.th", (0.485, 0.456, 0.406))
        assert (its.recipe.epochs, its.recipe.lr, its.keep_zeros) == (3, 0.02, False)


def test_what_is_pruned_at_once_are_the_smallest_weights_of_a_copy(model: nn.Module) -> None:
    sparse = pruned(model, 0.5)
    assert sparsity_of(model) == 0
    assert sparsity_of(sparse) == pytest.approx(0.5, abs=1e-4)
    pairs = [
        (mine.detach().flatten(), its.detach().flatten())
        for mine, its in zip(model.parameters(), sparse.parameters(), strict=True)
        if mine.dim() > 1
    ]
    before, after = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    assert torch.equal(before[after != 0], after[after != 0])
    assert before[after == 0].abs().max() <= after[after != 0].abs().min()


def test_files_are_small_and_read_back(model: nn.Module, digits: Dataset) -> None:
    sparse, accuracy = pruned(model, 0.9), accuracy_on(digits)
    found = files(sparse, ["fp32", "bf16", "int8"], accuracy)
    assert found["fp32"]["accuracy"] == accuracy(sparse)
    assert 0 <= found["int8"]["accuracy"] <= 1
    assert state_dict_bytes(sparse) > 8 * found["fp32"]["bytes"]
    assert found["fp32"]["bytes"] > found["bf16"]["bytes"] > found["int8"]["bytes"]


def test_an_accuracy_is_the_share_of_the_test_images_that_are_right(digits: Dataset) -> None:
    class Always(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[[3] * len(images)]

    assert accuracy_on(digits)(Always()) == int((digits.test.labels == 3).sum()) / len(digits.test)


def test_the_report_has_every_network_and_file() -> None:
    networks = [
        {
            "name": "80 %, one-shot, trained",
            "epochs": 3,
            "seconds": 630.0,
            "sparsity": 0.8,
            "before": 0.4144,
            "after": 0.9,
            "files": {"fp32": {"bytes": 250_000, "accuracy": 0.9}, "int8": {"bytes": 50_000, "accuracy": 0.898}},
        }
    ]
    assert report({"networks": networks, "state_dict": 1_000_000}).splitlines() == [
        "# A trained ResNet-20, pruned",
        "",
        "| network                 | epochs | minutes | zeros, % | accuracy before, % | after, % |",
        "| ----------------------- | -----: | ------: | -------: | -----------------: | -------: |",
        "| 80 %, one-shot, trained |      3 |    10.5 |    80.00 |              41.44 |    90.00 |",
        "",
        "Files, beside the dense state_dict of 1,000,000 bytes:",
        "",
        "| network                 | values |   bytes | of the dense one, % | accuracy, % |",
        "| ----------------------- | -----: | ------: | ------------------: | ----------: |",
        "| 80 %, one-shot, trained |   fp32 | 250,000 |                25.0 |       90.00 |",
        "| 80 %, one-shot, trained |   int8 |  50,000 |                 5.0 |       89.80 |",
    ]
