from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tickets.nets import Trainer, counts, fit_part, net, same
from torch import Tensor, nn

from sparsecycle.tickets import colt, lottery_ticket
from sparsecycle.tickets.applied import state_of


class Row(nn.Module):
    """One layer, whose training on a partition gives it the row of that partition."""

    def __init__(self, *rows: list[float]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)
        self.a = nn.Linear(len(rows[0]), 1, bias=False)


def take_row(model: nn.Module, part: int) -> nn.Module:
    with torch.no_grad():
        model.a.weight.copy_(model.rows[part][None] * (model.a.weight != 0))
    return model


def kept(masks: dict[str, Tensor]) -> list[int]:
    return torch.cat([mask.flatten() for mask in masks.values()]).nonzero().flatten().tolist()


def test_two_partitions_by_hand() -> None:
    model = Row([9.0, 8, 7, 6, 5, 4, 3, 2], [8.0, 9, 2, 7, 6, 1, 5, 4])
    # Each keeps 6 of 8: 0-5 and 0 1 3 4 6 7; both 0 1 3 4.
    search = colt(model, take_row, 0.5, rate=0.25)
    assert len(search.rounds) == 1
    assert search.rounds[0].trainings == 2
    assert kept(search.ticket.masks) == [0, 1, 3, 4]
    # Round 2: each keeps 3 of these 4: 0 1 3 and 0 1 3.
    search = colt(model, take_row, 0.625, rate=0.25)
    assert [list(r.kept.values()) for r in search.rounds] == [[8], [4]]
    assert kept(search.ticket.masks) == [0, 1, 3]
    assert search.trainings == 4
    assert same(search.ticket.weights, state_of(model))
    provenance = search.ticket.provenance
    assert (provenance["method"], provenance["partitions"], provenance["rate"]) == ("colt", 2, 0.25)
    assert (provenance["sparsity"], provenance["rounds"], provenance["trainings"]) == (0.625, 2, 4)


def test_the_last_round_keeps_just_enough_and_drops_the_smallest_mean() -> None:
    model = Row([9.0, 8, 7, 6, 5, 4, 3, 2], [8.0, 9, 2, 7, 6, 1, 5, 4])
    # At the full rate each keeps 6 and both 4. Each of 7: 0-6 and all but 5, both 0 1 2 3 4 6. Of these, 5 are wanted;
    # means: 8.5 8.5 4.5 6.5 5.5 . 4
    search = colt(model, take_row, 3 / 8, rate=0.25)
    assert kept(search.ticket.masks) == [0, 1, 2, 3, 4]
    assert kept(colt(model, take_row, 2 / 8, rate=0.25).ticket.masks) == [0, 1, 2, 3, 4, 6]
    # Equal means fall by index: 4 + 5 of the fourth, 5 + 4 of the fifth, and each alone drops one of the two.
    tie = Row([9.0, 9, 9, 4, 5], [9.0, 9, 9, 5, 4])
    assert kept(colt(tie, take_row, 1 / 5, rate=0.2).ticket.masks) == [0, 1, 2, 3]


def test_a_layer_on_which_they_do_not_agree_keeps_its_floor() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 1, bias=False), nn.Linear(2, 1, bias=False)

    def train(model: nn.Module, part: int) -> nn.Module:
        with torch.no_grad():
            model.a.weight.copy_(torch.arange(8.0, 16)[None] * (model.a.weight != 0))
            model.b.weight.copy_(torch.tensor([[2.0, 1.0]] if part else [[1.0, 4.0]]) * (model.b.weight != 0))
        return model

    found = colt(Two(), train, 0.6, rate=0.5).ticket
    # Each keeps 5: the last four of a, and its own floor of b, of which the second has the larger mean.
    assert found.masks["b.weight"].tolist() == [[False, True]]
    assert kept({"a": found.masks["a.weight"]}) == [5, 6, 7]
    assert counts(colt(Two(), train, 0.6, rate=0.5, floor=0).ticket.masks) == [4, 0]


def test_what_is_left_over_is_not_taken_from_a_layer_at_its_floor() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 1, bias=False), nn.Linear(1, 1, bias=False)

    def train(model: nn.Module, part: int) -> nn.Module:
        with torch.no_grad():
            model.a.weight.copy_(torch.tensor([[9.0, 9, 9, 4, 5]] if part == 0 else [[9.0, 9, 9, 5, 4]]))
            model.b.weight.fill_(1.0)
        return model

    # 5 of 6 are wanted. Networks of 5 agree on 4, and those of 6 on all, of which b's has the smallest mean.
    found = colt(Two(), train, 1 / 6, rate=0.2).ticket
    assert [mask.tolist() for mask in found.masks.values()] == [[[True, True, True, True, False]], [[True]]]
    assert counts(colt(Two(), train, 1 / 6, rate=0.2, floor=0).ticket.masks) == [5, 0]


