from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sparsecycle.lab.data import DataError, data_root
from sparsecycle.lab.data.files import read_verified


def test_root_is_the_variable_then_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("SPARSECYCLE_DATA", "~/mine")
    assert data_root() == tmp_path / "mine"
    monkeypatch.delenv("SPARSECYCLE_DATA")
    assert data_root() == tmp_path / "xdg" / "sparsecycle"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root() == tmp_path / ".cache" / "sparsecycle"


def test_reads_what_it_hashed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    assert read_verified(file, hashlib.md5(b"content").hexdigest()) == b"content"


@pytest.mark.parametrize("changed", [b"conteNt", b"conten", b""])
def test_a_wrong_file_is_named_and_kept(tmp_path: Path, changed: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(changed)
    expected, found = hashlib.md5(b"content").hexdigest(), hashlib.md5(changed).hexdigest()
    with pytest.raises(DataError) as error:
        read_verified(file, expected)
    for text in (str(file), expected, found, f"({len(changed)} bytes)", "download"):
        assert text in str(error.value)
    assert file.read_bytes() == changed


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"cannot read {tmp_path / 'none'}: No such file"):
        read_verified(tmp_path / "none", "0" * 32)
