from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from sparsecycle import Linear, Sparsifier, methods
from sparsecycle.methods import METHODS

WEIGHTS = 40 * 20 + 20 * 10  # in two layers


def build(method: str, sparsity: float = 0.9, total_steps: int = 10, **words: Any) -> Sparsifier:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 10))
    with torch.no_grad():
        model[2].weight.mul_(5)  # so that layers differ where they compete
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return METHODS[method](model, optimizer, sparsity, total_steps, **words)


def pruned(sparsifier: Sparsifier, steps: int) -> list[int]:
    """How many weights are pruned while each of these steps trains."""
    counts = []
    for _ in range(steps):
        counts.append(sum(int((~mask).sum()) for mask in sparsifier.masks.values()))
        sparsifier.step()
    return counts


def by_layer(sparsifier: Sparsifier) -> list[float]:
    return [1 - mask.double().mean().item() for mask in sparsifier.masks.values()]


def test_names() -> None:
    assert list(METHODS) == ["progressive", "one-cycle", "agp", "iterative", "one-shot", "cyclical"]
    assert [f.__name__.replace("_", "-") for f in METHODS.values()] == list(METHODS)
    assert set(methods.__all__) == {"METHODS", *(f.__name__ for f in METHODS.values())}


# 0.9 of 1000 weights over ten steps: step k trains at the schedule's value at (k + 1) / 10.
BY_HAND = {
    "progressive": [90, 180, 270, 360, 450, 540, 630, 720, 810, 900],
    # 900 times .0266 .0998 .3101 .6457 .8809 .9678 .9920 .9981 .9996 1
    "one-cycle": [24, 90, 279, 581, 793, 871, 893, 898, 900, 900],
    # From a fifth of the run: 900 (1 - (1 - u)^3) for u = 0, 1/8, ..., 1
    "agp": [0, 0, 297, 520, 680, 788, 853, 886, 898, 900],
    # From a fifth: thirds, 900 ceil(3 u) / 3
    "iterative": [0, 0, 300, 300, 600, 600, 600, 900, 900, 900],
    "one-shot": [0, 0, 0, 0, 900, 900, 900, 900, 900, 900],
    # Three cycles of 900 (1 - (1 - u)^3): u = 3/10, 6/10, 9/10, then 2/10, 5/10, 8/10, then 1/10, 4/10, 7/10, 1
    "cyclical": [591, 842, 899, 439, 788, 893, 244, 706, 876, 900],
}


@pytest.mark.parametrize("method", METHODS)
def test_sparsity_over_the_run(method: str) -> None:
    sparsifier = build(method)
    assert pruned(sparsifier, 10) == BY_HAND[method]
    assert sparsifier.finalize().achieved == pytest.approx(0.9)


def test_progressive_by_epochs_is_the_papers_loop() -> None:
    # Five epochs of four steps, pruning in the first four: epoch e at 0.8 min(1, (e + 1) / 4).
    sparsifier = build("progressive", 0.8, 20, end=4 / 5, update_every=4)
    assert pruned(sparsifier, 20) == [n for n in (200, 400, 600, 800, 800) for _ in range(4)]


def test_start_and_end_and_each_methods_own_arguments() -> None:
    assert pruned(build("progressive", start=0.5, end=0.9), 10) == [0, 0, 0, 0, 0, 225, 450, 675, 900, 900]
    assert pruned(build("agp", start=0.0, end=0.5), 6) == [439, 706, 842, 893, 900, 900]
    assert pruned(build("iterative", start=0.0, steps=2), 10) == [450] * 5 + [900] * 5
    assert pruned(build("one-shot", at=0.7), 10) == [0] * 7 + [900] * 3
    assert pruned(build("one-cycle", beta=6), 10) == [9, 35, 128, 361, 658, 825, 881, 895, 899, 900]
    linear = [180, 360, 540, 720, 0, 180, 360, 540, 720, 900]
    assert pruned(build("cyclical", cycles=2, within=Linear()), 10) == linear


@pytest.mark.parametrize("method", METHODS)
def test_scope_is_the_papers(method: str) -> None:
    sparsifier = build(method)
    pruned(sparsifier, 10)
    if method in ("one-cycle", "agp"):  # layer by layer
        assert by_layer(sparsifier) == pytest.approx([0.9, 0.9], abs=1e-9)
    else:
        first, last = by_layer(sparsifier)
        assert first > 0.95 > 0.8 > last


@pytest.mark.parametrize("method", METHODS)
def test_words_are_passed_on(method: str) -> None:
    sparsifier = build(method, 0.75, scope="erk", exclude=["0"], floor=7, update_every=5, criterion="random")
    settings = sparsifier.report().settings
    assert (settings["scope"], settings["floor"], settings["update_every"]) == ("erk", 7, 5)
    assert "Random" in settings["criterion"]
    assert list(sparsifier.masks) == ["2.weight"]
    pruned(sparsifier, 10)
    assert by_layer(sparsifier) == [0.75]


@pytest.mark.parametrize("method", METHODS)
def test_only_cyclical_lets_weights_come_back(method: str) -> None:
    recovery = build(method).report().settings["recovery"]
    assert recovery == ("zero" if method == "cyclical" else "none")


def test_cyclical_can_bring_back_the_values() -> None:
    stored = build("cyclical", recovery="stored")
    before = stored._model.get_parameter("0.weight").clone()  # pruned already
    counts = pruned(stored, 4)
    after = stored._model.get_parameter("0.weight")
    assert counts[3] < counts[2]
    assert int(after.count_nonzero()) > 0
    torch.manual_seed(0)
    dense = nn.Linear(40, 20).weight
    assert torch.equal(after[after != 0], dense[after != 0])
    assert not torch.equal(after, before)


@pytest.mark.parametrize("method", METHODS)
def test_signatures_agree(method: str) -> None:
    names = list(inspect.signature(METHODS[method]).parameters)
    assert names[:4] == ["model", "optimizer", "sparsity", "total_steps"]
    assert names[-1] == "words"
    assert names[4:6] == (["at", "words"] if method == "one-shot" else ["start", "end"])
    assert "arXiv" in str(METHODS[method].__doc__) or method == "iterative"


@pytest.mark.parametrize("method", METHODS)
def test_a_word_that_is_not_there_is_an_error(method: str) -> None:
    with pytest.raises(TypeError, match="scop"):
        build(method, scop="global")
