from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sparsecycle import runtime
from sparsecycle.runtime import cache, compiled

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.fixture
def tunings(monkeypatch):
    """How often kernels were timed."""
    calls = []
    tune = compiled.tune

    def counting(*arguments):
        calls.append(arguments)
        return tune(*arguments)

    monkeypatch.setattr(compiled, "tune", counting)
    return calls


def test_the_same_network_is_timed_once(model, tunings):
    x = torch.randn(4, 16)
    first = runtime.compile(model, x, threads=1)
    second = runtime.compile(model, x, threads=1)
    assert len(tunings) == 1
    assert torch.equal(first(x), second(x))


def test_other_zeros_threads_and_batches_are_timed_anew(model, tunings):
    runtime.compile(model, torch.randn(4, 16), threads=1)
    runtime.compile(model, torch.randn(4, 16), threads=2)
    runtime.compile(model, torch.randn(5, 16), threads=1)
    with torch.no_grad():
        model[0].weight[0, 0] = 0
    runtime.compile(model, torch.randn(4, 16), threads=1)
    assert len(tunings) == 4


def test_other_values_of_the_same_weights_are_not(model, tunings):
    x = torch.randn(4, 16)
    runtime.compile(model, x, threads=1)
    with torch.no_grad():
        model[0].weight *= 2
    again = runtime.compile(model, x, threads=1)
    assert len(tunings) == 1
    torch.testing.assert_close(again(x), model(x).detach())


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"homes": [], "choices": []}]'], ids=repr)
def test_a_broken_file_is_as_none(model, tunings, content):
    x = torch.randn(4, 16)
    runtime.compile(model, x, threads=1)
    (file,) = cache.folder().iterdir()
    file.write_bytes(content)
    torch.testing.assert_close(runtime.compile(model, x, threads=1)(x), model(x).detach())
    assert len(tunings) == 2


def test_where_nothing_can_be_written_it_works_all_the_same(model, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SPARSECYCLE_CACHE", str(tmp_path / "file"))
    x = torch.randn(4, 16)
    torch.testing.assert_close(runtime.compile(model, x, threads=1)(x), model(x).detach())


def test_the_folder_is_the_users(monkeypatch):
    monkeypatch.delenv("SPARSECYCLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.folder() == Path("/somewhere/sparsecycle")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/anna")
    assert cache.folder() == Path("/home/anna/.cache/sparsecycle")
