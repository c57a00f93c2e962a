from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecycle import runtime
from sparsecycle.files.container import read, write
from sparsecycle.runtime.tuning import Tuned

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture
def compiled():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    return runtime.compile(model, torch.randn(5, 2, 9, 9), threads=1)


def test_what_is_loaded_gives_the_same_bits(compiled, tmp_path):
    x = torch.randn(5, 2, 9, 9)
    runtime.save(compiled, tmp_path / "net")
    loaded = runtime.load(tmp_path / "net")
    assert torch.equal(loaded(x), compiled(x))
    assert [tuned.plain() for tuned in loaded.tuned] == [tuned.plain() for tuned in compiled.tuned]


def test_it_loads_for_other_threads(compiled, tmp_path):
    x = torch.randn(5, 2, 9, 9)
    runtime.save(compiled, tmp_path / "net")
    loaded = runtime.load(tmp_path / "net", threads=2)
    assert loaded.threads == 2
    torch.testing.assert_close(loaded(x), compiled(x))


def test_choices_of_another_machine_are_made_anew(compiled, tmp_path):
    x = torch.randn(5, 2, 9, 9)
    runtime.save(compiled, tmp_path / "net")
    tensors, content = read(tmp_path / "net", "compiled network")
    for choice in content["tuned"][0]["choices"]:
        choice[1][0] = 1024  # lanes that no machine has
    write(tmp_path / "net", "compiled network", tensors, content)
    torch.testing.assert_close(runtime.load(tmp_path / "net")(x), compiled(x))


def test_structures_come_back(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            return {"both": [self.a(x), (self.b(x),)]}

    x = torch.randn(2, 4)
    compiled = runtime.compile(Two(), x, threads=1)
    runtime.save(compiled, tmp_path / "net")
    found, expected = runtime.load(tmp_path / "net")(x), compiled(x)
    assert torch.equal(found["both"][0], expected["both"][0])
    assert torch.equal(found["both"][1][0], expected["both"][1][0])


def test_parts_in_torch_cannot_be_saved(tmp_path):
    compiled = runtime.compile(nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.randn(2, 4), threads=1)
    with pytest.raises(ValueError, match=r"runs in PyTorch \(aten.gelu"):
        runtime.save(compiled, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_other_files_are_refused(compiled, tmp_path):
    write(tmp_path / "other", "ticket", {}, {})
    with pytest.raises(ValueError, match="is not a compiled network of sparsecycle, but 'ticket'"):
        runtime.load(tmp_path / "other")
    runtime.save(compiled, tmp_path / "net")
    tensors, content = read(tmp_path / "net", "compiled network")
    del content["parts"]
    write(tmp_path / "net", "compiled network", tensors, content)
    with pytest.raises(ValueError, match="does not describe a compiled network"):
        runtime.load(tmp_path / "net")


def test_choices_survive_as_plain_values(compiled):
    (tuned,) = compiled.tuned
    assert Tuned.from_plain(tuned.plain()).plain() == tuned.plain()
