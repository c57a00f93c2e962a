from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsecycle.files.container import digest, read, write, write_whole

TENSORS = {
    "b": torch.arange(6.0).view(2, 3),
    "a": torch.tensor(5),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.empty(0, 4),
    "bits": torch.tensor([True, False]),
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "f", "thing", TENSORS, {"x": [1, 0.1, None], "ü": "ß"})
    tensors, content = read(tmp_path / "f", "thing")
    assert content == {"x": [1, 0.1, None], "ü": "ß"}
    assert sorted(tensors) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert sorted(load_file(tmp_path / "f")) == sorted(TENSORS)  # any program can read it


def test_shared_and_strided_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    square = torch.arange(9.0).view(3, 3)
    write(tmp_path / "f", "thing", {"a": square, "tied": square, "t": square.T, "column": square[:, 1]}, {})
    tensors, _ = read(tmp_path / "f", "thing")
    assert tensors["tied"].tolist() == square.tolist()
    assert tensors["t"].tolist() == square.T.tolist()
    assert tensors["column"].tolist() == [1, 4, 7]


def test_digest_sees_names_types_shapes_bits_and_text() -> None:
    base = digest({"a": torch.zeros(2, 3)})
    others = [
        digest({"b": torch.zeros(2, 3)}),
        digest({"a": torch.zeros(2, 3, dtype=torch.int32)}),
        digest({"a": torch.zeros(3, 2)}),
        digest({"a": -torch.zeros(2, 3)}),
        digest({"a": torch.zeros(2, 3)}, "text"),
    ]
    assert len({base, *others}) == 6
    assert len(base) == 64
    both = {"a": torch.ones(1), "b": torch.zeros(1)}
    assert digest(both) == digest(dict(reversed(both.items())))


def test_a_file_that_is_not_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write(path, "thing", TENSORS, {"x": 1})
    data = path.read_bytes()
    for length in (0, 4, 100, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"{path} is not a whole safetensors file"):
            read(path, "thing")
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{path} was changed after it was written"):
        read(path, "thing")
    path.write_bytes(data.replace(b'{\\"x\\": 1}', b'{\\"x\\": 2}'))
    assert path.read_bytes() != data
    with pytest.raises(ValueError, match=f"{path} was changed after it was written"):
        read(path, "thing")


def test_another_kind_or_version(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write(path, "thing", TENSORS, {})
    with pytest.raises(ValueError, match="f is not a ticket of sparsecycle, but 'thing'"):
        read(path, "ticket")
    path.write_bytes(path.read_bytes().replace(b'"version":"1"', b'"version":"9"'))
    with pytest.raises(ValueError, match="format version 9; this program reads 1"):
        read(path, "thing")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a thing of sparsecycle, but 'some other file'"):
        read(path, "thing")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent", "thing")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_whole(path, b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for call in ("fsync", "replace"):
        monkeypatch.setattr(os, call, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"new")
        monkeypatch.undo()
        assert [p.name for p in tmp_path.iterdir()] == ["f"]
        assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_was_read_does_not_depend_on_the_file_any_more(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write(path, "thing", {"a": torch.ones(1000)}, {})
    tensors, _ = read(path, "thing")
    path.write_bytes(bytes(path.stat().st_size))
    path.unlink()
    assert tensors["a"].sum() == 1000


def test_content_must_be_plain(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "f", "thing", {"a": torch.ones(1)}, {"x": float("nan")})
    assert not list(tmp_path.iterdir())
