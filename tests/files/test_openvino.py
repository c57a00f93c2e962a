from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tests.files.nets import Counting
from torch import nn

from sparsecycle.files.openvino import to_openvino

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_openvino_computes_the_same_for_any_batch(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 48, 3, bias=False)
    model = nn.Sequential(conv, nn.BatchNorm2d(48), nn.ReLU(), nn.Flatten(), nn.Linear(1728, 100))
    (tmp_path / "net.bin").write_bytes(b"the one before")
    found = to_openvino(model, X, tmp_path / "net.xml")
    assert model.training
    assert found.checked.startswith("openvino 20")
    assert found.error is not None
    assert 0 < found.error < 2e-6
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"net.xml", "net.bin"}
    assert found.size == sum(sizes.values())
    weights = sum(weight.nbytes for weight in model.parameters())
    assert sizes["net.bin"] == pytest.approx(weights, rel=0.01), "in full precision, batch norm folded"
    network = openvino.Core().read_model(found.path)
    assert str(network.input().partial_shape) == "[?,3,8,8]"
    model.eval()
    compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (1, 2, 9):
        images = torch.randn(count, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(torch.as_tensor(compiled(images.numpy())[0]), model(images))


def test_a_batch_may_be_fixed(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    found = to_openvino(nn.Linear(3, 2), torch.ones(4, 3), tmp_path / "net.xml", dynamic_batch=False)
    assert str(openvino.Core().read_model(found.path).input().partial_shape) == "[4,3]"


def test_files_that_compute_something_else_are_not_written(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ValueError, match=r"openvino .* differs by .*e-04 of its largest value, allowed is 1e-05"):
        to_openvino(Counting(), torch.ones(2, 3), tmp_path / "net.xml")
    assert list(tmp_path.iterdir()) == []


def test_without_openvino_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match="OpenVINO's files need the package openvino: pip install openvino"):
        to_openvino(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "net.xml")


def test_other_names_than_xml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path='.*net\.onnx'; allowed is a name that ends in \.xml"):
        to_openvino(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "net.onnx")
