from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tickets.nets import Trainer, counts, fit, net, same
from torch import Tensor, nn

from sparsecycle.tickets import Search, lottery_ticket
from sparsecycle.tickets.applied import state_of
from sparsecycle.tickets.lottery import _by_one_rate, _by_own_rates


class Rows(nn.Module):
    """Weights that no training changes, so that what is pruned can be read off."""

    def __init__(self, **rows: list[float]) -> None:
        super().__init__()
        for name, row in rows.items():
            self.register_module(name, nn.Linear(len(row), 1, bias=False))
            with torch.no_grad():
                self.get_parameter(f"{name}.weight").copy_(torch.tensor([row]))


def still(model: nn.Module) -> nn.Module:
    return model


def ramp(size: int) -> list[float]:
    return [float(i + 1) for i in range(size)]


def kept_by_round(search: Search) -> list[int]:
    return [sum(r.kept.values()) for r in search.rounds] + [search.ticket.kept]


def test_a_fifth_of_what_is_left_a_round() -> None:
    # 1000 · 0.8^r: 800, 640, 512, 409.6, 327.68, 262.144; then what is missing to 250.
    search = lottery_ticket(Rows(a=ramp(1000)), still, 0.75)
    assert kept_by_round(search) == [1000, 800, 640, 512, 410, 328, 262, 250]
    assert [r.index for r in search.rounds] == list(range(7))
    assert [r.sparsity for r in search.rounds] == pytest.approx([0, 0.2, 0.36, 0.488, 0.59, 0.672, 0.738])
    assert [r.trainings for r in search.rounds] == [1] * 7
    assert search.trainings == 7
    assert all(r.seconds >= 0 for r in search.rounds)
    assert search.ticket.masks["a.weight"].tolist() == [[False] * 750 + [True] * 250]
    assert search.ticket.weights["a.weight"].tolist() == [ramp(1000)]
    assert {key: search.ticket.provenance[key] for key in ("method", "sparsity", "rate", "rounds", "trainings")} == {
        "method": "lottery ticket",
        "sparsity": 0.75,
        "rate": 0.2,
        "rounds": 7,
        "trainings": 7,
    }


def test_a_sparsity_that_a_round_meets_needs_no_clipped_one() -> None:
    assert kept_by_round(lottery_ticket(Rows(a=ramp(1000)), still, 0.36)) == [1000, 800, 640]
    assert kept_by_round(lottery_ticket(Rows(a=ramp(1000)), still, 0.1)) == [1000, 900]


def test_a_round_that_would_prune_nothing_is_left_out() -> None:
    # 10 · 0.8^r: 8, 6.4, 5.12, 4.096, 3.28, 2.62, 2.10, 1.68, 1.34
    assert kept_by_round(lottery_ticket(Rows(a=ramp(10)), still, 0.9)) == [10, 8, 6, 5, 4, 3, 2, 1]


def test_sparsity_zero_needs_no_training() -> None:
    trainer = Trainer()
    search = lottery_ticket(net(), trainer, 0.0)
    assert (search.rounds, search.trainings, trainer.calls) == ([], 0, [])
    assert search.ticket.sparsity == 0
    assert same(search.ticket.weights, state_of(net()))


def test_scopes() -> None:
    model = Rows(a=ramp(100), b=[x / 1000 for x in ramp(100)])
    whole = lottery_ticket(model, still, 0.5, rate=0.3)
    assert counts(whole.ticket.masks) == [99, 1]  # the floor
    assert counts(lottery_ticket(model, still, 0.5, rate=0.3, floor=0).ticket.masks) == [100, 0]
    assert counts(lottery_ticket(model, still, 0.5, rate=0.3, floor=20).ticket.masks) == [80, 20]
    even = lottery_ticket(model, still, 0.5, rate=0.3, scope="uniform")
    assert counts(even.ticket.masks) == [50, 50]
    assert [list(r.kept.values()) for r in even.rounds] == [[100, 100], [70, 70]]


def test_the_papers_lenet_rates() -> None:
    # LeNet-300-100 a thousandth the size: 20 % a round, and 10 % for the output layer.
    model = Rows(fc1=ramp(2352), fc2=ramp(300), fc3=ramp(10))
    search = lottery_ticket(model, still, 0.81, rate={"fc3": 0.1, "*": 0.2})
    by_round = [list(r.kept.values()) for r in search.rounds]
    # 2352 · 0.8^r, 300 · 0.8^r, 10 · 0.9^r
    assert by_round[:4] == [[2352, 300, 10], [1882, 240, 9], [1505, 192, 8], [1204, 154, 7]]
    assert by_round[7:] == [[493, 63, 5]]
    # 506 of 2662 are wanted: 0.8^7.4641 of the first two is 444.72 and 56.72, 0.9^7.4641 of the third 4.55.
    assert counts(search.ticket.masks) == [445, 57, 4]


