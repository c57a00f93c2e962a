from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import socket
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from sparsecycle.lab.data import DataError
from sparsecycle.lab.data.download import download, download_archive

CONTENT = bytes(range(256)) * 4000  # more than one chunk


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def archive(**files: bytes) -> bytes:
    """A tar.gz with these files in the folder ``set``; ``__`` in a name stands for a slash."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo("set/" + name.replace("__", "/"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_a_download_is_whole_and_alone(host: Any, root: Path) -> None:
    host.files["a.gz"] = CONTENT
    download(host.url + "a.gz", root / "raw" / "a.gz", md5(CONTENT))
    assert (root / "raw" / "a.gz").read_bytes() == CONTENT
    assert tree(root) == ["raw", "raw/a.gz"]
    plain = root / "plain"
    plain.touch()
    assert (root / "raw" / "a.gz").stat().st_mode == plain.stat().st_mode


def test_says_what_it_does_on_stderr(host: Any, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    host.files["a.gz"] = CONTENT
    download(host.url + "a.gz", root / "a.gz", md5(CONTENT))
    out, err = capfd.readouterr()
    assert out == ""
    assert "downloading a.gz" in err
    assert "1.0/1.0 MB" in err


@pytest.mark.parametrize(
    ("limit", "wanted", "message"),
    [
        (700_000, CONTENT, r"broke off after 700,000 of 1,024,000 bytes"),
        (0, CONTENT, r"broke off after 0 of 1,024,000 bytes"),
        (None, b"other", rf"md5 {md5(CONTENT)} \(1,024,000 bytes\), expected {md5(b'other')}"),
    ],
)
def test_a_wrong_download_leaves_nothing(
    host: Any, root: Path, tmp_path: Path, limit: int | None, wanted: bytes, message: str
) -> None:
    host.files["a.gz"] = CONTENT
    host.limit = limit
    with pytest.raises(DataError, match=message) as error:
        download(host.url + "a.gz", root / "raw" / "a.gz", md5(wanted))
    assert host.url + "a.gz" in str(error.value)
    assert str(root / "raw" / "a.gz") in str(error.value)
    assert tree(tmp_path) == []


def test_a_missing_page_is_named(host: Any, root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"cannot download {host.url}a.gz: the server answers 404"):
        download(host.url + "a.gz", root / "a.gz", md5(CONTENT))
    assert tree(tmp_path) == []


def test_an_unreachable_host_is_named(host: Any, root: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.gz"
        with pytest.raises(DataError, match=f"cannot download {url}: .*refused.*put the file at {root}/a.gz"):
            download(url, root / "a.gz", md5(CONTENT))
    assert tree(tmp_path) == []


def test_folders_that_were_there_stay(host: Any, root: Path) -> None:
    root.mkdir(parents=True)
    with pytest.raises(DataError, match="404"):
        download(host.url + "a.gz", root / "MNIST" / "raw" / "a.gz", md5(CONTENT))
    assert root.is_dir()
    assert tree(root) == []


def test_too_little_room_is_said_before(host: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.files["a.gz"] = CONTENT
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"a.gz: 1,024,000 bytes are needed and 1,000 free. Make room"):
        download(host.url + "a.gz", root / "a.gz", md5(CONTENT))
    assert tree(tmp_path) == []


def test_a_full_disk_leaves_nothing(host: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.files["a.gz"] = CONTENT

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=f"cannot write {root}/a.gz: No space left on device. Make room"):
        download(host.url + "a.gz", root / "a.gz", md5(CONTENT))
    assert tree(tmp_path) == []


def test_an_interrupt_leaves_nothing(host: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.files["a.gz"] = CONTENT

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download(host.url + "a.gz", root / "a.gz", md5(CONTENT))
    assert tree(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"cannot make the folder {tmp_path}/file/raw: Not a directory"):
        download("http://127.0.0.1:9/a.gz", tmp_path / "file" / "raw" / "a.gz", md5(CONTENT))
    assert tree(tmp_path) == ["file"]


def test_what_a_killed_process_left_is_swept(host: Any, root: Path) -> None:
    host.files["a.gz"] = CONTENT
    root.mkdir(parents=True)
    old, running, other = (root / name for name in (".a.gz.1.part", ".a.gz.2.part", ".b.gz.1.part"))
    for path in (old, running, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 1e6,) * 2)
    download(host.url + "a.gz", root / "a.gz", md5(CONTENT))
    assert tree(root) == [".a.gz.2.part", ".b.gz.1.part", "a.gz"]


TAR = archive(train=b"123", test=b"45", readme=b"!")


def test_an_archive_becomes_its_folder(host: Any, root: Path) -> None:
    host.files["set.tar.gz"] = TAR
    download_archive(host.url + "set.tar.gz", md5(TAR), root / "set", ("train", "test"))
    assert tree(root) == ["set", "set/readme", "set/test", "set/train"]
    assert (root / "set" / "train").read_bytes() == b"123"
    assert (root / "set" / "test").read_bytes() == b"45"


def test_files_that_were_there_are_not_replaced(host: Any, root: Path) -> None:
    host.files["set.tar.gz"] = TAR
    (root / "set").mkdir(parents=True)
    (root / "set" / "train").write_bytes(b"mine")
    download_archive(host.url + "set.tar.gz", md5(TAR), root / "set", ("train", "test"))
    assert tree(root) == ["set", "set/test", "set/train"]
    assert (root / "set" / "train").read_bytes() == b"mine"


def test_an_archive_on_the_disk_is_taken(host: Any, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "set.tar.gz").write_bytes(TAR)
    download_archive(host.url + "set.tar.gz", md5(TAR), root / "set", ("train", "test"))
    assert host.asked == []
    assert tree(root) == ["set", "set.tar.gz", "set/readme", "set/test", "set/train"]


def test_a_wrong_archive_on_the_disk_is_named_and_kept(host: Any, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "set.tar.gz").write_bytes(TAR[:-1])
    with pytest.raises(DataError, match=f"{root}/set.tar.gz is not the published file: .* expected {md5(TAR)}"):
        download_archive(host.url + "set.tar.gz", md5(TAR), root / "set", ("train", "test"))
    assert host.asked == []
    assert tree(root) == ["set.tar.gz"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(train=b"123"), "set.tar.gz lacks test in set/"),
        (archive(train=b"1", test=b"2", **{"..__..__..__escaped": b"3"}), "outside the destination"),
        (b"no archive", "was not unpacked"),
    ],
)
def test_a_bad_archive_leaves_nothing(host: Any, root: Path, tmp_path: Path, content: bytes, message: str) -> None:
    host.files["set.tar.gz"] = content
    with pytest.raises(DataError, match=message):
        download_archive(host.url + "set.tar.gz", md5(content), root / "set", ("train", "test"))
    assert tree(tmp_path) == []


@pytest.mark.parametrize("limit", [None, 50])
def test_a_wrong_archive_download_leaves_nothing(host: Any, root: Path, tmp_path: Path, limit: int | None) -> None:
    host.files["set.tar.gz"] = TAR
    host.limit = limit
    with pytest.raises(DataError, match=f"{host.url}set.tar.gz .* put the .*file at {root}/set.tar.gz yourself"):
        download_archive(host.url + "set.tar.gz", md5(b"other"), root / "set", ("train", "test"))
    assert tree(tmp_path) == []
