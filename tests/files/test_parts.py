from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from sparsecycle.files.broken import Broken
from sparsecycle.files.parts import Parts, join

PARTS = {"b": b"\x01\x02\x03", "a": b"", "a/ü": b"x" * 1000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "f").write_bytes(join(PARTS, {"kind": "thing", "z": "1", "y": "2"}))
    return tmp_path / "f"


def test_what_is_joined_is_read_here_and_by_the_library(path: Path) -> None:
    with Parts(path) as parts:
        assert parts.metadata == {"kind": "thing", "z": "1", "y": "2"}
        assert parts.names == set(PARTS)
        for name, data in reversed(PARTS.items()):
            assert parts.read(name).tobytes() == data
    with safe_open(path, framework="numpy") as file:
        assert sorted(file.keys()) == sorted(PARTS)
        assert file.get_tensor("a/ü").tobytes() == PARTS["a/ü"]


@given(
    st.dictionaries(st.text(max_size=5).filter(lambda name: name != "__metadata__"), st.binary(max_size=20), max_size=5)
)
def test_the_same_parts_are_the_same_bytes(parts: dict[str, bytes]) -> None:
    data = join(parts, {"a": "1", "b": "2"})
    assert data == join(dict(parts), {"a": "1", "b": "2"})
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert len(data) == 8 + length + sum(map(len, parts.values()))
    assert set(json.loads(data[8 : 8 + length])) == {*parts, "__metadata__"}


def test_what_is_no_part_is_named(path: Path) -> None:
    with Parts(path) as parts, pytest.raises(Broken, match="^c is missing$"):
        parts.read("c")
    save_file({"x": np.ones(2, np.float32), "y": np.ones((2, 2), np.uint8)}, path)
    with Parts(path) as parts:
        for name in ("x", "y"):
            with pytest.raises(Broken, match=f"^{name} is no sequence of bytes$"):
                parts.read(name)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:12], lambda _: b""]
)
def test_what_is_not_whole_is_refused(spoil: object, path: Path) -> None:
    assert callable(spoil)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match="f is not a whole safetensors file"):
        Parts(path)


def test_a_file_that_is_cut_off_while_it_is_open(path: Path) -> None:
    with Parts(path) as parts:
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(Broken, match="^a/ü is cut off$"):
            parts.read("a/ü")


def test_a_file_that_is_replaced_while_it_is_open_stays_what_it_was(path: Path) -> None:
    with Parts(path) as parts:
        (path.parent / "new").write_bytes(join({"b": b"new"}, {}))
        (path.parent / "new").replace(path)
        assert parts.read("b").tobytes() == PARTS["b"]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Parts(tmp_path / "gone")
