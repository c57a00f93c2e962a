from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sparsecycle.lab.catalogue import NAMES
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.recipe import Recipe
from sparsecycle.tickets import Ticket


def test_the_digest_stays_the_same_from_release_to_release(tmp_path: Path) -> None:
    """A change here makes every stored run a stranger: raise store.FORMAT on purpose or not at all."""
    assert Experiment().folder(tmp_path).digest[:8] == "a9a594fa"


def test_what_is_not_said_is_as_the_methods_paper_has_it() -> None:
    it = Experiment()
    assert (it.scope, it.recovery, it.update, it.floor) == ("paper", "paper", "step", 1)
    assert (it.start, it.end, it.at, it.exclude, it.arguments, it.ticket) == (None, None, None, (), (), "")
    for method in NAMES:
        assert Experiment(method=method).words() == {"floor": 1}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"start": 0.1, "end": 0.5}, {"start": 0.1, "end": 0.5, "floor": 1}),
        ({"start": 0.0}, {"start": 0.0, "floor": 1}),
        ({"scope": "erk", "recovery": "stored"}, {"scope": "erk", "recovery": "stored", "floor": 1}),
        ({"exclude": ("fc3*",), "floor": 0}, {"exclude": ("fc3*",), "floor": 0}),
        ({"method": "one-cycle", "arguments": ("beta=6",)}, {"beta": 6, "floor": 1}),
        ({"method": "colt", "arguments": ("by=random", "rewind-to=5")}, {"by": "random", "rewind_to": 5, "floor": 1}),
        ({"update": "epoch", "seed": 3}, {"floor": 1}),
    ],
)
def test_words_are_what_was_said_of_the_pruning(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert Experiment(**settings).words() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "progresive"}, "method='progresive' is not known.*did you mean 'progressive'"),
        ({"method": "lottery"}, "did you mean 'lottery-ticket'"),
        ({"scope": "gobal"}, "did you mean 'global'"),
        ({"recovery": "sotred"}, "recovery='sotred' is not known; allowed are paper, none, .*did you mean 'stored'"),
        ({"update": "batch"}, "allowed are epoch, step"),
        (
            {"init": "a.pt", "method": "ticket", "ticket": "b"},
            "init='a.pt' with ticket='b': a ticket has weights of its",
        ),
        ({"keep_zeros": True}, r"keep_zeros=True needs a file with zeros: init \(--init FILE\) is empty"),
        (
            {"keep_zeros": True, "init": "a", "method": "rigl"},
            "the method 'rigl' may .*; allowed are dense, magnitude, snip",
        ),
        ({"keep_zeros": True, "init": "a", "recovery": "zero"}, "recovery='zero', which brings zeros back"),
        ({"mean": (0.5, float("nan"))}, r"mean=\(0.5, nan\); allowed are finite numbers, one a channel"),
        ({"std": (float("inf"),)}, r"std=\(inf,\); allowed are finite"),
        ({"sparsity": 90}, "sparsity=90; allowed is a share"),
        ({"sparsity": True}, "sparsity=True; allowed is a share"),
        ({"seed": -1}, "seed=-1"),
        ({"end": 1.5}, "end=1.5; allowed is a share of the run"),
        ({"floor": -1}, "floor=-1; allowed is a whole number of at least 0"),
        ({"floor": 0.5}, "floor=0.5; allowed is a whole number"),
        ({"floor": True}, "floor=True; allowed is a whole number"),
        ({"arguments": ("beta=6",)}, "'progressive' has no 'beta', it has none"),
        ({"method": "one-cycle", "arguments": ("beta",)}, "'beta' must be of the form name=value"),
        ({"method": "ticket"}, "ticket='' with method='ticket'; 'ticket' needs a file, no other does"),
        ({"ticket": "a.safetensors"}, "ticket='a.safetensors' with method='progressive'"),
        (
            {"method": "snip", "end": 0.5},
            "end=0.5: the method 'snip' does not take it; of start, end, at it takes none",
        ),
        ({"method": "one-shot", "end": 0.5}, "does not take it; of start, end, at it takes at"),
        ({"method": "colt", "scope": "erk"}, "scope='erk': the method 'colt' does not take it; allowed is 'paper'"),
        ({"method": "lottery-ticket", "recovery": "zero"}, "recovery='zero': the method 'lottery-ticket' does not"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experiment(**settings)


def test_lists_are_taken_as_tuples() -> None:
    lists: dict[str, Any] = {"exclude": ["fc3*"], "arguments": ["beta=6"]}
    it = Experiment(method="one-cycle", **lists)
    assert it == Experiment(method="one-cycle", exclude=("fc3*",), arguments=("beta=6",))
    assert isinstance(hash(it), int)


@pytest.mark.parametrize("method", ["dense", "ticket"])
def test_what_is_not_used_makes_no_other_run(method: str, tmp_path: Path) -> None:
    ticket = save(tmp_path / "a.safetensors", 3) if method == "ticket" else ""
    plain = Experiment(method=method, ticket=ticket, sparsity=0.0)
    said = Experiment(
        method=method,
        ticket=ticket,
        sparsity=0.7,
        scope="erk",
        recovery="zero",
        update="epoch",
        start=0.1,
        end=0.2,
        at=0.3,
        exclude=("fc1",),
        floor=0,
        arguments=("beta=6",),
    )
    assert not plain.prunes
    assert said.resolved() == plain.resolved() == plain
    assert said.folder(tmp_path).path == plain.folder(tmp_path).path
    assert said.folder(tmp_path).path.name.startswith(f"digits-lenet-300-100-{method}-seed0-")


def test_a_temperature_without_a_teacher_makes_no_other_run(tmp_path: Path) -> None:
    def path(**settings: float) -> Path:
        return Experiment(recipe=Recipe(**settings)).folder(tmp_path).path  # type: ignore[arg-type]

    assert path(temperature=2.0) == path()
    assert path(temperature=2.0, distillation=0.5) != path(distillation=0.5) != path()


def test_a_pruning_run_is_what_it_says() -> None:
    it = Experiment(method="agp", sparsity=0.7, floor=0)
    assert it.prunes
    assert it.resolved() == it


def test_every_word_of_the_pruning_makes_another_run(tmp_path: Path) -> None:
    base = Experiment(method="one-cycle")
    changes: dict[str, Any] = {
        "scope": "uniform",
        "recovery": "none",
        "floor": 0,
        "arguments": ("beta=6",),
        "exclude": ("fc3",),
        "update": "epoch",
        "start": 0.0,
        "end": 1.0,
    }
    others = [replace(base, **{name: value}) for name, value in changes.items()]
    assert len({it.folder(tmp_path).path for it in [base, *others]}) == 9


def save(path: Path, kept: int) -> str:
    mask = torch.arange(6) < kept
    Ticket({"w": mask}, {"w": torch.arange(6.0)}, {"method": "by hand"}).save(path)
    return str(path)


def test_a_ticket_is_what_is_in_its_file(tmp_path: Path) -> None:
    first, other = (save(tmp_path / f"{kept}.safetensors", kept) for kept in (3, 4))
    copy = shutil.copy(first, tmp_path / "copy.safetensors")
    a, b, c = (Experiment(method="ticket", ticket=file).folder(tmp_path / "runs") for file in (first, copy, other))
    assert a.path == b.path
    assert a.config == b.config
    assert "safetensors" not in str(a.config), "the run does not depend on where the file lay"
    assert a.path != c.path


def test_a_ticket_that_is_saved_again_is_the_same(tmp_path: Path) -> None:
    """The format's header has its entries in any order."""
    files = [save(tmp_path / f"{i}.safetensors", 3) for i in range(10)]
    folders = {Experiment(method="ticket", ticket=file).folder(tmp_path).path for file in files}
    assert len(folders) == 1


def test_weights_to_begin_with_are_what_is_in_their_file(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(6.0)}, tmp_path / "a.pt")
    torch.save({"state_dict": {"w": torch.arange(6.0)}, "epoch": 3}, tmp_path / "b.th")
    save_file({"w": torch.arange(6.0)}, tmp_path / "c.safetensors")
    torch.save({"w": -torch.arange(6.0)}, tmp_path / "d.pt")
    folders = [
        Experiment(init=str(tmp_path / name)).folder("runs") for name in ("a.pt", "b.th", "c.safetensors", "d.pt")
    ]
    assert folders[0].config == folders[1].config == folders[2].config
    assert str(tmp_path) not in str(folders[0].config)
    assert len({it.path for it in [*folders, Experiment().folder("runs")]}) == 3


def test_what_came_later_is_in_the_configuration_only_where_it_is_said(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(6.0)}, tmp_path / "a.pt")
    base = Experiment(init=str(tmp_path / "a.pt"))
    changes: dict[str, Any] = {"keep_zeros": True, "mean": (0.4,), "std": (0.2,)}
    others = [replace(base, **{name: value}) for name, value in changes.items()]
    assert len({it.folder(tmp_path).path for it in [base, *others]}) == 4
    assert not {"init", *changes} & set(Experiment().config())
    assert {"init", *changes} & set(base.config()) == {"init"}
    assert replace(base, mean=(0, 1)).config()["mean"] == [0.0, 1.0]
    assert replace(base, mean=(0, 1)).folder(tmp_path).path == replace(base, mean=(0.0, 1.0)).folder(tmp_path).path


def test_a_missing_ticket_is_named(tmp_path: Path) -> None:
    it = Experiment(method="ticket", ticket=str(tmp_path / "gone.safetensors"))
    with pytest.raises(FileNotFoundError, match=r"No such file.*gone\.safetensors"):
        it.folder(tmp_path)
