from __future__ import annotations

import copy
import inspect
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsecycle import SNIP, GraSP, Linear, Regrow, Sparsifier, SynFlow, methods
from sparsecycle.methods import METHODS

WEIGHTS = 40 * 20 + 20 * 10  # in two layers
BATCHES = [(torch.linspace(-1, 1, 240).view(6, 40).sin(), torch.arange(6))]
NEEDS: dict[str, dict[str, Any]] = {
    "snip": {"batches": BATCHES},
    "grasp": {"batches": BATCHES},
    "synflow": {"input_shape": (40,), "rounds": 10},
}
BEFORE_TRAINING = ("random", "magnitude", "snip", "grasp", "synflow")
#: Methods that are their criterion, and take no other.
THEIR_CRITERION = ("random", "snip", "grasp", "synflow", "movement")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 10))
    with torch.no_grad():
        model[2].weight.mul_(5)  # so that layers differ where they compete
    return model


def build(method: str, sparsity: float = 0.9, total_steps: int = 10, **words: Any) -> Sparsifier:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return METHODS[method](model, optimizer, sparsity, total_steps, **{**NEEDS.get(method, {}), **words})


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
    assert list(METHODS) == [
        *("random", "magnitude", "snip", "grasp", "synflow"),
        *("progressive", "one-cycle", "agp", "iterative", "one-shot"),
        *("movement", "gsm", "cyclical", "acdc", "dsd", "dpf", "set", "rigl"),
    ]
    assert [f.__name__.replace("_", "-") for f in METHODS.values()] == list(METHODS)
    assert {*methods.__all__} == {"METHODS", *(f.__name__ for f in METHODS.values())}


# 0.9 of 1000 weights over ten steps: step k trains at the schedule's value at (k + 1) / 10.
BY_HAND = {
    **dict.fromkeys([*BEFORE_TRAINING, "set", "rigl"], [900] * 10),
    "progressive": [90, 180, 270, 360, 450, 540, 630, 720, 810, 900],
    # 900 times .0266 .0998 .3101 .6457 .8809 .9678 .9920 .9981 .9996 1
    "one-cycle": [24, 90, 279, 581, 793, 871, 893, 898, 900, 900],
    # From a fifth of the run: 900 (1 - (1 - u)^3) for u = 0, 1/8, ..., 1
    "agp": [0, 0, 297, 520, 680, 788, 853, 886, 898, 900],
    "movement": [0, 0, 297, 520, 680, 788, 853, 886, 898, 900],
    # From a fifth: thirds, 900 ceil(3 u) / 3
    "iterative": [0, 0, 300, 300, 600, 600, 600, 900, 900, 900],
    "one-shot": [0, 0, 0, 0, 900, 900, 900, 900, 900, 900],
    "gsm": [0] * 9 + [900],
    # Three cycles of 900 (1 - (1 - u)^3): u = 3/10, 6/10, 9/10, then 2/10, 5/10, 8/10, then 1/10, 4/10, 7/10, 1
    "cyclical": [591, 842, 899, 439, 788, 893, 244, 706, 876, 900],
    # Sparse where an odd number of the switches .1, .15, ..., .75, .85 has passed: only after the last of them here
    "acdc": [0] * 8 + [900, 900],
    "dsd": [0, 0, 0, 900, 900, 900, 0, 0, 0, 0],
    # 900 (1 - (1 - u)^3) for u = 1/10, ..., 1, where there is a mask every 2 steps
    "dpf": [439, 439, 706, 706, 842, 842, 893, 893, 900, 900],
}


@pytest.mark.parametrize("method", METHODS)
def test_sparsity_over_the_run(method: str) -> None:
    sparsifier = build(method, **({"update_every": 2} if method == "dpf" else {}))
    assert pruned(sparsifier, 10) == BY_HAND[method]
    report = sparsifier.finalize()
    assert report.achieved == pytest.approx(0.0 if method == "dsd" else 0.9)
    assert report.requested == pytest.approx(0.0 if method == "dsd" else 0.9)


def test_progressive_by_epochs_is_the_papers_loop() -> None:
    # Five epochs of four steps, pruning in the first four: epoch e at 0.8 min(1, (e + 1) / 4).
    sparsifier = build("progressive", 0.8, 20, end=4 / 5, update_every=4)
    assert pruned(sparsifier, 20) == [n for n in (200, 400, 600, 800, 800) for _ in range(4)]


def test_intervals_of_the_papers() -> None:
    every = {name: build(name).report().settings["update_every"] for name in METHODS}
    assert {name: n for name, n in every.items() if n != 1} == {"dpf": 16, "set": 100, "rigl": 100}
    # At .4 and .8 of the run, and at its end.
    assert pruned(build("dpf", total_steps=40), 40) == [706] * 16 + [893] * 16 + [900] * 8