def test_a_layer_of_rate_zero_is_left_alone() -> None:
    model = Rows(conv=ramp(80), fc=ramp(20))
    search = lottery_ticket(model, still, 0.5, rate={"conv.weight": 0.2, "fc": 0})
    assert [list(r.kept.values()) for r in search.rounds] == [[80, 20], [64, 20], [51, 20], [41, 20], [33, 20]]
    assert counts(search.ticket.masks) == [30, 20]
    with pytest.raises(ValueError, match="rates leave 21 of 100 weights at least, but 10 are to be kept: .* 0.79 at"):
        lottery_ticket(model, still, 0.9, rate={"conv": 0.2, "fc": 0})


def test_the_first_glob_that_matches_counts() -> None:
    model = Rows(a=ramp(100), b=ramp(100))
    first = lottery_ticket(model, still, 0.2, rate={"a": 0.4, "*": 0.1}).rounds
    assert len(first) == 1
    other = lottery_ticket(model, still, 0.15, rate={"*": 0.1, "a": 0.4})
    assert counts(other.ticket.masks) == [85, 85]


masks_of = st.fixed_dictionaries(
    {
        "sparsity": st.floats(0, 0.94),
        "rate": st.one_of(
            st.floats(0.05, 0.95), st.fixed_dictionaries({"5": st.floats(0.01, 0.5), "*": st.floats(0.1, 0.9)})
        ),
        "floor": st.integers(0, 2),
    }
)


@settings(max_examples=30)
@given(masks_of, st.sampled_from(["global", "uniform"]))
def test_any_sparsity_is_exact_and_masks_are_nested(words: dict[str, Any], scope: str) -> None:
    if isinstance(words["rate"], dict):
        scope = "global"
    total = 40 + 48 + 18
    seen: list[dict[str, Tensor]] = []

    def train(model: nn.Module) -> nn.Module:
        seen.append({name: p.detach() != 0 for name, p in model.named_parameters() if p.dim() > 1})
        return fit(model, stop=1)

    search = lottery_ticket(net(), train, scope=scope, **words)
    assert search.ticket.kept == total - round(words["sparsity"] * total)
    assert kept_by_round(search) == [*(sum(counts(mask)) for mask in seen), search.ticket.kept]
    for before, after in zip(seen, [*seen[1:], search.ticket.masks], strict=False):
        assert all((before[name] | ~after[name]).all() for name in after)
        assert sum(counts(after)) < sum(counts(before))
        assert min(counts(after)) >= words["floor"]


@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 0.9)), min_size=1, max_size=4),
    st.floats(0, 1),
    st.integers(0, 2),
    st.sampled_from(["uniform", "own rates"]),
)
def test_no_layer_gets_back_what_it_lost(layers: list[tuple[int, float]], share: float, floor: int, scope: str) -> None:
    sizes, rates = [size for size, _ in layers], [rate for _, rate in layers]
    least = sum(min(floor, size) for size in sizes)
    wanted = least + round(share * (sum(sizes) - least))
    shapes = [(size,) for size in sizes]
    if scope == "uniform":
        plan = list(_by_one_rate(rates[0], scope, shapes, floor, wanted))
    else:
        plan = list(_by_own_rates(rates, shapes, floor, wanted))
    before = sizes
    for shares, clipped in plan:
        after = [share.keep for share in shares]
        assert all(min(floor, size) <= b <= a for size, a, b in zip(sizes, before, after, strict=True))
        assert sum(after) < sum(before)
        assert sum(after) == wanted or not clipped
        before = after
    assert sum(before) == wanted


def test_a_remainder_brings_no_weight_back() -> None:
    # After one round 4.4 and 10.6; for 33 in all 4.22 and 10.18, of which 4.22 has the larger remainder, but 4 left.
    plan = list(_by_own_rates([0.12] * 3 + [1 - 10.6 / 12] * 2, [(5,)] * 3 + [(12,)] * 2, 1, 33))
    assert [[share.keep for share in shares] for shares, _ in plan] == [[4, 4, 4, 11, 11], [4, 4, 4, 11, 10]]


def test_it_prunes_by_hand() -> None:
    """Two rounds written out: train, prune a half of the survivors, rewind, train, prune."""
    search = lottery_ticket(net(), fit, 0.75, rate=0.5, exclude=["5"])
    names, start = ["0.weight", "3.weight"], state_of(net())

    def smallest_pruned(model: nn.Module, keep: int) -> dict[str, Tensor]:
        flat = torch.cat([model.get_parameter(name).detach().abs().flatten() for name in names])
        mask = flat >= flat.sort(descending=True).values[keep - 1]
        return {"0.weight": mask[:40].view(8, 5), "3.weight": mask[40:].view(6, 8)}

    masks = smallest_pruned(fit(net()), 44)
    assert [r.kept for r in search.rounds] == [
        {"0.weight": 40, "3.weight": 48},
        dict(zip(names, counts(masks), strict=True)),
    ]
    model = net()
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_(masks[name])
            model.get_parameter(name).register_hook(masks[name].double().mul)
    masks = smallest_pruned(fit(model), 22)
    assert same(search.ticket.masks, masks)
    assert same(search.ticket.weights, start)  # batch norm's statistics too


