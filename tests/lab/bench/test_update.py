from __future__ import annotations

import dataclasses

import pytest
import torch

from sparsecycle import native
from sparsecycle.lab.bench import update
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.bench.update import CONTESTANTS, QUICK, READ, STOCK, TORCH, Network, contestants, race

SUBJECT = Subject("lenet-300-100", (1, 8, 8), 4, 0.9)
KEPT = 49_600 - round(0.9 * 49_600)


@pytest.fixture
def network() -> Network:
    return Network(SUBJECT)


def nonzeros(weights: list[torch.Tensor]) -> int:
    return sum(int(weight.count_nonzero()) for weight in weights)


def test_a_network_knows_its_weights(network: Network) -> None:
    assert (network.size, network.bytes, network.keep) == (49_600, 4 * 49_600, KEPT)
    assert network.bytes_of_masks() == 49_600 * (1 if native.core() is not None else 4)


def test_restored_weights_are_the_first_ones_but_for_a_little(network: Network) -> None:
    first = [weight.clone() for weight in network.weights]
    for _ in range(3):
        torch._foreach_zero_(network.weights)
        network.restore()
        for weight, before in zip(network.weights, first, strict=True):
            assert not torch.equal(weight, before)
            torch.testing.assert_close(weight, before, rtol=0.03, atol=0)


def test_drift_leaves_zeros(network: Network) -> None:
    network.weights[0][:, ::2] = 0
    network.drift(network.weights)
    assert not network.weights[0][:, ::2].any()


@pytest.mark.parametrize("name", [update.UPDATE, update.COLD, update.TORCH, update.TOPK, update.KTHVALUE])
def test_an_update_is_complete_every_time(name: str, network: Network) -> None:
    contestant = CONTESTANTS[name](network)
    for _ in range(3):
        contestant.prepare()
        assert nonzeros(network.weights) == 49_600
        contestant.run()
        assert nonzeros(network.weights) == KEPT


def test_torchs_own_pruning_begins_anew_every_time(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = []
    real = update.prune.global_unstructured

    def watched(parameters: list[tuple[torch.nn.Module, str]], *args: object, **kwargs: object) -> None:
        owners[:] = parameters
        assert nonzeros([getattr(owner, leaf) for owner, leaf in parameters]) == 49_600
        real(parameters, *args, **kwargs)

    monkeypatch.setattr(update.prune, "global_unstructured", watched)
    contestant = CONTESTANTS[STOCK](network)
    for _ in range(3):
        contestant.prepare()
        contestant.run()
        assert nonzeros([getattr(owner, leaf) for owner, leaf in owners]) == KEPT
    assert nonzeros(network.weights) == 49_600, "it has a copy of its own"


def test_in_a_run_a_few_weights_fall_at_every_step(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Watched(update.Sparsifier):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(update, "Sparsifier", Watched)
    contestant = CONTESTANTS[update.RUN](network)
    (sparsifier,) = made
    pruned = []
    for _ in range(5):
        contestant.prepare()
        contestant.run()
        pruned.append(round(49_600 * sparsifier.sparsity))
    # A run of 3910 steps prunes 0.9 * 49,600 weights; its second half begins with half of them.
    each = 0.9 * 49_600 / 3910
    assert pruned == [round(0.45 * 49_600 + each * (i + 2)) for i in range(5)]


def test_reading_and_selecting_change_nothing(network: Network) -> None:
    for name in (READ, update.SELECT):
        contestant = CONTESTANTS[name](network)
        contestant.prepare()
        before = [weight.clone() for weight in network.weights]
        contestant.run()
        assert all(map(torch.equal, network.weights, before))


def test_without_the_core_torch_alone_is_no_other_contestant(network: Network) -> None:
    core = native.core()
    assert (TORCH in contestants(network)) == (core is not None)
    with update.without_core():
        assert native.core() is None
        everyone = contestants(network)
        assert set(everyone) == set(CONTESTANTS) - {TORCH}
        everyone[READ].run()
    assert native.core() is core


def test_the_core_comes_back_after_an_error() -> None:
    core = native.core()
    with pytest.raises(RuntimeError), update.without_core():
        raise RuntimeError
    assert native.core() is core


def test_all_race_and_the_quick_ones_more_often(network: Network) -> None:
    torch._foreach_zero_(network.weights)  # as a race before leaves them
    quick, everyone = race(network, 0.0)
    assert set(quick.seconds) == set(QUICK)
    assert set(everyone.seconds) == set(contestants(network))
    assert (quick.rounds, everyone.rounds) == (10, 3)


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="Upsample has no weight to prune"):
        Network(dataclasses.replace(SUBJECT, model="torch.nn:Upsample", shape=(2, 2, 2)))