def test_acdcs_phases_on_imagenet() -> None:
    # Dense for two steps of twenty, then by turns, a twentieth each; dense from .75 to .85, sparse from there on.
    phases = "ddsdsdsdsdsdsdsddsss"
    assert pruned(build("acdc", total_steps=20), 20) == [900 * (phase == "s") for phase in phases]


def test_start_and_end_and_each_methods_own_arguments() -> None:
    assert pruned(build("progressive", start=0.5, end=0.9), 10) == [0, 0, 0, 0, 0, 225, 450, 675, 900, 900]
    assert pruned(build("agp", start=0.0, end=0.5), 6) == [439, 706, 842, 893, 900, 900]
    assert pruned(build("movement", start=0.0, end=0.5), 6) == [439, 706, 842, 893, 900, 900]
    assert pruned(build("dpf", start=0.0, end=0.5, update_every=1), 6) == [439, 706, 842, 893, 900, 900]
    assert pruned(build("iterative", start=0.0, steps=2), 10) == [450] * 5 + [900] * 5
    assert pruned(build("one-shot", at=0.7), 10) == [0] * 7 + [900] * 3
    assert pruned(build("one-cycle", beta=6), 10) == [9, 35, 128, 361, 658, 825, 881, 895, 899, 900]
    linear = [180, 360, 540, 720, 0, 180, 360, 540, 720, 900]
    assert pruned(build("cyclical", cycles=2, within=Linear()), 10) == linear
    assert pruned(build("acdc", switches=[0.2, 0.5, 0.7]), 10) == [0, 0, 900, 900, 900, 0, 0, 900, 900, 900]
    # The first three tenths are dense, and the last two: switches are shares of what lies between.
    assert pruned(build("acdc", switches=[0.0, 0.2, 0.4], start=0.3, end=0.8), 10) == [0] * 3 + [900, 0] + [900] * 5
    assert pruned(build("dsd", sparse_from=0.1, sparse_until=0.3), 10) == [0, 900, 900, 0, 0, 0, 0, 0, 0, 0]
    assert pruned(build("gsm", update_every=3), 10) == [0] * 9 + [900]
    assert pruned(build("gsm", update_every=4), 10) == [0] * 8 + [900] * 2


def test_own_arguments_of_criteria_and_regrowth() -> None:
    def of(method: str, **words: Any) -> tuple[Any, Any]:
        sparsifier = build(method, **words)
        return sparsifier._criterion, sparsifier._recovery

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target) * 2

    snip, _ = of("snip", loss=loss)
    assert isinstance(snip, SNIP)
    assert (snip.loss, snip.batches, snip.rounds) == (loss, BATCHES, 1)
    grasp, _ = of("grasp", loss=loss, temperature=50.0)
    assert isinstance(grasp, GraSP)
    assert (grasp.loss, grasp.temperature, grasp.rounds) == (loss, 50.0, 1)
    assert of("grasp")[0].temperature == 200.0
    assert of("synflow", input_shape=[40], rounds=7, path="linear")[0] == SynFlow((40,), 7, "linear")
    assert inspect.signature(methods.synflow).parameters["rounds"].default == 100
    assert of("random", seed=3)[0].seed == 3
    assert of("set")[1] == Regrow("random", 0.3, 0.75, 0)
    assert of("rigl")[1] == Regrow("gradient", 0.3, 0.75, 0)
    assert of("set", fraction=0.5, until=0.5, seed=4)[1] == Regrow("random", 0.5, 0.5, 4)
    assert of("rigl", fraction=0.5, until=0.5, seed=4)[1] == Regrow("gradient", 0.5, 0.5, 4)


@pytest.mark.parametrize("method", METHODS)
def test_scope_is_the_papers(method: str) -> None:
    sparsifier = build(method)
    before = by_layer(sparsifier)
    pruned(sparsifier, 5)
    scope = sparsifier.report().settings["scope"]
    if method in ("one-cycle", "agp", "movement", "dsd"):  # layer by layer
        assert scope == "uniform"
        first, last = by_layer(sparsifier)
        assert abs(first - last) <= 1 / 200  # a weight of the smaller layer
    elif method in ("set", "rigl"):
        # In proportion to (40 + 20) / 800 and (20 + 10) / 200, twice as much: 100 / 3 of 200 weights are kept there.
        assert scope == "erk"
        assert before == pytest.approx([1 - 67 / 800, 1 - 33 / 200])
    else:
        assert scope == "global"
    pruned(sparsifier, 5)
    first, last = by_layer(sparsifier)
    if method in ("magnitude", "progressive", "iterative", "one-shot", "gsm", "cyclical", "acdc", "dpf"):
        assert first > 0.95 > 0.8 > last
    elif method == "random":
        assert (first, last) == (pytest.approx(0.9, abs=0.01), pytest.approx(0.9, abs=0.04))


