from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import sparsecycle as sc
from sparsecycle.files.folder import card, save_pretrained
from sparsecycle.files.inspection import inspect
from sparsecycle.files.packed import NAME
from sparsecycle.lab.models import build


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(40, 50)
    model.weight.data[:, 10:] = 0
    return model


def test_a_folder_is_read_back_and_has_a_card(model: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sc.methods.one_shot(model, optimizer, 0.75, total_steps=1, at=0.0)
    sparsifier.step()
    report = sparsifier.finalize()
    folder = tmp_path / "nets" / "my-net"
    save_pretrained(
        model,
        folder,
        results={"accuracy | of all": "99 %"},
        report=report,
        classes=[f"c{i}" for i in range(50)],
        shape=(40,),
        mean=(0.5,),
        std=(0.25,),
    )
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", NAME]
    assert torch.equal(sc.load(folder, nn.Linear(40, 50)).weight, model.weight)
    text = (folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "sparsecycle"
    lines = body.splitlines()
    assert lines[1] == "# my-net"
    assert lines[3].startswith("75.00% of the weights of this network are zero.")
    assert "| accuracy \\| of all | 99 % |" in lines
    assert "| requested | 75.0000% |" in lines
    assert f"| criterion | {report.settings['criterion']} |" in lines
    assert "An input has the shape (40,)." in lines
    assert "Its values, from 0 to 1, are normalised with mean 0.5 and standard deviation 0.25." in lines
    (matrix,) = inspect(folder).contents.matrices
    assert f"| weight | 50×40 | 2,000 | 500 | 75.00% | {sum(matrix.lengths):,} |" in lines


def test_a_card_says_only_what_is_known(model: nn.Module, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path, "int8", name="a net")
    text = (tmp_path / "README.md").read_text()
    assert "# a net\n" in text
    assert 'sc.load("path/to/this/folder", model)' in text
    assert "Weights are stored as int8" in text
    for heading in ("## Results", "## Inputs", "## Pruning"):
        assert heading not in text


def test_a_factory_makes_loading_shorter(tmp_path: Path) -> None:
    save_pretrained(build("linear", (1, 4, 4), 3), tmp_path, factory="linear", arguments=((1, 4, 4), 3))
    assert 'model = sc.load("path/to/this/folder")\n' in (tmp_path / "README.md").read_text()
    assert not sc.load(tmp_path).training


@pytest.mark.parametrize(("size", "text"), [(999, "999 bytes"), (1_500, "1.50 kB"), (44_770_000, "44.77 MB")])
def test_sizes_are_said_in_their_unit(size: int, text: str, model: nn.Module, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path)
    found = inspect(tmp_path)
    sized = type(found)(found.path, found.contents, size)
    assert f"It is {text} large" in card(sized, "net", {})


def test_a_failure_leaves_the_old_folder(model: nn.Module, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path, name="old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="values='fp8'"):
        save_pretrained(model, tmp_path, "fp8")  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
