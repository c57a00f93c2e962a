from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsecycle.files.inspection import inspect
from sparsecycle.files.packed import NAME, read_state, save


def pruned() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16, 4))
    with torch.no_grad():
        weight = model[0].weight
        weight.masked_fill_(torch.rand_like(weight) < 0.75, 0)
        weight[:4] = 0
    return model


def test_everything_is_counted(tmp_path: Path) -> None:
    model = pruned()
    save(model, tmp_path / NAME, "int8")
    found = inspect(tmp_path)
    stored = read_state(tmp_path)  # in which the smallest weights are 0
    kept, dense = (int(stored[name].count_nonzero()) for name in ("0.weight", "3.weight"))
    weights = model[0].weight.numel()
    assert found.path == tmp_path / NAME
    assert found.bytes == sum(found.parts.values()) == (tmp_path / NAME).stat().st_size
    assert found.kept == kept + dense
    assert found.sparsity == 1 - found.kept / (weights + 64)
    assert found.dense_bytes == sum(tensor.nbytes for tensor in model.state_dict().values())
    share = kept / weights
    mask = weights * -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 8
    others = sum(tensor.nbytes for tensor in model.state_dict().values() if tensor.dim() < 2)
    last = 64 * -sum(p * math.log2(p) for p in (dense / 64, 1 - dense / 64) if p) / 8
    assert found.bound == pytest.approx(mask + kept + last + dense + others)
    conv, linear = found.contents.matrices
    assert conv.parts["positions"] < mask  # since four filters are gone
    assert linear.parts == {"positions": 0, "scales": sum(linear.lengths[:2]), "values": sum(linear.lengths[2:])}
    assert found.parts["scales"] == conv.parts["scales"] + linear.parts["scales"] <= 2 * (16 + 4)


def test_the_table(tmp_path: Path) -> None:
    model = pruned()
    words = {"factory": "resnet-20", "arguments": ((3, 32, 32), 10), "classes": map(str, range(12))}
    save(model, tmp_path / "net", **words, shape=(3, 32, 32), mean=(0.5, 0.25, 1 / 3), std=(1, 2, 3))
    found = inspect(tmp_path / "net")
    lines = str(found).splitlines()
    assert " ".join(lines[0].split()) == "layer shape weights kept sparsity stored as bytes share smaller"
    kept = int(model[0].weight.count_nonzero())
    assert lines[2].split()[:5] == ["0.weight", "16×8×3×3", "1,152", f"{kept}", f"{1 - kept / 1152:.2%}"]
    assert "in living channels, float32" in lines[2]
    assert "dense, float32" in lines[3]
    assert any(line.startswith("other int64") for line in lines)
    assert f"{tmp_path / 'net'}: {found.bytes:,} bytes; the dense network has {found.dense_bytes:,}" in lines
    assert "made by resnet-20, called with ((3, 32, 32), 10)" in lines
    assert "input of shape (3, 32, 32), mean 0.5, 0.25, 0.3333, deviation 1, 2, 3" in lines
    assert lines[-1] == "12 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    percents = [float(line.split()[-1].rstrip("%")) for line in lines if line.endswith("%")]
    assert percents[-1] == 100
    assert sum(percents[:-1]) == pytest.approx(100, abs=0.3)


def test_what_is_known_of_nothing_is_not_said(tmp_path: Path) -> None:
    save(nn.Linear(2, 2, bias=False), tmp_path / "net")
    assert "made by" not in str(inspect(tmp_path / "net"))
    save(nn.BatchNorm1d(2), tmp_path / "norm")  # without a matrix
    found = inspect(tmp_path / "norm")
    assert (found.sparsity, found.kept) == (0, 0)
    assert str(found)


def test_the_plain_data_is_json(tmp_path: Path) -> None:
    save(pruned(), tmp_path / "net", "bf16", classes=["a", "b"])
    plain = json.loads(json.dumps(inspect(tmp_path / "net").to_dict()))
    assert plain["values"] == "bf16"
    assert plain["about"]["classes"] == ["a", "b"]
    assert plain["matrices"][0]["name"] == "0.weight"
    assert plain["parts"]["values"] == sum(sum(matrix["lengths"][-2:]) for matrix in plain["matrices"])


def test_what_is_no_packed_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "gone")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="text is not a whole safetensors file"):
        inspect(tmp_path / "text")