@pytest.mark.parametrize("method", METHODS)
def test_words_are_passed_on(method: str) -> None:
    criterion = {} if method in THEIR_CRITERION else {"criterion": "random"}
    sparsifier = build(method, 0.75, scope="erk", exclude=["0"], floor=7, update_every=5, **criterion)
    settings = sparsifier.report().settings
    assert (settings["scope"], settings["floor"], settings["update_every"]) == ("erk", 7, 5)
    assert method in THEIR_CRITERION or "Random" in settings["criterion"]
    assert list(sparsifier.masks) == ["2.weight"]
    pruned(sparsifier, 10)
    assert by_layer(sparsifier) == [0.0 if method == "dsd" else 0.75]


@pytest.mark.parametrize("method", THEIR_CRITERION)
def test_methods_that_are_their_criterion_take_no_other(method: str) -> None:
    with pytest.raises(TypeError, match="criterion"):
        build(method, criterion="magnitude")


@pytest.mark.parametrize("method", METHODS)
def test_recovery_is_the_papers(method: str) -> None:
    recovery = build(method).report().settings["recovery"]
    assert recovery == {
        "movement": "stored",
        "gsm": "passive",
        "cyclical": "zero",
        "acdc": "Recovery(returns=True, remembers=False, trains='kept', forgets=True)",
        "dsd": "zero",
        "dpf": "feedback",
        "set": "Regrow(by='random', fraction=0.3, until=0.75, seed=0)",
        "rigl": "Regrow(by='gradient', fraction=0.3, until=0.75, seed=0)",
    }.get(method, "none")


@pytest.mark.parametrize("method", METHODS)
def test_recovery_may_be_another(method: str) -> None:
    sparsifier = build(method, recovery="stored", update_every=2)
    assert sparsifier.report().settings["recovery"] == "stored"
    pruned(sparsifier, 10)
    assert sparsifier.finalize().kept == (1000 if method == "dsd" else 100)


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


# Before training


def test_random_follows_its_seed_and_magnitude_the_weights() -> None:
    masks = [torch.cat([m.flatten() for m in build("random", seed=s).masks.values()]) for s in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    weights = torch.cat([network()[i].weight.detach().flatten() for i in (0, 2)])
    kept = torch.cat([m.flatten() for m in build("magnitude", floor=0).masks.values()])
    assert set(kept.nonzero().flatten().tolist()) == set(weights.abs().topk(100)[1].tolist())


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow"])
def test_scores_before_training_leave_the_network_as_it_is(method: str) -> None:
    dense, state = network(), torch.get_rng_state()
    sparsifier = build(method)
    torch.set_rng_state(state)
    kept = 0
    for (name, p), q in zip(sparsifier._model.named_parameters(), dense.parameters(), strict=True):
        mask = sparsifier.masks.get(name, torch.ones_like(q, dtype=torch.bool))
        assert torch.equal(p, q * mask)
        assert p.grad is None
        kept += int(mask.sum()) if name in sparsifier.masks else 0
    assert kept == 100


def test_snip_by_hand() -> None:
    # The loss is 1·w0 + 2·w1 + 3·w2 + 4·w3 over 2 batches: |w · g| is 8, 6, 6, 4 times 2.
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[8.0, -3.0, 2.0, 1.0]]))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = [(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), None)] * 2
    sparsifier = methods.snip(model, optimizer, 0.5, 3, batches=batches, loss=lambda output, _: output.sum())
    assert sparsifier.masks["weight"].tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({}, ["0.weight", "2.weight"]),
        ({"biases": True}, ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ({"biases": True, "include": ["0"]}, ["0.weight", "0.bias"]),
        ({"biases": True, "exclude": ["0"]}, ["2.weight", "2.bias"]),
        ({"biases": True, "exclude": ["0.bias"]}, ["0.weight", "2.weight", "2.bias"]),
    ],
)
def test_snip_prunes_biases_of_the_pruned_layers_only(words: dict[str, Any], names: list[str]) -> None:
    sparsifier = build("snip", 0.5, **words)
    assert list(sparsifier.masks) == names
    total = sum(mask.numel() for mask in sparsifier.masks.values())
    assert pruned(sparsifier, 1) == [round(0.5 * total)]


def test_snip_prunes_no_bias_of_a_norm_and_wants_none_where_there_is_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = [(torch.randn(5, 6), torch.arange(5) % 3)]
    sparsifier = methods.snip(model, optimizer, 0.5, 3, batches=batches, biases=True)
    assert list(sparsifier.masks) == ["0.weight", "2.weight", "2.bias"]
    assert sum(int(m.sum()) for m in sparsifier.masks.values()) == 48 + 24 + 3 - round(0.5 * 75)


