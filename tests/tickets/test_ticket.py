from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.tickets.nets import net, same
from torch import Tensor

from sparsecycle.files.container import write
from sparsecycle.tickets import Overlap, Ticket
from sparsecycle.tickets.ticket import read_ticket, write_ticket

SHAPES: dict[str, tuple[int, ...]] = {"a": (3, 4), "b": (5,), "c": (2, 1, 3)}


def ticket(*kept: list[float], **provenance: Any) -> Ticket:
    """A ticket of these rows of ones and zeros, named a, b, ..."""
    masks = {name: torch.tensor(row).bool() for name, row in zip("abc", kept, strict=False)}
    return Ticket(masks, {name: torch.arange(float(mask.numel())) for name, mask in masks.items()}, provenance)


def drawn(seed: int, density: float) -> Ticket:
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(shape, generator=generator) < density for name, shape in SHAPES.items()}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return Ticket(masks, weights, {"seed": seed})


tickets = st.builds(drawn, st.integers(0, 2**20), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))


def test_counts() -> None:
    found = ticket([1, 0, 0, 1], [0, 0, 1], method="by hand")
    assert (found.kept, found.total, found.sparsity) == (3, 7, 1 - 3 / 7)
    assert repr(found) == "Ticket(3 of 7 weights in 2 layers, from: by hand)"
    assert repr(found | found) == "Ticket(3 of 7 weights in 2 layers, from: |)"


@given(tickets, tickets)
def test_set_operations(a: Ticket, b: Ticket) -> None:
    both, either, only = a & b, a | b, a - b
    assert same(both.masks, (b & a).masks)
    assert same(either.masks, (b | a).masks)
    assert (only & b).kept == 0
    assert both.kept + either.kept == a.kept + b.kept
    assert only.kept + both.kept == a.kept
    assert same((only | both).masks, a.masks)
    for found, operation in ((both, "&"), (either, "|"), (only, "-")):
        assert found.weights is a.weights
        assert found.provenance == {"operation": operation, "of": [a.provenance, b.provenance]}


@given(tickets, tickets)
def test_overlap(a: Ticket, b: Ticket) -> None:
    overlap = a.overlap(b)
    assert overlap == b.overlap(a)
    both, either = (a & b).kept, (a | b).kept
    assert overlap.total == (both / either if either else 1.0)
    assert all(0 <= value <= 1 for value in [overlap.total, overlap.chance, *overlap.layers.values()])
    assert a.overlap(a).total == 1
    assert list(overlap.layers) == list(SHAPES)


def test_overlap_by_hand() -> None:
    a, b = ticket([1, 1, 0, 0], [1, 0], [0, 0]), ticket([1, 0, 1, 0], [1, 1], [0, 0])
    # By chance both keep 2 · 2 / 4 of "a" and 1 · 2 / 2 of "b": 2 of the 2 + 2 + 1 + 2 - 2 that either keeps.
    assert a.overlap(b) == Overlap(2 / 5, {"a": 1 / 3, "b": 1 / 2, "c": 1.0}, 2 / 5)
    nothing = ticket([0, 0], [0])
    assert nothing.overlap(nothing) == Overlap(1.0, {"a": 1.0, "b": 1.0}, 1.0)


def test_chance_is_what_random_masks_have() -> None:
    def random(seed: int, *densities: float) -> Ticket:
        generator = torch.Generator().manual_seed(seed)
        masks = {}
        for name, density in zip("ab", densities, strict=True):
            masks[name] = torch.zeros(40_000, dtype=torch.bool)
            masks[name][torch.randperm(40_000, generator=generator)[: round(40_000 * density)]] = True
        return Ticket(masks, {name: mask.float() for name, mask in masks.items()}, {})

    overlap = random(0, 0.5, 0.1).overlap(random(1, 0.2, 0.1))
    assert overlap.chance == pytest.approx((0.1 + 0.01) / (0.7 - 0.1 + 0.2 - 0.01), abs=1e-12)
    assert overlap.total == pytest.approx(overlap.chance, abs=0.005)


