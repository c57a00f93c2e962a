"""Files from their publishers: checked before they get their name, and nothing left of a failure."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import secrets
import shutil
import ssl
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sparsecycle.lab.data.files import DataError

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte
_STALE = 86400.0  # seconds after which a temporary file belongs to no living process
_NETWORK = (TimeoutError, ConnectionError, ssl.SSLError)


def download(url: str, target: Path, md5: str) -> None:
    """Fetch ``url`` into ``target``, with a progress display on stderr.

    The bytes go to a temporary file in the target's folder, which takes the target's name only when all of
    them are there and their MD5 is ``md5``. After any failure, an interrupt included, that file and the
    folders made for it are gone.

    Raises:
        DataError: where the host does not answer, the answer is short or another file than published, or
            the disk is full. It names the URL and the file.
        ImportError: where the extra ``[lab]`` is not installed.
    """
    with _folder(target.parent), _explained(url, target):
        _sweep(target)
        _fetch(url, target, md5, target)


def download_archive(url: str, md5: str, folder: Path, names: tuple[str, ...]) -> None:
    """Fetch a tar archive and put the files ``names`` of its folder ``folder.name`` into ``folder``.

    An archive of that name and content beside ``folder`` is taken instead of the network. All the work is
    done in a temporary folder beside ``folder``, which is gone afterwards. Files that are in ``folder``
    already are never replaced.

    Raises:
        DataError: as :func:`download`, and where an archive that is there already has another MD5, or the
            archive lacks a file or holds an unsafe one.
    """
    archive = folder.parent / url.rpartition("/")[2]
    if not hasattr(tarfile, "data_filter"):
        raise DataError(
            f"this Python cannot unpack {archive.name} safely: use 3.10.12, 3.11.4 or later, or unpack it in "
            f"{folder.parent} yourself"
        )
    _sweep(folder)
    with (
        _folder(folder.parent),
        _explained(url, archive),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch,
    ):
        if archive.exists():
            _check_archive(archive, md5)
        else:
            place, archive = archive, Path(scratch) / archive.name
            _fetch(url, archive, md5, place)
        unpacked = Path(scratch) / "unpacked"
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{archive} was not unpacked: {error}. Nothing was kept of it") from error
        missing = [name for name in names if not (unpacked / folder.name / name).is_file()]
        if missing:
            raise DataError(f"{archive} lacks {', '.join(missing)} in {folder.name}/")
        if folder.exists():
            for name in names:
                if not (folder / name).exists():
                    (unpacked / folder.name / name).replace(folder / name)
        else:
            (unpacked / folder.name).replace(folder)


def _sweep(target: Path) -> None:
    """Remove what a killed process left of an earlier download of ``target``."""
    for path in target.parent.glob(f".{target.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fetch(url: str, target: Path, md5: str, place: Path) -> None:
    """Download into ``target``, whole or not at all; ``place`` is where users can put the file themselves."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    try:
        with part.open("xb") as file:
            found, received, total = _receive(url, file, target)
            # A disk may report that it is full only here.
            file.flush()
            os.fsync(file.fileno())
        if total is not None and received != total:
            raise DataError(
                f"{url} broke off after {received:,} of {total:,} bytes. Run again, or put the file at {place} yourself"
            )
        if found != md5:
            raise DataError(
                f"{url} is not the published file: md5 {found} ({received:,} bytes), expected {md5}. "
                f"Try again later, or put the right file at {place} yourself"
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _receive(url: str, file: IO[bytes], target: Path) -> tuple[str, int, int | None]:
    """Copy the answer into ``file``; its MD5, its number of bytes, and the number the server announced."""
    request = urllib.request.Request(url, headers={"User-Agent": "sparsecycle"})
    digest, received = hashlib.md5(usedforsecurity=False), 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        free = shutil.disk_usage(target.parent).free
        if total is not None and total > free:
            raise OSError(errno.ENOSPC, f"{total:,} bytes are needed and {free:,} free")
        with _progress(target.name, total) as advance:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                advance(len(chunk))
    return digest.hexdigest(), received, total


@contextlib.contextmanager
def _explained(url: str, target: Path) -> Iterator[None]:
    """Turn what network and disk raise into an error that names both ends."""
    try:
        yield
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}"
        raise DataError(f"cannot download {url}: {reason}. Put the file at {target} yourself") from error
    except (urllib.error.URLError, http.client.HTTPException, *_NETWORK) as error:
        reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        raise DataError(
            f"cannot download {url}: {reason}. Check the connection, or put the file at {target} yourself"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot write {target}: {error.strerror or error}. Make room there, or let SPARSECYCLE_DATA "
            "name another folder"
        ) from error


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make ``path``; should the body fail, take away again what was made and is still empty."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the folder {path}: {error.strerror or error}. Let SPARSECYCLE_DATA name another"
        ) from error
    try:
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _check_archive(archive: Path, md5: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with archive.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != md5:
        raise DataError(
            f"{archive} is not the published file: its md5 is {digest.hexdigest()}, expected {md5}. "
            "Move it away and run again to download it"
        )


@contextlib.contextmanager
def _progress(name: str, total: int | None) -> Iterator[Any]:
    """A bar with the amount, the speed and the time left; the value is a function of the new bytes."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ImportError as error:
        raise ImportError('downloads need rich: pip install "sparsecycle[lab]"') from error
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"downloading {name}", total=total)
        yield lambda count: progress.advance(task, count)