# AC/DC


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_acdc_clears_all_momentum_when_the_network_opens(kind: str) -> None:
    model = network()
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        if kind == "sgd"
        else torch.optim.Adam(model.parameters(), 0.01)
    )
    # Sparse for steps 2 to 5 of ten, 8 and 9: it opens before step 6, and closes before the steps 2 and 8.
    sparsifier = methods.acdc(model, optimizer, 0.9, 10, switches=(0.2, 0.6, 0.8))
    key, other = ("momentum_buffer", None) if kind == "sgd" else ("exp_avg", "exp_avg_sq")
    opened = []
    for step in range(1, 11):
        model(BATCHES[0][0]).square().mean().backward()
        optimizer.step()
        before = copy.deepcopy(optimizer.state_dict()["state"])
        sparsifier.step()
        assert before[3][key].count_nonzero() == 10
        if optimizer.state[model[2].bias][key].any():
            assert torch.equal(optimizer.state[model[2].bias][key], before[3][key])
        else:
            assert not any(optimizer.state[p][key].any() for p in model.parameters())
            opened.append(step)
        if other is not None:
            assert torch.equal(optimizer.state[model[2].bias][other], before[3][other])
            assert before[3][other].count_nonzero() == 10
        optimizer.zero_grad()
    assert opened == [6]
    assert sparsifier.sparsity == pytest.approx(0.9)


# Conventions


OWN: dict[str, list[str]] = {
    "random": ["seed"],
    "magnitude": [],
    "snip": ["batches", "loss", "biases"],
    "grasp": ["batches", "loss", "temperature"],
    "synflow": ["input_shape", "rounds", "path"],
    "progressive": ["start", "end"],
    "one-cycle": ["start", "end", "alpha", "beta"],
    "agp": ["start", "end"],
    "iterative": ["start", "end", "steps"],
    "one-shot": ["at"],
    "movement": ["start", "end"],
    "gsm": [],
    "cyclical": ["start", "end", "cycles", "within", "recovery"],
    "acdc": ["start", "end", "switches"],
    "dsd": ["sparse_from", "sparse_until"],
    "dpf": ["start", "end", "update_every"],
    "set": ["fraction", "until", "seed", "update_every"],
    "rigl": ["fraction", "until", "seed", "update_every"],
}


@pytest.mark.parametrize("method", METHODS)
def test_signatures_agree(method: str) -> None:
    parameters = inspect.signature(METHODS[method]).parameters
    assert list(parameters) == ["model", "optimizer", "sparsity", "total_steps", *OWN[method], "words"]
    kinds = [parameter.kind for parameter in parameters.values()]
    assert set(kinds[:4]) == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert set(kinds[4:-1]) <= {inspect.Parameter.KEYWORD_ONLY}
    assert kinds[-1] == inspect.Parameter.VAR_KEYWORD
    needed = {name for name in OWN[method] if parameters[name].default is inspect.Parameter.empty}
    assert needed == {"snip": {"batches"}, "grasp": {"batches"}, "synflow": {"input_shape"}}.get(method, set())


@pytest.mark.parametrize("method", METHODS)
def test_the_paper_is_cited(method: str) -> None:
    assert re.search(r"arXiv \d{4}\.\d{4,5}", inspect.getdoc(METHODS[method]) or "") or method == "iterative"


@pytest.mark.parametrize("method", METHODS)
def test_a_word_that_is_not_there_is_an_error(method: str) -> None:
    with pytest.raises(TypeError, match="scop"):
        build(method, scop="global")


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("set", {"fraction": 2}, "fraction=2 must be a share"),
        ("rigl", {"until": -0.5}, "until=-0.5 must be a share"),
        ("acdc", {"switches": (0.2, 0.5)}, r"switches=\(0.2, 0.5\) must be an odd number of rising shares"),
        ("dsd", {"sparse_from": 0.8}, "0 <= sparse_from < sparse_until <= 1"),
        ("synflow", {"rounds": 0}, "rounds=0 must be a whole number of at least 1"),
        ("grasp", {"temperature": 0}, "temperature=0 must be greater than 0"),
        ("snip", {"batches": []}, "batches=.* is empty"),
        ("gsm", {"total_steps": 0}, "total_steps=0 must be a whole number of at least 1"),
        ("gsm", {"total_steps": -3}, "total_steps=-3 must be a whole number of at least 1"),
        ("one-shot", {"at": 1.0}, "at=1.0 must be from 0 to less than 1"),
        ("progressive", {"sparsity": math.nan}, "sparsity=nan must be from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(method: str, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(method, **words)
