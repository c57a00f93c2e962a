from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.tiny import SHORT, SIZES, WEIGHTS, tiny
from torch import Tensor

from sparsecycle.lab import search as module
from sparsecycle.lab.data import Dataset, Split
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.models import build
from sparsecycle.lab.progress import Silent
from sparsecycle.lab.search import Found, expected_trainings, partition, search

HALVING: dict[str, Any] = {"method": "lottery-ticket", "sparsity": 0.8, "arguments": ("rate=0.5",)}


def find(runs: Path, **settings: Any) -> Found:
    experiment = Experiment(**{"recipe": SHORT, **HALVING, **settings})
    return search(experiment, runs, tiny(), torch.device("cpu"), Silent())


def initial() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(build("lenet-300-100", (1, 8, 8), 4).state_dict())


@pytest.fixture
def _untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches prune the initial weights by magnitude: what is counted needs no training."""
    monkeypatch.setattr(module, "_train", lambda *given, **_: given[6])


# --- partitions -----------------------------------------------------------------------------------------------


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Images of one pixel whose value is their place, so that each is known again."""
    classes = draw(st.integers(1, 12))
    labels = [draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=40)) for _ in range(2)]
    parts = [
        Split(torch.arange(len(split), dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor(split)) for split in labels
    ]
    return Dataset("drawn", parts[0], parts[1], tuple(f"class {i}" for i in range(classes)), (0.5,), (0.3,))


@given(datasets(), st.data())
def test_by_classes_each_image_is_in_the_part_of_its_class(data: Dataset, draw: st.DataObject) -> None:
    count = draw.draw(st.integers(1, len(data.classes)))
    parts = partition(data, count, "classes", 0)
    assert [name for part in parts for name in part.classes] == list(data.classes)
    sizes = [len(part.classes) for part in parts]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    for whole, halves in ((data.train, [p.train for p in parts]), (data.test, [p.test for p in parts])):
        found = {}
        for part, split, first in zip(parts, halves, itertools.accumulate([0, *sizes]), strict=False):
            assert set(split.labels.tolist()) <= set(range(len(part.classes)))
            for place, label in zip(split.images.flatten().tolist(), split.labels.tolist(), strict=True):
                assert place not in found
                found[place] = label + first
        assert [found[place] for place in range(len(whole))] == whole.labels.tolist()


@given(datasets(), st.data(), st.integers(0, 2**63 - 1))
def test_at_random_each_image_is_in_one_part_with_its_label(data: Dataset, draw: st.DataObject, seed: int) -> None:
    count = draw.draw(st.integers(1, min(len(data.train), len(data.test))))
    parts = partition(data, count, "random", seed)
    assert len(parts) == count
    assert {part.classes for part in parts} == {data.classes}
    for whole, halves in ((data.train, [p.train for p in parts]), (data.test, [p.test for p in parts])):
        sizes = [len(split) for split in halves]
        assert max(sizes) - min(sizes) <= 1
        places = torch.cat([split.images.flatten() for split in halves]).tolist()
        labels = torch.cat([split.labels for split in halves]).tolist()
        assert sorted(places) == list(range(len(whole)))
        assert labels == [whole.labels[place] for place in places]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, ["abcdefghij"]), (2, ["abcde", "fghij"]), (3, ["abc", "defg", "hij"]), (10, list("abcdefghij"))],
)
def test_ten_classes(count: int, expected: list[str]) -> None:
    parts = partition(tiny(classes=10), count, "classes", 0)
    assert ["".join(part.classes) for part in parts] == expected
    assert [int(part.train.labels.max()) + 1 for part in parts] == [len(names) for names in expected]


def test_a_random_partition_is_the_seeds() -> None:
    def first(seed: int) -> list[int]:
        return partition(tiny(), 2, "random", seed)[0].train.labels.tolist()

    assert first(1) == first(1)
    assert first(1) != first(2)


