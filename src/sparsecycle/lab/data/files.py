"""Where data files lie, and reading none of them before its checksum is known to be right."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


class DataError(RuntimeError):
    """A data file is missing, wrong or cannot be had; the message names it and says what to do."""


def data_root() -> Path:
    """The folder of all data sets: ``$SPARSECYCLE_DATA``, else ``sparsecycle`` in the user's cache."""
    given = os.environ.get("SPARSECYCLE_DATA")
    if given:
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "sparsecycle"


def md5_of(data: bytes) -> str:
    """The MD5 digest the publishers give, which tells a damaged file from a whole one."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def read_verified(path: Path, md5: str) -> bytes:
    """The file's bytes, if their MD5 is ``md5``: what is returned is what was hashed.

    Raises:
        DataError: where the file cannot be read or is another one than published. It is left where it is.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    found = md5_of(data)
    if found != md5:
        raise DataError(
            f"{path} is not the published file: its md5 is {found} ({len(data):,} bytes), expected {md5}. "
            "It is truncated or was changed; move it away and run again to download it"
        )
    return data