@pytest.mark.parametrize("rewind", ["weights", "learning rate"])
def test_pruned_weights_stay_zero_in_training_and_the_model_stays_as_it_is(rewind: str) -> None:
    model = net()
    before = state_of(model)
    zeros: list[int] = []

    def train(network: nn.Module) -> nn.Module:
        assert network is not model
        fit(network)
        zeros.append(sum(int((p == 0).sum()) for p in network.parameters() if p.dim() > 1))
        return network

    search = lottery_ticket(model, train, 0.7, rewind=rewind)
    assert zeros == [106 - sum(r.kept.values()) for r in search.rounds]
    assert same(state_of(model), before)
    fit(model)
    assert all((p != 0).all() for p in model.parameters())  # it got no hooks


def test_late_rewinding() -> None:
    trainer = Trainer()
    search = lottery_ticket(net(), trainer, 0.4, rewind_to=2)
    assert trainer.calls == [{"stop": 2}, {"start": 2}, {"start": 2}, {"start": 2}]
    assert search.trainings == 3
    assert same(search.ticket.weights, state_of(fit(net(), stop=2)))
    assert search.ticket.weights["1.num_batches_tracked"] == 2
    # To step 2 and from there is once through, so the first mask is that of rewinding to the start.
    one, other = (lottery_ticket(net(), fit, 0.2, rewind_to=k).ticket for k in (0, 2))
    assert same(one.masks, other.masks)
    assert not same(search.ticket.masks, lottery_ticket(net(), fit, 0.4).ticket.masks)


def test_learning_rate_rewinding() -> None:
    trainer = Trainer()
    search = lottery_ticket(net(), trainer, 0.4, rewind="learning rate", rewind_to=2)
    assert trainer.calls == [{}, {"start": 2}, {"start": 2}]
    assert search.ticket.weights["1.num_batches_tracked"] == 6 + 4 + 4
    trained = state_of(fit(net()))
    assert same(lottery_ticket(net(), fit, 0.1, rewind="learning rate", rewind_to=2).ticket.weights, trained)
    trainer = Trainer()
    whole = lottery_ticket(net(), trainer, 0.4, rewind="learning rate")
    assert trainer.calls == [{}, {}, {}]
    assert whole.ticket.weights["1.num_batches_tracked"] == 18


def test_arguments_that_are_not_allowed() -> None:
    trainer = Trainer()

    def refused(complaint: str, *, sparsity: Any = 0.5, train: Any = trainer, **words: Any) -> None:
        with pytest.raises(ValueError, match=complaint):
            lottery_ticket(net(), train, sparsity, **words)

    refused("sparsity=1.0 must be from 0 to less than 1", sparsity=1.0)
    refused("sparsity=-0.1 must be", sparsity=-0.1)
    refused("sparsity='a' must be", sparsity="a")
    refused("sparsity=0.99 keeps 1 of 106 weights, but floor=1 asks for 3", sparsity=0.99)
    for rate in (0, 1, 1.5, -0.1, "a"):
        refused(f"rate={rate!r} must be between 0 and 1", rate=rate)
    refused("rate: 'fc' matches none of the pruned weights", rate={"fc": 0.1, "*": 0.2})
    refused("rate: the rate of '5' is 1; it must be from 0 to less than 1", rate={"5": 1, "*": 0.2})
    refused('rate: no glob matches 3.weight: every pruned weight needs a rate, such as "[*]": 0.2', rate={"0": 0.1})
    refused("scope='uniform' beside the layers' own rates", rate={"*": 0.1}, scope="uniform")
    refused("scope='erk' must be one of 'global', 'uniform'", scope="erk")
    refused("rewind='weight' must be one of .*did you mean 'weights'", rewind="weight")
    refused("rewind_to=-1 must be a whole number of at least 0", rewind_to=-1)
    refused("rewind_to=1.5 must be a whole number", rewind_to=1.5)
    refused("floor=-1 must be a whole number of at least 0", floor=-1)
    refused("include: 'x' matches no parameter", include=["x"])
    refused("train=None must be a function", train=None)
    refused(r"train cannot be called as train\(model\), which this search needs: too many", train=lambda: None)
    refused(r"train cannot be called as train\(model, start=3\)", train=lambda model, stop: model, rewind_to=3)
    refused(r"train cannot be called as train\(model, stop=3\)", train=lambda model, start: model, rewind_to=3)
    with pytest.raises(ValueError, match="model must be a torch.nn.Module, not a str"):
        lottery_ticket("model", trainer, 0.5)  # type: ignore[arg-type]
    assert trainer.calls == []  # all that is said before anything is trained
    one_word = lottery_ticket(
        net(), lambda model, start=0: fit(model, start=start), 0.3, rewind="learning rate", rewind_to=3
    )
    assert len(one_word.rounds) == 2
