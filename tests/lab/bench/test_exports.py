from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsecycle.lab import hardware
from sparsecycle.lab.bench.exports import from_export, quantize, save_arrays, to_export, to_onnx


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"sum": self.fc(x) + y, "product": self.fc(x) * y}


def test_a_network_comes_back_with_its_inputs(tmp_path: Path) -> None:
    model, inputs = Two().eval(), (torch.randn(4, 3), torch.randn(4, 2))
    to_export(model, inputs, tmp_path / "two.pt2")
    again, examples = from_export(tmp_path / "two.pt2")
    torch.testing.assert_close(examples, inputs)
    with torch.no_grad():
        torch.testing.assert_close(again(*inputs), tuple(model(*inputs).values()))
    assert again.eval() is again
    assert [name for name, _ in again.named_parameters()] == ["fc.weight", "fc.bias"]


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(RuntimeError, match=r"Branching cannot be exported \(.+\)"):
        to_export(Branching(), [torch.ones(2)], tmp_path / "x.pt2")


def test_inputs_by_name_are_refused(tmp_path: Path) -> None:
    exported = torch.export.export(Two(), (torch.randn(4, 3),), {"y": torch.randn(4, 2)})
    torch.export.save(exported, tmp_path / "named.pt2")
    with pytest.raises(ValueError, match=r"named\.pt2 was not exported for tensors alone, by place"):
        from_export(tmp_path / "named.pt2")


def test_arrays_are_named_as_engines_look_for_them(tmp_path: Path) -> None:
    save_arrays([torch.ones(2), torch.zeros(3, 1)], tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == {"arr_0": (2,), "arr_1": (3, 1)}


@pytest.mark.parametrize(("flags", "has"), [("fma avx2", False), ("avx2 avx_vnni", True), ("avx512_vnni", True)])
def test_int8_sums_are_known_by_the_processors_flags(flags: str, has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_cpu_info", lambda: {"flags": flags})
    assert hardware.has_int8_sums() == has


@pytest.fixture
def onnx(tmp_path: Path) -> tuple[nn.Module, Path]:
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    to_export(model, [torch.randn(2, 3, 8, 8)], tmp_path / "net.pt2")
    to_onnx(tmp_path / "net.pt2", tmp_path / "net.onnx")
    return model, tmp_path / "net.onnx"


def test_onnx_has_batch_norm_folded(onnx: tuple[nn.Module, Path]) -> None:
    import onnx as package

    graph = package.load(onnx[1]).graph
    assert [entry.name for entry in graph.input] == ["x0"]
    assert [node.op_type for node in graph.node] == ["Conv", "Relu", "Flatten", "Gemm"]


def test_what_onnx_lacks_is_said_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("onnx")

    class Special(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i1e(x)

    to_export(Special(), [torch.ones(2)], tmp_path / "x.pt2")
    with pytest.raises(RuntimeError, match=r"there is no ONNX for it \(.*\)"):
        to_onnx(tmp_path / "x.pt2", tmp_path / "x.onnx")


@pytest.mark.parametrize("narrow", [False, True])
def test_int8_is_near(narrow: bool, onnx: tuple[nn.Module, Path], tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model, file = onnx
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    quantize(file, [[images]], tmp_path / "int8.onnx", narrow=narrow)
    (got,) = ort.InferenceSession(str(tmp_path / "int8.onnx")).run(None, {"x0": images.numpy()})
    expected = model(images).detach().numpy()
    assert 1e-4 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.1
