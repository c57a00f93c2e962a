from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tickets.nets import Killed, Trainer, net, same
from torch import nn

from sparsecycle.tickets import Search, Ticket, colt, lottery_ticket

SEARCHES: dict[str, dict[str, Any]] = {
    "imp": {},
    "uniform": {"scope": "uniform"},
    "own rates": {"rate": {"5": 0.1, "*": 0.3}},
    "late": {"rewind_to": 2},
    "learning rate": {"rewind": "learning rate", "rewind_to": 2},
    "colt": {"partitions": 2, "rate": 0.3},
    "colt of three, late": {"partitions": 3, "rate": 0.3, "rewind_to": 1},
}


def search(kind: str, train: Any, sparsity: float, store: Path | None) -> Search:
    words = SEARCHES[kind]
    return (colt if "partitions" in words else lottery_ticket)(net(), train, sparsity, store=store, **words)


def equal(one: Search, other: Search) -> bool:
    return (
        same(one.ticket.masks, other.ticket.masks)
        and same(one.ticket.weights, other.ticket.weights)
        and one.ticket.provenance == other.ticket.provenance
        and [(r.index, r.kept, r.sparsity, r.trainings) for r in one.rounds]
        == [(r.index, r.kept, r.sparsity, r.trainings) for r in other.rounds]
    )


@pytest.mark.parametrize("kind", SEARCHES)
def test_killed_at_any_training_it_goes_on_with_the_next(kind: str, tmp_path: Path) -> None:
    trainer = Trainer()
    whole = search(kind, trainer, 0.6, None)
    for killed_at in range(len(trainer.calls)):
        store = tmp_path / str(killed_at)
        first, second = Trainer(killed_at), Trainer()
        with pytest.raises(Killed):
            search(kind, first, 0.6, store)
        assert equal(search(kind, second, 0.6, store), whole)
        assert first.calls + second.calls == trainer.calls
        third = Trainer()
        again = search(kind, third, 0.6, store)
        assert equal(again, whole)
        assert third.calls == []
        assert not list(store.glob("trained-*"))
        assert not list(store.glob(".*"))


@pytest.mark.parametrize("kind", SEARCHES)
def test_killed_while_a_ticket_is_written(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(kind, Trainer(), 0.6, None)

    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr("sparsecycle.tickets.store.write_ticket", killed)
    first, second = Trainer(), Trainer()
    with pytest.raises(Killed):
        search(kind, first, 0.6, tmp_path)
    monkeypatch.undo()
    assert equal(search(kind, second, 0.6, tmp_path), whole)
    to_rewind_to = 1 if "late" in kind else 0
    assert len(first.calls + second.calls) == whole.trainings + to_rewind_to


def test_seconds_outlast_a_kill(tmp_path: Path) -> None:
    def seconds() -> list[float]:
        return [r.seconds for r in search("late", Trainer(), 0.6, tmp_path).rounds]

    first = seconds()
    assert all(second > 0 for second in first)
    assert seconds() == first


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("order", [(0.3, 0.6), (0.6, 0.3)])
def test_searches_for_several_sparsities_share_their_rounds(
    kind: str, order: tuple[float, float], tmp_path: Path
) -> None:
    trainers = [Trainer(), Trainer()]
    for sparsity, trainer in zip(order, trainers, strict=True):
        assert equal(search(kind, trainer, sparsity, tmp_path), search(kind, Trainer(), sparsity, None))
    alone = Trainer()
    longer = search(kind, alone, 0.6, None)
    # All that differs is the last round of the shorter search, which is clipped, and trained once more for it;
    # where the learning rate is rewound the ticket of the whole round has what it was pruned from.
    once_more = 0 if kind == "learning rate" and order == (0.6, 0.3) else longer.rounds[0].trainings
    assert sum(len(trainer.calls) for trainer in trainers) == len(alone.calls) + once_more
    assert not list(tmp_path.glob("trained-*"))


def test_what_lies_in_a_store(tmp_path: Path) -> None:
    found = search("imp", Trainer(), 0.4, tmp_path)
    # 106 · 0.8 = 84.8, · 0.64 = 67.84; 106 - 42 = 64 are wanted
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "round-000-kept-85.safetensors",
        "round-001-kept-68.safetensors",
        "round-002-kept-64-clipped.safetensors",
        "settings.json",
    ]
    first = Ticket.load(tmp_path / "round-000-kept-85.safetensors")
    assert first.kept == 85
    assert first.provenance["rounds"] == 1
    assert "sparsity" not in first.provenance  # it belongs to searches for any
    last = Ticket.load(tmp_path / "round-002-kept-64-clipped.safetensors")
    assert same(last.masks, found.ticket.masks)
    assert json.loads((tmp_path / "settings.json").read_text())["shapes"]["5.weight"] == [3, 6]


def test_trained_networks_wait_for_their_rounds_ticket(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        search("colt", Trainer(3), 0.6, tmp_path)
    names = sorted(p.name for p in tmp_path.glob("trained-*"))
    assert len(names) == 1
    assert names[0].startswith("trained-001-kept-")
    assert names[0].endswith("-part-0.safetensors")


def test_a_store_of_another_search(tmp_path: Path) -> None:
    search("imp", Trainer(), 0.3, tmp_path)

    def refused(complaint: str, model: nn.Module | None = None, **words: Any) -> None:
        trainer = Trainer()
        with pytest.raises(ValueError, match=complaint):
            lottery_ticket(model or net(), trainer, 0.3, store=tmp_path, **words)
        assert trainer.calls == []

    refused("is of another search: rate is 0.2 there and 0.3 here$", rate=0.3)
    refused("scope is global there and uniform here$", scope="uniform")
    refused("rewind is weights there and learning rate here$", rewind="learning rate")
    refused("rewind_to is 0 there and 1 here$", rewind_to=1)
    refused("floor is 1 there and 0 here$", floor=0)
    refused("initial weights is [0-9a-f]{64} there and [0-9a-f]{64} here$", net(seed=1))
    refused("shapes is .*5.weight.* there and .* here$", exclude=["5"])
    with pytest.raises(ValueError, match="method is lottery ticket there and colt here; .*partitions is None there"):
        colt(net(), Trainer(), 0.3, store=tmp_path)
    (tmp_path / "settings.json").write_text("{")
    refused("settings.json is not JSON")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    search("imp", Trainer(), 0.4, tmp_path)
    path = tmp_path / "round-001-kept-68.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"{path} is not a whole safetensors file"):
        search("imp", Trainer(), 0.4, tmp_path)
    path.unlink()  # then that round is made again
    trainer = Trainer()
    assert equal(search("imp", trainer, 0.4, tmp_path), search("imp", Trainer(), 0.4, None))
    assert len(trainer.calls) == 1