@pytest.mark.parametrize("rewind_to", [0, 2])
@pytest.mark.parametrize("rate", [0.15, 0.01, 0.5])
def test_one_partition_is_iterative_magnitude_pruning(rate: float, rewind_to: int) -> None:
    def train(model: nn.Module, **words: int) -> nn.Module:
        return fit_part(model, 0, **words)

    one = colt(net(), fit_part, 0.8, partitions=1, rate=rate, rewind_to=rewind_to)
    imp = lottery_ticket(net(), train, 0.8, rate=rate, rewind_to=rewind_to)
    assert same(one.ticket.masks, imp.ticket.masks)
    assert same(one.ticket.weights, imp.ticket.weights)
    assert [r.kept for r in one.rounds] == [r.kept for r in imp.rounds]


@settings(max_examples=25)
@given(st.floats(0, 0.94), st.integers(1, 4), st.floats(0.05, 0.9), st.integers(0, 2))
def test_any_sparsity_is_exact(sparsity: float, partitions: int, rate: float, floor: int) -> None:
    total = 40 + 48
    seen: list[int] = []

    def train(model: nn.Module, part: int) -> nn.Module:
        seen.append(sum(int(model.get_parameter(name).count_nonzero()) for name in ("0.weight", "3.weight")))
        return fit_part(model, part, stop=2)

    search = colt(net(), train, sparsity, partitions=partitions, rate=rate, floor=floor, exclude=["5"])
    assert search.ticket.kept == total - round(sparsity * total)
    assert min(counts(search.ticket.masks)) >= floor
    by_round = [sum(r.kept.values()) for r in search.rounds]
    assert seen == [count for count in by_round for _ in range(partitions)]
    for before, after in pairwise(by_round):
        # Networks that agree entirely prune least, to the rate but for rounding.
        assert after <= before * (1 - rate) + 1
        assert after < before
    assert search.trainings == partitions * len(search.rounds)


def test_it_reaches_a_sparsity_in_fewer_rounds() -> None:
    together = colt(net(), fit_part, 0.8, partitions=3).rounds
    alone = colt(net(), fit_part, 0.8, partitions=1).rounds
    assert len(together) < len(alone)


def test_the_last_round_agrees_with_a_search_through_all_counts() -> None:
    """Bisection finds the fewest weights a network that leave enough."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.rand(3, 60, generator=generator)
    found = colt(Row(*rows.tolist()), take_row, 0.15, partitions=3, rate=0.3).ticket
    for keep in range(60):
        chosen = [row >= row.sort(descending=True).values[keep - 1] for row in rows if keep]
        both = chosen[0] & chosen[1] & chosen[2] if keep else torch.zeros(60, dtype=torch.bool)
        if int(both.sum()) >= 51:
            break
    assert 51 <= int(both.sum()) < 51 + 3
    mean = rows.double().mean(0).masked_fill(~both, -1)
    want = mean >= mean.sort(descending=True).values[50]
    assert torch.equal(found.masks["a.weight"][0], want)


def test_late_rewinding_shares_the_point_of_the_first_partition() -> None:
    trainer = Trainer()
    search = colt(net(), trainer, 0.3, rewind_to=2)
    first, *others = trainer.calls
    assert first == {"part": 0, "stop": 2}
    assert others == [{"part": part, "start": 2} for _ in search.rounds for part in (0, 1)]
    assert same(search.ticket.weights, state_of(fit_part(net(), 0, stop=2)))


def test_map_gets_a_rounds_jobs_and_may_run_them_in_any_order() -> None:
    sizes: list[int] = []

    def backwards(job: Callable[[int], Any], parts: Iterable[int]) -> Iterator[Any]:
        listed = list(parts)
        sizes.append(len(listed))
        done = {part: job(part) for part in reversed(listed)}
        return iter([done[part] for part in listed])

    other = colt(net(), fit_part, 0.6, partitions=3, map=backwards)
    assert sizes == [3] * len(other.rounds)
    assert same(other.ticket.masks, colt(net(), fit_part, 0.6, partitions=3).ticket.masks)
    with ThreadPoolExecutor(3) as pool:
        threads = colt(net(), fit_part, 0.6, partitions=3, map=pool.map)
    assert same(threads.ticket.masks, other.ticket.masks)


def test_map_of_other_processes(tmp_path: Path) -> None:
    here = colt(net(), fit_part, 0.3)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        there = colt(net(), fit_part, 0.3, store=tmp_path, map=pool.map)
    assert same(there.ticket.masks, here.ticket.masks)
    assert same(there.ticket.weights, here.ticket.weights)
    assert not list(tmp_path.glob("trained-*"))


def test_arguments_that_are_not_allowed() -> None:
    trainer = Trainer()
    for words, complaint in (
        ({"partitions": 0}, "partitions=0 must be a whole number of at least 1"),
        ({"partitions": 1.5}, "partitions=1.5 must be a whole number of at least 1"),
        ({"rate": 1.0}, "rate=1.0 must be between 0 and 1"),
        ({"rate": {"*": 0.2}}, "rate={'.': 0.2} must be between 0 and 1"),
        ({"floor": 30}, "keeps 53 of 106 weights, but floor=30 asks for 78"),
    ):
        with pytest.raises(ValueError, match=complaint):
            colt(net(), trainer, 0.5, **words)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"train cannot be called as train\(model, part\)"):
        colt(net(), lambda model: model, 0.5)
    assert trainer.calls == []