@pytest.mark.parametrize("operation", ["__and__", "__or__", "__sub__", "overlap"])
def test_only_tickets_of_the_same_weights_go_together(operation: str) -> None:
    a = ticket([1, 0], [1])
    with pytest.raises(ValueError, match=r"different weights: b is \(1,\) in the left, \(2,\) in the right"):
        getattr(a, operation)(ticket([1, 0], [1, 1]))
    with pytest.raises(ValueError, match=r"c is absent in the left, \(1,\) in the right"):
        getattr(a, operation)(ticket([1, 0], [1], [0]))
    with pytest.raises(ValueError, match=r"b is \(1,\) in the left, absent in the right"):
        getattr(a, operation)(ticket([1, 0]))


def test_a_ticket_and_something_else() -> None:
    for operation in (lambda a: a & 3, lambda a: a | {}, lambda a: a - None):
        with pytest.raises(TypeError, match="unsupported operand"):
            operation(ticket([1]))


@given(tickets)
def test_saved_and_loaded(tmp_path_factory: pytest.TempPathFactory, found: Ticket) -> None:
    path = tmp_path_factory.mktemp("saved") / "t.safetensors"
    found.save(path)
    again = Ticket.load(str(path))
    assert same(again.masks, found.masks)
    assert same(again.weights, found.weights)
    assert again.provenance == found.provenance


def test_masks_take_one_bit_a_weight(tmp_path: Path) -> None:
    model = net()
    weights = {name: t.detach() for name, t in model.state_dict().items()}
    found = Ticket({"0.weight": weights["0.weight"] > 0}, weights, {"x": [1, {"y": None}]})
    found.save(tmp_path / "t")
    lying = load_file(tmp_path / "t")
    assert lying["masks/0.weight"].shape == (math.ceil(40 / 8),)
    again = Ticket.load(tmp_path / "t")
    assert same(again.weights, weights)  # float64, int64 and what has no dimension
    assert again.provenance == {"x": [1, {"y": None}]}


def test_what_lies_beside_a_ticket_is_not_part_of_it(tmp_path: Path) -> None:
    write_ticket(tmp_path / "t", ticket([1, 0]), seconds=0.1 + 0.2)
    found, beside = read_ticket(tmp_path / "t")
    assert beside == {"seconds": 0.1 + 0.2}
    assert found.provenance == {}


def test_unsound_files(tmp_path: Path) -> None:
    path = tmp_path / "t"
    ticket([1, 0], [1]).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=f"{path} is not a whole safetensors file"):
        Ticket.load(path)

    byte, weights = torch.zeros(1, dtype=torch.uint8), torch.zeros(9)
    whole = {"shapes": {"a": [9]}, "weights": ["a"], "provenance": {}, "beside": {}}
    for tensors, content, complaint in (
        ({"masks/a": byte, "weights/a": weights}, whole, "not a sound ticket: a mask of shape .9,. packs into 2 bytes"),
        ({"weights/a": weights}, whole, "not complete: it lacks 'masks/a'"),
        ({"masks/a": byte, "weights/a": weights}, {}, "not complete: it lacks 'shapes'"),
        (
            {"masks/a": byte, "weights/a": weights},
            {**whole, "shapes": {"a": [8]}},
            "not a sound ticket: masks: a has shape .8,., and its weight: .9,.",
        ),
    ):
        write(path, "ticket", tensors, content)
        with pytest.raises(ValueError, match=f"{path} is {complaint}"):
            Ticket.load(path)


def of(mask: Tensor, weight: Tensor | None, provenance: Any = None) -> Ticket:
    return Ticket({"a": mask}, {} if weight is None else {"a": weight}, {} if provenance is None else provenance)


def test_unsound_tickets() -> None:
    mask, weight = torch.ones(2, dtype=torch.bool), torch.ones(2)
    with pytest.raises(ValueError, match="at least one weight"):
        Ticket({}, {"a": weight}, {})
    with pytest.raises(ValueError, match="a is of torch.float32; it must be of torch.bool"):
        of(weight, weight)
    with pytest.raises(ValueError, match=r"a has shape \(2,\), and its weight: none"):
        of(mask, None)
    with pytest.raises(ValueError, match=r"a has shape \(2,\), and its weight: \(1, 2\)"):
        of(mask, weight[None])
    with pytest.raises(ValueError, match="weights: a is on meta; it must be on the CPU"):
        of(mask, weight.to("meta"))
    for provenance in ({"a": weight}, {"a": (1, 2)}, {1: 2}, {"a": math.inf}):
        with pytest.raises(ValueError, match="provenance=.* must be a dict of plain JSON values"):
            of(mask, weight, provenance)
