from __future__ import annotations

import copy
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.files.nets import Counting
from torch import Tensor, nn

import sparsecycle as sc
from sparsecycle.files.exported import Exported
from sparsecycle.files.onnx import to_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Its file's graph takes a hundredth of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 48, 3, bias=False)
        self.norm = nn.BatchNorm2d(48)
        self.shortcut = nn.Conv2d(48, 48, 3, padding=1)
        self.head = nn.Linear(1728, 60)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images)).relu()
        return self.head((x + self.shortcut(x)).flatten(1))


@dataclass
class Pruning:
    """A network in the middle of its pruning, which was exported there."""

    model: Small
    optimizer: torch.optim.Optimizer
    sparsifier: sc.Sparsifier
    before: dict[str, Tensor]
    found: Exported

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.cat([X, -X])).square().mean().backward()
        self.optimizer.step()
        self.sparsifier.step()


@pytest.fixture(scope="module")
def pruning(tmp_path_factory: pytest.TempPathFactory) -> Pruning:
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sc.Sparsifier(model, optimizer, 0.95, sc.Linear(end=0.5), total_steps=10, exclude=["conv.weight"])
    run = Pruning(model, optimizer, sparsifier, {}, Exported(Path(), 0))
    for _ in range(4):
        run.step()
    run.before = copy.deepcopy(model.state_dict())
    run.found = to_onnx(model, X, tmp_path_factory.mktemp("onnx") / "net.onnx")
    return run


def outputs(path: Path, *inputs: Tensor) -> list[Tensor]:
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, arrays)]


def test_one_file_has_each_weight_once_and_no_masks(pruning: Pruning) -> None:
    path, weights = pruning.found.path, sum(weight.nbytes for weight in pruning.model.parameters())
    data = path.read_bytes()
    assert pruning.found.size == len(data)
    assert weights < len(data) <= 1.02 * weights
    assert list(path.parent.iterdir()) == [path]
    proto = onnx.load_from_string(data)
    onnx.checker.check_model(proto, full_check=True)
    operators = Counter(node.op_type for node in proto.graph.node)
    assert (operators["Conv"], operators["Gemm"], operators["Add"]) == (2, 1, 1)
    assert operators.keys().isdisjoint({"Mul", "Where", "BatchNormalization"})
    initializers = {its.name: onnx.numpy_helper.to_array(its) for its in proto.graph.initializer}
    for name in ("shortcut.weight", "shortcut.bias", "head.weight", "head.bias"):
        assert (initializers[name] == pruning.before[name].numpy()).all()
    assert initializers["conv.weight"].shape == (48, 3, 3, 3)  # with the batch norm
    assert Path(__file__).name.encode() not in data


def test_onnxruntime_computes_the_same_for_any_batch(pruning: Pruning) -> None:
    pytest.importorskip("onnxruntime")
    found = pruning.found
    assert found.checked.startswith("onnxruntime ")
    assert found.error is not None
    assert 0 < found.error < 2e-6
    model = Small().eval()
    model.load_state_dict(pruning.before)
    for count in (1, 2, 9):
        images = torch.randn(count, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(outputs(found.path, images), [model(images)], rtol=1e-5, atol=1e-5)


def test_zeros_are_left_out_where_that_is_smaller(pruning: Pruning, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = Small()
    model.load_state_dict(pruning.before)
    dense, sparse = pruning.found, to_onnx(model, X, tmp_path / "net.onnx", sparse=True)
    graph = onnx.load(sparse.path).graph
    onnx.checker.check_model(onnx.load(sparse.path))
    assert sorted(its.values.name for its in graph.sparse_initializer) == ["head.weight", "shortcut.weight"]
    assert {"conv.weight", "head.bias"} < {its.name for its in graph.initializer}
    weights = [model.head.weight, model.shortcut.weight]
    saved = sum(weight.nbytes - 12 * int(weight.count_nonzero()) for weight in weights)
    assert dense.size - sparse.size == pytest.approx(saved, abs=100)
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(outputs(sparse.path, images)[0], outputs(dense.path, images)[0])


def test_the_model_stays_as_it_is_and_its_pruning_goes_on(pruning: Pruning) -> None:
    model, sparsifier = pruning.model, pruning.sparsifier
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, pruning.before[name]) for name, tensor in model.state_dict().items())
    assert 0.5 < sparsifier.sparsity < 0.951
    for _ in range(6):
        pruning.step()
    assert sparsifier.finalize().achieved == pytest.approx(0.95, abs=1e-4)
    assert all(model.get_parameter(name)[~mask].count_nonzero() == 0 for name, mask in sparsifier.masks.items())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(200, 64)
        self.head = nn.Linear(64, 200, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor, scale: Tensor) -> dict[str, Tensor]:
        x = self.embedding(words) * scale[:, None, None]
        return {"words": self.head(x), "first": self.head(x[:, 0])}


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    found = to_onnx(Tied(), (torch.tensor([[3, 7, 199]]), torch.ones(1)), tmp_path / "net.onnx")
    assert 200 * 64 * 4 < found.size < 1.04 * 200 * 64 * 4
    graph = onnx.load(found.path).graph
    assert [its.name for its in graph.input] == ["words", "scale"]
    assert {its.type.tensor_type.shape.dim[0].dim_param for its in [*graph.input, *graph.output]} == {"batch"}


class OfFour(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(4, 3) * x.view(4, 3).sum(0)


def test_a_batch_may_be_fixed(tmp_path: Path) -> None:
    found = to_onnx(OfFour(), torch.ones(4, 3), tmp_path / "net.onnx", dynamic_batch=False)
    (x,) = onnx.load(found.path).graph.input
    assert [its.dim_value for its in x.type.tensor_type.shape.dim] == [4, 3]
    with pytest.raises(ValueError, match="OfFour cannot be exported for any batch"):
        to_onnx(OfFour(), torch.ones(4, 3), tmp_path / "net.onnx")


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the one before")
    with pytest.raises(ValueError, match=r"onnxruntime .* differs by .*e-04 of its largest value, allowed is 1e-05"):
        to_onnx(Counting(), torch.ones(2, 3), path)
    assert [its.read_bytes() for its in tmp_path.iterdir()] == [b"the one before"]


def test_what_onnx_lacks_is_said_in_a_line(tmp_path: Path) -> None:
    class Special(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i1e(x)

    with pytest.raises(ValueError, match=r"^there is no ONNX for Special \(No ONNX function found for .*\)$"):
        to_onnx(Special(), torch.ones(2), tmp_path / "net.onnx")


def test_a_network_that_is_too_large_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(10**6, 15_000, device="meta")
    with pytest.raises(ValueError, match=r"the network has 60\.0 GB of tensors; a file of ONNX holds 2\.1"):
        to_onnx(model, torch.ones(1, 10**6), tmp_path / "net.onnx")


def test_without_onnxruntime_it_is_not_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = to_onnx(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "net.onnx")
    assert found == Exported(tmp_path / "net.onnx", found.size, lacking="onnxruntime")
    onnx.checker.check_model(found.path)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_what_must_be_installed_is_named(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs the package {package}: pip install 'sparsecycle\[export\]'"):
        to_onnx(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "net.onnx")


def test_inputs_are_looked_at_first(tmp_path: Path) -> None:
    inputs: Any = [torch.ones(1, 3), "two"]
    with pytest.raises(ValueError, match=r"example_inputs\[1\] is of type str"):
        to_onnx(nn.Linear(3, 2), inputs, tmp_path / "net.onnx")
