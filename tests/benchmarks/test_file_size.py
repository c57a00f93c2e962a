from __future__ import annotations

import copy
from typing import Any

import pytest
from benchmarks.file_size import VALUES, matrices, measure, misses, pruned, tables

from benchmarks import file_size


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_size, "is_known", lambda: False)  # memory takes a process for every file
        return measure("resnet-20", 0.9, 1)


def test_the_network_is_as_sparse_as_it_is_said_to_be() -> None:
    weights = matrices(pruned("resnet-20", 0.9)).values()
    assert sum(int((weight == 0).sum()) for weight in weights) == round(0.9 * 270_896)


def test_packed_files_are_the_smallest(found: dict[str, Any]) -> None:
    others, packed = found["others"], {values: found["packed"][values]["bytes"] for values in VALUES}
    assert packed["int8"] < packed["bf16"] < packed["fp16"] < packed["fp32"] < min(others.values())
    kept, weights = 270_896 - round(0.9 * 270_896), matrices(pruned("resnet-20", 0.9)).values()
    bits, rows = (sum(-(-w.numel() // 8) for w in weights), sum(len(w) + 1 for w in weights))
    assert others["bitmask and values"] - others["CSR, indices of 32 bits"] == bits - 4 * (kept + rows)
    assert found["packed"]["fp32"]["identical"]
    assert all(its["packing"] > 0 < its["loading"] for its in found["packed"].values())


def test_the_tables_have_every_format_and_every_type(found: dict[str, Any]) -> None:
    text = tables([found])
    for name in found["others"]:
        assert f"| {name} " in text
    for values in VALUES:
        assert f"**packed, {values}**" in text
        assert f"{found['packed'][values]['bytes'] / found['packed'][values]['bound']:.3f}" in text


def test_what_is_missed_is_said(found: dict[str, Any]) -> None:
    its = copy.deepcopy(found)
    its["packed"]["fp32"] |= {"bytes": 1000, "bound": 1000, "memory": 5000, "dense_memory": 4000}
    assert misses([its]) == []
    its["packed"]["fp32"]["bytes"] = 1051
    assert misses([its]) == ["90 %: 1.051 times the bound"]
    its["packed"]["fp32"] |= {"identical": False, "memory": 5052}
    assert len(misses([its])) == 3