@pytest.mark.parametrize(
    ("count", "by", "message"),
    [
        (2, "class", "by='class'; allowed are classes and random"),
        (5, "classes", "partitions=5; allowed is a whole number from 1 to 4"),
        (0, "classes", "partitions=0; allowed is a whole number from 1 to 4"),
        (31, "random", "partitions=31; allowed is a whole number from 1 to 30"),
        (2.0, "random", "partitions=2.0"),
        (True, "random", "partitions=True"),
    ],
)
def test_a_partition_that_cannot_be_is_named(count: Any, by: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition(tiny(), count, by, 0)


# --- what is found --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "dense"}, 1),
        ({"method": "progressive", "sparsity": 0.99}, 1),
        ({"method": "lottery-ticket", "sparsity": 0.0}, 1),
        # .8^13 = .055, .8^14 = .044
        ({"method": "lottery-ticket", "sparsity": 0.95}, 15),
        ({"method": "lottery-ticket", "sparsity": 0.8, "arguments": ("rate=0.5",)}, 4),
        ({"method": "lottery-ticket", "sparsity": 0.95, "arguments": ("rate={'*': 0.5}",)}, 15),
        # .85^18 = .054, .85^19 = .046
        ({"method": "colt", "sparsity": 0.95}, 39),
        ({"method": "colt", "sparsity": 0.8, "arguments": ("rate=0.5", "partitions=5")}, 16),
    ],
)
def test_about_how_many_trainings_are_to_be_expected(settings: dict[str, Any], expected: int) -> None:
    assert expected_trainings(Experiment(**settings)) == expected


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize("method", ["lottery-ticket", "colt"])
@pytest.mark.parametrize("sparsity", [0.0, 0.123, 0.5, 0.789, 0.99])
def test_the_ticket_has_the_sparsity_over_all_prunable_weights(tmp_path: Path, method: str, sparsity: float) -> None:
    found = find(tmp_path, method=method, sparsity=sparsity)
    assert {name: mask.numel() for name, mask in found.ticket.masks.items()} == SIZES
    assert found.ticket.kept == WEIGHTS - round(sparsity * WEIGHTS)
    assert (found.trainings, found.epochs) != (0, 0) or sparsity == 0


@pytest.mark.usefixtures("_untrained")
def test_a_search_over_classes_leaves_the_output_layer_as_the_networks_own(tmp_path: Path) -> None:
    ticket = find(tmp_path, method="colt").ticket
    own = initial()
    assert bool(ticket.masks["fc3.weight"].all())
    assert ticket.kept == 9920
    assert ticket.weights.keys() == own.keys()
    assert torch.equal(ticket.weights["fc3.weight"], own["fc3.weight"])
    assert torch.equal(ticket.weights["fc3.bias"], own["fc3.bias"])


@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "lottery-ticket"},
        {"method": "colt", "arguments": ("rate=0.5", "by=random")},
        {"method": "colt", "arguments": ("rate=0.5", "partitions=1")},
    ],
)
def test_another_search_prunes_the_output_layer_too(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Of networks that are all alike, the largest of all initial weights are kept."""
    # No weight of fc2 is among them, so that a floor would keep another.
    ticket = find(tmp_path, floor=0, **settings).ticket
    own = initial()
    every = torch.cat([own[name].flatten() for name in SIZES]).abs()
    kept = torch.cat([mask.flatten() for mask in ticket.masks.values()])
    assert int(kept.sum()) == 9920
    assert every[kept].min() >= every[~kept].max()
    assert 0 < int(ticket.masks["fc3.weight"].sum()) < 400
    for name, weight in ticket.weights.items():
        assert torch.equal(weight, own[name])


@pytest.mark.usefixtures("_untrained")
def test_excluded_layers_are_no_part_of_the_ticket(tmp_path: Path) -> None:
    ticket = find(tmp_path, exclude=("fc1",)).ticket
    assert {name: mask.numel() for name, mask in ticket.masks.items()} == {"fc2.weight": 30_000, "fc3.weight": 400}
    assert ticket.kept == 6080


@pytest.mark.usefixtures("_untrained")
def test_layers_may_have_rates_of_their_own(tmp_path: Path) -> None:
    ticket = find(tmp_path, arguments=('rate={fc3: 0, "*": 0.5}',)).ticket
    kept = {name: int(mask.sum()) for name, mask in ticket.masks.items()}
    assert kept["fc3.weight"] == 400
    assert sum(kept.values()) == 9920
    assert kept["fc1.weight"] / 19_200 == pytest.approx(kept["fc2.weight"] / 30_000, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "colt", "sparsity": 0.995},
            "sparsity=0.995 prunes 49352 weights, but 'colt' does not prune fc3.weight, and .* have 49200",
        ),
        ({"sparsity": 1.0}, "must be from 0 to less than 1"),
        ({"arguments": ("rate=2",)}, "rate=2 must be between 0 and 1"),
        ({"arguments": ("rewind=momentum",)}, "rewind='momentum' must be one of 'weights', 'learning rate'"),
        ({"scope": "erk"}, "scope='erk' must be one of 'global', 'uniform'"),
        ({"method": "colt", "arguments": ("partitions=5",)}, "partitions=5; allowed is a whole number from 1 to 4"),
        ({"method": "colt", "arguments": ("by=images",)}, "by='images'; allowed are classes and random"),
        ({"arguments": ("rewind_to=13",)}, "rewind_to=13; a training has 12 steps"),
        ({"arguments": ("rewind_to=-1",)}, "rewind_to=-1 must be a whole number of at least 0"),
    ],
)
def test_what_cannot_be_had_is_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(tmp_path, **settings)
